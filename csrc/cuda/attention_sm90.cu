// Attention's forward for Hopper (sm_90a): TMA, mbarriers and wgmma, one block for 128 queries of one head.
//
//   out[i] = sum_j p_ij v_j,  p_ij = exp(scale · q_i·k_j - lse_i),  over i - window <= j <= i
//   B batch, T positions, H query heads, G key/value heads, D head dim 64 or 128; bf16 and fp16, sums in fp32
//
// Bound: the tensor cores. 4 · D FLOPs a visible pair (i, j), so 2 B H T² D in all without a window: at B 32, T 2,048, H 12,
// D 128 412 GFLOP, 0.42 ms at 989 TFLOP/s; a window of w leaves 2 w / T of it.
//
// A block is three warpgroups. The producer (one thread of the first) has TMA bring Q once and K and V tile by tile into rings
// of `stages`; the two consumers take 64 queries each. A consumer starts S = Q Kᵀ of the next tile, then O += P V of this one,
// and computes the softmax of the next while P V runs; P never leaves its registers. The consumers take turns at starting
// their products, so that the softmax of one runs under the products of the other. Tiles run from the diagonal down: the
// first has a visible key for every row, so that no maximum is ever -inf. Only tiles on the diagonal or on the edge of the
// window are masked; tiles outside the window are never touched. Keys >= T need no mask: no query < T sees them, and TMA
// brings them as zeros. Blocks run heavy tiles first, over as many heads at a time as have their K and V in L2 (`section`).
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  as above. Not yet: blocks that live for several tiles, so that the store of one hides the loads of the next.
// Registers (ptxas 13.0, sm_80, whose kernels are empty, and sm_90a): 4 to 168, no spills; 24 and 240 after setmaxnreg.
#include "cuda/attention_sm90.cuh"

