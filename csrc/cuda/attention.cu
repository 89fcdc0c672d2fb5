// Causal attention with a window, forward, for sm_80 and newer: cp.async, ldmatrix, mma.sync m16n8k16. The backward is in
// attention_backward.cu.
//
//   S = scale · Q Kᵀ,  out = softmax(S) V,  lse = log(sum of exp(S));  query i sees keys i - window ... i
//   B batch, T positions, H query heads, G key/value heads, D head dim 64 or 128; bf16 or fp16
//
// Bound: products. 4 B H D FLOPs for each visible pair, of which there are T² / 2, or T · window.
//
// One block does 128 queries of a head, 32 of them a warp, and walks the tiles of 64 keys that they see (no others are touched;
// only tiles on an edge are masked). V is fetched while Q Kᵀ runs and the next K while softmax and P V run. P never leaves the
// registers: two neighbouring accumulators are the left operand of the next product. 32 rows a warp halve what B operands
// cost of shared memory: one matrix load of 512 bytes feeds four products. Blocks of the last queries, which have most to do,
// start first; the blocks of all heads of a group run side by side and find K and V in the L2.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  this one
// Registers (ptxas 13.0, sm_80 and sm_90a): 218 to 255 (D 64, D 128), no spills, so two blocks of 128 threads on a
// multiprocessor; shared memory 32 KiB (D 64) and 64 KiB (D 128).
#include "cuda/attention.h"

#include <cmath>

#include "cuda/attention_sm90.h"
#include "cuda/attention_tile.cuh"

