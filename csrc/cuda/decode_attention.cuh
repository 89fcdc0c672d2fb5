// Attention of decode_step: one query of each head over the pages of its row, a block for a head and a part of its tokens.
//
// As in attention_paged.cu, D/8 lanes (bf16) share a token, each with 16 bytes of it, and every such group of lanes has an online
// softmax of its own; the groups meet in shuffles, the warps in shared memory, the blocks through partial sums in the workspace.
// A block rotates and norms the head's query and key itself. The new token's key and value are read from its shared memory, as
// its page may be written by another block.
#pragma once

#include "cuda/attention_sums.cuh"
#include "cuda/decode_product.cuh"

namespace pynanochat::cuda {

constexpr int tokens_of_lanes = 2;   // keys and values that a group of lanes loads before it computes: registers
constexpr int fewest_tokens = 64;    // of a part in attention: what the lanes of a block load at once

struct Tokens {  // that the row's query sees, and how they are split
    int first, end, part;
    __device__ Tokens(const DecodeStep& op, const DecodeLayer& layer) {
        const std::int64_t length = op.numbers[3];
        first = layer.window < 0 || length - 1 < layer.window ? 0 : static_cast<int>(length - 1 - layer.window);
        end = static_cast<int>(length);
        part = max((end - first + op.launch.splits - 1) / op.launch.splits, fewest_tokens);
    }
    __device__ int parts() const { return (end - first + part - 1) / part; }
};

// One warp: a head (D,) as the product left it, rotated and normed, times `scale`. A lane does up to four pairs.
template <class U>
__device__ __forceinline__ void rotate_and_norm(const DecodeStep& op, const float* head, float scale, U* to) {
    const int half = op.shape.head_dim / 2, lane = threadIdx.x % 32;
    const float *cos = op.cos + op.numbers[2] * half, *sin = op.sin + op.numbers[2] * half;
    constexpr int most = step_most_head_dim / 64;
    float low[most], high[most], squares = 0.0f;
#pragma unroll
    for (int j = 0; j < most; ++j) {
        const int i = lane + j * 32;
        if (i >= half) continue;
        const float x1 = fresh(head + i), x2 = fresh(head + half + i);
        low[j] = x1 * cos[i] + x2 * sin[i];
        high[j] = x2 * cos[i] - x1 * sin[i];
        squares += low[j] * low[j] + high[j] * high[j];
    }
    scale *= rsqrtf(warp_sum(squares) / op.shape.head_dim + op.eps) * op.qk_scale;
#pragma unroll
    for (int j = 0; j < most; ++j) {
        const int i = lane + j * 32;
        if (i >= half) continue;
        to[i] = narrow<U>(low[j] * scale);
        to[half + i] = narrow<U>(high[j] * scale);
    }
}

__device__ __forceinline__ const std::int64_t* table_of(const DecodeStep& op, const DecodeLayer& layer) {
    return op.numbers + 4 + op.groups + layer.group * op.columns;
}

// The page of a token, or -1 where the table names none.
__device__ __forceinline__ std::int64_t page_of(const DecodeStep& op, const DecodeLayer& layer, const std::int64_t* table,
                                                int token) {
    const int entry = token / op.page;
    const std::int64_t page = entry < op.columns ? table[entry] : -1;
    return page < layer.pages ? page : -1;
}

// Where a token's key and value of a group begin in a page.
__device__ __forceinline__ std::int64_t place_of(const DecodeStep& op, std::int64_t page, int token, int group) {
    return ((page * op.page + token % op.page) * op.shape.kv_heads + group) * op.shape.head_dim;
}

// What one block sees of one head: the query in fp32, this token's key and value, as they are stored.
template <class T> struct Head {
    float* q;  // times log2 e / √D
    T *k, *v;
    float *sums, *maxima, *totals;  // of each warp: (D,) of the output, and what it is relative to

    __device__ Head(const DecodeStep& op, const Room<T>& room) {
        const int size = op.shape.head_dim;
        q = room.scratch;
        k = reinterpret_cast<T*>(q + size);
        v = reinterpret_cast<T*>(q + 2 * size);
        sums = q + 3 * size;
        maxima = sums + blockDim.x / 32 * size;
        totals = maxima + blockDim.x / 32;
    }
};

template <class T>
__device__ __forceinline__ void load_head(const DecodeStep& op, const DecodeLayer& layer, const Head<T>& to, int head,
                                          bool writes) {
    const int size = op.shape.head_dim, group = head / (op.shape.heads / op.shape.kv_heads), warp = threadIdx.x / 32;
    const float* heads = op.workspace + op.launch.heads;
    const float *key = heads + queries_of(op) + group * size, *value = key + keys_of(op);
    if (warp == 0) rotate_and_norm(op, heads + head * size, 1.4426950408889634f * rsqrtf(static_cast<float>(size)), to.q);
    if (warp == 1) rotate_and_norm(op, key, 1.0f, to.k);
    if (warp == 2)
        for (int i = threadIdx.x % 32; i < size; i += 32) to.v[i] = narrow<T>(fresh(value + i));
    __syncthreads();
    const std::int64_t slot = op.numbers[4 + layer.group];
    if (!writes || slot < 0 || slot >= layer.pages * op.page) return;
    const std::int64_t place = (slot * op.shape.kv_heads + group) * size;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        static_cast<T*>(layer.keys)[place + i] = to.k[i];
        static_cast<T*>(layer.values)[place + i] = to.v[i];
    }
}