namespace pynanochat::cuda {

namespace sm90 {

template <int D> inline constexpr int stages = D == 64 ? 4 : 2;
template <int D> inline constexpr int tile_bytes = parts<D> * tile_rows * row_bytes;
template <int D> inline constexpr int shared_bytes = (1 + 2 * stages<D>) * tile_bytes<D>;

struct Forward {
    CUtensorMap q, k, v, out;
    float* lse;  // (B, H, T)
    Order order;
    int positions, heads, group;  // group: query heads that share a key/value head
    int window;
    float scale, scale_log2;
};

// The tiles of keys that the queries [begin, begin + 128) see.
struct Range {
    int first, last;
};
__device__ inline Range visible(const Forward& op, int begin) {
    return {max(0, begin - op.window) / tile_rows, begin / tile_rows};
}

template <int n> struct Barriers {
    Barrier q;
    Ring<n> k, v;
};

template <int D> struct Tiles {  // in shared memory, each tile's parts one after the other
    char* base;
    __device__ __forceinline__ char* q() const { return base; }
    __device__ __forceinline__ char* k(int stage) const { return base + (1 + stage) * tile_bytes<D>; }
    __device__ __forceinline__ char* v(int stage) const { return base + (1 + stages<D> + stage) * tile_bytes<D>; }
};

// The loads in the order the consumers wait for them: Q, K of the last tile, then K of the next and V of this.
template <int D>
__device__ void produce(const Forward& op, const Tiles<D>& tiles, Barriers<stages<D>>& barriers, Range range, int begin, int head,
                        int batch) {
    const int kv_head = head / op.group;
    Turn<stages<D>> k, v;
    const auto load = [&](auto& ring, auto& turn, const CUtensorMap& map, char* to, int tile) {
        barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);
        barrier_expect(ring.full[turn.stage], tile_bytes<D>);
        load_tile<D, tile_rows>(to, map, ring.full[turn.stage], tile * tile_rows, kv_head, batch);
        turn.next();
    };
    barrier_expect(barriers.q, tile_bytes<D>);
    load_tile<D, tile_rows>(tiles.q(), op.q, barriers.q, begin, head, batch);
    load(barriers.k, k, op.k, tiles.k(k.stage), range.last);
    for (int tile = range.last; tile > range.first; --tile) {
        load(barriers.k, k, op.k, tiles.k(k.stage), tile - 1);
        load(barriers.v, v, op.v, tiles.v(v.stage), tile);
    }
    load(barriers.v, v, op.v, tiles.v(v.stage), range.first);
}

// What a thread of a consumer holds: of rows r and r + 8 of its warp's 16 (see accumulator_row) the pairs of columns.
template <int D> struct Held {
    float scores[tile_rows / 2];
    std::uint32_t p[tile_rows / 16][4];
    float out[D / 2];
    float maximum[2], total[2], shrink[2];
};

// Sets scores outside the window to -inf. `row` is the thread's first row, counted from the tile's first key.
template <int D> __device__ __forceinline__ void mask(Held<D>& held, int row, int window) {
#pragma unroll
    for (int i = 0; i < tile_rows / 2; ++i) {
        const int ahead = row + accumulator_row(0, i) - accumulator_column(0, i) - threadIdx.x % 4 * 2;
        if (ahead < 0 || ahead > window) held.scores[i] = -INFINITY;
    }
}

template <class F> __device__ __forceinline__ float over_row(float value, F join) {  // the four threads that share a row
    value = join(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return join(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// scores become exp(scale · scores - maximum); `shrink` is what older sums are to be multiplied by.
template <int D> __device__ __forceinline__ void softmax(Held<D>& held, float scale_log2) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float maximum = held.maximum[r];
#pragma unroll
        for (int i = 2 * r; i < tile_rows / 2; i += 4) maximum = fmaxf(maximum, fmaxf(held.scores[i], held.scores[i + 1]));
        maximum = over_row(maximum, [](float a, float b) { return fmaxf(a, b); });
        held.shrink[r] = fast_exp2((held.maximum[r] - maximum) * scale_log2);
        held.maximum[r] = maximum;
        const float offset = maximum * scale_log2;
        float sum = 0.0f;
#pragma unroll
        for (int i = 2 * r; i < tile_rows / 2; i += 4) {
            held.scores[i] = fast_exp2(held.scores[i] * scale_log2 - offset);
            held.scores[i + 1] = fast_exp2(held.scores[i + 1] * scale_log2 - offset);
            sum += held.scores[i] + held.scores[i + 1];
        }
        held.total[r] = held.total[r] * held.shrink[r] + sum;
    }
}

// Writes lse and leaves in `held.out` the results.
template <int D> __device__ __forceinline__ void finish(const Forward& op, Held<D>& held, int begin, int head, int batch) {
    const int thread = threadIdx.x % group_threads;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float total = over_row(held.total[r], [](float a, float b) { return a + b; });
        const int position = begin + accumulator_row(thread, 2 * r);
        inverse[r] = 1.0f / total;
        if (thread % 4 == 0 && position < op.positions)
            op.lse[(batch * op.heads + head) * op.positions + position] =
                held.maximum[r] * op.scale + logf(total);
    }
    scale_rows(held.out, inverse[0], inverse[1]);
}

// One consumer: 64 queries from `begin` on.
//
// Turns: the consumer waits at its turn barrier (128 threads waiting and 128 of the other arriving) before it starts the products
// of a round, and arrives at the other's after. Both have the same number of rounds; consumer 1 gives the first turn away, and
// not the last, so that every barrier has as many arrivals as waits.
template <class T, int D>
__device__ __forceinline__ void consume(const Forward& op, const Tiles<D>& tiles, Barriers<stages<D>>& barriers, Range range,
                                        int consumer, int begin, int head, int batch) {
    Held<D> held;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) held.out[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        held.maximum[r] = -INFINITY;
        held.total[r] = 0.0f;
    }
    const int row = begin + accumulator_row(threadIdx.x % group_threads, 0);
    const auto bend = [&](int tile) {  // masks where a query of this consumer does not see all keys of the tile
        const int key = tile * tile_rows;
        if (begin < key + tile_rows - 1 || begin + group_rows - 1 - op.window > key) mask<D>(held, row - key, op.window);
        softmax<D>(held, op.scale_log2);
    };
    char* const q = tiles.q() + consumer * group_rows * row_bytes;
    const std::uint32_t queries = shared_address(q);
    const int mine = turn_barrier + consumer, others = turn_barrier + 1 - consumer;
    Turn<stages<D>> k, v;

    barrier_wait(barriers.q, 0);
    barrier_wait(barriers.k.full[0], 0);
    start_inner<T, D, tile_rows, tile_rows>(held.scores, queries, shared_address(tiles.k(0)));
    wgmma_wait<0>();
    hold(held.scores);
    release(barriers.k.empty[0]);
    k.next();
    bend(range.last);
    keep<T>(held.p, held.scores);
    barrier_wait(barriers.v.full[0], 0);

