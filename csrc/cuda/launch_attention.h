// Launch arithmetic of attention: which tiles meet, which of them need a mask, what is refused. Host and device share it; the
// CPU tests reach it through _C.launch_attention and _C.attention_tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cuda/launch.h"

#ifdef __CUDACC__
#define PYNANOCHAT_ON_BOTH __host__ __device__ __forceinline__
#else
#define PYNANOCHAT_ON_BOTH inline
#endif

namespace pynanochat::cuda {

constexpr int attention_columns = 64;  // of a tile that streams past: keys, or in the gradient of the keys queries

struct TileRange {
    int first = 0, end = 0;
};

// The tiles of `columns` keys that queries [first, first + rows) of `positions` see; window in [0, positions].
PYNANOCHAT_ON_BOTH TileRange key_tiles(int first, int rows, int columns, int positions, int window) {
    const int last = (first + rows < positions ? first + rows : positions) - 1;
    return {(first > window ? first - window : 0) / columns, last / columns + 1};
}

// The tiles of `columns` queries that see any of the keys [first, first + rows).
PYNANOCHAT_ON_BOTH TileRange query_tiles(int first, int rows, int columns, int positions, int window) {
    const int last_key = (first + rows < positions ? first + rows : positions) - 1;
    const int last = last_key < positions - 1 - window ? last_key + window : positions - 1;
    return {first / columns, last / columns + 1};
}

PYNANOCHAT_ON_BOTH bool visible(int query, int key, int window) { return key <= query && query - key <= window; }

// True where all of these queries see all of these keys, so that no score needs a mask.
PYNANOCHAT_ON_BOTH bool all_visible(int query, int queries, int key, int keys, int window) {
    return key + keys - 1 <= query && query + queries - 1 - key <= window;
}

struct AttentionLaunch {
    int rows = 0, columns = attention_columns;  // of a tile: rows stay with a block, columns stream past
    int block = 128;
    std::int64_t grid = 0;
    int shared = 0;  // bytes
};

// A block of the forward has 128 queries of a head in shared memory, and one tile of K and one of V on their way. One of the
// backward has 64 queries (of a head) or keys (of a group) in registers, two tiles of each of the two tensors that stream past, and
// for keys two of lse and delta.
inline AttentionLaunch launch_attention(std::int64_t batch, std::int64_t positions, std::int64_t heads, int head_dim,
                                        bool backward) {
    if (head_dim != 64 && head_dim != 128)
        throw ShapeError("head_dim " + std::to_string(head_dim) + ": attention on CUDA takes 64 and 128; set "
                         "PYNANOCHAT_BACKEND=triton or PYNANOCHAT_BACKEND=reference for others");
    if (positions < 0 || positions > (std::int64_t{1} << 30))
        throw ShapeError(std::to_string(positions) + " positions; attention takes at most 2^30");
    AttentionLaunch launch;
    launch.rows = backward ? 64 : 128;
    launch.grid = divide_up(positions, launch.rows) * heads * batch;
    if (launch.grid > max_grid) throw ShapeError("batch x heads x positions is too large for one launch of attention");
    const int row_bytes = head_dim * 2;
    launch.shared = backward ? 4 * launch.columns * row_bytes + 4 * launch.columns * 4
                             : (launch.rows + 2 * launch.columns) * row_bytes;
    return launch;
}

// Room in which Hopper's backward adds up dq across blocks: fp32, of positions rounded up to the 64 of a tile.
constexpr int dq_sum_rows = 64;
inline std::int64_t dq_sum_floats(std::int64_t batch, std::int64_t positions, std::int64_t heads, std::int64_t head_dim) {
    return batch * heads * divide_up(positions, dq_sum_rows) * dq_sum_rows * head_dim;
}

}  // namespace pynanochat::cuda
