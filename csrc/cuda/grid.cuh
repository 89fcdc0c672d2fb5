// What the blocks of one cooperative launch need of each other: a barrier, reads of what others wrote, and weights on their way
// before they are needed. tests/cuda/emulator/cuda/grid.cuh is the same interface on the CPU.
//
// Memory order. All threads of a block write, then meet in __syncthreads(); its thread 0 adds to the counter with release at the
// scope of the GPU, which by causality covers what the others wrote. Whoever waits reads the counter with acquire, then meets its
// block in __syncthreads(): what the others wrote before they arrived is seen from there on. `fresh` reads go to L2 besides, as an
// L1 line of before the barrier would be stale; what is read with `once` (the non-coherent path) nobody writes in the launch.
#pragma once

#include <cuda_runtime.h>

#include "cuda/check.cuh"
#include "cuda/shared.cuh"

namespace pynanochat::cuda {

__device__ __forceinline__ float fresh(const float* from) { return __ldcg(from); }

template <class T, int N> __device__ __forceinline__ Vector<T, N> fresh_vector(const T* from) {
    static_assert(sizeof(T) * N == 16);
    const uint4 bits = __ldcg(reinterpret_cast<const uint4*>(from));
    return *reinterpret_cast<const Vector<T, N>*>(&bits);
}

// 16 bytes that this launch reads once and nobody writes: they pass L1 by.
__device__ __forceinline__ uint4 once(const void* from) {
    uint4 bits;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                 : "l"(from));
    return bits;
}

// Asks for the cache line of an address; it comes to L2 while the thread goes on.
__device__ __forceinline__ void ask(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

// A barrier of all blocks in two halves, over a counter that was 0 when the launch began. Between them a block may do what needs
// nothing of the others. All threads of a block call both.
class GridBarrier {
   public:
    __device__ __forceinline__ explicit GridBarrier(unsigned* counter) : counter_(counter) {}

    __device__ __forceinline__ void arrive() {
        __syncthreads();
        expected_ += gridDim.x;
        if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter_) : "memory");
    }

    __device__ __forceinline__ void wait() {
        if (threadIdx.x == 0) {
            unsigned arrived;
            do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter_) : "memory");
            while (arrived < expected_);
        }
        __syncthreads();
    }

   private:
    unsigned* counter_;
    unsigned expected_ = 0;
};

}  // namespace pynanochat::cuda
