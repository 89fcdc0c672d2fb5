// Gradient of causal attention with a window, for sm_80 and newer; the forward and the legend are in attention.cu.
//
//   P = exp(scale · Q Kᵀ - lse),  delta = rowsum(dout · out),  dS = P · (dout Vᵀ - delta)
//   dQ = scale · dS K,  dK = scale · dSᵀ Q,  dV = Pᵀ dout
//
// Bound: products. 10 B H D FLOPs for each visible pair if all is done once; here 14, as two kernels each make P and dS: one keeps
// queries and adds dQ up, one keeps keys and adds dK and dV up over all heads of the group. For that nothing is added up
// between blocks: no atomics, no fp32 workspace of dQ, the same bits each time.
//
// Both are one template: 64 rows stay with a block, 16 a warp, as left operands in registers (X = Q, Y = dout; or X = K, Y = V);
// tiles of 64 of the other side stream past, two on their way (first = K, second = V; or first = Q, second = dout).
//   S = X · firstᵀ,  dP = Y · secondᵀ,  dX += dS · first,  and for keys dY += P · second
// For keys these are Sᵀ and dPᵀ, so P and dS are left operands as they come out of the first products: they never leave the
// registers. A step is 32 or 16 columns of a tile, which is what the registers hold.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  this one. Owed: a form that makes P and dS once (dQ through shared memory and fp32 reductions, as Hopper's does)
// Registers (ptxas 13.0, sm_80 and sm_90a): 28 to 255, no spills; gradient of queries 168 (D 64) and 241 (D 128), of keys 208
// and 255, so two blocks of 128 threads on a multiprocessor; shared memory 33 KiB (D 64) and 65 KiB (D 128).
#include "cuda/attention.h"

#include "cuda/attention_sm90.h"
#include "cuda/attention_tile.cuh"

namespace pynanochat::cuda {

namespace {

constexpr int rows_of_block = 64, rows_of_warp = 16, columns = attention_columns;

// Columns of a tile done at once: as many as leave room in 255 registers.
template <int D, bool of_keys> constexpr int step_columns = D == 128 && of_keys ? 16 : 32;

// delta. D / 8 lanes do one row of one head, 16 bytes each.
template <class T, int D>
__global__ void __launch_bounds__(attention_threads) dot_rows(const __grid_constant__ Attention op) {
    constexpr int lanes = D / 8;
    const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * attention_threads + threadIdx.x) / lanes;
    const std::int64_t h = row % op.heads, i = row / op.heads % op.positions, b = row / op.heads / op.positions;
    const int at = threadIdx.x % lanes * 8;
    float sum = 0.0f;
    if (b < op.batch) {
        float out[8], dout[8];
        load(out, head_of<T>(op.out, b, h) + i * op.out.position + at);
        load(dout, head_of<T>(op.dout, b, h) + i * op.dout.position + at);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += out[j] * dout[j];
    }
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (at == 0 && b < op.batch) op.delta[(b * op.heads + h) * op.positions + i] = sum;
}

// What a block keeps and where: rows [first, first + 64) of head `head` of q, or of k (of_keys), in batch b.
struct Place {
    int b, head, first;
};

template <bool of_keys> __device__ __forceinline__ Place find_place(const Attention& op) {
    const int heads = of_keys ? op.groups : op.heads;
    const unsigned pairs = static_cast<unsigned>(op.batch) * heads, index = blockIdx.x;
    const unsigned tile = of_keys ? index / pairs : gridDim.x / pairs - 1 - index / pairs;  // the longest first
    return {static_cast<int>(index % pairs / heads), static_cast<int>(index % heads), static_cast<int>(tile) * rows_of_block};
}

// The two tiles of a stage of the stream, and with them for keys lse and delta of the queries.
template <class T, int D> struct Stage {
    Tile<T, D> first, second;
    float *lse, *delta;
};

template <class T, int D> __device__ __forceinline__ Stage<T, D> stage_of(int parity) {
    T* tiles = reinterpret_cast<T*>(dynamic_shared()) + parity * 2 * columns * D;
    float* rows = reinterpret_cast<float*>(dynamic_shared() + 4 * columns * D * sizeof(T)) + parity * 2 * columns;
    return {{tiles}, {tiles + columns * D}, rows, rows + columns};
}

// Starts to fetch what passes rows of `place`: of head `head` the tile that begins at `at`.
template <class T, int D, bool of_keys>
__device__ __forceinline__ void fetch_stage(const Stage<T, D>& stage, const Attention& op, int b, int head, int at) {
    const int positions = static_cast<int>(op.positions);
    const Heads &first = of_keys ? op.q : op.k, &second = of_keys ? op.dout : op.v;
    fetch(stage.first, columns, head_of<T>(first, b, head), first.position, at, positions);
    fetch(stage.second, columns, head_of<T>(second, b, head), second.position, at, positions);
    if constexpr (of_keys) {
        const int column = threadIdx.x % columns;
        const bool inside = at + column < positions;
        const std::int64_t row = (static_cast<std::int64_t>(b) * op.heads + head) * positions + (inside ? at + column : 0);
        if (threadIdx.x < columns) copy_async_4(stage.lse + column, op.lse + row, inside);
        else copy_async_4(stage.delta + column, op.delta + row, inside);
    }
    commit_copies();
}

// What a warp keeps: its 16 rows of X and Y as left operands, the gradients of both, and for queries lse and delta of rows g, g + 8.
template <int D, bool of_keys> struct Rows {
    unsigned x[D / 16][4], y[D / 16][4];
    float dx[D / 8][4], dy[of_keys ? D / 8 : 1][4];
    float lse[2], delta[2];
};

template <int D, bool of_keys> using Step = float[step_columns<D, of_keys> / 8][4];  // C of the products of a step

template <class T, int D, bool of_keys>
__device__ __forceinline__ Rows<D, of_keys> load_rows(const Attention& op, const Place& place, int row) {
    const int positions = static_cast<int>(op.positions);
    const Heads &x = of_keys ? op.k : op.q, &y = of_keys ? op.v : op.dout;
    const Stage<T, D> room = stage_of<T, D>(0);
    fetch(room.first, rows_of_block, head_of<T>(x, place.b, place.head), x.position, place.first, positions);
    fetch(room.second, rows_of_block, head_of<T>(y, place.b, place.head), y.position, place.first, positions);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    Rows<D, of_keys> rows = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        room.first.left(rows.x[k], row, k);
        room.second.left(rows.y[k], row, k);
    }
    __syncthreads();  // the room is free again
    if constexpr (!of_keys) {
        const std::int64_t base = (static_cast<std::int64_t>(place.b) * op.heads + place.head) * positions;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int i = place.first + row + static_cast<int>(threadIdx.x) % 32 / 4 + 8 * half;
            rows.lse[half] = i < positions ? op.lse[base + i] : 0.0f;
            rows.delta[half] = i < positions ? op.delta[base + i] : 0.0f;
        }
    }
    return rows;
}

