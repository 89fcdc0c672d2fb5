// Attention's backward for Hopper (sm_90a): two kernels of one form, of TMA, mbarriers and wgmma. See attention_sm90.cu.
//
//   P = exp(scale · Q Kᵀ - lse),  dS = P · (dOut Vᵀ - delta),  dQ = scale · dS K,  dK = scale · dSᵀ Q,  dV = Pᵀ dOut
//   delta (B, H, T), each row's sum of dout · out, is given
//
// Bound: the tensor cores. 14 D FLOPs a visible pair of query and key: three products for dQ, four for dK and dV. Five
// would do if dQ were added up across blocks, but then in no fixed order; so nothing is added across blocks, and the same
// bits come each time.
//
// A block keeps 128 rows of two tensors in shared memory, and 64-row tiles of two others stream through a ring:
//             keeps     streams    S             dP             adds up, P and dS from registers
//   queries   q, dout   k, v       q · kᵀ        dout · vᵀ      dq += dS · k
//   keys      k, v      q, dout    k · qᵀ = Sᵀ   v · doutᵀ      dv += Pᵀ · dout, dk += dSᵀ · q, over all heads of the group
// So the accumulators of S and dP are what the next products take as they are: none goes back through shared memory.
// lse and delta of kept rows are loaded once; those of streamed rows come with the tile, copied by 64 threads of the
// producer. The two consumers take 64 kept rows each. One's exponentials run under the other's products, and its own dP.
//
// dS · k of a tile runs on under the S of the next; of keys the registers do not suffice for that.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  as above
// Registers (ptxas 13.0, sm_80, whose kernels are empty, and sm_90a): 4 to 168, no spills; 24 and 240 after setmaxnreg.
#include "cuda/attention_sm90.cuh"

