// Attention of one query a row over keys and values in pages: decoding. R rows, H query heads, G key/value heads, D
// head dim.
//
//   out[h] = Σ_j softmax_j(q[h]·k_j / √D) v_j      over the tokens j that the row's window lets its last token see
//
// A block does one split of one row's tokens for the query heads that share a key/value head, so that keys and values
// are read once for all of them. D/8 lanes (bf16) share a token, each with 16 bytes of it; every such group of lanes
// streams tokens of its own, two or four at a time, with an online softmax of its own. The groups meet in shuffles,
// the warps in shared memory, the splits in a second kernel, through partial sums (D of the output, the maximum, the
// sum) in a workspace. The splits are even parts of what the row really sees: nothing of a table or page outside it is
// read, and how many splits there are is known without asking the GPU, so that a CUDA graph can hold the step. A table
// entry that names no page gives NaN.
//
// Bound: memory, 4·G·D bytes a visible token in bf16. d12 (G 6, D 128) at 1,024 tokens: 3.1 MB a layer and row, 0.9 us
// at 3.35 TB/s; a small batch is bound by latency instead (a load of the table before those of keys and values, 32
// tokens of a block at a time).
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  element by element, one warp a token: kept for odd head_dim, unaligned pages and fp32 beyond D 128
//   2  16-byte vectors, several tokens a warp, all query heads of a group at once
//   3  keys and values of all tokens at once asked for before one is used: nvcc had made one load after the other of bf16's
// Registers (ptxas 13.0, sm_80 and sm_90a): 32 to 224, no spills; at most 33 KB of shared memory.
#include "cuda/attention_paged.h"

#include <cmath>

#include "cuda/attention_sums.cuh"
#include "cuda/check.cuh"

