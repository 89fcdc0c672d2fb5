// The Hopper form of attention: where it can run, and its launchers. See attention_sm90.cu and attention_backward*_sm90.cu.
#pragma once

#include "cuda/attention.h"

namespace pynanochat::cuda {

// True where `device` is of compute capability 9.x, the sm_90a kernels are in this build, and TMA takes the tensors of forward.
// Throws CudaError.
bool attention_sm90_takes(const Attention& op, int device);
bool attention_backward_sm90_takes(const Attention& op, int device);  // the same of backward

// Only where attention_sm90_takes(op, where.device). Throws ShapeError, CudaError.
void attention_forward_sm90(const Attention& op, const Where& where);

// Only where attention_backward_sm90_takes(op, where.device). Both read op.delta, which the caller has filled, and not op.out.
// Throw ShapeError, CudaError.
void attention_backward_sm90(const Attention& op, const Where& where);        // always the same bits
void attention_backward_fused_sm90(const Attention& op, const Where& where);  // faster; needs op.dq_sum

}  // namespace pynanochat::cuda