namespace pynanochat::cuda {

namespace sm90 {

inline constexpr int stream_rows = 64;
inline constexpr int backward_stages = 3;
template <int D> inline constexpr int kept_bytes = parts<D> * tile_rows * row_bytes;
template <int D> inline constexpr int streamed_bytes = parts<D> * stream_rows * row_bytes;
template <int D>
inline constexpr int backward_shared = 2 * kept_bytes<D> + backward_stages * 2 * streamed_bytes<D> + eight_rows;

struct Backward {
    CUtensorMap kept_first, kept_second, first, second;  // queries: q, dout, k, v; keys: k, v, q, dout
    CUtensorMap grad_first, grad_second;                 // queries: dq; keys: dk, dv
    const float *lse, *delta;                            // (B, H, T)
    Order order;
    int positions, heads, groups;
    int window;
    float scale, scale_log2;
};

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

template <bool of_keys> __device__ __forceinline__ Stream find_stream(const Backward& op, const Place& place) {
    const int group = op.heads / op.groups, end = op.positions - 1, begin = place.begin;
    const int last = begin + tile_rows - 1;
    if (of_keys) return {place.head * group, group, begin / stream_rows, min(end, last + op.window) / stream_rows};
    return {place.head / group, 1, max(0, begin - op.window) / stream_rows, min(end, last) / stream_rows};
}

struct Room {  // of the streamed rows of a stage
    float lse[stream_rows], delta[stream_rows];
};

// A stage of the ring (see Ring) is full when both tiles are there and, for keys, the 64 threads that bring lse and delta
// have arrived too.
struct BackwardShared {
    Barrier kept;
    Ring<backward_stages> ring;
    Room rooms[backward_stages];
};

template <int D> struct BackwardTiles {
    char* base;
    __device__ __forceinline__ char* kept(int which) const { return base + which * kept_bytes<D>; }
    __device__ __forceinline__ char* streamed(int stage, int which) const {
        return base + 2 * kept_bytes<D> + (2 * stage + which) * streamed_bytes<D>;
    }
};

template <class F> __device__ __forceinline__ void each_tile(const Stream& stream, F body) {
    Turn<backward_stages> turn;
#pragma unroll 1  // the producer has few registers
    for (int head = stream.head; head < stream.head + stream.heads; ++head)
#pragma unroll 1
        for (int tile = stream.first; tile <= stream.last; ++tile) {
            body(turn, head, tile * stream_rows);
            turn.next();
        }
}

// One thread.
template <int D, bool of_keys>
__device__ __forceinline__ void load_tiles(const Backward& op, const BackwardTiles<D>& tiles, BackwardShared& shared) {
    const Place place = find_place<of_keys>(op);
    barrier_expect(shared.kept, 2 * kept_bytes<D>);
    load_tile<D, tile_rows>(tiles.kept(0), op.kept_first, shared.kept, place.begin, place.head, place.batch);
    load_tile<D, tile_rows>(tiles.kept(1), op.kept_second, shared.kept, place.begin, place.head, place.batch);
    each_tile(find_stream<of_keys>(op, place), [&](const auto& turn, int streamed_head, int position) {
        Barrier& full = shared.ring.full[turn.stage];
        barrier_wait(shared.ring.empty[turn.stage], turn.parity ^ 1);
        barrier_expect(full, 2 * streamed_bytes<D>);
        load_tile<D, stream_rows>(tiles.streamed(turn.stage, 0), op.first, full, position, streamed_head, place.batch);
        load_tile<D, stream_rows>(tiles.streamed(turn.stage, 1), op.second, full, position, streamed_head, place.batch);
    });
}

// What P and dS take of a query: lse times log2(e), +inf beyond the last so that P is 0 there.
__device__ __forceinline__ float lse_of(const Backward& op, int row, int position) {
    return position < op.positions ? op.lse[row + position] * log2_of_e : INFINITY;
}
__device__ __forceinline__ float delta_of(const Backward& op, int row, int position) {
    return position < op.positions ? op.delta[row + position] : 0.0f;
}

// 64 threads, for keys: lse and delta of the streamed queries, one each.
__device__ __forceinline__ void copy_rows(const Backward& op, BackwardShared& shared) {
    const int i = threadIdx.x % stream_rows;
    const Place place = find_place<true>(op);
    each_tile(find_stream<true>(op, place), [&](const auto& turn, int head, int position) {
        const int row = (place.batch * op.heads + head) * op.positions;
        barrier_wait(shared.ring.empty[turn.stage], turn.parity ^ 1);
        shared.rooms[turn.stage].lse[i] = lse_of(op, row, position + i);
        shared.rooms[turn.stage].delta[i] = delta_of(op, row, position + i);
        barrier_arrive(shared.ring.full[turn.stage]);
    });
}

// Sets scores outside the window to -inf. `across` is the thread's first kept row less its first streamed row.
template <bool of_keys> __device__ __forceinline__ void hide(float (&s)[stream_rows / 2], int across, int window) {
#pragma unroll
    for (int i = 0; i < stream_rows / 2; ++i) {
        const int rows = across + accumulator_row(0, i) - accumulator_column(0, i);
        const int behind = of_keys ? -rows : rows;  // how far the query is behind the key
        if (behind < 0 || behind > window) s[i] = -INFINITY;
    }
}

// One consumer: 64 kept rows from `begin` on.
template <class T, int D, bool of_keys>
__device__ __forceinline__ void consume_backward(const Backward& op, const BackwardTiles<D>& tiles, BackwardShared& shared,
                                                 int consumer) {
    const Place place = find_place<of_keys>(op);
    const int begin = place.begin + consumer * group_rows;
    float grad_first[D / 2], grad_second[of_keys ? D / 2 : 1];
    float s[stream_rows / 2], dp[stream_rows / 2];
    std::uint32_t p[stream_rows / 16][4], ds[stream_rows / 16][4];
#pragma unroll
    for (float& x : grad_first) x = 0.0f;
#pragma unroll
    for (float& x : grad_second) x = 0.0f;
    const int thread = threadIdx.x % group_threads, pair_column = thread % 4 * 2;
    const int row = begin + accumulator_row(thread, 0);
    float lse[2] = {}, delta[2] = {};
    if constexpr (!of_keys) {
        const int at = (place.batch * op.heads + place.head) * op.positions;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            lse[r] = lse_of(op, at, row + 8 * r);
            delta[r] = delta_of(op, at, row + 8 * r);
        }
    }
    const int half = consumer * group_rows * row_bytes;
    char* const kept[2] = {tiles.kept(0) + half, tiles.kept(1) + half};
    int unfinished = -1;  // the stage whose last products may still run
    const auto finish = [&] {
        wgmma_wait<0>();
        hold(grad_first);
        hold(grad_second);
        if (unfinished >= 0) release(shared.ring.empty[unfinished]);
        unfinished = -1;
    };
    barrier_wait(shared.kept, 0);
    each_tile(find_stream<of_keys>(op, place), [&](const auto& turn, int, int position) {
        const int query = of_keys ? position : begin, key = of_keys ? begin : position;  // the first of each 64
        const int ahead = query - key;  // of the first query before the first key: between them lie 63 more and 63 fewer
        Barrier& full = shared.ring.full[turn.stage];
        const std::uint32_t first = shared_address(tiles.streamed(turn.stage, 0));
        const std::uint32_t second = shared_address(tiles.streamed(turn.stage, 1));
        barrier_wait(full, turn.parity);
        if (ahead > -stream_rows && ahead < op.window + stream_rows) {  // else this consumer has nothing to see in the tile
            start_inner<T, D, stream_rows, tile_rows>(s, shared_address(kept[0]), first);
            start_inner<T, D, stream_rows, tile_rows>(dp, shared_address(kept[1]), second);
            const Room& room = shared.rooms[turn.stage];
            const auto value = [&](const float (&of_rows)[2], const float* of_columns, int i) {
                return of_keys ? of_columns[accumulator_column(0, i) + pair_column] : of_rows[i / 2 % 2];
            };
            wgmma_wait<1>();  // S is there, and what was started before it
            hold(s);
            if constexpr (!of_keys) {
                hold(grad_first);
                if (unfinished >= 0) release(shared.ring.empty[unfinished]);
            }
            if (ahead < stream_rows - 1 || ahead + stream_rows - 1 > op.window)
                hide<of_keys>(s, row - position - pair_column, op.window);
#pragma unroll
            for (int i = 0; i < stream_rows / 2; ++i) s[i] = fast_exp2(s[i] * op.scale_log2 - value(lse, room.lse, i));
            if constexpr (of_keys) {
                keep<T>(p, s);
                start_outer<T, D, stream_rows>(grad_second, p, second);
                wgmma_wait<1>();
            } else {
                barrier_wait(full, turn.parity);  // it has passed: here, as ptxas would move exp to after the wait below
                wgmma_wait<0>();
            }
            hold(dp);
#pragma unroll
            for (int i = 0; i < stream_rows / 2; ++i) dp[i] = s[i] * (dp[i] - value(delta, room.delta, i));
            keep<T>(ds, dp);
            start_outer<T, D, stream_rows>(grad_first, ds, first);
            unfinished = turn.stage;
            if constexpr (of_keys) finish();  // its registers do not suffice to let them run on
        } else {
            finish();
            release(shared.ring.empty[turn.stage]);
        }
    });
    finish();
    scale_rows(grad_first, op.scale, op.scale);
    store_rows<T, D>(grad_first, kept[0], op.grad_first, consumer, begin, place.head, place.batch);
    if constexpr (of_keys) store_rows<T, D>(grad_second, kept[1], op.grad_second, consumer, begin, place.head, place.batch);
}

template <class T, int D, bool of_keys>
__global__ void __launch_bounds__(block_threads, 1) attention_backward_kernel(const __grid_constant__ Backward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    __shared__ BackwardShared shared;
    static_assert(backward_shared<D> + sizeof shared <= largest_shared);
    const BackwardTiles<D> tiles{aligned_shared()};
    if (threadIdx.x == 0) {
        barrier_start(shared.kept, 1);
        shared.ring.start(of_keys ? 1 + stream_rows : 1);
        barriers_started();
    }
    __syncthreads();
    const int warpgroup = threadIdx.x / group_threads, warp = threadIdx.x / 32;
    if (warpgroup == 0) {
        fewer_registers<producer_registers>();
        if (threadIdx.x == 0) load_tiles<D, of_keys>(op, tiles, shared);
        if (of_keys && warp >= 2) copy_rows(op, shared);
    } else {
        more_registers<consumer_registers>();
        consume_backward<T, D, of_keys>(op, tiles, shared, warpgroup - 1);
    }
#endif
}

}  // namespace sm90

