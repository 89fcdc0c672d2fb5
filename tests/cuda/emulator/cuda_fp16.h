// float16 of CUDA, emulated.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent   ? std::ldexp(1024.0f + mantissa, exponent - 25)
                                    : std::ldexp(static_cast<float>(mantissa), -24);
    return x.bits >> 15 ? -size : size;
}

inline __half __float2half_rn(float x) {
    const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (x != x) return {0x7fff};
    if (size == 0.0f) return {sign};
    if (size >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    int exponent;
    std::frexp(size, &exponent);                          // size = m · 2^exponent, m in [0.5, 1)
    const int unit = std::fmax(exponent - 11, -24);       // the value of the last place is 2^unit
    const float places = std::nearbyint(std::ldexp(size, -unit));  // ties to even, at most 2048
    // A carry into the exponent adds up by itself; without a leading bit the number is subnormal.
    return {static_cast<std::uint16_t>(sign | (((unit + 24) << 10) + static_cast<int>(places)))};
}
