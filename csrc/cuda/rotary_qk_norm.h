// rotary_qk_norm on CUDA: what the launcher takes. See rotary_qk_norm.cu.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace pynanochat::cuda {

struct Strides {  // elements
    std::int64_t batch = 0, position = 0, head = 0, channel = 1;
};

// The queries, or the keys. Forward reads x and writes out; backward reads x and grad and writes out, the gradient of x.
struct RotarySide {
    const void* x = nullptr;
    const void* grad = nullptr;  // backward only
    void* out = nullptr;
    Strides x_stride, grad_stride, out_stride;
    int heads = 0;
};

struct RotaryTable {
    const float* data = nullptr;
    std::int64_t batch = 0, position = 0, pair = 1;  // strides in elements; batch 0 where all rows share the table
};

struct RotaryQkNorm {
    RotarySide q, k;
    RotaryTable cos, sin;
    DType dtype = DType::f32;
    std::int64_t batch = 0, positions = 0;
    int head_dim = 0;
    float scale = 1.0f, eps = 0.0f;
    bool backward = false;
};

Launch plan(const RotaryQkNorm& op);                    // rotary_qk_norm.cu's choice for these pointers and strides
void rotary_qk_norm(const RotaryQkNorm& op, const Where& where);  // throws CudaError

}  // namespace pynanochat::cuda