    if (consumer == 1 && range.last > range.first) named_arrive(others, 2 * group_threads);
    for (int tile = range.last - 1; tile >= range.first; --tile) {
        barrier_wait(barriers.k.full[k.stage], k.parity);
        named_wait(mine, 2 * group_threads);
        start_inner<T, D, tile_rows, tile_rows>(held.scores, queries, shared_address(tiles.k(k.stage)));
        start_outer<T, D, tile_rows>(held.out, held.p, shared_address(tiles.v(v.stage)));
        if (consumer == 0 || tile > range.first) named_arrive(others, 2 * group_threads);
        wgmma_wait<1>();
        hold(held.scores);
        release(barriers.k.empty[k.stage]);
        k.next();
        bend(tile);
        const int done = v.stage;
        v.next();
        barrier_wait(barriers.v.full[v.stage], v.parity);  // here, as ptxas would move the softmax to after the wait below
        wgmma_wait<0>();
        hold(held.out);
        release(barriers.v.empty[done]);
        scale_rows(held.out, held.shrink[0], held.shrink[1]);
        keep<T>(held.p, held.scores);
    }
    start_outer<T, D, tile_rows>(held.out, held.p, shared_address(tiles.v(v.stage)));
    wgmma_wait<0>();
    hold(held.out);
    finish<D>(op, held, begin, head, batch);
    store_rows<T, D>(held.out, q, op.out, consumer, begin, head, batch);
}

template <class T, int D>
__global__ void __launch_bounds__(block_threads, 1) attention_forward_kernel(const __grid_constant__ Forward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    __shared__ Barriers<stages<D>> barriers;
    static_assert(shared_bytes<D> + own_shared<sizeof barriers> <= largest_shared);
    const Tiles<D> tiles{dynamic_shared()};
    const Order::Work work = op.order.at(static_cast<int>(blockIdx.x));
    const int begin = work.tile * tile_rows, head = work.pair % op.heads, batch = work.pair / op.heads;
    const Range range = visible(op, begin);
    if (threadIdx.x == 0) {
        barrier_start(barriers.q, 1);
        barriers.k.start(1);
        barriers.v.start(1);
        barriers_started();
    }
    __syncthreads();
    const int warpgroup = threadIdx.x / group_threads;
    if (warpgroup == 0) {
        fewer_registers<producer_registers>();
        if (threadIdx.x == 0) produce<D>(op, tiles, barriers, range, begin, head, batch);
    } else {
        more_registers<consumer_registers>();
        const int consumer = warpgroup - 1;
        consume<T, D>(op, tiles, barriers, range, consumer, begin + consumer * group_rows, head, batch);
    }
#endif
}

}  // namespace sm90

namespace {

using namespace sm90;

using Kernel = void (*)(Forward);

template <class T> Kernel kernel_of(int head_dim) {
    return head_dim == 64 ? attention_forward_kernel<T, 64> : attention_forward_kernel<T, 128>;
}
Kernel kernel_of(const Attention& op) {
    return op.dtype == DType::bf16 ? kernel_of<__nv_bfloat16>(op.head_dim) : kernel_of<__half>(op.head_dim);
}

}  // namespace

bool attention_sm90_takes(const Attention& op, int device) {
    if (!takes(op, device)) return false;
    static const bool built = built_for_hopper(attention_forward_kernel<__nv_bfloat16, 128>);
    return built && tma_takes(op.q, queries(op)) && tma_takes(op.out, queries(op)) && tma_takes(op.k, keys(op)) &&
           tma_takes(op.v, keys(op));
}

void attention_forward_sm90(const Attention& op, const Where& where) {
    if (op.batch == 0 || op.positions == 0 || op.heads == 0) return;
    const cudaStream_t stream = enter(where);
    Forward forward;
    forward.order = order_of(op, op.heads, op.heads / op.groups, op.head_dim * 4);
    forward.q = tensor_map(op.q, queries(op), op.dtype, tile_rows);
    forward.k = tensor_map(op.k, keys(op), op.dtype, tile_rows);
    forward.v = tensor_map(op.v, keys(op), op.dtype, tile_rows);
    forward.out = tensor_map(op.out, queries(op), op.dtype, group_rows);
    forward.lse = op.lse;
    forward.positions = static_cast<int>(op.positions);
    forward.heads = op.heads;
    forward.group = op.heads / op.groups;
    forward.window = window_of(op);
    forward.scale = op.scale;
    forward.scale_log2 = op.scale * log2_of_e;

    launch(kernel_of(op), forward, forward.order, op.head_dim == 64 ? shared_bytes<64> : shared_bytes<128>, stream);
}

}  // namespace pynanochat::cuda
