// The matrix iteration of muon_step on CUDA: what the launcher takes. See muon_step.cu.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cuda/device.h"
#include "cuda/launch_muon_step.h"

namespace pynanochat::cuda {

// A stack of matrices in bf16 or fp16, all buffers contiguous and 16-byte aligned. m is the smaller of rows and columns.
struct MuonIteration {
    void* x = nullptr;           // (count, rows, columns); overwritten
    void* next = nullptr;        // (count, rows, columns)
    void* gram = nullptr;        // (count, m, m)
    void* polynomial = nullptr;  // (count, m, m)
    DType dtype = DType::bf16;
    std::int64_t count = 0;
    int rows = 0, columns = 0;  // multiples of 8
    std::vector<std::array<float, 3>> coefficients;  // a, b, c of each step
};

// The result is in `next` after an odd number of steps, in `x` after an even one. Throws CudaError.
void muon_iterate(const MuonIteration& op, const Where& where);

}  // namespace pynanochat::cuda
