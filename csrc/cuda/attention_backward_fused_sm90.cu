// Attention's backward for Hopper (sm_90a) in five products: one kernel, in which TMA adds dQ up across blocks in fp32, in whatever
// order they come. Its dQ therefore differs from run to run in the last bits; attention_backward_sm90.cu, with seven, is the form
// without that. The formulas and the legend are there.
//
// Bound: the tensor cores. 10 D FLOPs a visible pair of query and key.
//
// A block keeps 128 keys (k, v) and streams tiles of 64 queries (q, dout) of all heads of the group. Two consumers take 64 keys
// each for all but dQ, of which each takes half of the columns.
//   S^T  = k · qᵀ          dP^T = v · doutᵀ      shared memory · shared memory
//   dV  += P^T · dout      dK  += dS^T · q       registers · shared memory
//   dQ   = dS · k          over all 128 keys; dS^T of both consumers in shared memory, read across ("transposed"), as is k
// dQ goes from the registers to shared memory, and from there TMA adds it to dq_sum.
//
// Order, for tile j of a consumer; what still runs stands on the right:
//   start dP; P = exp(S)                                   dP
//   start dV; when dP is there, dS = P (dP - delta)        dV
//   start dK; dS to shared memory; the consumers meet      dV, dK
//   start dQ; when dV and dK are there, free the stage     dQ
//   start S of j + 1; when dQ is there, send it            S
// While one consumer waits or computes, the other's products fill the tensor cores as well.
// dS has two buffers by turns: who writes dS of j + 2 has met the other after that had waited for dQ of j. One room for dQ is
// enough: a consumer's thread 0 waits before they meet until TMA has read what it sent, and no one writes there before.
// A consumer whose keys none of a tile's queries see does its products all the same (P is 0): half of one tile a block or two.
//
// dq_sum, fp32: for each 64 queries of a head and each consumer a chunk, 64 x D / 2, as the accumulators hold it (dq_at), so that
// it is written without bank conflicts and goes its way in one piece. With T rounded up to 64, so rows >= T have a place, to which
// 0 is added. B H T D · 4 bytes: 201 MB at B 32, H 6, T 2,048, D 128. A memset clears it here, convert_dq makes dq of it.
//
// An estimate, not a measurement: D 128, a tile of 64 x 128 pairs on one multiprocessor.
//   tensor cores    5 · 64 · 128 · 128 / 2,048                                                  2,560 cycles
//   exp             64 · 128 / 16                                                                 512, under dP or the other's
//   other fp32      about 8 instructions a pair, 128 a cycle                                      512, likewise
//   shared memory   operands 2,048, dS 128, dQ in and out 512, q and dout 256                   2,944, at 128 bytes a cycle
// So shared memory is the narrowest, at 87 % of the tensor cores' peak, and what does not hide comes on top: perhaps 3,300 in all.
// At T 2,048 a block has 17 tiles on the average for 16 tiles' worth of visible pairs, with k, v in and dk, dv out in the open
// (about 2,500 cycles). Beside it the memset, convert_dq and delta move 0.7 GB at B 32, H 6 (0.2 ms). The goal, 400 TFLOP/s, which
// is 1.29 ms for all of that, leaves 4,800 cycles a tile at 1.755 GHz.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  as above. Not yet: blocks that live for several tiles of keys, so that the store of one hides the loads of the next.
// Registers (ptxas 13.0, sm_80, whose main kernels are empty, and sm_90a): 4 to 168, no spills; 24 and 240 after setmaxnreg.
#include "cuda/attention_backward_sm90.cuh"
#include "cuda/launch_attention.h"

