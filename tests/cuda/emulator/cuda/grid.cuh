// csrc/cuda/grid.cuh on the CPU. Blocks that wait let the others run; a launch in which all wait fails.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

#include "cuda/check.cuh"
#include "cuda/shared.cuh"

namespace pynanochat::cuda {

inline float fresh(const float* from) { return *from; }

inline uint4 once(const void* from) {
    if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) throw std::runtime_error("a vector is not aligned");
    return *static_cast<const uint4*>(from);
}
template <class T, int N> Vector<T, N> fresh_vector(const T* from) {
    const uint4 bits = once(from);
    return *reinterpret_cast<const Vector<T, N>*>(&bits);
}

// A read, so that the sanitizers see an address that is none.
inline void ask(const void* line) { static_cast<void>(*static_cast<const volatile char*>(line)); }

class GridBarrier {
   public:
    explicit GridBarrier(unsigned* counter) : counter_(counter) {}

    void arrive() {
        __syncthreads();
        expected_ += gridDim.x;
        if (threadIdx.x == 0) ++*counter_;
    }

    void wait() {
        if (threadIdx.x == 0) emulator::wait_for([this] { return *counter_ >= expected_; });
        __syncthreads();
    }

   private:
    unsigned* counter_;
    unsigned expected_ = 0;
};

}  // namespace pynanochat::cuda
