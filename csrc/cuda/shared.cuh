// The block's dynamic shared memory, from a kilobyte boundary on. tests/cuda/emulator/cuda/shared.cuh is the same on the CPU.
#pragma once

#include <cuda_runtime.h>

namespace pynanochat::cuda {

__device__ __forceinline__ char* dynamic_shared() {
    extern __shared__ __align__(1024) char dynamic_shared_memory[];
    return dynamic_shared_memory;
}

}  // namespace pynanochat::cuda
