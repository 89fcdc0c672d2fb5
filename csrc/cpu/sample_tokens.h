// Arguments of sample_tokens on the CPU; see sample_tokens.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

struct SampleTokens {
    const float* logits;  // (rows, vocabulary), elements of a row adjacent
    std::int64_t rows, vocabulary, row_stride;
    const double *temperature, *top_p, *min_p, *number;  // (rows,)
    const std::int64_t* top_k;                           // (rows,), 0 for all
    std::int64_t* tokens;                                // (rows,)
};

}  // namespace pynanochat

PYNANOCHAT_KERNEL(sample_tokens, const SampleTokens& op)
