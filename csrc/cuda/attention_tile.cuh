// What the attention kernels of sm_80 share: tiles of 16-bit rows in shared memory, how they come there and how a warp reads
// them. D head dim.
#pragma once

#include "cuda/attention.h"
#include "cuda/check.cuh"
#include "cuda/launch_attention.h"
#include "cuda/mma.cuh"

namespace pynanochat::cuda {

constexpr int attention_threads = 128;
constexpr float log2_e = 1.4426950408889634f;

// Rows of D elements. The 16-byte chunk c of row r lies at place c ^ (r mod 8), so that 8 rows of one chunk, which is what a
// matrix load reads at a time, lie in 8 different groups of banks.
template <class T, int D> struct Tile {
    T* data;

    static constexpr int row_bytes = D * sizeof(T);

    __device__ __forceinline__ T* chunk(int row, int c) const { return data + row * D + ((c ^ (row & 7)) * 8); }

    // What a lane adds to a tile for its matrix rows: chunk c of a row in the tile is at place (c ^ row mod 8), of which the lane's
    // share is known once for all products, and the product's share is an exclusive or of a constant.
    __device__ __forceinline__ const T* matrix_row(int lane_row, int lane_chunk, int row, int c) const {
        return data + row * D + ((lane_row * D + ((lane_chunk ^ (lane_row & 7)) * 8)) ^ (c * 8));
    }

    // A: rows row..row+15, elements 16k..16k+15.
    __device__ __forceinline__ void left(unsigned (&a)[4], int row, int k) const {
        const int lane = threadIdx.x % 32;
        load_matrices(a, matrix_row(lane % 16, lane / 16, row, 2 * k));
    }
    // B of this tile transposed: its rows row..row+15 are 16 columns, elements 16k..16k+15 the sum. Two B, in b[0..1] and b[2..3].
    __device__ __forceinline__ void right_transposed(unsigned (&b)[4], int row, int k) const {
        const int lane = threadIdx.x % 32;
        load_matrices(b, matrix_row(lane % 8 + lane / 16 * 8, lane / 8 % 2, row, 2 * k));
    }
    // B of this tile: its rows row..row+15 are the sum, elements 16n..16n+15 are 16 columns. Two B.
    __device__ __forceinline__ void right(unsigned (&b)[4], int row, int n) const {
        const int lane = threadIdx.x % 32;
        load_matrices_transposed(b, matrix_row(lane % 16, lane / 16, row, 2 * n));
    }
};

// Starts to copy `rows` positions from `first` on of one head, zeros beyond the last position.
template <class T, int D>
__device__ __forceinline__ void fetch(const Tile<T, D>& tile, int rows, const T* head, std::int64_t stride, int first,
                                      int positions) {
    constexpr int chunks = D / 8, step = attention_threads / chunks;
    const int c = threadIdx.x % chunks;
#pragma unroll 1  // the addresses of an unrolled loop are the registers that the forward lacks
    for (int row = threadIdx.x / chunks; row < rows; row += step) {
        const bool inside = first + row < positions;
        copy_async_16(tile.chunk(row, c), head + (inside ? first + row : 0) * stride + c * 8, inside);
    }
}

// Writes 16 rows of a warp, C of D / 8 products side by side, rows 0 to 7 times `upper` and 8 to 15 times `lower`, through 16
// rows of a tile that no other warp uses, so that each lane writes 16 bytes.
template <class T, int D>
__device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], float upper, float lower, const Tile<T, D>& tile,
                                           int tile_row, T* head, std::int64_t stride, int first, int positions) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
        *reinterpret_cast<unsigned*>(tile.chunk(tile_row + g, n) + 2 * t) = pack<T>(c[n][0] * upper, c[n][1] * upper);
        *reinterpret_cast<unsigned*>(tile.chunk(tile_row + g + 8, n) + 2 * t) = pack<T>(c[n][2] * lower, c[n][3] * lower);
    }
    meet_warp();
    constexpr int chunks = D / 8, step = 32 / chunks;
#pragma unroll
    for (int row = lane / chunks; row < 16; row += step)
        if (first + row < positions)
            *reinterpret_cast<Vector<T, 8>*>(head + (first + row) * stride + lane % chunks * 8) =
                *reinterpret_cast<const Vector<T, 8>*>(tile.chunk(tile_row + row, lane % chunks));
}

// Over the four lanes that hold a row of C.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_maximum(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

template <class T> __device__ __forceinline__ T* head_of(const Heads& heads, int batch, int head) {
    return static_cast<T*>(heads.data) + batch * heads.batch + head * heads.head;
}

// The window as the kernels take it: in [0, positions].
inline int window_of(const Attention& op) {
    return static_cast<int>(op.window < 0 || op.window > op.positions ? op.positions : op.window);
}

template <class T, int D> struct Kind {};

// Calls run(Kind<T, D>) for the op's dtype and head dim. Throws ShapeError for what the kernels are not made for.
template <class F> void with_kind(const Attention& op, const F& run) {
    const bool wide = op.head_dim == 128;
    if (op.dtype == DType::bf16) return wide ? run(Kind<__nv_bfloat16, 128>{}) : run(Kind<__nv_bfloat16, 64>{});
    if (op.dtype == DType::f16) return wide ? run(Kind<__half, 128>{}) : run(Kind<__half, 64>{});
    throw ShapeError("attention on CUDA takes bfloat16 and float16; set PYNANOCHAT_BACKEND=triton or "
                     "PYNANOCHAT_BACKEND=reference for others");
}

// Starts `kernel` with dynamic shared memory, which beyond 48 KiB a kernel has to ask for.
template <class... Parameters, class... Arguments>
void launch_attention_kernel(const char* what, void (*kernel)(Parameters...), const AttentionLaunch& shape,
                             cudaStream_t stream, const Arguments&... arguments) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared), what);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.grid));
    config.blockDim = dim3(static_cast<unsigned>(shape.block));
    config.dynamicSmemBytes = static_cast<std::size_t>(shape.shared);
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), what);
    check(cudaGetLastError(), what);
}

}  // namespace pynanochat::cuda
