// What the two forms of attention's backward share on Hopper: what a block keeps and what streams past, and who brings it.
//
// A block keeps 128 rows of two tensors in shared memory; tiles of two others stream past through a ring.
#pragma once

#include <initializer_list>

#include "cuda/attention_sm90.cuh"

namespace pynanochat::cuda::sm90 {

struct Backward {
    CUtensorMap kept_first, kept_second, first, second;  // queries: q, dout, k, v; keys: k, v, q, dout
    CUtensorMap grad_first, grad_second;                 // queries: dq; keys: dk, dv
    const float *lse, *delta;                            // (B, H, T)
    float* dq_sum;                                       // where dQ is added up across blocks (see dq_at)
    Order order;
    int positions, heads, groups;
    int window;
    float scale, scale_log2;
};

// A form of the backward: its head dim, the rows of a streamed tile, how many such tiles the ring holds, and what a block keeps.
template <int head_dim_, int rows_, int stages_, bool of_keys_> struct Form {
    static constexpr int head_dim = head_dim_, rows = rows_, stages = stages_;
    static constexpr bool of_keys = of_keys_;
    static constexpr int kept_bytes = parts<head_dim> * tile_rows * row_bytes;
    static constexpr int streamed_bytes = parts<head_dim> * rows * row_bytes;
    static constexpr int tiles_bytes = 2 * kept_bytes + stages * 2 * streamed_bytes;  // each a multiple of eight_rows
};

template <class F> struct BackwardTiles {  // in shared memory
    char* base;
    __device__ __forceinline__ char* kept(int which) const { return base + which * F::kept_bytes; }
    __device__ __forceinline__ char* streamed(int stage, int which) const {
        return base + 2 * F::kept_bytes + (2 * stage + which) * F::streamed_bytes;
    }
};

template <int rows> struct Room {  // of the streamed rows of a stage
    float lse[rows], delta[rows];
};

// A stage of the ring (see Ring) is full when both tiles are there and, for keys, the copying threads that bring lse and delta
// have arrived too.
template <class F> struct BackwardShared {
    Barrier kept;
    Ring<F::stages> ring;
    Room<F::rows> rooms[F::stages];
};

inline constexpr int copying_threads = 64;  // of the producer's warpgroup

// A block's rows: from `begin` on of head `head` of batch `batch`. Each role finds them anew, so as not to hold them all.
struct Place {
    int begin, head, batch;
};

template <bool of_keys> __device__ __forceinline__ Place find_place(const Backward& op) {
    const Order::Work work = op.order.at(static_cast<int>(blockIdx.x));
    const int heads = of_keys ? op.groups : op.heads;
    const int tile = of_keys ? op.order.tiles - 1 - work.tile : work.tile;  // the first keys have most to do
    return {tile * tile_rows, work.pair % heads, work.pair / heads};
}

// The tiles that a block streams: of `heads` heads from `head` on (of k and v, or of q and dout) the tiles [first, last].
struct Stream {
    int head, heads, first, last;
};

template <class F> __device__ __forceinline__ Stream find_stream(const Backward& op, const Place& place) {
    const int group = op.heads / op.groups, end = op.positions - 1, begin = place.begin;
    const int last = begin + tile_rows - 1;
    if (F::of_keys) return {place.head * group, group, begin / F::rows, min(end, last + op.window) / F::rows};
    return {place.head / group, 1, max(0, begin - op.window) / F::rows, min(end, last) / F::rows};
}

// body(turn, head, position) for each tile that streams past.
template <class F, class Body> __device__ __forceinline__ void each_tile(const Stream& stream, Body body) {
    Turn<F::stages> turn;
#pragma unroll 1  // the producer has few registers
    for (int head = stream.head; head < stream.head + stream.heads; ++head)
#pragma unroll 1
        for (int tile = stream.first; tile <= stream.last; ++tile) {
            body(turn, head, tile * F::rows);
            turn.next();
        }
}

// One thread.
template <class F>
__device__ __forceinline__ void load_tiles(const Backward& op, const BackwardTiles<F>& tiles, BackwardShared<F>& shared) {
    constexpr int D = F::head_dim;
    const Place place = find_place<F::of_keys>(op);
    barrier_expect(shared.kept, 2 * F::kept_bytes);
    load_tile<D, tile_rows>(tiles.kept(0), op.kept_first, shared.kept, place.begin, place.head, place.batch);
    load_tile<D, tile_rows>(tiles.kept(1), op.kept_second, shared.kept, place.begin, place.head, place.batch);
    each_tile<F>(find_stream<F>(op, place), [&](const auto& turn, int streamed_head, int position) {
        Barrier& full = shared.ring.full[turn.stage];
        barrier_wait(shared.ring.empty[turn.stage], turn.parity ^ 1);
        barrier_expect(full, 2 * F::streamed_bytes);
        load_tile<D, F::rows>(tiles.streamed(turn.stage, 0), op.first, full, position, streamed_head, place.batch);
        load_tile<D, F::rows>(tiles.streamed(turn.stage, 1), op.second, full, position, streamed_head, place.batch);
    });
}

// What P and dS take of a query: lse times log2(e), +inf beyond the last so that P is 0 there.
__device__ __forceinline__ float lse_of(const Backward& op, int row, int position) {
    return position < op.positions ? op.lse[row + position] * log2_of_e : INFINITY;
}
__device__ __forceinline__ float delta_of(const Backward& op, int row, int position) {
    return position < op.positions ? op.delta[row + position] : 0.0f;
}

// The copying threads, for keys: lse and delta of the streamed queries.
template <class F> __device__ __forceinline__ void copy_rows(const Backward& op, BackwardShared<F>& shared) {
    const Place place = find_place<true>(op);
    each_tile<F>(find_stream<F>(op, place), [&](const auto& turn, int head, int position) {
        const int row = (place.batch * op.heads + head) * op.positions;
        barrier_wait(shared.ring.empty[turn.stage], turn.parity ^ 1);
#pragma unroll
        for (int i = threadIdx.x % copying_threads; i < F::rows; i += copying_threads) {
            shared.rooms[turn.stage].lse[i] = lse_of(op, row, position + i);
            shared.rooms[turn.stage].delta[i] = delta_of(op, row, position + i);
        }
        barrier_arrive(shared.ring.full[turn.stage]);
    });
}

// Sets scores outside the window to -inf. `across` is the thread's first kept row less its first streamed row.
template <bool of_keys, int N> __device__ __forceinline__ void hide(float (&s)[N], int across, int window) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int rows = across + accumulator_row(0, i) - accumulator_column(0, i);
        const int behind = of_keys ? -rows : rows;  // how far the query is behind the key
        if (behind < 0 || behind > window) s[i] = -INFINITY;
    }
}

