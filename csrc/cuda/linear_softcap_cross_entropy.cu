// Softcap, softmax, cross-entropy and their gradient in one kernel, in place over a chunk's products x Wᵀ.
//
//   logit = cap · tanh(z / cap),  loss = logsumexp(logits) - logit[target]
//   dz    = token_scale · (softmax - onehot(target)) · (1 - tanh²)       written over z
//
// The three matrix products around it are torch's (cuBLAS), chunk by chunk in a workspace of at most 128 MiB, so that
// all logits never exist. One block does one row: pass 1 reads the row and keeps a running maximum and sum, pass 2 reads it
// again (a row of 32,768 bf16 is 64 KiB; the rows in flight fit the L2) and writes dz.
//
// Bound: of a chunk of n tokens, the products do 6 n C V FLOPs and this kernel moves 4 n V bytes (bf16, pass 2 from L2): at
// C 1,536 and V 32,768 1 ms against 0.08 ms on an H100 (650 TFLOP/s, 3.35 TB/s). Owed to the tensor-core version that never
// writes logits: those 8 %, and the fp32 accumulation of dW inside the product.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  element by element: kept for row strides and pointers that are not 16-byte aligned
//   2  16-byte vectors, per-vector running maximum, one barrier a row
// Registers (ptxas 13.0, sm_80 and sm_90a): 30 to 32, no spills; 128 bytes of shared memory.
#include "cuda/linear_softcap_cross_entropy.h"

#include <cmath>

#include "cuda/check.cuh"

namespace pynanochat::cuda {

namespace {

constexpr int max_warps = 16;  // of the 512 threads that launch_linear_softcap_cross_entropy gives at most

// tanh, for 16-bit inputs through one exp and one division (absolute error 1e-7, inputs carry 5e-4 at best).
template <class T> __device__ __forceinline__ float squash(float x) { return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x)); }
template <> __device__ __forceinline__ float squash<float>(float x) { return tanhf(x); }

// 1 - tanh², which would cancel where tanh is near 1.
__device__ __forceinline__ float squash_slope(float x) {
    const float e = __expf(-2.0f * fabsf(x));
    return __fdividef(4.0f * e, (1.0f + e) * (1.0f + e));
}

struct Softmax {  // of the logits seen so far: their maximum and the sum of exp(logit - maximum)
    float maximum, sum;

    __device__ __forceinline__ void join(const Softmax& other) {
        const float top = fmaxf(maximum, other.maximum);
        sum = sum * expf(maximum - top) + other.sum * expf(other.maximum - top);
        maximum = top;
    }

    template <int N> __device__ __forceinline__ void add(const float (&logits)[N]) {
        float top = maximum;
#pragma unroll
        for (int j = 0; j < N; ++j) top = fmaxf(top, logits[j]);
        sum *= __expf(maximum - top);
#pragma unroll
        for (int j = 0; j < N; ++j) sum += __expf(logits[j] - top);
        maximum = top;
    }
};

// Every thread of the block gets the whole row's softmax, summed in a fixed order. Holds one barrier.
__device__ __forceinline__ Softmax over_block(Softmax mine) {
    __shared__ float maxima[max_warps], sums[max_warps];
    for (int offset = 16; offset > 0; offset /= 2)
        mine.join({__shfl_xor_sync(0xffffffffu, mine.maximum, offset), __shfl_xor_sync(0xffffffffu, mine.sum, offset)});
    if (threadIdx.x % 32 == 0) {
        maxima[threadIdx.x / 32] = mine.maximum;
        sums[threadIdx.x / 32] = mine.sum;
    }
    __syncthreads();
    Softmax all{maxima[0], sums[0]};
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all.join({maxima[warp], sums[warp]});
    return all;
}

