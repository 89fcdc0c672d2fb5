// Vectors of `width` floats for one instruction set, on the compiler's vector types: no intrinsic but for the bf16 dot
// product, so the same source serves AVX-512, AVX2, SSE2 and NEON. Only files of csrc/cpu include it (see common/isa.h).
#pragma once

#include <cstdint>

#if defined(PYNANOCHAT_BF16_DOT)
#include <immintrin.h>
#endif

#define PYNANOCHAT_INLINE static inline __attribute__((always_inline, unused))

namespace pynanochat::PYNANOCHAT_ISA {

constexpr int width = PYNANOCHAT_WIDTH;

using i64 = std::int64_t;
using bf16 = std::uint16_t;  // the bits
typedef float vf __attribute__((vector_size(4 * width)));
typedef std::int32_t vi __attribute__((vector_size(4 * width)));
typedef std::uint32_t vu __attribute__((vector_size(4 * width)));
typedef bf16 vh __attribute__((vector_size(2 * width)));

template <class V, class T> PYNANOCHAT_INLINE V load_as(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T> PYNANOCHAT_INLINE void store_as(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

PYNANOCHAT_INLINE vf zero() { return vf{}; }
PYNANOCHAT_INLINE vf all(float x) { return x - vf{}; }

PYNANOCHAT_INLINE vf widen(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }

// Round to nearest even; NaN stays NaN.
PYNANOCHAT_INLINE vh narrow(vf x) {
#if defined(PYNANOCHAT_BF16_DOT)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    const vu bits = (vu)x;
    const vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const vu nan = (vu)(x != x);
    return __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), vh);
#endif
}

PYNANOCHAT_INLINE vf load(const float* p) { return load_as<vf>(p); }
PYNANOCHAT_INLINE vf load(const bf16* p) { return widen(load_as<vh>(p)); }
PYNANOCHAT_INLINE void store(float* p, vf x) { store_as(p, x); }
PYNANOCHAT_INLINE void store(bf16* p, vf x) { store_as(p, narrow(x)); }

// The first n < width elements; the others are zero.
template <class T> PYNANOCHAT_INLINE vf load_first(const T* p, i64 n) {
    T part[width] = {};
    for (i64 i = 0; i < n; ++i) part[i] = p[i];
    return load(part);
}
template <class T> PYNANOCHAT_INLINE void store_first(T* p, vf x, i64 n) {
    T part[width];
    store(part, x);
    for (i64 i = 0; i < n; ++i) p[i] = part[i];
}

PYNANOCHAT_INLINE float to_float(float x) { return x; }
PYNANOCHAT_INLINE float to_float(bf16 x) {
    const std::uint32_t bits = std::uint32_t{x} << 16;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
}

PYNANOCHAT_INLINE float sum(vf x) {
    float part[width];
    store(part, x);
    for (int half = width / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}

PYNANOCHAT_INLINE vf square_root(vf x) {
    float part[width];
    store(part, x);
    for (int i = 0; i < width; ++i) part[i] = __builtin_sqrtf(part[i]);
    return load(part);
}

PYNANOCHAT_INLINE vf select(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
PYNANOCHAT_INLINE vf at_least(vf x, float low) { return select(x < low, all(low), x); }     // NaN stays NaN
PYNANOCHAT_INLINE vf at_most(vf x, float high) { return select(x > high, all(high), x); }
PYNANOCHAT_INLINE vf larger(vf a, vf b) { return select(a > b, a, b); }

// The lanes of a and b in turn: the first half of each, or the second.
#if PYNANOCHAT_WIDTH == 4
#define PYNANOCHAT_LOW 0, 4, 1, 5
#define PYNANOCHAT_HIGH 2, 6, 3, 7
#elif PYNANOCHAT_WIDTH == 8
#define PYNANOCHAT_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define PYNANOCHAT_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define PYNANOCHAT_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define PYNANOCHAT_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
#if defined(__clang__)
PYNANOCHAT_INLINE vu zip_low(vu a, vu b) { return __builtin_shufflevector(a, b, PYNANOCHAT_LOW); }
PYNANOCHAT_INLINE vu zip_high(vu a, vu b) { return __builtin_shufflevector(a, b, PYNANOCHAT_HIGH); }
#else
PYNANOCHAT_INLINE vu zip_low(vu a, vu b) { return __builtin_shuffle(a, b, vu{PYNANOCHAT_LOW}); }
PYNANOCHAT_INLINE vu zip_high(vu a, vu b) { return __builtin_shuffle(a, b, vu{PYNANOCHAT_HIGH}); }
#endif

// Transposes a square of 32-bit lanes: log2(width) perfect shuffles.
PYNANOCHAT_INLINE void transpose(vu (&x)[width]) {
#pragma GCC unroll 4
    for (int step = 1; step < width; step *= 2) {
        vu y[width];
#pragma GCC unroll 8
        for (int i = 0; i < width / 2; ++i) {
            y[2 * i] = zip_low(x[i], x[i + width / 2]);
            y[2 * i + 1] = zip_high(x[i], x[i + width / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) x[i] = y[i];
    }
}

// exp(x) = 2^n (1 + q) with x = n ln 2 + r, |r| <= ln 2 / 2 and q = exp(r) - 1, a polynomial fitted at Chebyshev nodes
// (relative error 1e-8 before rounding). x must lie in [-87, 88].
struct Exp {
    vf power, q;
};
PYNANOCHAT_INLINE Exp exp_parts(vf x) {
    const vf shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer n lands in the low bits
    const vf n = shifted - 12582912.0f;
    const vf r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts
    vf p = r * 0.00139337332f + 0.00836323538f;
    p = p * r + 0.0416664642f;
    p = p * r + 0.166665766f;
    p = p * r + 0.5f;
    return {(vf)(((vi)shifted << 23) + 0x3f800000), p * (r * r) + r};
}
PYNANOCHAT_INLINE vf exp(vf x) {
    const Exp e = exp_parts(at_most(at_least(x, -87.0f), 88.0f));
    return e.power * e.q + e.power;
}

// tanh(y) and 1 - tanh(y)^2, both to a few units in the last place, from u = exp(-2|y|): (1 - u) / (1 + u) and
// 4 u / (1 + u)^2. Near 0, 1 - u is taken from exp's q, which has no cancellation.
struct Tanh {
    vf value, slope;
};
PYNANOCHAT_INLINE Tanh tanh(vf y) {
    const vi sign = (vi)y & (vi)all(-0.0f);
    const Exp e = exp_parts(at_least((vf)((vi)y | (vi)all(-0.0f)) * 2.0f, -40.0f));
    const vf less_one = e.power * e.q + (e.power - 1.0f);  // u - 1
    const vf inverse = 1.0f / (less_one + 2.0f);
    return {(vf)((vi)(-less_one * inverse) ^ sign), (less_one + 1.0f) * 4.0f * (inverse * inverse)};
}

}  // namespace pynanochat::PYNANOCHAT_ISA