// s = X · firstᵀ and dp = Y · secondᵀ for the columns from `column` on.
template <class T, int D, bool of_keys>
__device__ __forceinline__ void multiply_rows(Step<D, of_keys>& s, Step<D, of_keys>& dp, const Rows<D, of_keys>& rows,
                                              const Stage<T, D>& stage, int column) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
#pragma unroll
        for (int n = 0; n < step_columns<D, of_keys> / 16; ++n) {
            unsigned b[4];
            stage.first.right_transposed(b, column + 16 * n, k);
            multiply<T>(s[2 * n], rows.x[k], b[0], b[1]);
            multiply<T>(s[2 * n + 1], rows.x[k], b[2], b[3]);
            stage.second.right_transposed(b, column + 16 * n, k);
            multiply<T>(dp[2 * n], rows.y[k], b[0], b[1]);
            multiply<T>(dp[2 * n + 1], rows.y[k], b[2], b[3]);
        }
}

// Turns s into P and dp into dS. `row` and `at` are the positions of the warp's first row and of the step's first column; no mask
// where window < 0.
template <class T, int D, bool of_keys>
__device__ __forceinline__ void differentiate(Step<D, of_keys>& s, Step<D, of_keys>& dp, const Rows<D, of_keys>& rows,
                                              const Stage<T, D>& stage, int column, int row, int at, int window,
                                              float scale_log2) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < step_columns<D, of_keys> / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int c = 8 * n + 2 * t + i % 2;
            const float lse = of_keys ? stage.lse[column + c] : rows.lse[i / 2];
            const float delta = of_keys ? stage.delta[column + c] : rows.delta[i / 2];
            const int mine = row + g + i / 2 * 8, other = at + c;
            const bool seen = window < 0 || (of_keys ? visible(other, mine, window) : visible(mine, other, window));
            s[n][i] = seen ? exp2_fast(fmaf(s[n][i], scale_log2, -lse * log2_e)) : 0.0f;
            dp[n][i] = s[n][i] * (dp[n][i] - delta);
        }
}

