// Rotary embedding of queries and keys, their RMS norm over the head, a scale: one launch for both, forward or backward.
//
// Bound: memory. Forward moves 2 x bytes(q, k), backward 3 x (x and grad in, gradient out); cos and sin stay in L1 and L2.
// At B 32, T 2,048, H = G = 12, D 128, bf16 that is 805 MB and 1.2 GB: 0.24 and 0.36 ms at 3.35 TB/s.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  one warp a row, element by element: kept as rotate_norm_any, for odd head_dim, strides and unaligned views
//   2  rotate_norm_vector: a thread holds one 16-byte vector of each half of the head, so the rotation needs no shuffle and
//      the norm log2(lanes) of them; a warp does 4 rows of D 128 in bf16; q and k in one grid; 32-bit row arithmetic
// Registers (ptxas 13.0, sm_80 and sm_90a): 32 to 76, no spills. Vector form: forward 32 (fp32) and 40, backward 46 and 76.
#include "cuda/rotary_qk_norm.h"

#include "cuda/check.cuh"

namespace pynanochat::cuda {

namespace {

struct Row {  // where one row of the grid lies
    const RotarySide* side;
    std::int64_t b, t, h;
    bool active;

    template <class T> __device__ const T* at(const void* base, const Strides& s) const {
        return static_cast<const T*>(base) + (b * s.batch + t * s.position + h * s.head);
    }
};

__device__ __forceinline__ Row find_row(const RotaryQkNorm& op, unsigned rows, unsigned lanes) {
    const unsigned index = blockIdx.x * (blockDim.x / lanes) + threadIdx.x / lanes;  // < 2^31 + 256
    Row row;
    row.active = index < rows;
    const unsigned safe = row.active ? index : 0;
    const unsigned heads = op.q.heads + op.k.heads;
    const unsigned token = safe / heads;
    const unsigned head = safe - token * heads;
    const bool query = head < static_cast<unsigned>(op.q.heads);
    row.side = query ? &op.q : &op.k;
    row.h = query ? head : head - op.q.heads;
    row.b = token / static_cast<unsigned>(op.positions);
    row.t = token - static_cast<unsigned>(row.b) * static_cast<unsigned>(op.positions);
    return row;
}

__device__ __forceinline__ const float* table_row(const RotaryTable& table, const Row& row) {
    return table.data + (row.b * table.batch + row.t * table.position);
}

// The sum over the `lanes` neighbours that share a row (a power of two up to 32). Every thread of the warp must call it.
__device__ __forceinline__ float sum_lanes(float value, unsigned lanes) {
    for (unsigned offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

template <class T, int N, bool backward>
__global__ void __launch_bounds__(256) rotate_norm_vector(const __grid_constant__ RotaryQkNorm op, unsigned rows, unsigned lanes) {
    const Row row = find_row(op, rows, lanes);
    const int half = op.head_dim / 2;
    const int i = static_cast<int>(threadIdx.x % lanes) * N;
    float c[N] = {}, s[N] = {}, y1[N] = {}, y2[N] = {};
    float squares = 0.0f;
    if (row.active) {
        float x1[N], x2[N];
        const T* x = row.at<T>(row.side->x, row.side->x_stride);
        load(x1, x + i);
        load(x2, x + half + i);
        load(c, table_row(op.cos, row) + i);
        load(s, table_row(op.sin, row) + i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            y1[j] = x1[j] * c[j] + x2[j] * s[j];
            y2[j] = x2[j] * c[j] - x1[j] * s[j];
            squares += y1[j] * y1[j] + y2[j] * y2[j];
        }
    }
    const float rstd = rsqrtf(sum_lanes(squares, lanes) / op.head_dim + op.eps);
    T* out = row.active ? const_cast<T*>(row.at<T>(row.side->out, row.side->out_stride)) : nullptr;
    if constexpr (!backward) {
        if (!row.active) return;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            y1[j] *= rstd * op.scale;
            y2[j] *= rstd * op.scale;
        }
        store(out + i, y1);
        store(out + half + i, y2);
    } else {
        float g1[N] = {}, g2[N] = {};
        float dot = 0.0f;
        if (row.active) {
            const T* grad = row.at<T>(row.side->grad, row.side->grad_stride);
            load(g1, grad + i);
            load(g2, grad + half + i);
#pragma unroll
            for (int j = 0; j < N; ++j) dot += g1[j] * y1[j] + g2[j] * y2[j];
        }
        const float mean = sum_lanes(dot, lanes) * rstd * rstd / op.head_dim;  // mean(g · n) / rms, to scale y by
        if (!row.active) return;
        float d1[N], d2[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float r1 = (g1[j] - y1[j] * mean) * rstd * op.scale;
            const float r2 = (g2[j] - y2[j] * mean) * rstd * op.scale;
            d1[j] = r1 * c[j] - r2 * s[j];
            d2[j] = r1 * s[j] + r2 * c[j];
        }
        store(out + i, d1);
        store(out + half + i, d2);
    }
}

struct Pair {
    float first, second;
};

template <class T, bool backward>
__global__ void __launch_bounds__(256) rotate_norm_any(const __grid_constant__ RotaryQkNorm op, unsigned rows) {
    const Row row = find_row(op, rows, 32);
    if (!row.active) return;  // a whole warp shares the row, so no shuffle below misses a thread
    const RotarySide& side = *row.side;
    const int half = op.head_dim / 2;
    const int lane = threadIdx.x % 32;
    const T* x = row.at<T>(side.x, side.x_stride);
    const T* grad = backward ? row.at<T>(side.grad, side.grad_stride) : nullptr;
    T* out = const_cast<T*>(row.at<T>(side.out, side.out_stride));
    const float* cos = table_row(op.cos, row);
    const float* sin = table_row(op.sin, row);
    const auto pair = [&](const T* from, std::int64_t stride, int i) {
        return Pair{wide(from[i * stride]), wide(from[(i + half) * stride])};
    };
    const auto rotated = [&](int i) {
        const Pair p = pair(x, side.x_stride.channel, i);
        const float c = cos[i * op.cos.pair], s = sin[i * op.sin.pair];
        return Pair{p.first * c + p.second * s, p.second * c - p.first * s};
    };
    float squares = 0.0f, dot = 0.0f;
    for (int i = lane; i < half; i += 32) {
        const Pair y = rotated(i);
        squares += y.first * y.first + y.second * y.second;
        if constexpr (backward) {
            const Pair g = pair(grad, side.grad_stride.channel, i);
            dot += g.first * y.first + g.second * y.second;
        }
    }
    const float rstd = rsqrtf(sum_lanes(squares, 32) / op.head_dim + op.eps);
    const float mean = backward ? sum_lanes(dot, 32) * rstd * rstd / op.head_dim : 0.0f;
    for (int i = lane; i < half; i += 32) {
        Pair y = rotated(i);
        if constexpr (backward) {
            const Pair g = pair(grad, side.grad_stride.channel, i);
            const float c = cos[i * op.cos.pair], s = sin[i * op.sin.pair];
            const float r1 = g.first - y.first * mean, r2 = g.second - y.second * mean;
            y = Pair{r1 * c - r2 * s, r1 * s + r2 * c};
        }
        out[i * side.out_stride.channel] = narrow<T>(y.first * rstd * op.scale);
        out[(i + half) * side.out_stride.channel] = narrow<T>(y.second * rstd * op.scale);
    }
}

bool aligned(const void* data, const Strides& stride, int bytes) {
    return vector_aligned(data, bytes) && stride.channel == 1 && vector_stride(stride.batch, bytes) &&
           vector_stride(stride.position, bytes) && vector_stride(stride.head, bytes);
}

bool aligned(const RotarySide& side, int bytes, bool backward) {
    return side.heads == 0 || (aligned(side.x, side.x_stride, bytes) && aligned(side.out, side.out_stride, bytes) &&
                               (!backward || aligned(side.grad, side.grad_stride, bytes)));
}

bool aligned(const RotaryTable& table) {
    return vector_aligned(table.data, 4) && table.pair == 1 && vector_stride(table.batch, 4) &&
           vector_stride(table.position, 4);
}

std::int64_t rows_of(const RotaryQkNorm& op) { return op.batch * op.positions * (op.q.heads + op.k.heads); }

template <class T, bool backward>
void start(const RotaryQkNorm& op, const Launch& shape, cudaStream_t stream) {
    constexpr int N = vector_bytes / sizeof(T);
    const auto rows = static_cast<unsigned>(rows_of(op));
    const auto lanes = static_cast<unsigned>(shape.lanes);
    if (shape.vector == N)
        launch("rotary_qk_norm", rotate_norm_vector<T, N, backward>, shape.grid, shape.block, stream, op, rows, lanes);
    else
        launch("rotary_qk_norm", rotate_norm_any<T, backward>, shape.grid, shape.block, stream, op, rows);
}

template <class T>
void start(const RotaryQkNorm& op, const Launch& shape, cudaStream_t stream) {
    if (op.backward)
        start<T, true>(op, shape, stream);
    else
        start<T, false>(op, shape, stream);
}

}  // namespace

Launch plan(const RotaryQkNorm& op) {
    const int bytes = element_bytes(op.dtype);
    const bool vectors = aligned(op.q, bytes, op.backward) && aligned(op.k, bytes, op.backward) && aligned(op.cos) && aligned(op.sin);
    return launch_rotary_qk_norm(rows_of(op), op.head_dim, bytes, vectors);
}

void rotary_qk_norm(const RotaryQkNorm& op, const Where& where) {
    const Launch shape = plan(op);
    if (shape.grid == 0) return;
    const cudaStream_t stream = enter(where);
    switch (op.dtype) {
        case DType::f32: return start<float>(op, shape, stream);
        case DType::bf16: return start<__nv_bfloat16>(op, shape, stream);
        default: return start<__half>(op, shape, stream);  // plan() refused every other dtype
    }
}

}  // namespace pynanochat::cuda