namespace pynanochat::cuda {

namespace {

// Which channels of a head a lane holds: N neighbours, or with `vectors` false every 32nd.
template <int N, bool vectors> __device__ __forceinline__ int channel(int lane, int n) {
    return vectors ? lane * N + n : n * 32 + lane;
}

template <class T, int N, bool vectors>
__device__ __forceinline__ Vector<T, N> read(const T* head, int lane, int head_dim) {
    Vector<T, N> result{};
    if constexpr (vectors) {
        const int c = lane * N;
        result = *reinterpret_cast<const Vector<T, N>*>(head + (c < head_dim ? c : 0));  // what is beyond is not used
    } else {
#pragma unroll
        for (int n = 0; n < N; ++n)
            if (channel<N, vectors>(lane, n) < head_dim) result.at[n] = head[channel<N, vectors>(lane, n)];
    }
    return result;
}

struct Tokens {  // of a row that this block does: [begin, end)
    int begin, end;
};

__device__ __forceinline__ Tokens part_of(const AttentionPaged& op, std::int64_t length, int split) {
    const std::int64_t first = op.window < 0 || length - 1 < op.window ? 0 : length - 1 - op.window;
    const std::int64_t part = (length - first + op.splits - 1) / op.splits;
    const std::int64_t begin = first + split * part, end = begin + part;
    return {static_cast<int>(begin), static_cast<int>(end < length ? end : length)};
}

// The page of a token, or -1 where the table names none.
__device__ __forceinline__ std::int64_t page_of(const AttentionPaged& op, const std::int64_t* table, int column) {
    const std::int64_t page = column < op.columns ? table[column] : -1;
    return page < op.pages ? page : -1;
}

// The warps' sums become those of the block, written to the output or, of several splits, to the workspace.
template <class T, int HEADS, int N, bool vectors>
__device__ __forceinline__ void finish(const AttentionPaged& op, const Sums<HEADS, N>& sums, int lanes,
                                       std::int64_t row, std::int64_t query, int first_head, int heads, int split) {
    __shared__ float out[paged_warps][HEADS][32 * N], maximum[paged_warps][HEADS], total[paged_warps][HEADS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane < lanes) {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
#pragma unroll
            for (int n = 0; n < N; ++n) out[warp][h][channel<N, vectors>(lane, n)] = sums.out[h][n];
            if (lane == 0) maximum[warp][h] = sums.maximum[h];
            if (lane == 0) total[warp][h] = sums.total[h];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * op.head_dim; i += blockDim.x) {
        const int h = i / op.head_dim, c = i - h * op.head_dim;
        Sums<1, 1> all{{nothing}, {0.0f}, {{0.0f}}};
#pragma unroll
        for (int w = 0; w < paged_warps; ++w) {
            const float value[1] = {out[w][h][c]};
            all.join(0, maximum[w][h], total[w][h], value);
        }
        const int head = first_head + h;
        if (op.splits == 1) {
            T* result = static_cast<T*>(op.out) + (query * op.heads + head) * op.head_dim;
            result[c] = narrow<T>(all.result());
        } else {
            float* partial = op.partials + ((row * op.heads + head) * op.splits + split) * (op.head_dim + 2);
            partial[c] = all.out[0][0];
            if (c == 0) {
                partial[op.head_dim] = all.maximum[0];
                partial[op.head_dim + 1] = all.total[0];
            }
        }
    }
}

template <class T, int HEADS, int N, bool vectors>
__global__ void __launch_bounds__(paged_warps * 32)
    attend(const __grid_constant__ AttentionPaged op, int lanes, float scale) {
    constexpr int at_once = tokens_at_once<HEADS>;
    const int split = blockIdx.x % op.splits;
    const int unit = blockIdx.x / op.splits, chunk = unit % op.chunks;
    const int group = unit / op.chunks % op.kv_heads;
    const std::int64_t row = unit / op.chunks / op.kv_heads, query = op.starts[row];
    if (op.starts[row + 1] == query) return;  // the whole block
    const int share = op.heads / op.kv_heads;
    const int first_head = group * share + chunk * HEADS;
    const int heads = share - chunk * HEADS < HEADS ? share - chunk * HEADS : HEADS;
    const int lane = threadIdx.x % lanes, streams = paged_warps * 32 / lanes, stream = threadIdx.x / lanes;

    float q[HEADS][N];
    Sums<HEADS, N> sums;
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        const T* head = static_cast<const T*>(op.q) + query * op.q_row + (first_head + h) * op.q_head;
        sums.maximum[h] = nothing;
        sums.total[h] = 0.0f;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const int c = channel<N, vectors>(lane, n);
            q[h][n] = h < heads && c < op.head_dim ? wide(head[c]) * scale : 0.0f;
            sums.out[h][n] = 0.0f;
        }
    }
    const T* keys = static_cast<const T*>(op.k.data) + group * op.k.head;
    const T* values = static_cast<const T*>(op.v.data) + group * op.v.head;
    const std::int64_t* table = op.tables + row * op.columns;
    const Tokens tokens = part_of(op, op.lengths[row], split);
    for (int first = tokens.begin; first < tokens.end; first += streams * at_once) {  // the same for the whole block
        const T *key[at_once], *value[at_once];
        bool seen[at_once], lost[at_once];
#pragma unroll
        for (int u = 0; u < at_once; ++u) {
            const int token = first + u * streams + stream;
            seen[u] = token < tokens.end;
            const int column = token / op.page, place = token - column * op.page;
            const std::int64_t page = seen[u] ? page_of(op, table, column) : -1;
            lost[u] = page < 0;
            key[u] = keys + (lost[u] ? 0 : page * op.k.page + place * op.k.token);
            value[u] = values + (lost[u] ? 0 : page * op.v.page + place * op.v.token);
        }
        // All are asked for before one is used, the first page for what is lost: else they would come one by one.
        Vector<T, N> k[at_once] = {}, v[at_once] = {};
        if (op.pages > 0) {
#pragma unroll
            for (int u = 0; u < at_once; ++u) {
                k[u] = read<T, N, vectors>(key[u], lane, op.head_dim);
                v[u] = read<T, N, vectors>(value[u], lane, op.head_dim);
            }
        }
#pragma unroll
        for (int u = 0; u < at_once; ++u)
            if (lost[u]) v[u] = Vector<T, N>{};
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            if (h >= heads) break;  // the whole block
            float scores[at_once];
#pragma unroll
            for (int u = 0; u < at_once; ++u) {
                scores[u] = 0.0f;
#pragma unroll
                for (int n = 0; n < N; ++n) scores[u] += q[h][n] * wide(k[u].at[n]);
            }
            for (int offset = lanes / 2; offset > 0; offset /= 2)
#pragma unroll
                for (int u = 0; u < at_once; ++u) scores[u] += __shfl_xor_sync(0xffffffffu, scores[u], offset);
#pragma unroll
            for (int u = 0; u < at_once; ++u) scores[u] = lost[u] ? nanf("") : scores[u];
            sums.add(h, scores, seen, v);
        }
    }
    for (int offset = lanes; offset < 32; offset *= 2) {
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float other[N];
#pragma unroll
            for (int n = 0; n < N; ++n) other[n] = __shfl_xor_sync(0xffffffffu, sums.out[h][n], offset);
            const float maximum = __shfl_xor_sync(0xffffffffu, sums.maximum[h], offset);
            sums.join(h, maximum, __shfl_xor_sync(0xffffffffu, sums.total[h], offset), other);
        }
    }
    finish<T, HEADS, N, vectors>(op, sums, lanes, row, query, first_head, heads, split);
}

