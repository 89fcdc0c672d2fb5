// Arguments of rotary_qk_norm on the CPU; see rotary_qk_norm.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

struct RotaryQkNorm {
    struct Side {                // queries or keys: (B, T, heads, 2 * half), elements of a head adjacent
        std::int64_t heads;
        const void* x;
        const void* grad;        // of the output; backward only
        void* out;               // forward: rotated and normalised; backward: gradient of x
        std::int64_t x_stride[3], grad_stride[3], out_stride[3];  // of batch, position, head; elements
    };
    Side side[2];
    std::int64_t batch, positions, half;
    const float* cos;
    const float* sin;
    std::int64_t table_stride[2];  // of batch (0 where rows share the table) and position
    float scale, eps;
    bool is_bf16;  // else fp32
};

constexpr std::int64_t rotary_max_half = 128;

}  // namespace pynanochat

PYNANOCHAT_KERNEL(rotary_qk_norm_forward, const RotaryQkNorm& op)
PYNANOCHAT_KERNEL(rotary_qk_norm_backward, const RotaryQkNorm& op)