// A block of either form: the barriers, then the producer's warpgroup with few registers and the consumers with many.
template <class F, class Consume>
__device__ __forceinline__ void run_block(const Backward& op, const BackwardTiles<F>& tiles, BackwardShared<F>& shared,
                                          Consume consume) {
    if (threadIdx.x == 0) {
        barrier_start(shared.kept, 1);
        shared.ring.start(F::of_keys ? 1 + copying_threads : 1);
        barriers_started();
    }
    __syncthreads();
    const int warpgroup = threadIdx.x / group_threads, warp = threadIdx.x / 32;
    if (warpgroup == 0) {
        fewer_registers<producer_registers>();
        if (threadIdx.x == 0) load_tiles(op, tiles, shared);
        if (F::of_keys && warp >= 2) copy_rows(op, shared);
    } else {
        more_registers<consumer_registers>();
        consume(warpgroup - 1);
    }
}

// --- host ---

// `bytes` of L2 that the blocks of a pair of batch and head use of each position.
template <class F> Backward backward_parameters(const Attention& op, int bytes) {
    const Extent q = queries(op), k = keys(op);
    const Heads &kept_first = F::of_keys ? op.k : op.q, &kept_second = F::of_keys ? op.v : op.dout;
    const Heads &first = F::of_keys ? op.q : op.k, &second = F::of_keys ? op.dout : op.v;
    const Extent kept = F::of_keys ? k : q, streamed = F::of_keys ? q : k;
    Backward backward;
    backward.kept_first = tensor_map(kept_first, kept, op.dtype, tile_rows);
    backward.kept_second = tensor_map(kept_second, kept, op.dtype, tile_rows);
    backward.first = tensor_map(first, streamed, op.dtype, F::rows);
    backward.second = tensor_map(second, streamed, op.dtype, F::rows);
    backward.grad_first = tensor_map(F::of_keys ? op.dk : op.dq, kept, op.dtype, group_rows);
    backward.grad_second = F::of_keys ? tensor_map(op.dv, kept, op.dtype, group_rows) : backward.grad_first;
    backward.lse = op.lse;
    backward.delta = op.delta;
    backward.dq_sum = op.dq_sum;
    backward.order = F::of_keys ? order_of(op, op.groups, 1, bytes) : order_of(op, op.heads, op.heads / op.groups, bytes);
    backward.positions = static_cast<int>(op.positions);
    backward.heads = op.heads;
    backward.groups = op.groups;
    backward.window = window_of(op);
    backward.scale = op.scale;
    backward.scale_log2 = op.scale * log2_of_e;
    return backward;
}

}  // namespace pynanochat::cuda::sm90