template <class T, int N, bool gradient>
__global__ void __launch_bounds__(512) softcap_cross_entropy(const __grid_constant__ SoftcapCrossEntropy op) {
    const std::int64_t row = blockIdx.x;
    T* z = static_cast<T*>(op.products) + row * op.row_stride;
    const int columns = static_cast<int>(op.columns);
    const int whole = columns / N;  // vectors; the columns after them are done one by one
    const std::int64_t target = op.targets[row * op.target_stride];
    if (target == op.ignore_index) {  // the same for the whole block, which holds no barrier yet
        if constexpr (gradient) {
            const float zeros[N] = {};
            for (int v = threadIdx.x; v < whole; v += blockDim.x) store(z + v * N, zeros);
            for (int j = whole * N + threadIdx.x; j < columns; j += blockDim.x) z[j] = narrow<T>(0.0f);
        }
        if (threadIdx.x == 0) op.losses[row] = 0.0f;
        return;
    }
    // A target outside the vocabulary cannot raise from here: its loss (and gradient) is NaN, which no training loop misses.
    const bool inside = target >= 0 && target < columns;
    const float cap = op.softcap, inverse = 1.0f / cap;
    const float picked = inside ? cap * squash<T>(wide(z[target]) * inverse) : nanf("");  // before the barrier: pass 2 overwrites z

    Softmax softmax{-cap, 0.0f};  // no logit is below -cap, so nothing here is ever infinite
    for (int v = threadIdx.x; v < whole; v += blockDim.x) {
        float logits[N];
        load(logits, z + v * N);
#pragma unroll
        for (int j = 0; j < N; ++j) logits[j] = cap * squash<T>(logits[j] * inverse);
        softmax.add(logits);
    }
    for (int j = whole * N + threadIdx.x; j < columns; j += blockDim.x) {
        const float logit[1] = {cap * squash<T>(wide(z[j]) * inverse)};
        softmax.add(logit);
    }
    softmax = over_block(softmax);
    const float lse = softmax.maximum + logf(softmax.sum);
    if (threadIdx.x == 0) op.losses[row] = lse - picked;
    if constexpr (gradient) {
        const float scale = op.token_scale[row * op.scale_stride] * (inside ? 1.0f : nanf(""));
        const auto slope = [&](float value, int j) {
            const float bent = value * inverse;
            const float p = __expf(cap * squash<T>(bent) - lse) - (j == target ? 1.0f : 0.0f);
            return scale * p * squash_slope(bent);
        };
        for (int v = threadIdx.x; v < whole; v += blockDim.x) {
            float dz[N];
            load(dz, z + v * N);
#pragma unroll
            for (int j = 0; j < N; ++j) dz[j] = slope(dz[j], v * N + j);
            store(z + v * N, dz);
        }
        for (int j = whole * N + threadIdx.x; j < columns; j += blockDim.x) z[j] = narrow<T>(slope(wide(z[j]), j));
    }
}

template <class T, int N>
void start(const SoftcapCrossEntropy& op, const Launch& shape, cudaStream_t stream) {
    const auto kernel = op.token_scale != nullptr ? softcap_cross_entropy<T, N, true> : softcap_cross_entropy<T, N, false>;
    launch("linear_softcap_cross_entropy", kernel, shape.grid, shape.block, stream, op);
}

template <class T>
void start(const SoftcapCrossEntropy& op, const Launch& shape, cudaStream_t stream) {
    constexpr int N = vector_bytes / sizeof(T);
    if (shape.vector == N)
        start<T, N>(op, shape, stream);
    else
        start<T, 1>(op, shape, stream);
}

}  // namespace

Launch plan(const SoftcapCrossEntropy& op) {
    const int bytes = element_bytes(op.dtype);
    const bool vectors = vector_aligned(op.products, bytes) && vector_stride(op.row_stride, bytes);
    return launch_linear_softcap_cross_entropy(op.rows, op.columns, bytes, vectors);
}

void linear_softcap_cross_entropy(const SoftcapCrossEntropy& op, const Where& where) {
    const Launch shape = plan(op);
    if (shape.grid == 0) return;
    const cudaStream_t stream = enter(where);
    switch (op.dtype) {
        case DType::f32: return start<float>(op, shape, stream);
        case DType::bf16: return start<__nv_bfloat16>(op, shape, stream);
        default: return start<__half>(op, shape, stream);  // plan() refused every other dtype
    }
}

}  // namespace pynanochat::cuda
