// A view of somebody else's tensor: pointer, shape, strides, dtype. Owns nothing, knows neither Python nor torch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace pynanochat {

enum class DType : std::uint8_t { f64, f32, bf16, f16, i64, i32, u32, u8 };

constexpr int max_dims = 5;

struct Tensor {
    void* data = nullptr;
    DType dtype = DType::f32;
    int dims = 0;
    std::array<std::int64_t, max_dims> shape{};   // elements
    std::array<std::int64_t, max_dims> stride{};  // elements, not bytes
    bool on_cuda = false;

    template <class T> T* as() const { return static_cast<T*>(data); }

    std::int64_t size() const {
        std::int64_t n = 1;
        for (int i = 0; i < dims; ++i) n *= shape[i];
        return n;
    }

    bool contiguous() const {
        if (size() == 0) return true;
        std::int64_t expected = 1;
        for (int i = dims - 1; i >= 0; --i) {
            if (shape[i] != 1 && stride[i] != expected) return false;
            expected *= shape[i];
        }
        return true;
    }
};

// A shape, dtype or stride that an op does not take; becomes Python's ValueError.
struct ShapeError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

}  // namespace pynanochat
