// Arguments of matrix products on the CPU; see product.cpp.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace pynanochat {

// C (m, n) = A (m, k) B (k, n), then `after` on each element before it is stored.
struct Product {
    struct Operand {
        const void* data;
        std::int64_t row_stride, column_stride;  // elements; one of them is 1
        bool is_bf16;                            // else fp32
    };
    enum class After {
        nothing,
        relu2,        // max(c, 0)^2
        relu2_slope,  // c * 2 sqrt(h): the gradient of relu2's argument, h (m, n) being its result
    };
    std::int64_t m, n, k;
    Operand a, b;
    bool bf16_products;  // operands are rounded to bf16 where the CPU multiplies it; sums are fp32 in any case
    void* c;             // rows c_stride apart, elements of a row adjacent
    std::int64_t c_stride;
    bool c_is_bf16;
    After after;
    const void* h;  // dense rows, of c's dtype
};

}  // namespace pynanochat

PYNANOCHAT_KERNEL(product, const Product& op)
