// Arguments of attention on the CPU; see attention.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

struct Attention {
    struct Heads {  // (B, T, heads, D), elements of a head adjacent
        void* data;
        std::int64_t stride[3];  // of batch, position, head; elements
    };
    std::int64_t batch, positions, heads, groups, head_dim;
    std::int64_t keys;    // positions, or in forward more: the queries then are the last of them
    std::int64_t window;  // a query at i sees i - window ... i; positions or more means all
    bool is_bf16;         // else fp32: all tensors but lse
    Heads q, k, v, out;   // out: written by forward, read by backward
    float* lse;           // (B, heads, T): log of the sum of exp(scaled scores)
    Heads dout, dq, dk, dv;  // backward only
};

}  // namespace pynanochat

PYNANOCHAT_KERNEL(attention_forward, const Attention& op)
PYNANOCHAT_KERNEL(attention_backward, const Attention& op)
