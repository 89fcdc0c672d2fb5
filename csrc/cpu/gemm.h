// The pieces of a matrix product that the ops of this folder build on: operands in units, a packed B, a register tile.
//
// C (m, n) fp32 += A (m, k) B (k, n). k counts units: a unit is one float or, where the CPU has a bf16 dot product, two
// neighbouring bf16 of k in 32 bits. A is read where it lies, in either orientation; B is packed into panels of
// `columns` columns, unit by unit, so that the tile loads whole vectors. One tile is `rows` by `columns` of C in
// registers. A product longer than `depth` units is cut, so that a panel of B (depth x columns) stays in the L1 cache.
//
// Bound: multiply-adds. AVX-512: 24 accumulators, 14 loads for 24 fused multiply-adds a step.
#pragma once

#include "common/simd.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr int rows = width == 16 ? 12 : 6;
constexpr int columns = 2 * width;
constexpr i64 depth = 256;  // units

using Pair = std::uint32_t;  // two bf16, the first one low

// What a product of floats, or of bf16, computes in on this instruction set.
#if defined(PYNANOCHAT_BF16_DOT)
template <class T> struct UnitOf { using type = float; static constexpr i64 elements = 1; };
template <> struct UnitOf<bf16> { using type = Pair; static constexpr i64 elements = 2; };
PYNANOCHAT_INLINE vf multiply_add(vu a, vu b, vf sum) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
template <class T> struct UnitOf { using type = float; static constexpr i64 elements = 1; };
#endif
PYNANOCHAT_INLINE vf multiply_add(vf a, vf b, vf sum) { return a * b + sum; }

PYNANOCHAT_INLINE vf load_unit(const float* p) { return load_as<vf>(p); }
PYNANOCHAT_INLINE vu load_unit(const Pair* p) { return load_as<vu>(p); }
PYNANOCHAT_INLINE vf broadcast(float x) { return all(x); }
PYNANOCHAT_INLINE vu broadcast(Pair x) { return x - vu{}; }

constexpr i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }
constexpr i64 least(i64 a, i64 b) { return a < b ? a : b; }

// How an operand of products lies: units of a row adjacent (rows `stride` units apart), or units of a column adjacent.
enum class Order { by_row, by_column };

