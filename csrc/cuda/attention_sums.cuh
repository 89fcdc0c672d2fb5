// The online softmax of attention over pages: what a group of lanes keeps of the tokens that it has seen.
#pragma once

#include "cuda/check.cuh"

namespace pynanochat::cuda {

constexpr float nothing = -1e30f;  // the maximum of no scores; finite, so that differences are

// Tokens that a group of lanes loads before it computes: as many as the registers of its query heads leave room for.
template <int HEADS> constexpr int tokens_at_once = HEADS < 4 ? 4 : 2;

// Base-2 scores are kept: exp2(score · log2 e) needs no product by log2 e for each.
// Of the tokens seen so far, for each query head.
template <int HEADS, int N, int TOKENS = tokens_at_once<HEADS>> struct Sums {
    static constexpr int at_once = TOKENS;
    float maximum[HEADS], total[HEADS], out[HEADS][N];

    // Of one head and channel; zero where no token was seen, as in rows that only fill a CUDA graph.
    __device__ __forceinline__ float result() const { return total[0] == 0.0f ? 0.0f : out[0][0] / total[0]; }

    __device__ __forceinline__ void join(int h, float other_maximum, float other_total, const float (&other)[N]) {
        const float top = fmaxf(maximum[h], other_maximum);
        const float mine = exp2f(maximum[h] - top), theirs = exp2f(other_maximum - top);
        maximum[h] = top;
        total[h] = total[h] * mine + other_total * theirs;
#pragma unroll
        for (int n = 0; n < N; ++n) out[h][n] = out[h][n] * mine + other[n] * theirs;
    }

    // Adds tokens with the given scores; what was not seen has no weight.
    template <class T>
    __device__ __forceinline__ void add(int h, const float (&scores)[at_once], const bool (&seen)[at_once],
                                        const Vector<T, N> (&v)[at_once]) {
        float top = maximum[h];
#pragma unroll
        for (int u = 0; u < at_once; ++u) top = seen[u] ? fmaxf(top, scores[u]) : top;
        const float kept = exp2f(maximum[h] - top);
        maximum[h] = top;
        total[h] *= kept;
#pragma unroll
        for (int n = 0; n < N; ++n) out[h][n] *= kept;
#pragma unroll
        for (int u = 0; u < at_once; ++u) {
            const float p = seen[u] ? exp2f(scores[u] - top) : 0.0f;
            total[h] += p;
#pragma unroll
            for (int n = 0; n < N; ++n) out[h][n] += p * wide(v[u].at[n]);
        }
    }
};

}  // namespace pynanochat::cuda