namespace pynanochat::cuda {

namespace sm90 {

template <int D> using Fused = Form<D, 64, 2, true>;

inline constexpr int query_rows = 64;  // of a tile
inline constexpr int ds_bytes = tile_rows * row_bytes;
template <int D> inline constexpr int chunk_columns = D / consumers;
template <int D> inline constexpr int chunk_floats = query_rows * chunk_columns<D>;
template <int D> inline constexpr int chunk_bytes = chunk_floats<D> * 4;
template <int D>
inline constexpr int fused_shared = Fused<D>::tiles_bytes + 2 * ds_bytes + consumers * chunk_bytes<D>;
inline constexpr int both_barrier = 5;  // all threads of both consumers

// Where the accumulators d[4 n] to d[4 n + 3] of thread `thread` lie in a chunk: 16 bytes, beside those of the next thread.
__device__ __forceinline__ int dq_at(int thread, int n) { return (n * group_threads + thread) * 4; }

// The tiles of queries of a head, each of which has a chunk for each consumer.
static_assert(query_rows == dq_sum_rows);
__device__ __forceinline__ int dq_tiles(int positions) { return (positions + query_rows - 1) / query_rows; }

template <int D> struct FusedTiles {
    BackwardTiles<Fused<D>> tiles;
    __device__ __forceinline__ char* ds(int which) const { return tiles.base + Fused<D>::tiles_bytes + which * ds_bytes; }
    __device__ __forceinline__ float* dq(int consumer) const { return reinterpret_cast<float*>(ds(2) + consumer * chunk_bytes<D>); }
};

// dS^T, 64 keys x 64 queries, to `tile`, 64 rows of 128 bytes.
__device__ __forceinline__ void put_ds(char* tile, const std::uint32_t (&ds)[query_rows / 16][4]) {
    const int thread = threadIdx.x % group_threads;
    const std::uint32_t base = shared_address(tile);
#pragma unroll
    for (int i = 0; i < query_rows / 2; i += 2) {
        const int offset = accumulator_row(thread, i) * row_bytes + accumulator_column(thread, i) * 2;
        *reinterpret_cast<std::uint32_t*>(tile + (swizzled(base + offset) - base)) = ds[i / 8][i / 2 % 4];
    }
}

// dq (64 queries x N columns) = dS · K over 128 keys, both read across; `k` is where the columns begin in the keys' first row.
template <class T, int N> __device__ __forceinline__ void start_dq(float (&dq)[N / 2], std::uint32_t ds, std::uint32_t k) {
    hold(dq);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < tile_rows / 16; ++step)
        wgmma<T, N, true, true>(dq, descriptor(ds + step * down_rows, 0), descriptor(k + step * down_rows, 0), step > 0);
    wgmma_commit();
}

// Has TMA add dq to `to`. What was sent from `room` before must have been read.
template <int N> __device__ __forceinline__ void send_dq(const float (&dq)[N], float* room, float* to, int consumer) {
    const int thread = threadIdx.x % group_threads;
#pragma unroll
    for (int n = 0; n < N / 4; ++n)
        *reinterpret_cast<float4*>(room + dq_at(thread, n)) = make_float4(dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]);
    writes_before_async();
    named_wait(group_barrier + consumer, group_threads);
    if (thread == 0) {
        tma_add(to, room, N * group_threads * 4);
        tma_commit();
    }
}

// The tiles of a stream one after the other, heads outside.
struct Walk {
    Stream stream;
    int head, tile;

    __device__ __forceinline__ explicit Walk(const Stream& stream) : stream(stream), head(stream.head), tile(stream.first) {}
    __device__ __forceinline__ bool next() {  // false: that was the last
        if (++tile <= stream.last) return true;
        tile = stream.first;
        return ++head < stream.head + stream.heads;
    }
};