namespace pynanochat::cuda {

namespace {

constexpr int blocks_of_rows = 2;  // of 16 rows, a warp's

// What a warp knows of its rows: the sums so far, and for rows g and g + 8 of each 16 the maximum and the sum of exp.
template <int D> struct Rows {
    float out[blocks_of_rows][D / 8][4];
    float top[blocks_of_rows][2], sum[blocks_of_rows][2];
};

using Scores = float[blocks_of_rows][attention_columns / 8][4];

template <class T, int D>
__device__ __forceinline__ void multiply_scores(Scores& s, const Tile<T, D>& q, int row, const Tile<T, D>& k) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        unsigned a[blocks_of_rows][4];
        for (int m = 0; m < blocks_of_rows; ++m) q.left(a[m], row + 16 * m, step);
#pragma unroll
        for (int n = 0; n < attention_columns / 16; ++n) {
            unsigned b[4];
            k.right_transposed(b, 16 * n, step);
#pragma unroll
            for (int m = 0; m < blocks_of_rows; ++m) {
                multiply<T>(s[m][2 * n], a[m], b[0], b[1]);
                multiply<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

__device__ __forceinline__ void mask(Scores& s, int query, int key, int window) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < blocks_of_rows; ++m)
#pragma unroll
        for (int n = 0; n < attention_columns / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (!visible(query + 16 * m + g + i / 2 * 8, key + 8 * n + 2 * t + i % 2, window)) s[m][n][i] = -INFINITY;
}

// Turns scores into exp(score - maximum) and brings the rows to the new maximum.
template <int D> __device__ __forceinline__ void softmax(Scores& s, Rows<D>& rows, float scale_log2) {
#pragma unroll
    for (int m = 0; m < blocks_of_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float top = rows.top[m][half];
#pragma unroll
            for (int n = 0; n < attention_columns / 8; ++n)
                top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            top = row_maximum(top);
            // A row that has seen nothing yet keeps -inf; 0 in its place makes zeros of what follows and not NaN.
            const float base = top == -INFINITY ? 0.0f : top;
            const float fade = exp2_fast((rows.top[m][half] - base) * scale_log2);  // 1 where top stays
            const float shift = base * scale_log2;
            rows.top[m][half] = top;
            rows.sum[m][half] *= fade;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                rows.out[m][n][2 * half] *= fade;
                rows.out[m][n][2 * half + 1] *= fade;
            }
#pragma unroll
            for (int n = 0; n < attention_columns / 8; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[m][n][i] = exp2_fast(fmaf(s[m][n][i], scale_log2, -shift));
                    rows.sum[m][half] += s[m][n][i];
                }
        }
}

template <class T, int D>
__device__ __forceinline__ void multiply_values(Rows<D>& rows, const Scores& p, const Tile<T, D>& v) {
#pragma unroll
    for (int step = 0; step < attention_columns / 16; ++step) {
        unsigned a[blocks_of_rows][4];
#pragma unroll
        for (int m = 0; m < blocks_of_rows; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const auto& two = p[m][2 * step + i / 2];
                a[m][i] = pack<T>(two[i % 2 * 2], two[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            unsigned b[4];
            v.right(b, 16 * step, n);
#pragma unroll
            for (int m = 0; m < blocks_of_rows; ++m) {
                multiply<T>(rows.out[m][2 * n], a[m], b[0], b[1]);
                multiply<T>(rows.out[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <class T, int D>
__device__ __forceinline__ void write(const Rows<D>& rows, const Attention& op, const Tile<T, D>& room, int row, int first,
                                      int b, int h) {
    const int positions = static_cast<int>(op.positions), lane = threadIdx.x % 32;
    float* lse = op.lse + (static_cast<std::int64_t>(b) * op.heads + h) * positions;
#pragma unroll
    for (int m = 0; m < blocks_of_rows; ++m) {
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = row_sum(rows.sum[m][half]);
            inverse[half] = 1.0f / sum;
            const int position = first + 16 * m + lane / 4 + 8 * half;
            if (lane % 4 == 0 && position < positions) lse[position] = rows.top[m][half] * op.scale + logf(sum);
        }
        store_rows(rows.out[m], inverse[0], inverse[1], room, row + 16 * m, head_of<T>(op.out, b, h), op.out.position,
                   first + 16 * m, positions);
    }
}

template <class T, int D>
__global__ void __launch_bounds__(attention_threads, 2)
    attend(const __grid_constant__ Attention op, const AttentionLaunch shape, int window) {
    const int positions = static_cast<int>(op.positions);
    const unsigned index = blockIdx.x, pairs = static_cast<unsigned>(op.batch) * op.heads;
    const int tile = static_cast<int>(gridDim.x / pairs - 1 - index / pairs);
    const int b = static_cast<int>(index % pairs / op.heads), h = static_cast<int>(index % op.heads);
    const int group = h / (op.heads / op.groups), first = tile * shape.rows;
    const T* k_head = head_of<T>(op.k, b, group);
    const T* v_head = head_of<T>(op.v, b, group);
    const Tile<T, D> q{reinterpret_cast<T*>(dynamic_shared())};
    const Tile<T, D> k{q.data + shape.rows * D}, v{k.data + attention_columns * D};

    const TileRange keys = key_tiles(first, shape.rows, attention_columns, positions, window);
    fetch(q, shape.rows, head_of<T>(op.q, b, h), op.q.position, first, positions);
    fetch(k, attention_columns, k_head, op.k.position, keys.first * attention_columns, positions);
    commit_copies();

    const int row = static_cast<int>(threadIdx.x / 32) * 16 * blocks_of_rows;
    Rows<D> rows = {};
    for (auto& top : rows.top) top[0] = top[1] = -INFINITY;
    for (int j = keys.first; j < keys.end; ++j) {
        const int key = j * attention_columns;
        wait_copies<0>();
        __syncthreads();  // K is here, and no warp reads V any more
        fetch(v, attention_columns, v_head, op.v.position, key, positions);
        commit_copies();
        Scores s = {};
        multiply_scores(s, q, row, k);
        wait_copies<0>();
        __syncthreads();  // V is here, and no warp reads K any more
        if (j + 1 < keys.end) {
            fetch(k, attention_columns, k_head, op.k.position, key + attention_columns, positions);
            commit_copies();
        }
        if (!all_visible(first + row, 16 * blocks_of_rows, key, attention_columns, window))
            mask(s, first + row, key, window);
        softmax(s, rows, op.scale * log2_e);
        multiply_values(rows, s, v);
    }
    write(rows, op, q, row, first + row, b, h);  // a warp's rows of Q are read by no other
}

template <class T, int D> void forward(Kind<T, D>, const Attention& op, const AttentionLaunch& shape, const Where& where) {
    launch_attention_kernel("attention_forward", attend<T, D>, shape, enter(where), op, shape, window_of(op));
}

}  // namespace

void attention_forward(const Attention& op, const Where& where) {
    if (op.batch * op.positions * op.heads == 0) return;
    const AttentionLaunch shape = launch_attention(op.batch, op.positions, op.heads, op.head_dim, false);
    if (attention_sm90_takes(op, where.device)) return attention_forward_sm90(op, where);
    with_kind(op, [&](auto kind) { forward(kind, op, shape, where); });
}

}  // namespace pynanochat::cuda
