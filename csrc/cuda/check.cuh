// What every .cu file needs: error checks, launches, 16-byte vectors, conversions to and from fp32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string>

#include "cuda/device.h"

namespace pynanochat::cuda {

inline void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess)
        throw CudaError(std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

// The extension has its own (static) CUDA runtime, so it must be told torch's device before it uses torch's stream.
inline cudaStream_t enter(const Where& where) {
    check(cudaSetDevice(where.device), "cudaSetDevice");
    return reinterpret_cast<cudaStream_t>(where.stream);
}

// Starts `kernel` on one-dimensional blocks without dynamic shared memory. Throws CudaError where CUDA refuses it.
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), std::int64_t blocks, int threads, cudaStream_t stream,
            const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), what);
    check(cudaGetLastError(), what);
}

template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }

template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half narrow<__half>(float x) { return __float2half_rn(x); }

// N elements from `from`, whose address the caller knows to be a multiple of N elements, as fp32.
template <class T, int N>
__device__ __forceinline__ void load(float (&to)[N], const T* from) {
    constexpr int step = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
#pragma unroll
    for (int i = 0; i < N; i += step) {
        const auto part = *reinterpret_cast<const Vector<T, step>*>(from + i);
#pragma unroll
        for (int j = 0; j < step; ++j) to[i + j] = wide(part.at[j]);
    }
}

template <class T, int N>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
    static_assert(N * sizeof(T) <= 16);
    Vector<T, N> part;
#pragma unroll
    for (int j = 0; j < N; ++j) part.at[j] = narrow<T>(from[j]);
    *reinterpret_cast<Vector<T, N>*>(to) = part;
}

}  // namespace pynanochat::cuda
