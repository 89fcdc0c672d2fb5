// Causal softmax attention of a few queries over keys and values that lie in pages, as decoding needs it: one pass over the
// keys for the scores, one over the values, for each query and head.
//
// Scores: `width` keys at a time, channels along vectors, an accumulator for each key; a transpose then turns the
// accumulators into one vector of scores. Values: channels along vectors, in tiles of four accumulators for every second key.
// Sums and probabilities are fp32 for both dtypes. A page that no query of its row sees is never touched.
//
// Deterministic for any number of threads: a task is one (row, head). Bound: the bytes of visible keys and values, read once
// from memory for a row's first query and head of a group and from the caches for the others.
// Rows of many queries are better served by attention.cpp over gathered keys.
#include "cpu/attention_paged.h"

#include <omp.h>

#include "common/simd.h"
#include "common/workspace.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr int tile = 4;  // vectors of channels
constexpr float unseen = -1e30f;

constexpr i64 least(i64 a, i64 b) { return a < b ? a : b; }

// The keys or values of one row and head.
template <class T> struct Tokens {
    const T* base;
    i64 page_stride, token_stride;
    const i64* table;
    i64 page;

    const T* at(i64 token) const { return base + table[token / page] * page_stride + token % page * token_stride; }
    i64 run(i64 token, i64 end) const { return least(end - token, page - token % page); }  // tokens that lie together
};

template <class T> Tokens<T> tokens_of(const AttentionPaged& op, const AttentionPaged::Pages& x, i64 row, i64 group) {
    return {static_cast<const T*>(x.data) + group * x.stride[2], x.stride[0], x.stride[1], op.tables + row * op.table_size,
            op.page};
}

// Dot products of q (head_dim fp32, zeros up to whole vectors) with count <= width keys that lie `stride` apart.
template <class T> vf dots(const float* q, const T* keys, i64 stride, i64 count, i64 head_dim) {
    const T* at[width];
    for (i64 i = 0; i < width; ++i) at[i] = keys + least(i, count - 1) * stride;
    vf sums[width] = {};
    i64 c = 0;
    for (; c + width <= head_dim; c += width) {
        const vf x = load(q + c);
#pragma GCC unroll 16
        for (int i = 0; i < width; ++i) sums[i] += x * load(at[i] + c);
    }
    if (c < head_dim)
        for (int i = 0; i < width; ++i) sums[i] += load(q + c) * load_first(at[i] + c, head_dim - c);
    vu lanes[width];
    for (int i = 0; i < width; ++i) lanes[i] = (vu)sums[i];
    transpose(lanes);
    vf total = zero();
    for (int i = 0; i < width; ++i) total += (vf)lanes[i];
    return total;
}

// Scores of the tokens [first, end) into `scores`, which has room for a vector more.
template <class T> void score(const float* q, const Tokens<T>& keys, i64 first, i64 end, i64 head_dim, float* scores) {
    for (i64 token = first; token < end;) {
        const i64 count = least(width, keys.run(token, end));
        store(scores + (token - first), dots(q, keys.at(token), keys.token_stride, count, head_dim));
        token += count;
    }
    store(scores + (end - first), all(unseen));
}

// Turns `count` scores into probabilities that are not yet divided by their sum, which is returned.
inline float exponentials(float* scores, i64 count) {
    vf most = all(unseen);
    for (i64 i = 0; i < count; i += width) most = larger(most, load(scores + i));
    float top = most[0];
    for (int i = 1; i < width; ++i) top = most[i] > top ? most[i] : top;
    vf total = zero();
    for (i64 i = 0; i < count; i += width) {
        const vf p = exp(load(scores + i) - top);
        store(scores + i, p);
        total += p;
    }
    return sum(total);
}

