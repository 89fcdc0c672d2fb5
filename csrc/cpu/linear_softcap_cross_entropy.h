// Arguments of linear_softcap_cross_entropy on the CPU; see linear_softcap_cross_entropy.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

struct LinearSoftcapCrossEntropy {
    std::int64_t tokens, channels, vocabulary;  // vocabulary: rows of the weight that are no padding
    const void* x;                              // (tokens, channels)
    const void* weight;                         // (>= vocabulary, channels)
    std::int64_t x_stride, weight_stride;       // of a row, elements
    bool x_is_bf16, weight_is_bf16;             // else fp32
    const std::int64_t* targets;                // (tokens), each in [0, vocabulary) or ignore_index
    const float* token_scale;                   // (tokens) at token_scale_stride; gradients only
    std::int64_t targets_stride, token_scale_stride, ignore_index;
    float softcap;
    float* losses;   // (tokens)
    void* dx;        // (tokens, channels) dense, in x's dtype; null for losses alone
    float* dweight;  // (vocabulary, channels) dense; null for losses alone
};

}  // namespace pynanochat

PYNANOCHAT_KERNEL(linear_softcap_cross_entropy, const LinearSoftcapCrossEntropy& op)