// c[0..R)[0..columns) = or += A (R, k) times one panel of packed B.
template <int R, Order order, class Unit>
void tile(i64 k, const Unit* a, i64 a_stride, const Unit* b, float* c, i64 c_stride, bool accumulate) {
    vf sums[R][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = zero();
    const Unit* group[(R + 2) / 3];  // three rows share a pointer: base, base + stride, base + 2 * stride
#pragma GCC unroll 16
    for (int g = 0; g < (R + 2) / 3; ++g) group[g] = a + 3 * g * a_stride;
    for (i64 i = 0; i < k; ++i, b += columns) {
        const auto b0 = load_unit(b), b1 = load_unit(b + width);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const auto x = broadcast(order == Order::by_row ? group[r / 3][(r % 3) * a_stride + i] : a[i * a_stride + r]);
            sums[r][0] = multiply_add(x, b0, sums[r][0]);
            sums[r][1] = multiply_add(x, b1, sums[r][1]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        float* row = c + r * c_stride;
        store(row, accumulate ? load(row) + sums[r][0] : sums[r][0]);
        store(row + width, accumulate ? load(row + width) + sums[r][1] : sums[r][1]);
    }
}

template <Order order, class Unit, int R = rows>
PYNANOCHAT_INLINE void tile_of(i64 m, i64 k, const Unit* a, i64 a_stride, const Unit* b, float* c, i64 c_stride, bool accumulate) {
    if constexpr (R == 1) {
        tile<1, order>(k, a, a_stride, b, c, c_stride, accumulate);
    } else {
        if (m >= R)
            tile<R, order>(k, a, a_stride, b, c, c_stride, accumulate);
        else
            tile_of<order, Unit, R - 1>(m, k, a, a_stride, b, c, c_stride, accumulate);
    }
}

// C (m, n) = or += A (m, k) times packed B (k, n), k <= depth units. Panels of B are k * columns units apart.
template <Order order, class Unit>
void multiply_block(i64 m, i64 n, i64 k, const Unit* a, i64 a_stride, const Unit* b, float* c, i64 c_stride, bool accumulate) {
    float edge[rows * columns];
    for (i64 j = 0; j < n; j += columns, b += k * columns) {
        for (i64 i = 0; i < m; i += rows) {
            const Unit* part = a + (order == Order::by_row ? i * a_stride : i);
            const i64 height = least(rows, m - i);
            if (j + columns <= n) {
                tile_of<order>(height, k, part, a_stride, b, c + i * c_stride + j, c_stride, accumulate);
                continue;
            }
            tile_of<order>(height, k, part, a_stride, b, edge, columns, false);
            for (i64 r = 0; r < height; ++r)
                for (i64 s = j; s < n; ++s) {
                    float& to = c[(i + r) * c_stride + s];
                    to = accumulate ? to + edge[r * columns + s - j] : edge[r * columns + s - j];
                }
        }
    }
}

// C (m, n) = or += A (m, k) B (k, n) for any k; B packed by pack_rows or pack_columns: blocks of depth, in each the panels.
template <Order order, class Unit>
void multiply(i64 m, i64 n, i64 k, const Unit* a, i64 a_stride, const Unit* b, float* c, i64 c_stride, bool accumulate) {
    const i64 padded = round_up(n, columns);
    for (i64 from = 0; from < k; from += depth) {
        const i64 part = least(depth, k - from);
        const Unit* a_part = a + (order == Order::by_row ? from : from * a_stride);
        multiply_block<order>(m, n, part, a_part, a_stride, b + from * padded, c, c_stride, accumulate || from > 0);
    }
}

// --- conversion of elements into units ---

PYNANOCHAT_INLINE void convert(float& to, float from) { to = from; }
PYNANOCHAT_INLINE void convert(float& to, bf16 from) { to = to_float(from); }
PYNANOCHAT_INLINE void convert(bf16& to, bf16 from) { to = from; }
PYNANOCHAT_INLINE void convert(bf16& to, float from) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &from, 4);
    to = from != from ? bf16{0x7fc0} : static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// n elements of `from` as the elements that units are made of; `to` has room for whole units and is padded with zeros.
template <class E, class T> void convert_row(E* to, const T* from, i64 n, i64 padded) {
    i64 i = 0;
    for (; i + width <= n; i += width) store(to + i, load(from + i));
    for (; i < n; ++i) convert(to[i], from[i]);
    for (; i < padded; ++i) to[i] = E{};
}

#if defined(PYNANOCHAT_BF16_DOT)
template <class Unit> struct ElementOf { using type = bf16; };
template <> struct ElementOf<float> { using type = float; };
#else
template <class Unit> struct ElementOf { using type = float; };
#endif

// One unit of a row: elements at, at + 1, ... of k_elements, zero beyond.
template <class Unit, class T> Unit unit_at(const T* row, i64 unit, i64 k_elements) {
    using E = typename ElementOf<Unit>::type;
    constexpr i64 per = sizeof(Unit) / sizeof(E);
    E parts[per] = {};
    for (i64 e = 0; e < per; ++e)
        if (unit * per + e < k_elements) convert(parts[e], row[unit * per + e]);
    Unit result;
    __builtin_memcpy(&result, parts, sizeof result);
    return result;
}

PYNANOCHAT_INLINE vu load_units(const float* row, i64 unit, float) { return (vu)load(row + unit); }
PYNANOCHAT_INLINE vu load_units(const bf16* row, i64 unit, float) { return (vu)load(row + unit); }
PYNANOCHAT_INLINE vu load_units(const float* row, i64 unit, Pair) {
    bf16 both[2 * width];
    store(both, load(row + 2 * unit));
    store(both + width, load(row + 2 * unit + width));
    return load_as<vu>(both);
}
PYNANOCHAT_INLINE vu load_units(const bf16* row, i64 unit, Pair) { return load_as<vu>(row + 2 * unit); }

// Packs B whose k index is adjacent, i.e. its transpose (n, k) is stored by rows. Columns from n on are zero. k is cut into
// blocks of `block` units.
template <class Unit, class T>
void pack_columns(Unit* to, const T* b, i64 b_stride, i64 n, i64 k_elements, i64 block = depth) {
    constexpr i64 per = sizeof(Unit) / sizeof(typename ElementOf<Unit>::type);
    const i64 k = (k_elements + per - 1) / per, whole = k_elements / per / width * width, padded = round_up(n, columns);
    const auto place = [=](i64 unit, i64 j) {  // of the unit of column j
        const i64 from = unit / block * block;
        return to + from * padded + j / columns * columns * least(block, k - from) + (unit - from) * columns + j % columns;
    };
    for (i64 j = 0; j < padded; j += width) {
        const i64 filled = n - j < 0 ? 0 : least(width, n - j);
        for (i64 unit = 0; unit < whole; unit += width) {  // `block` is a multiple of width or k itself
            vu square[width];
            for (i64 c = 0; c < width; ++c) square[c] = c < filled ? load_units(b + (j + c) * b_stride, unit, Unit{}) : vu{};
            transpose(square);
            for (i64 i = 0; i < width; ++i) store_as(place(unit + i, j), square[i]);
        }
        for (i64 unit = whole; unit < k; ++unit)
            for (i64 c = 0; c < width; ++c)
                *place(unit, j + c) = c < filled ? unit_at<Unit>(b + (j + c) * b_stride, unit, k_elements) : Unit{};
    }
}

// Two rows of elements as one row of units (one row where a unit is one element).
PYNANOCHAT_INLINE void store_units(float* to, vf first, vf) { store(to, first); }
PYNANOCHAT_INLINE void store_units(Pair* to, vf first, vf second) {
    const vu low = __builtin_convertvector(narrow(first), vu), high = __builtin_convertvector(narrow(second), vu);
    store_as(to, low | (high << 16));
}

// Packs B (k, n) stored by rows: `b` points at its first element. Row i is multiplied by scale[i] unless scale
// is null. k is cut into blocks of `size` units.
template <class Unit, class T>
void pack_rows(Unit* to, const T* b, i64 b_stride, i64 n, i64 k_elements, const float* scale, i64 size = depth) {
    constexpr i64 per = sizeof(Unit) / sizeof(typename ElementOf<Unit>::type);
    const i64 k = (k_elements + per - 1) / per, padded = round_up(n, columns);
    for (i64 unit = 0; unit < k; ++unit) {
        const i64 block = unit / size * size, part = least(size, k - block);
        Unit* row = to + block * padded + (unit - block) * columns;
        const i64 first = unit * per, second = first + 1;
        const bool pair = per == 2 && second < k_elements;
        const vf s0 = all(scale ? scale[first] : 1.0f), s1 = all(scale && pair ? scale[second] : 1.0f);
        const T* at = b + first * b_stride;
        for (i64 j = 0; j < padded; j += width) {
            Unit* out = row + j / columns * columns * part + j % columns;
            vf x0 = zero(), x1 = zero();
            if (j + width <= n) {
                x0 = load(at + j);
                if (pair) x1 = load(at + b_stride + j);
            } else if (j < n) {
                x0 = load_first(at + j, n - j);
                if (pair) x1 = load_first(at + b_stride + j, n - j);
            }
            store_units(out, x0 * s0, x1 * s1);
        }
    }
}

}  // namespace

}  // namespace pynanochat::PYNANOCHAT_ISA