// The sums of tokens [begin, end) of a head, joined over the block's lanes of equal channels in each warp.
template <class T, int N>
__device__ __forceinline__ Sums<1, N, tokens_of_lanes> attend(const DecodeStep& op, const DecodeLayer& layer,
                                                              const Head<T>& mine, int group, int begin, int end) {
    constexpr int tokens = tokens_of_lanes;
    const int lanes = op.launch.shape.lanes, lane = threadIdx.x % lanes, size = op.shape.head_dim;
    const int stream = threadIdx.x / lanes, streams = blockDim.x / lanes, channel = lane * N;
    const std::int64_t* table = table_of(op, layer);
    const T *keys = static_cast<const T*>(layer.keys), *values = static_cast<const T*>(layer.values);
    float q[N];
    Sums<1, N, tokens_of_lanes> sums;
    sums.maximum[0] = nothing;
    sums.total[0] = 0.0f;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        q[n] = channel < size ? mine.q[channel + n] : 0.0f;
        sums.out[0][n] = 0.0f;
    }
    for (int first = begin; first < end; first += streams * tokens) {  // the same for the whole block
        uint4 key_bits[tokens], value_bits[tokens];
        const T *key[tokens], *value[tokens];
        bool seen[tokens], lost[tokens];
#pragma unroll
        for (int u = 0; u < tokens; ++u) {
            const int token = first + u * streams + stream;
            seen[u] = token < end;
            const bool own = token == op.numbers[2];  // not yet, or by another block, in its page
            const std::int64_t page = seen[u] && !own ? page_of(op, layer, table, token) : -1;
            lost[u] = seen[u] && !own && page < 0;
            const std::int64_t place = place_of(op, page, token, group);
            key[u] = (page < 0 ? mine.k : keys + place) + (channel < size ? channel : 0);  // what is not seen has no weight
            value[u] = (page < 0 ? mine.v : values + place) + (channel < size ? channel : 0);
        }
#pragma unroll
        for (int u = 0; u < tokens; ++u) {
            key_bits[u] = *reinterpret_cast<const uint4*>(key[u]);
            value_bits[u] = *reinterpret_cast<const uint4*>(value[u]);
        }
        Vector<T, N> k[tokens], v[tokens];
#pragma unroll
        for (int u = 0; u < tokens; ++u) {
            k[u] = *reinterpret_cast<const Vector<T, N>*>(&key_bits[u]);
            v[u] = *reinterpret_cast<const Vector<T, N>*>(&value_bits[u]);
        }
        float scores[tokens];
#pragma unroll
        for (int u = 0; u < tokens; ++u) {
            scores[u] = 0.0f;
#pragma unroll
            for (int n = 0; n < N; ++n) scores[u] += q[n] * wide(k[u].at[n]);
        }
        for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
            for (int u = 0; u < tokens; ++u) scores[u] += __shfl_xor_sync(0xffffffffu, scores[u], offset);
#pragma unroll
        for (int u = 0; u < tokens; ++u) scores[u] = lost[u] ? nanf("") : scores[u];
        sums.add(0, scores, seen, v);
    }
    for (int offset = lanes; offset < 32; offset *= 2) {
        float other[N];
#pragma unroll
        for (int n = 0; n < N; ++n) other[n] = __shfl_xor_sync(0xffffffffu, sums.out[0][n], offset);
        const float maximum = __shfl_xor_sync(0xffffffffu, sums.maximum[0], offset);
        sums.join(0, maximum, __shfl_xor_sync(0xffffffffu, sums.total[0], offset), other);
    }
    return sums;
}

// Of `count` parts with their maxima and totals in shared memory: those of all together. For whole warps; a lane reads every 32nd.
struct Joined {
    float maximum = nothing, total = 0.0f;
    __device__ __forceinline__ Joined(const float* maxima, const float* totals, int count) {
        const int lane = threadIdx.x % 32;
        for (int i = lane; i < count; i += 32) maximum = fmaxf(maximum, maxima[i]);
        for (int offset = 16; offset > 0; offset /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, offset));
        for (int i = lane; i < count; i += 32) total += totals[i] * exp2f(maxima[i] - maximum);
        total = warp_sum(total);
    }
};

