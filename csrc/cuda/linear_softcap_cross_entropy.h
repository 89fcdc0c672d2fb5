// linear_softcap_cross_entropy on CUDA: what the launcher takes. See linear_softcap_cross_entropy.cu.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch.h"

namespace pynanochat::cuda {

// A chunk of tokens whose products x Wᵀ are at hand.
struct SoftcapCrossEntropy {
    void* products = nullptr;  // (rows, columns); with a gradient overwritten by d(sum token_scale · losses)/d products
    std::int64_t row_stride = 0;  // elements
    DType dtype = DType::f32;
    const std::int64_t* targets = nullptr;  // (rows,)
    const float* token_scale = nullptr;     // (rows,) or null: losses only, products left as they are
    std::int64_t target_stride = 1, scale_stride = 1;  // elements
    float* losses = nullptr;                // (rows,) contiguous
    std::int64_t rows = 0, columns = 0;
    std::int64_t ignore_index = -1;
    float softcap = 0.0f;
};

Launch plan(const SoftcapCrossEntropy& op);
void linear_softcap_cross_entropy(const SoftcapCrossEntropy& op, const Where& where);  // throws CudaError

}  // namespace pynanochat::cuda