// sum += p · tile, whose rows from `column` on meet the columns of p.
template <class T, int D, int tiles>
__device__ __forceinline__ void accumulate(float (&sum)[D / 8][4], const float (&p)[tiles][4], const Tile<T, D>& tile,
                                           int column) {
#pragma unroll
    for (int k = 0; k < tiles / 2; ++k) {
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = pack<T>(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            unsigned b[4];
            tile.right(b, column + 16 * k, n);
            multiply<T>(sum[2 * n], a, b[0], b[1]);
            multiply<T>(sum[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <class T, int D, bool of_keys>
__global__ void __launch_bounds__(attention_threads, 2) gradient(const __grid_constant__ Attention op, int window) {
    const int positions = static_cast<int>(op.positions);
    const Place place = find_place<of_keys>(op);
    const int row = static_cast<int>(threadIdx.x / 32) * rows_of_warp;
    Rows<D, of_keys> rows = load_rows<T, D, of_keys>(op, place, row);

    const TileRange tiles = (of_keys ? query_tiles : key_tiles)(place.first, rows_of_block, columns, positions, window);
    const int sharing = op.heads / op.groups, count = tiles.end - tiles.first;  // heads that share a key; tiles of a head
    const int first_head = of_keys ? place.head * sharing : place.head / sharing;
    const auto start = [&](int i) {
        fetch_stage<T, D, of_keys>(stage_of<T, D>(i % 2), op, place.b, first_head + i / count,
                                   (tiles.first + i % count) * columns);
    };
    const int total = of_keys ? count * sharing : count;
    start(0);
    for (int i = 0; i < total; ++i) {
        wait_copies<0>();
        __syncthreads();  // stage i is here, and no warp reads stage i - 1 any more
        if (i + 1 < total) start(i + 1);
        const Stage<T, D> stage = stage_of<T, D>(i % 2);
        const int at = (tiles.first + i % count) * columns, mine = place.first + row;
        const bool whole = of_keys ? all_visible(at, columns, mine, rows_of_warp, window)
                                   : all_visible(mine, rows_of_warp, at, columns, window);
#pragma unroll 1
        for (int column = 0; column < columns; column += step_columns<D, of_keys>) {
            Step<D, of_keys> s = {}, dp = {};
            multiply_rows(s, dp, rows, stage, column);
            differentiate(s, dp, rows, stage, column, mine, at + column, whole ? -1 : window, op.scale * log2_e);
            if constexpr (of_keys) accumulate<T, D>(rows.dy, s, stage.second, column);
            accumulate<T, D>(rows.dx, dp, stage.first, column);
        }
    }
    __syncthreads();  // the stages are free: they carry the results
    const Stage<T, D> room = stage_of<T, D>(0);
    const auto put = [&](const auto& sum, float factor, const Tile<T, D>& tile, const Heads& to) {
        store_rows(sum, factor, factor, tile, row, head_of<T>(to, place.b, place.head), to.position, place.first + row, positions);
    };
    put(rows.dx, op.scale, room.first, of_keys ? op.dk : op.dq);
    if constexpr (of_keys) put(rows.dy, 1.0f, room.second, op.dv);
}

template <class T, int D> void backward(Kind<T, D>, const Attention& op, const Where& where) {
    const cudaStream_t stream = enter(where);
    const std::int64_t vectors = op.batch * op.positions * op.heads * (D / 8);
    launch("attention_backward", dot_rows<T, D>, divide_up(vectors, attention_threads), attention_threads, stream, op);
    if (attention_backward_sm90_takes(op, where.device))
        return op.dq_sum == nullptr ? attention_backward_sm90(op, where) : attention_backward_fused_sm90(op, where);
    const AttentionLaunch queries = launch_attention(op.batch, op.positions, op.heads, D, true);
    launch_attention_kernel("attention_backward", gradient<T, D, false>, queries, stream, op, window_of(op));
    const AttentionLaunch keys = launch_attention(op.batch, op.positions, op.groups, D, true);
    launch_attention_kernel("attention_backward", gradient<T, D, true>, keys, stream, op, window_of(op));
}

}  // namespace

void attention_backward(const Attention& op, const Where& where) {
    if (op.batch * op.positions * op.heads == 0) return;
    launch_attention(op.batch, op.positions, op.heads, op.head_dim, true);  // throws before anything is launched
    with_kind(op, [&](auto kind) { backward(kind, op, where); });
}

}  // namespace pynanochat::cuda
