// Causal attention with a window on CUDA: what the launchers take. See attention.cu.
//
// B batch, T positions, H query heads, G key/value heads (H a multiple of G), D head dim.
#pragma once

#include <cstdint>

#include "common/tensor.h"
#include "cuda/device.h"

namespace pynanochat::cuda {

struct Heads {  // (B, T, heads, D), the D elements of a head adjacent
    void* data = nullptr;
    std::int64_t batch = 0, position = 0, head = 0;  // strides in elements
};

// A query at position i sees the keys j with i - window <= j <= i.
struct Attention {
    Heads q, k, v;
    Heads out;             // written by forward, read by backward
    float* lse = nullptr;  // (B, H, T): log of the sum of exp(scaled scores); written by forward, read by backward
    Heads dout, dq, dk, dv;  // backward only
    float* delta = nullptr;  // (B, H, T), backward only: room for each row's sum of dout · out
    float* dq_sum = nullptr;  // backward only: room for attention_dq_sum() floats; null: dq must be the same bits each time
    DType dtype = DType::f32;  // of all tensors but lse and delta
    std::int64_t batch = 0, positions = 0;
    int heads = 0, groups = 0, head_dim = 0;
    std::int64_t window = -1;  // below 0: all of the past
    float scale = 1.0f;        // of the scores
};

void attention_forward(const Attention& op, const Where& where);   // throws ShapeError, CudaError
void attention_backward(const Attention& op, const Where& where);  // throws ShapeError, CudaError

// How many floats of op.dq_sum the backward on `device` can use, in which it adds dq up in whatever order: 0 where it has no such
// form. Reads the sizes and the dtype of op. Throws CudaError.
std::int64_t attention_dq_sum(const Attention& op, int device);

}  // namespace pynanochat::cuda
