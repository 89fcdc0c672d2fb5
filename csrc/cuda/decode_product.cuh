// Matrix-vector products of decode_step, and what its phases share: sizes, the block's shared memory, sums, the norm.
//
// A block does neighbouring rows of a matrix, all blocks as many to within one. Its warps take chunks of 32 vectors of 16 bytes
// in turns, eight at a time, wherever in a row they begin: so all warps have as much to do whatever the width, and a block of
// 512 threads has 64 KB in flight; 4.8 TB/s at 700 ns are 25 KB a multiprocessor. The sums of eight chunks take nine shuffles.
#pragma once

#include "cuda/check.cuh"
#include "cuda/decode_step.h"
#include "cuda/grid.cuh"

namespace pynanochat::cuda {

constexpr int at_once = 8;            // vectors that a lane of a product has in flight
constexpr int asked_lines = 512;  // of a product that a block asks for ahead, 64 KB: three products of all blocks must fit L2
constexpr int more_lines = 1024;  // that it asks for when the product begins, while it reads those

__device__ __forceinline__ int width_of(const DecodeStep& op) { return static_cast<int>(op.shape.width); }
__device__ __forceinline__ int queries_of(const DecodeStep& op) { return op.shape.heads * op.shape.head_dim; }
__device__ __forceinline__ int keys_of(const DecodeStep& op) { return op.shape.kv_heads * op.shape.head_dim; }
__device__ __forceinline__ int hidden_of(const DecodeStep& op) { return 4 * width_of(op); }

// The block's dynamic shared memory.
template <class T> struct Room {
    float *first, *stream, *middle;  // (C,): after the embedding, of this layer, after the middle layer
    T* operand;                      // what a product multiplies
    float* scratch;                  // partial sums of a product, or the parts of attention

    __device__ explicit Room(const DecodeStep& op) {
        char* bytes = dynamic_shared();
        first = reinterpret_cast<float*>(bytes);
        stream = first + width_of(op);
        middle = stream + width_of(op);
        operand = reinterpret_cast<T*>(bytes + op.launch.operand);
        scratch = reinterpret_cast<float*>(bytes + op.launch.scratch);
    }
};

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// The sum over all threads, which all of them get. `scratch` holds a float of each warp.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += scratch[warp];
    return sum;
}

// 1 / root mean square of x (count,) in shared memory, once all threads have written their part of it.
__device__ __forceinline__ float norm_of(const float* x, int count, float eps, float* scratch) {
    __syncthreads();
    float squares = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) squares += x[i] * x[i];
    return rsqrtf(block_sum(squares, scratch) / count + eps);
}

template <class T> __device__ __forceinline__ void normalise(const DecodeStep& op, const Room<T>& room) {
    const int width = width_of(op);
    const float r = norm_of(room.stream, width, op.eps, room.scratch);
    for (int i = threadIdx.x; i < width; i += blockDim.x) room.operand[i] = narrow<T>(room.stream[i] * r);
    __syncthreads();
}

// --- matrix-vector products ---

struct Rows {  // of a matrix that this block does: [begin, end)
    int begin, end;
};

__device__ __forceinline__ Rows rows_of_block(int rows) {
    return {static_cast<int>(std::int64_t{rows} * blockIdx.x / gridDim.x),
            static_cast<int>(std::int64_t{rows} * (blockIdx.x + 1) / gridDim.x)};
}

// A matrix (rows, columns): one, or several below each other.
template <class T> struct Matrix {
    const T* at;
    int rows, columns;
    __device__ __forceinline__ const T* row(int r) const { return at + std::int64_t{r} * columns; }
};

template <class T> struct QueriesKeysValues {
    const T *q, *k, *v;
    int queries, keys, rows, columns;
    __device__ __forceinline__ const T* row(int r) const {
        const T* at = r < queries ? q : r < queries + keys ? k : v;
        r -= r < queries ? 0 : r < queries + keys ? queries : queries + keys;
        return at + std::int64_t{r} * columns;
    }
};

