// csrc/cuda/shared.cuh on the CPU.
#pragma once

#include <cuda_runtime.h>

namespace pynanochat::cuda {

inline unsigned char* dynamic_shared() { return emulator::block->dynamic_shared.get(); }

}  // namespace pynanochat::cuda
