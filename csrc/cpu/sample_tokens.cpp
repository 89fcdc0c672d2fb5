// A token for each row of logits x (V,) by the row's own settings: with the weights w = exp((x - max x) / temperature) in
// fp64, those of top-k, then top-p's share of what that left, then min-p; and of these, in the order of their ids, the
// first whose cumulative sum is beyond number * the sum of all.
//
// top-k and top-p are one question: the smallest value that has less than `share` above it, of counts or of weights. It is
// asked of few candidates: for top-k the largest so far, for top-p those with w >= exp(-8), or exp(-32), or ... until they
// are enough. What lies below the value found costs one comparison for each `width` logits.
//
// Bound: the sums in the order of ids, an addition's latency for each token that is not filtered: 4 cycles.
// Ladder (AVX2, two cores, V = 32,768; free, top-k 50, top-p 0.9): torch's topk, sort and two dozen small ops 0.67, 0.85 and
// 8.2 ms for a row, this 0.20, 0.11 and 0.35, a quarter to half of it around the kernel. Slower: all floats of a vector widened
// at once (gcc 12 parts them through memory).
#include "cpu/sample_tokens.h"

#include <omp.h>

#include "common/simd.h"
#include "common/workspace.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr i64 parallel_logits = 1 << 14;  // below this a thread team costs more than it saves
constexpr i64 block = 512;                // logits between two sums that are kept
constexpr i64 few = 256;                 // candidates that top-k looks at again, at least
constexpr int lanes = width / 2;
constexpr float lowest = -__builtin_inff();
constexpr double coldest = -700.0;  // exp of less counts as 0

typedef float hf __attribute__((vector_size(4 * lanes)));
typedef double vd __attribute__((vector_size(8 * lanes)));
typedef i64 vl __attribute__((vector_size(8 * lanes)));

struct Row {
    const float* x;
    i64 size;
    double best, temperature;
};

struct Candidates {  // room for the whole vocabulary
    float* values;
    double* weights;
    i64 count;
};

template <class V> PYNANOCHAT_INLINE bool any(V mask) {
    i64 part[sizeof(V) / 8], all = 0;
    __builtin_memcpy(part, &mask, sizeof part);
    for (i64 lane : part) all |= lane;
    return all != 0;
}