// Asks for the lines [begin, end) of this block's rows, as far as it has them.
template <class T, template <class> class M> __device__ __forceinline__ void ask_for(const M<T>& matrix, int begin, int end) {
    const Rows mine = rows_of_block(matrix.rows);
    constexpr int line = 128 / sizeof(T);
    const int lines = (matrix.columns + line - 1) / line;
    end = min((mine.end - mine.begin) * lines, end);
    for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const int row = i / lines;
        ask(matrix.row(mine.begin + row) + (i - row * lines) * line);
    }
}
template <class T, template <class> class M> __device__ __forceinline__ void ask_for(const M<T>& matrix) {
    ask_for(matrix, 0, asked_lines);
}

// Over the warp, the sums of eight values at once: lane 4·j gets that of value j.
__device__ __forceinline__ float sum_of_eight(float (&value)[at_once]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = at_once / 2, bit = 16; half > 0; half /= 2, bit /= 2) {
        const bool upper = lane & bit;
#pragma unroll
        for (int j = 0; j < half; ++j) {
            const float given = upper ? value[j] : value[j + half], kept = upper ? value[j + half] : value[j];
            value[j] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
        }
    }
    for (int offset = 2; offset > 0; offset /= 2) value[0] += __shfl_xor_sync(0xffffffffu, value[0], offset);
    return value[0];
}

// done(row, matrix.row(row) · operand) for each of this block's rows. A warp takes chunks of 32 vectors, wherever in a row
// they begin, so that all warps have as much to do; their sums meet in shared memory.
template <class T, template <class> class M, class Done>
__device__ __forceinline__ void product(const M<T>& matrix, const Room<T>& room, Done done) {
    constexpr int N = vector_bytes / sizeof(T);
    const Rows mine = rows_of_block(matrix.rows);
    const int vectors = matrix.columns / N, chunks = (vectors + 31) / 32, rows_at_once = step_sums / chunks;
    const float per_chunk = 1.0f / chunks;  // a chunk's row is its number over `chunks`, which fp32 has exactly up to 2^22
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    ask_for(matrix, asked_lines, asked_lines + more_lines);
    for (int first = mine.begin; first < mine.end; first += rows_at_once) {
        const int rows = min(rows_at_once, mine.end - first), count = rows * chunks;
        for (int begin = warp; begin < count; begin += warps * at_once) {
            uint4 weights[at_once];  // all asked for before one is used, whatever of it counts: else they come one by one
            int column[at_once];
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                const int chunk = begin + j * warps, row = static_cast<int>((chunk + 0.5f) * per_chunk);
                const int vector = (chunk - row * chunks) * 32 + lane;
                const bool is = chunk < count && vector < vectors;
                column[j] = is ? vector * N : -1;
                weights[j] = once(matrix.row(first + (is ? row : 0)) + (is ? vector * N : 0));
            }
            float sums[at_once];
#pragma unroll
            for (int j = 0; j < at_once; ++j) {
                sums[j] = 0.0f;
                if (column[j] < 0) continue;
                const Vector<T, N> w = *reinterpret_cast<const Vector<T, N>*>(&weights[j]);
                const auto x = *reinterpret_cast<const Vector<T, N>*>(room.operand + column[j]);
#pragma unroll
                for (int n = 0; n < N; ++n) sums[j] += wide(w.at[n]) * wide(x.at[n]);
            }
            const float sum = sum_of_eight(sums);
            const int chunk = begin + lane / 4 * warps;
            if (lane % 4 == 0 && chunk < count) room.scratch[chunk] = sum;
        }
        __syncthreads();
        for (int begin = warp * 4; begin < rows; begin += warps * 4) {  // eight lanes a row
            const int row = begin + lane / 8;
            float sum = 0.0f;
            for (int chunk = lane % 8; row < rows && chunk < chunks; chunk += 8) sum += room.scratch[row * chunks + chunk];
            for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
            if (lane % 8 == 0 && row < rows) done(first + row, sum);
        }
        __syncthreads();
    }
}

}  // namespace pynanochat::cuda
