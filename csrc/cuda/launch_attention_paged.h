// Launch arithmetic of attention_paged on CUDA: how the tokens of a row are split between blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.h"

namespace pynanochat::cuda {

constexpr int paged_warps = 4;  // of a block
constexpr int paged_heads = 8;  // query heads that share a block's keys and values, at most
constexpr int paged_split_tokens = 128;  // fewer of a row are not split further
constexpr int paged_most_splits = 64;
constexpr int paged_waves = 4;  // blocks a multiprocessor should get, where the tokens allow it
constexpr std::int64_t paged_head_dim = 256;  // at most

struct AttentionPagedLaunch {
    Launch shape;    // of the first kernel; `lanes` share a token
    int heads = 1;   // query heads of a block: 1, and with vectors 2, 4 or 8 too
    int chunks = 1;  // blocks for the query heads of one key/value head
    int splits = 1;  // blocks for the tokens of one row
};

// `tokens`: the most that a row's query sees. With aligned, a thread may load 16 bytes of keys and values.
inline AttentionPagedLaunch launch_attention_paged(std::int64_t rows, std::int64_t heads, std::int64_t kv_heads,
                                                   std::int64_t head_dim, std::int64_t tokens, int bytes, bool aligned,
                                                   int multiprocessors) {
    if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0)
        throw ShapeError(std::to_string(heads) + " query heads are no multiple of " + std::to_string(kv_heads) +
                         " key/value heads");
    if (head_dim < 1 || head_dim > paged_head_dim)
        throw ShapeError("head_dim " + std::to_string(head_dim) + " must be in [1, 256]");
    const std::int64_t share = heads / kv_heads;
    AttentionPagedLaunch launch;
    launch.shape.block = paged_warps * 32;
    launch.shape.vector = vector_bytes / bytes;
    launch.shape.lanes = 1;
    while (launch.shape.lanes * launch.shape.vector < head_dim) launch.shape.lanes *= 2;
    if (aligned && head_dim % launch.shape.vector == 0 && launch.shape.lanes <= 32) {
        while (launch.heads < share && launch.heads < paged_heads) launch.heads *= 2;
    } else {
        launch.shape.vector = 1;
        launch.shape.lanes = 32;
    }
    launch.chunks = static_cast<int>(divide_up(share, launch.heads));
    const std::int64_t units = rows * kv_heads * launch.chunks;
    if (rows < 0 || units > max_grid / paged_most_splits)
        throw ShapeError(std::to_string(rows) + " rows of " + std::to_string(heads) + " heads: too many for a launch");
    const std::int64_t blocks = std::int64_t{paged_waves} * multiprocessors;
    const std::int64_t wanted = divide_up(blocks, std::max<std::int64_t>(units, 1));
    const std::int64_t possible = std::min<std::int64_t>(divide_up(tokens, paged_split_tokens), paged_most_splits);
    launch.splits = static_cast<int>(std::max<std::int64_t>(1, std::min(wanted, possible)));
    launch.shape.grid = units * launch.splits;
    return launch;
}

}  // namespace pynanochat::cuda