// One consumer: 64 keys. No loop may stand between the start of dQ, that of the next S and the wait for the former, or ptxas loses
// track of what is under way and makes each product wait for the one before: so the next tile is waited for ahead of dQ.
template <class T, int D>
__device__ __forceinline__ void consume_fused(const Backward& op, const FusedTiles<D>& room, BackwardShared<Fused<D>>& shared,
                                              int consumer) {
    using F = Fused<D>;
    constexpr int N = query_rows, columns = chunk_columns<D>;
    const BackwardTiles<F>& tiles = room.tiles;
    const Place place = find_place<true>(op);
    const int begin = place.begin + consumer * group_rows;
    float dk[D / 2], dv[D / 2], dq[columns / 2];
    float s[N / 2], dp[N / 2];
    std::uint32_t p[N / 16][4], ds[N / 16][4];
#pragma unroll
    for (int i = 0; i < D / 2; ++i) dk[i] = dv[i] = 0.0f;
    const int thread = threadIdx.x % group_threads, pair_column = thread % 4 * 2;
    const int row = begin + accumulator_row(thread, 0);
    const int half = consumer * group_rows * row_bytes;
    char* const kept[2] = {tiles.kept(0) + half, tiles.kept(1) + half};
    // this consumer's columns of dQ, in k and in dq_sum
    const int column = consumer * columns;
    const std::uint32_t dq_keys =
        shared_address(tiles.kept(0)) + column / part_columns * tile_rows * row_bytes + column % part_columns * 2;
    float* const dq_sum = op.dq_sum + consumer * chunk_floats<D>;
    Walk walk(find_stream<F>(op, place));
    Turn<F::stages> turn;
    const auto start_s = [&] {
        start_inner<T, D, N, tile_rows>(s, shared_address(kept[0]), shared_address(tiles.streamed(turn.stage, 0)));
    };
    const auto finish_outer = [&] {
        hold(dk);
        hold(dv);
#pragma unroll
        for (int i = 0; i < N / 16; ++i) {
            hold(p[i]);
            hold(ds[i]);
        }
    };
    float* sum;                // dQ's place
    std::uint32_t ds_queries;  // dQ's other operand
    barrier_wait(shared.kept, 0);
    barrier_wait(shared.ring.full[0], 0);
    start_s();
    wgmma_wait<0>();
    hold(s);
#pragma unroll 1
    for (;;) {
        const int position = walk.tile * N, ahead = position - begin;  // of the first query before the first key
        const std::uint32_t q = shared_address(tiles.streamed(turn.stage, 0));
        const std::uint32_t dout = shared_address(tiles.streamed(turn.stage, 1));
        const Room<N>& of_queries = shared.rooms[turn.stage];
        const auto value = [&](const float* values, int i) { return values[accumulator_column(0, i) + pair_column]; };
        start_inner<T, D, N, tile_rows>(dp, shared_address(kept[1]), dout);
        if (ahead < group_rows - 1 || ahead + N - 1 > op.window) hide<true>(s, row - position - pair_column, op.window);
#pragma unroll
        for (int i = 0; i < N / 2; ++i) s[i] = fast_exp2(s[i] * op.scale_log2 - value(of_queries.lse, i));
        keep<T>(p, s);
        start_outer<T, D, N>(dv, p, dout);
        wgmma_wait<1>();  // dP is there
        hold(dp);
#pragma unroll
        for (int i = 0; i < N / 2; ++i) dp[i] = s[i] * (dp[i] - value(of_queries.delta, i));
        keep<T>(ds, dp);
        start_outer<T, D, N>(dk, ds, q);
        char* const ds_tile = room.ds(turn.stage);
        put_ds(ds_tile + half, ds);
        writes_before_async();
        if (thread == 0) tma_stores_have_read();
        named_wait(both_barrier, 2 * group_threads);
        ds_queries = shared_address(ds_tile);
        const std::int64_t before = place.batch * op.heads + walk.head;  // pairs of batch and head
        sum = dq_sum + (before * dq_tiles(op.positions) + walk.tile) * consumers * chunk_floats<D>;
        if (!walk.next()) break;
        Barrier& empty = shared.ring.empty[turn.stage];
        turn.next();
        barrier_wait(shared.ring.full[turn.stage], turn.parity);
        start_dq<T, columns>(dq, ds_queries, dq_keys);
        wgmma_wait<1>();  // dV and dK are there
        finish_outer();
        release(empty);
        start_s();
        wgmma_wait<1>();  // dQ is there
        hold(dq);
        send_dq(dq, room.dq(consumer), sum, consumer);
        wgmma_wait<0>();
        hold(s);
    }
    start_dq<T, columns>(dq, ds_queries, dq_keys);
    wgmma_wait<0>();
    finish_outer();
    hold(dq);
    send_dq(dq, room.dq(consumer), sum, consumer);
    scale_rows(dk, op.scale, op.scale);
    store_rows<T, D>(dv, kept[1], op.grad_second, consumer, begin, place.head, place.batch);
    named_wait(both_barrier, 2 * group_threads);  // the other's last dQ read these keys too
    store_rows<T, D>(dk, kept[0], op.grad_first, consumer, begin, place.head, place.batch);
}