// The splits of one row's head become its output; a warp does one head.
template <class T>
__global__ void __launch_bounds__(paged_warps * 32) combine(const __grid_constant__ AttentionPaged op) {
    const std::int64_t index = std::int64_t{blockIdx.x} * paged_warps + threadIdx.x / 32;
    if (index >= op.rows * op.heads) return;
    const std::int64_t row = index / op.heads, query = op.starts[row];
    if (op.starts[row + 1] == query) return;
    const int size = op.head_dim + 2;
    const float* partials = op.partials + index * op.splits * size;
    T* out = static_cast<T*>(op.out) + (query * op.heads + (index - row * op.heads)) * op.head_dim;
    for (int c = threadIdx.x % 32; c < op.head_dim; c += 32) {
        Sums<1, 1> all{{nothing}, {0.0f}, {{0.0f}}};
        for (int split = 0; split < op.splits; ++split) {
            const float* partial = partials + split * size;
            const float value[1] = {partial[c]};
            all.join(0, partial[op.head_dim], partial[op.head_dim + 1], value);
        }
        out[c] = narrow<T>(all.result());
    }
}

template <class T>
void start(const AttentionPaged& op, const AttentionPagedLaunch& plan, cudaStream_t stream) {
    constexpr int N = vector_bytes / sizeof(T);
    const float scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(op.head_dim)));
    auto kernel = attend<T, 1, paged_head_dim / 32, false>;
    if (plan.shape.vector == N)
        kernel = plan.heads == 1   ? attend<T, 1, N, true>
                 : plan.heads == 2 ? attend<T, 2, N, true>
                 : plan.heads == 4 ? attend<T, 4, N, true>
                                   : attend<T, 8, N, true>;
    launch("attention_paged", kernel, plan.shape.grid, plan.shape.block, stream, op, plan.shape.lanes, scale);
    if (op.splits == 1) return;
    launch("attention_paged", combine<T>, divide_up(op.rows * op.heads, paged_warps), paged_warps * 32, stream, op);
}

bool vectors(const Pages& pages, int bytes) {
    return vector_aligned(pages.data, bytes) && vector_stride(pages.page, bytes) && vector_stride(pages.token, bytes) &&
           vector_stride(pages.head, bytes);
}

}  // namespace

void attention_paged(AttentionPaged op, const Where& where) {
    const int bytes = element_bytes(op.dtype);
    const bool aligned = vectors(op.k, bytes) && vectors(op.v, bytes);
    auto plan = launch_attention_paged(op.rows, op.heads, op.kv_heads, op.head_dim, 0, bytes, aligned, 1);
    plan.shape.grid *= op.splits;
    op.chunks = plan.chunks;
    if (plan.shape.grid == 0) return;
    const cudaStream_t stream = enter(where);
    switch (op.dtype) {
        case DType::f32: return start<float>(op, plan, stream);
        case DType::bf16: return start<__nv_bfloat16>(op, plan, stream);
        default: return start<__half>(op, plan, stream);  // element_bytes refused every other dtype
    }
}

}  // namespace pynanochat::cuda
