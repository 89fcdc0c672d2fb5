// attention_paged on CUDA, one query a row: what the launcher takes. See attention_paged.cu.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch_attention_paged.h"

namespace pynanochat::cuda {

struct Pages {  // (pages, page, G, D), dense along D; strides in elements
    const void* data = nullptr;
    std::int64_t page = 0, token = 0, head = 0;
};

struct AttentionPaged {
    const void* q = nullptr;  // (N, H, D), dense along D
    std::int64_t q_row = 0, q_head = 0;  // strides in elements
    Pages k, v;
    const std::int64_t* tables = nullptr;   // (R, columns)
    const std::int64_t* starts = nullptr;   // (R + 1,): row r has the query starts[r], or none if starts[r + 1] is that
    const std::int64_t* lengths = nullptr;  // (R,)
    float* partials = nullptr;              // R · H · splits · (D + 2), where there is more than one split
    void* out = nullptr;                    // (N, H, D) contiguous
    DType dtype = DType::f32;
    std::int64_t rows = 0, pages = 0, columns = 0;
    int heads = 0, kv_heads = 0, head_dim = 0, page = 0;
    std::int64_t window = -1;
    int splits = 1;
    int chunks = 1;  // for the launcher to fill
};

void attention_paged(AttentionPaged op, const Where& where);  // throws CudaError

}  // namespace pynanochat::cuda