// exp(x) for x <= 0, to a unit in the last place: 2^n exp(r) with x = n ln 2 + r, and exp(r) its Taylor polynomial.
PYNANOCHAT_INLINE vd exp(vd x) {
    const vl counts = x >= coldest;
    const vd bounded = (vd)(((vl)x & counts) | ((vl)(coldest - vd{}) & ~counts));
    const vd shifted = bounded * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52: n lands in the low bits
    const vd n = shifted - 6755399441055744.0;
    const vd r = (bounded - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;  // ln 2 in two parts
    const vd s = r * r;
    vd even = s * (1.0 / 479001600.0) + 1.0 / 3628800.0, odd = s * (1.0 / 6227020800.0) + 1.0 / 39916800.0;
    even = even * s + 1.0 / 40320.0, odd = odd * s + 1.0 / 362880.0;
    even = even * s + 1.0 / 720.0, odd = odd * s + 1.0 / 5040.0;
    even = even * s + 1.0 / 24.0, odd = odd * s + 1.0 / 120.0;
    even = even * s + 0.5, odd = odd * s + 1.0 / 6.0;
    const vd p = (odd * r + even) * s + r;
    const vd power = (vd)(((vl)shifted << 52) + 0x3ff0000000000000);
    return (vd)((vl)(power * p + power) & counts);
}

// Calls body(first id, logits) for vectors of `width` logits; what is beyond the last is -inf.
template <class Body> PYNANOCHAT_INLINE void for_vectors(const float* x, i64 from, i64 to, Body body) {
    i64 i = from;
    for (; i + width <= to; i += width) body(i, load(x + i));
    if (i == to) return;
    float part[width];
    for (int lane = 0; lane < width; ++lane) part[lane] = i + lane < to ? x[i + lane] : lowest;
    body(i, load(part));
}

// As for_vectors, but not for every vector where `wanted`, a mask of a vector, has no lane.
template <class Wanted, class Body>
PYNANOCHAT_INLINE void for_wanted(const float* x, i64 from, i64 to, Wanted wanted, Body body) {
    i64 i = from;
    for (; i + 4 * width <= to; i += 4 * width) {
        const vf a = load(x + i), b = load(x + i + width), c = load(x + i + 2 * width), d = load(x + i + 3 * width);
        if (!any((wanted(a) | wanted(b)) | (wanted(c) | wanted(d)))) continue;
        for_vectors(x, i, i + 4 * width, body);
    }
    for_vectors(x, i, to, body);
}

// Calls body(first id, weights) for vectors of `lanes` logits, in their order; those below `cut` have the weight 0, and so
// have those beyond the last.
template <class Body> PYNANOCHAT_INLINE void for_weights(const Row& row, i64 from, i64 to, float cut, Body body) {
    const auto wanted = [&](vf x) { return x >= cut; };
    for_wanted(row.x, from, to, wanted, [&](i64 i, vf x) {
        if (!any(wanted(x))) return;
        float part[width];
        store(part, select(wanted(x), x, all(lowest)));
        for (int half = 0; half < width; half += lanes) {
            const vd wide = __builtin_convertvector(load_as<hf>(part + half), vd);
            body(i + half, exp((wide - row.best) / row.temperature));
        }
    });
}

// The largest logit; NaN where one is NaN.
float largest(const float* x, i64 size) {
    vf most = all(lowest);
    vi nan{};
    for_vectors(x, 0, size, [&](i64, vf v) {
        most = larger(most, v);
        nan |= v != v;
    });
    if (any(nan)) return __builtin_nanf("");
    float part[width], result = lowest;
    store(part, most);
    for (float value : part) result = value > result ? value : result;
    return result;
}

i64 first_of(const float* x, float value) {
    i64 i = 0;
    while (x[i] != value) ++i;
    return i;
}

void swap(const Candidates& c, i64 a, i64 b) {
    const float value = c.values[a];
    const double weight = c.weights[a];
    c.values[a] = c.values[b], c.weights[a] = c.weights[b];
    c.values[b] = value, c.weights[b] = weight;
}

float middle(float a, float b, float c) {
    if (a > b) return b > c ? b : a > c ? c : a;
    return a > c ? a : b > c ? c : b;
}

// The smallest of the values that have less than `share` of weight above them: quickselect, by weight. Its pivots are at
// places by chance, always the same ones, so that no order of logits that somebody has a reason for makes it slow.
float smallest_within(const Candidates& c, double share) {
    i64 from = 0, to = c.count;
    double above = 0.0;
    std::uint64_t chance = 0;
    const auto any_value = [&] {
        chance = chance * 6364136223846793005u + 1442695040888963407u;
        return c.values[from + static_cast<i64>((chance >> 33) % static_cast<std::uint64_t>(to - from))];
    };
    while (from < to) {
        const float a = any_value(), b = any_value(), pivot = middle(a, b, any_value());
        i64 greater = from, less = to;  // larger ones are put before `greater`, smaller ones from `less` on
        double larger_ones = 0.0, equal_ones = 0.0;
        for (i64 i = from; i < less;) {
            if (c.values[i] > pivot) {
                larger_ones += c.weights[i];
                swap(c, i++, greater++);
            } else if (c.values[i] < pivot) {
                swap(c, i, --less);
            } else {
                equal_ones += c.weights[i++];
            }
        }
        if (greater > from && above + larger_ones >= share) {
            to = greater;
        } else if (less == to || above + larger_ones + equal_ones >= share) {
            return pivot;
        } else {
            above += larger_ones + equal_ones;
            from = less;
        }
    }
    return lowest;
}

// The k-th largest logit.
float kth_largest(const Row& row, i64 k, Candidates c) {
    const i64 most = 2 * k > few ? 2 * k : few;
    float kth = lowest;
    c.count = 0;
    const auto wanted = [&](vf x) { return x > kth; };
    for_wanted(row.x, 0, row.size, wanted, [&](i64, vf x) {
        if (!any(wanted(x))) return;
        float value[width];
        store(value, x);
        for (float v : value)
            if (v > kth) c.values[c.count] = v, c.weights[c.count++] = 1.0;
        if (c.count + width > most) {
            kth = smallest_within(c, static_cast<double>(k));
            c.count = k;  // those before it are no less than the k-th
        }
    });
    return c.count < k ? lowest : smallest_within(c, static_cast<double>(k));
}

// Puts the logits of at least `cut` among the candidates; their weight.
double collect(const Row& row, float cut, Candidates& c) {
    double mass = 0.0;
    c.count = 0;
    for_weights(row, 0, row.size, cut, [&](i64 i, vd weight) {
        for (int lane = 0; lane < lanes; ++lane) {
            if (weight[lane] == 0.0) continue;
            c.values[c.count] = row.x[i + lane], c.weights[c.count++] = weight[lane];
            mass += weight[lane];
        }
    });
    return mass;
}

// The smallest logit that top_p leaves of those of at least `kth`.
float nucleus(const Row& row, float kth, double top_p, Candidates c) {
    if (kth > lowest) {
        const double whole = collect(row, kth, c);
        return smallest_within(c, top_p * whole);
    }
    vd sums{};
    for_weights(row, 0, row.size, kth, [&](i64, vd weight) { sums += weight; });
    double whole = 0.0;
    for (int lane = 0; lane < lanes; ++lane) whole += sums[lane];
    for (double cold = -8.0;; cold *= 4.0) {
        const double mass = collect(row, static_cast<float>(row.best + row.temperature * cold), c);
        if (mass >= top_p * whole || cold <= coldest) return smallest_within(c, top_p * whole);
    }
}

// The first id whose cumulative weight is beyond `number` of the whole, among the logits of at least `cut` and the
// weights of at least min_p.
i64 draw(const Row& row, float cut, double min_p, double number, double* sums) {
    double mass = 0.0;
    const auto kept = [&](vd weight) { return (vd)((vl)weight & (weight >= min_p)); };
    const i64 blocks = (row.size + block - 1) / block;
    const auto end_of = [&](i64 b) { return (b + 1) * block < row.size ? (b + 1) * block : row.size; };
    for (i64 b = 0; b < blocks; ++b) {
        sums[b] = mass;  // before the block
        for_weights(row, b * block, end_of(b), cut, [&](i64, vd weight) {
            weight = kept(weight);
            for (int lane = 0; lane < lanes; ++lane) mass += weight[lane];
        });
    }
    std::uint64_t bits;
    __builtin_memcpy(&bits, &mass, sizeof bits);
    bits -= 1;  // the next number below the whole: rounding must not reach past the last
    double at;
    __builtin_memcpy(&at, &bits, sizeof at);
    if (number * mass < at) at = number * mass;
    i64 b = blocks - 1;
    while (b > 0 && sums[b] > at) --b;
    mass = sums[b];
    i64 token = row.size;
    for_weights(row, b * block, end_of(b), cut, [&](i64 i, vd weight) {
        weight = kept(weight);
        for (int lane = 0; lane < lanes; ++lane) {
            mass += weight[lane];
            if (mass > at && token == row.size) token = i + lane;
        }
    });
    return token;
}

i64 sample_row(const SampleTokens& op, i64 r, Candidates c) {
    Row row{op.logits + r * op.row_stride, op.vocabulary, 0.0, op.temperature[r]};
    const float best = largest(row.x, row.size);
    if (!(__builtin_fabsf(best) < __builtin_inff())) return op.vocabulary;  // no token
    if (row.temperature == 0.0) return first_of(row.x, best);
    row.best = best;
    const i64 k = op.top_k[r];
    float cut = k > 0 && k < row.size ? kth_largest(row, k, c) : lowest;
    if (op.top_p[r] < 1.0) cut = nucleus(row, cut, op.top_p[r], c);
    return draw(row, cut, op.min_p[r], op.number[r], c.weights);
}

}  // namespace

void sample_tokens(const SampleTokens& op) {
    const i64 most = omp_get_max_threads() < op.rows ? omp_get_max_threads() : op.rows;
    const i64 threads = op.rows * op.vocabulary >= parallel_logits ? most : 1, room = op.vocabulary + width;
    double* weights = static_cast<double*>(workspace(static_cast<std::size_t>(threads * room) * 12));
    float* values = reinterpret_cast<float*>(weights + threads * room);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (i64 r = 0; r < op.rows; ++r) {
        const i64 thread = omp_get_thread_num();
        op.tokens[r] = sample_row(op, r, {values + thread * room, weights + thread * room, 0});
    }
}

}  // namespace pynanochat::PYNANOCHAT_ISA
