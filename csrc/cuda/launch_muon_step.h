// Launch arithmetic of muon_step on CUDA: the tiles of a stack's products.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace pynanochat::cuda {

constexpr int muon_tile = 128;   // rows and columns of the product that a block does
constexpr int muon_depth = 32;   // of both factors that are in shared memory at a time
constexpr int muon_stages = 3;   // such parts on their way or in use
constexpr int muon_block = 256;  // threads
constexpr int muon_shared = muon_stages * 2 * muon_tile * muon_depth * 2;  // bytes: 48 KiB

// A stack of `count` products rows x columns; of symmetric ones only the tiles on and above the diagonal.
inline Launch launch_muon_step(std::int64_t count, std::int64_t rows, std::int64_t columns, bool symmetric) {
    const std::int64_t down = divide_up(rows, muon_tile), across = divide_up(columns, muon_tile);
    if (count < 0 || rows < 1 || columns < 1 || rows % 8 != 0 || columns % 8 != 0 || rows > 65536 || columns > 65536)
        throw ShapeError("matrices of " + std::to_string(rows) + " x " + std::to_string(columns) +
                         "; both must be multiples of 8 up to 65536");
    if (symmetric && rows != columns) throw ShapeError("a symmetric product has as many rows as columns");
    Launch launch;
    launch.block = muon_block;
    launch.vector = 8;
    launch.grid = count * (symmetric ? down * (down + 1) / 2 : down * across);
    if (launch.grid > max_grid) throw ShapeError(std::to_string(count) + " matrices are too many for one launch");
    return launch;
}

}  // namespace pynanochat::cuda