// Asks for the keys and values of this block's first part: not the new token's, which are not there yet.
template <class T> __device__ __forceinline__ void ask_for_pages(const DecodeStep& op, const DecodeLayer& layer) {
    const Tokens tokens(op, layer);
    const int parts = tokens.parts(), head = blockIdx.x / parts, size = op.shape.head_dim;
    if (head >= op.shape.heads) return;
    constexpr int line = 128 / sizeof(T);
    const int group = head / (op.shape.heads / op.shape.kv_heads), lines = (size + line - 1) / line;
    const int begin = tokens.first + (blockIdx.x - head * parts) * tokens.part;
    const int count = (min(begin + tokens.part, tokens.end - 1) - begin) * lines;
    const std::int64_t* table = table_of(op, layer);
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int token = begin + i / lines;
        const std::int64_t page = page_of(op, layer, table, token);
        if (page < 0) continue;
        const std::int64_t place = place_of(op, page, token, group) + i % lines * line;
        ask(static_cast<const T*>(layer.keys) + place);
        ask(static_cast<const T*>(layer.values) + place);
    }
}

// Attention, a block for a head and a part of its tokens: partial sums in the workspace.
template <class T>
__device__ __forceinline__ void attend_parts(const DecodeStep& op, const DecodeLayer& layer, const Room<T>& room) {
    constexpr int N = vector_bytes / sizeof(T);
    const int size = op.shape.head_dim, share = op.shape.heads / op.shape.kv_heads, lane = threadIdx.x % 32;
    const Tokens tokens(op, layer);
    const int parts = tokens.parts();
    const Head<T> mine(op, room);
    for (int unit = blockIdx.x; unit < op.shape.heads * parts; unit += gridDim.x) {
        const int head = unit / parts, part = unit - head * parts;
        const int begin = tokens.first + part * tokens.part, end = min(begin + tokens.part, tokens.end);
        load_head(op, layer, mine, head, part == parts - 1 && head % share == 0);
        const Sums<1, N, tokens_of_lanes> sums = attend<T, N>(op, layer, mine, head / share, begin, end);
        const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
        if (lane < op.launch.shape.lanes && lane * N < size) {
#pragma unroll
            for (int n = 0; n < N; ++n) mine.sums[warp * size + lane * N + n] = sums.out[0][n];
        }
        if (lane == 0) mine.maxima[warp] = sums.maximum[0];
        if (lane == 0) mine.totals[warp] = sums.total[0];
        __syncthreads();
        const Joined all(mine.maxima, mine.totals, warps);
        const int place = head * op.launch.splits + part;
        for (int channel = threadIdx.x; channel < size; channel += blockDim.x) {
            float sum = 0.0f;
            for (int w = 0; w < warps; ++w) sum += mine.sums[w * size + channel] * exp2f(mine.maxima[w] - all.maximum);
            op.workspace[op.launch.partials + place * size + channel] = sum;
        }
        if (threadIdx.x == 0) op.workspace[op.launch.maxima + place] = all.maximum;
        if (threadIdx.x == 0) op.workspace[op.launch.totals + place] = all.total;
        __syncthreads();
    }
}

// room.operand = the parts of attention joined. Every block does all heads, a thread four channels.
template <class T>
__device__ __forceinline__ void join_attention(const DecodeStep& op, const DecodeLayer& layer, const Room<T>& room) {
    const int size = op.shape.head_dim, queries = queries_of(op), splits = op.launch.splits, parts = Tokens(op, layer).parts();
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int head = threadIdx.x / 32; head < op.shape.heads; head += warps) {
        float *maxima = room.scratch + head * 3 * parts, *totals = maxima + parts, *weights = totals + parts;
        for (int i = lane; i < parts; i += 32) {
            maxima[i] = fresh(op.workspace + op.launch.maxima + head * splits + i);
            totals[i] = fresh(op.workspace + op.launch.totals + head * splits + i);
        }
        const Joined all(maxima, totals, parts);
        for (int i = lane; i < parts; i += 32) weights[i] = exp2f(maxima[i] - all.maximum) / all.total;
    }
    __syncthreads();
    for (int i = threadIdx.x * 4; i < queries; i += blockDim.x * 4) {
        const int head = i / size;
        const float* values = op.workspace + op.launch.partials + head * splits * size + (i - head * size);
        const float* weights = room.scratch + head * 3 * parts + 2 * parts;
        float sums[4] = {};
#pragma unroll 4
        for (int part = 0; part < parts; ++part) {
            const auto value = fresh_vector<float, 4>(values + part * size);
#pragma unroll
            for (int n = 0; n < 4; ++n) sums[n] += value.at[n] * weights[part];
        }
        store(room.operand + i, sums);
    }
    __syncthreads();
}

}  // namespace pynanochat::cuda
