// csrc/cuda/shared.cuh on the CPU.
#pragma once

#include <cuda_runtime.h>

namespace pynanochat::cuda {

inline char* dynamic_shared() { return reinterpret_cast<char*>(emulator::block->dynamic_shared.get()); }

}  // namespace pynanochat::cuda
