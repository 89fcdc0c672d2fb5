// The Hopper form of attention's forward: where it can run, and its launcher. See attention_sm90.cu.
#pragma once

#include "cuda/attention.h"

namespace pynanochat::cuda {

// True where `device` is of compute capability 9.x, the sm_90a kernels are in this build, and TMA takes the tensors of forward.
// Throws CudaError.
bool attention_sm90_takes(const Attention& op, int device);

// Only where attention_sm90_takes(op, where.device). Throws ShapeError, CudaError.
void attention_forward_sm90(const Attention& op, const Where& where);

}  // namespace pynanochat::cuda