template <class T, int D>
__global__ void __launch_bounds__(block_threads, 1) attention_backward_fused_kernel(const __grid_constant__ Backward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    using F = Fused<D>;
    __shared__ BackwardShared<F> shared;
    static_assert(fused_shared<D> + own_shared<sizeof shared> <= largest_shared);
    const FusedTiles<D> tiles{{dynamic_shared()}};
    run_block(op, tiles.tiles, shared, [&](int consumer) { consume_fused<T, D>(op, tiles, shared, consumer); });
#endif
}

// dq = scale · dq_sum: a block a tile of queries, a thread 8 columns of the rows g and g + 8 of a warp's 16, which lie together.
template <class T, int D> __global__ void __launch_bounds__(4 * D) convert_dq(const __grid_constant__ Attention op) {
    const int tiles = dq_tiles(static_cast<int>(op.positions)), tile = static_cast<int>(blockIdx.x) % tiles;
    const int pair = static_cast<int>(blockIdx.x) / tiles, h = pair % op.heads, b = pair / op.heads;
    constexpr int eights = chunk_columns<D> / 8;
    const int eight = threadIdx.x % (D / 8), thread = threadIdx.x / (D / 8) * 4;  // the first of the four that held these
    const std::int64_t chunk = std::int64_t{blockIdx.x} * consumers + eight / eights;
    const auto* const from = reinterpret_cast<const float4*>(op.dq_sum + chunk * chunk_floats<D> + dq_at(thread, eight % eights));
    float rows[2][8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float4 x = from[i];
        rows[0][2 * i] = x.x * op.scale;
        rows[0][2 * i + 1] = x.y * op.scale;
        rows[1][2 * i] = x.z * op.scale;
        rows[1][2 * i + 1] = x.w * op.scale;
    }
    T* const to = static_cast<T*>(op.dq.data) + b * op.dq.batch + h * op.dq.head + eight * 8;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int position = tile * query_rows + accumulator_row(thread, 2 * r);
        if (position < op.positions) store(to + position * op.dq.position, rows[r]);
    }
}

}  // namespace sm90

namespace {

using namespace sm90;

template <class T, int D> void start(const Attention& op, cudaStream_t stream) {
    const Backward parameters = backward_parameters<Fused<D>>(op, op.heads / op.groups * D * 8);  // q, dout and dq_sum
    const std::int64_t floats = dq_sum_floats(op.batch, op.positions, op.heads, D);
    check(cudaMemsetAsync(op.dq_sum, 0, static_cast<std::size_t>(floats) * sizeof(float), stream), "cudaMemsetAsync");
    launch(attention_backward_fused_kernel<T, D>, parameters, parameters.order, fused_shared<D>, stream);
    launch("attention_backward", convert_dq<T, D>, floats / (query_rows * D), 4 * D, stream, op);
}

template <class T> void start(const Attention& op, cudaStream_t stream) {
    op.head_dim == 64 ? start<T, 64>(op, stream) : start<T, 128>(op, stream);
}

}  // namespace

std::int64_t attention_dq_sum(const Attention& op, int device) {
    if (!takes(op, device)) return 0;
    static const bool built = built_for_hopper(attention_backward_fused_kernel<__nv_bfloat16, 128>);
    return built ? dq_sum_floats(op.batch, op.positions, op.heads, op.head_dim) : 0;
}

void attention_backward_fused_sm90(const Attention& op, const Where& where) {
    if (op.batch == 0 || op.positions == 0 || op.heads == 0) return;
    const cudaStream_t stream = enter(where);
    op.dtype == DType::bf16 ? start<__nv_bfloat16>(op, stream) : start<__half>(op, stream);
}

}  // namespace pynanochat::cuda