namespace {

using namespace sm90;

template <bool of_keys> Backward parameters(const Attention& op) {
    const Extent q = queries(op), k = keys(op);
    const Heads &kept_first = of_keys ? op.k : op.q, &kept_second = of_keys ? op.v : op.dout;
    const Heads &first = of_keys ? op.q : op.k, &second = of_keys ? op.dout : op.v;
    const Extent kept = of_keys ? k : q, streamed = of_keys ? q : k;
    Backward backward;
    backward.kept_first = tensor_map(kept_first, kept, op.dtype, tile_rows);
    backward.kept_second = tensor_map(kept_second, kept, op.dtype, tile_rows);
    backward.first = tensor_map(first, streamed, op.dtype, stream_rows);
    backward.second = tensor_map(second, streamed, op.dtype, stream_rows);
    backward.grad_first = tensor_map(of_keys ? op.dk : op.dq, kept, op.dtype, group_rows);
    backward.grad_second = of_keys ? tensor_map(op.dv, kept, op.dtype, group_rows) : backward.grad_first;
    backward.lse = op.lse;
    backward.delta = op.delta;
    backward.order = of_keys ? order_of(op, op.groups, 1) : order_of(op, op.heads, op.heads / op.groups);
    backward.positions = static_cast<int>(op.positions);
    backward.heads = op.heads;
    backward.groups = op.groups;
    backward.window = window_of(op);
    backward.scale = op.scale;
    backward.scale_log2 = op.scale * log2_of_e;
    return backward;
}

template <class T, int D> void start(const Attention& op, cudaStream_t stream) {
    const Backward of_queries = parameters<false>(op), of_keys = parameters<true>(op);
    launch(attention_backward_kernel<T, D, false>, of_queries, of_queries.order, backward_shared<D>, stream);
    launch(attention_backward_kernel<T, D, true>, of_keys, of_keys.order, backward_shared<D>, stream);
}

template <class T> void start(const Attention& op, cudaStream_t stream) {
    op.head_dim == 64 ? start<T, 64>(op, stream) : start<T, 128>(op, stream);
}

}  // namespace

bool attention_backward_sm90_takes(const Attention& op, int device) {
    if (!takes(op, device)) return false;
    static const bool built = built_for_hopper(attention_backward_kernel<__nv_bfloat16, 128, true>);
    const auto all = [](std::initializer_list<const Heads*> tensors, const Extent& extent) {
        return std::all_of(tensors.begin(), tensors.end(), [&](const Heads* x) { return tma_takes(*x, extent); });
    };
    return built && all({&op.q, &op.dout, &op.dq}, queries(op)) && all({&op.k, &op.v, &op.dk, &op.dv}, keys(op));
}

void attention_backward_sm90(const Attention& op, const Where& where) {
    if (op.batch == 0 || op.positions == 0 || op.heads == 0) return;
    const cudaStream_t stream = enter(where);
    op.dtype == DType::bf16 ? start<__nv_bfloat16>(op, stream) : start<__half>(op, stream);
}

}  // namespace pynanochat::cuda
