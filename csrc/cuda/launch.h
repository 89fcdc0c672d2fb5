// Launch arithmetic of the CUDA kernels: how many blocks, how many threads, vectors or single elements.
// Plain host code without a CUDA header, so that the CPU tests reach all of it through _C.launch_OP.
#pragma once

#include <cstdint>
#include <string>

#include "common/tensor.h"

namespace pynanochat::cuda {

constexpr std::int64_t max_grid = 2147483647;  // blocks along x, on every architecture since sm_30
constexpr int max_block = 1024;                // threads
constexpr int vector_bytes = 16;               // the widest load of a thread

struct Launch {
    std::int64_t grid = 0;  // blocks
    int block = 0;          // threads in a block
    int vector = 1;         // elements a thread loads at once
    int lanes = 0;          // threads that share one row
};

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline int element_bytes(DType dtype) {
    switch (dtype) {
        case DType::f32: return 4;
        case DType::bf16:
        case DType::f16: return 2;
        default: throw ShapeError("the CUDA kernels take float32, bfloat16 and float16");
    }
}

// True where a thread may load 16 bytes: the base is aligned, and so is every row that `stride` elements lead to.
inline bool vector_aligned(const void* data, int bytes) {
    return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 && bytes > 0;
}
inline bool vector_stride(std::int64_t stride, int bytes) { return stride * bytes % vector_bytes == 0; }

// rotary_qk_norm: a row is one head of one token. `aligned`: every pointer and stride allows 16-byte loads.
// Vector form: half a row is `lanes` vectors of 16 bytes, lanes a power of two up to a warp; a thread holds one vector of
// each half. Any other head_dim or stride: one warp a row, element by element.
inline Launch launch_rotary_qk_norm(std::int64_t rows, std::int64_t head_dim, int bytes, bool aligned) {
    if (head_dim < 2 || head_dim % 2 != 0 || head_dim > 65536)
        throw ShapeError("head_dim " + std::to_string(head_dim) + " must be even and in [2, 65536]");
    if (rows < 0 || rows >= max_grid)
        throw ShapeError(std::to_string(rows) + " rows (batch x positions x heads); one launch takes fewer than 2^31");
    const std::int64_t half = head_dim / 2;
    Launch launch;
    launch.block = 256;
    launch.vector = vector_bytes / bytes;
    const std::int64_t lanes = half / launch.vector;
    const bool whole = half % launch.vector == 0 && lanes >= 1 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
    if (aligned && whole) {
        launch.lanes = static_cast<int>(lanes);
    } else {
        launch.vector = 1;
        launch.lanes = 32;
    }
    launch.grid = divide_up(rows, launch.block / launch.lanes);
    return launch;
}

// linear_softcap_cross_entropy: a row is one token's logits, and one block does it. About four vectors a thread.
inline Launch launch_linear_softcap_cross_entropy(std::int64_t rows, std::int64_t columns, int bytes, bool aligned) {
    if (rows < 0 || rows > max_grid)
        throw ShapeError(std::to_string(rows) + " tokens in a chunk; one launch takes at most 2^31 - 1");
    if (columns < 1 || columns > (std::int64_t{1} << 30))
        throw ShapeError("vocabulary " + std::to_string(columns) + " must be in [1, 2^30]");
    Launch launch;
    launch.grid = rows;
    launch.vector = aligned ? vector_bytes / bytes : 1;
    launch.block = 64;
    while (launch.block < 512 && std::int64_t{launch.block} * launch.vector * 4 < columns) launch.block *= 2;
    launch.lanes = launch.block;
    return launch;
}

}  // namespace pynanochat::cuda
