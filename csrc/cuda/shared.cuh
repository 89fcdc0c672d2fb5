// The block's dynamic shared memory. tests/cuda/emulator/cuda/shared.cuh is the same on the CPU.
#pragma once

#include <cuda_runtime.h>

namespace pynanochat::cuda {

__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return dynamic_shared_memory;
}

}  // namespace pynanochat::cuda