// out[0 ... vectors * width) = sum over the tokens [first, end) of their weight times channels from `channel` on.
template <int vectors, class T>
void add_up(const float* weights, const Tokens<T>& values, i64 first, i64 end, i64 channel, float* out) {
    vf even[vectors] = {}, odd[vectors] = {};
    for (i64 token = first; token < end;) {
        const i64 stop = token + values.run(token, end);
        const T* at = values.at(token) + channel;
        for (; token + 1 < stop; token += 2, at += 2 * values.token_stride) {
            const vf p = all(weights[token - first]), p1 = all(weights[token - first + 1]);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; ++i) {
                even[i] += p * load(at + i * width);
                odd[i] += p1 * load(at + values.token_stride + i * width);
            }
        }
        if (token < stop) {
            const vf p = all(weights[token - first]);
#pragma GCC unroll 4
            for (int i = 0; i < vectors; ++i) even[i] += p * load(at + i * width);
            ++token;
        }
    }
    for (int i = 0; i < vectors; ++i) store(out + i * width, even[i] + odd[i]);
}

// The last channels, fewer than a vector.
template <class T>
void add_up_rest(const float* weights, const Tokens<T>& values, i64 first, i64 end, i64 channel, i64 rest, float* out) {
    vf total = zero();
    for (i64 token = first; token < end; ++token)
        total += weights[token - first] * load_first(values.at(token) + channel, rest);
    store(out, total);
}

// One query of one head: q and out are its channels.
template <class T>
void attend(const AttentionPaged& op, const T* q, T* out, const Tokens<T>& keys, const Tokens<T>& values, i64 first, i64 end,
            float* channels, float* scores) {
    const i64 size = op.head_dim;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(size));
    for (i64 c = 0; c < size; ++c) channels[c] = to_float(q[c]) * scale;
    for (i64 c = size; c % width; ++c) channels[c] = 0;
    score(channels, keys, first, end, size, scores);
    const float inverse = 1.0f / exponentials(scores, end - first);
    i64 c = 0;
    for (; c + tile * width <= size; c += tile * width) add_up<tile>(scores, values, first, end, c, channels + c);
    for (; c + width <= size; c += width) add_up<1>(scores, values, first, end, c, channels + c);
    if (c < size) add_up_rest(scores, values, first, end, c, size - c, channels + c);
    for (c = 0; c + width <= size; c += width) store(out + c, load(channels + c) * inverse);
    if (c < size) store_first(out + c, load(channels + c) * inverse, size - c);
}

template <class T> void run(const AttentionPaged& op) {
    const i64 share = op.heads / op.groups;
    const i64 room = op.head_dim + op.table_size * op.page + 4 * width;  // floats of one thread
    float* scratch = static_cast<float*>(workspace(static_cast<std::size_t>(omp_get_max_threads() * room * 4)));
#pragma omp parallel for schedule(dynamic) if (op.rows * op.heads > 1)
    for (i64 task = 0; task < op.rows * op.heads; ++task) {
        const i64 row = task / op.heads, h = task % op.heads;
        const i64 start = op.starts[row], count = op.starts[row + 1] - start;
        if (count > op.most_queries) continue;
        float* channels = scratch + omp_get_thread_num() * room;
        float* scores = channels + (op.head_dim + width - 1) / width * width;
        const Tokens<T> keys = tokens_of<T>(op, op.k, row, h / share), values = tokens_of<T>(op, op.v, row, h / share);
        for (i64 i = 0; i < count; ++i) {
            const i64 at = op.lengths[row] - count + i;
            const T* q = static_cast<const T*>(op.q) + (start + i) * op.q_stride[0] + h * op.q_stride[1];
            T* out = static_cast<T*>(op.out) + (start + i) * op.out_stride[0] + h * op.out_stride[1];
            attend(op, q, out, keys, values, at > op.window ? at - op.window : 0, at + 1, channels, scores);
        }
    }
}

}  // namespace

void attention_paged(const AttentionPaged& op) { op.is_bf16 ? run<bf16>(op) : run<float>(op); }

}  // namespace pynanochat::PYNANOCHAT_ISA
