// Launch arithmetic of adamw_step on CUDA: which tensors share a launch, and which blocks of it are whose.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/launch.h"

namespace pynanochat::cuda {

constexpr int adamw_tensors = 80;  // of one launch: their table stays within the 4 KiB of arguments all drivers take
constexpr int adamw_block = 256;   // threads
constexpr int adamw_vector = 4;    // elements a thread loads at once of each array: 16 bytes of fp32
constexpr int adamw_chunk = adamw_block * adamw_vector * 4;  // elements of one block

struct AdamwLaunch {
    Launch shape;
    std::int64_t first = 0;                  // tensor of the list
    std::vector<std::int64_t> first_blocks;  // of each tensor of the launch; a tensor of no elements has no block
};

// Consecutive tensors share a launch, up to adamw_tensors of them and as many blocks as a grid has.
inline std::vector<AdamwLaunch> launch_adamw_step(const std::vector<std::int64_t>& sizes) {
    std::vector<AdamwLaunch> launches;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        const std::int64_t blocks = divide_up(sizes[i], adamw_chunk);
        if (sizes[i] < 0 || blocks > max_grid)
            throw ShapeError("a tensor of " + std::to_string(sizes[i]) +
                             " elements; adamw_step takes at most 2^31 - 1 blocks of " + std::to_string(adamw_chunk));
        const bool full = launches.empty() || launches.back().first_blocks.size() == adamw_tensors ||
                          launches.back().shape.grid + blocks > max_grid;
        if (full) launches.push_back({{0, adamw_block, adamw_vector, adamw_block}, static_cast<std::int64_t>(i), {}});
        launches.back().first_blocks.push_back(launches.back().shape.grid);
        launches.back().shape.grid += blocks;
    }
    return launches;
}

}  // namespace pynanochat::cuda
