// adamw_step on CUDA: what the launcher takes. See adamw_step.cu.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device.h"
#include "cuda/launch_adamw_step.h"

namespace pynanochat::cuda {

// A parameter with its gradient and moments, each `size` elements in the same order without gaps.
struct AdamwTensor {
    float* param = nullptr;
    const void* grad = nullptr;
    float* exp_avg = nullptr;
    float* exp_avg_sq = nullptr;
    std::int64_t size = 0;
    std::int32_t first_block = 0;  // this and `vectors` are for the launcher to fill
    bool vectors = false;          // every pointer allows vector loads
    DType grad_dtype = DType::f32;
};

struct AdamwRates {
    float keep = 1.0f;                       // 1 - lr · weight decay
    float take1 = 0.0f;                      // 1 - beta1
    float beta2 = 0.0f, take2 = 0.0f;        // take2 = 1 - beta2
    float step_size = 0.0f;                  // lr / (1 - beta1ᵗ)
    float root = 0.0f;                       // 1 / √(1 - beta2ᵗ)
    float eps = 0.0f;
};

AdamwRates adamw_rates(std::int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay);
void adamw_step(std::vector<AdamwTensor> tensors, const AdamwRates& rates, const Where& where);  // throws CudaError

}  // namespace pynanochat::cuda
