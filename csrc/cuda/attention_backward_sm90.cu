// Attention's backward for Hopper (sm_90a): two kernels of one form, of TMA, mbarriers and wgmma. See attention_sm90.cu.
//
//   P = exp(scale · Q Kᵀ - lse),  dS = P · (dOut Vᵀ - delta),  dQ = scale · dS K,  dK = scale · dSᵀ Q,  dV = Pᵀ dOut
//   delta (B, H, T), each row's sum of dout · out, is given
//
// Bound: the tensor cores. 14 D FLOPs a visible pair of query and key: three products for dQ, four for dK and dV. Five
// would do if dQ were added up across blocks (attention_backward_fused_sm90.cu), but then in no fixed order; here nothing is,
// and the same bits come each time.
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
#include "cuda/attention_backward_sm90.cuh"

namespace pynanochat::cuda {

namespace sm90 {

template <int D, bool of_keys> using Split = Form<D, 64, 3, of_keys>;

// One consumer: 64 kept rows from `begin` on.
template <class T, class F>
__device__ __forceinline__ void consume_backward(const Backward& op, const BackwardTiles<F>& tiles, BackwardShared<F>& shared,
                                                 int consumer) {
    constexpr int D = F::head_dim, stream_rows = F::rows;
    constexpr bool of_keys = F::of_keys;
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
    each_tile<F>(find_stream<F>(op, place), [&](const auto& turn, int, int position) {
        const int query = of_keys ? position : begin, key = of_keys ? begin : position;  // the first of each 64
        const int ahead = query - key;  // of the first query before the first key: between them lie 63 more and 63 fewer
        Barrier& full = shared.ring.full[turn.stage];
        const std::uint32_t first = shared_address(tiles.streamed(turn.stage, 0));
        const std::uint32_t second = shared_address(tiles.streamed(turn.stage, 1));
        barrier_wait(full, turn.parity);
        if (ahead > -stream_rows && ahead < op.window + stream_rows) {  // else this consumer has nothing to see in the tile
            start_inner<T, D, stream_rows, tile_rows>(s, shared_address(kept[0]), first);
            start_inner<T, D, stream_rows, tile_rows>(dp, shared_address(kept[1]), second);
            const Room<stream_rows>& room = shared.rooms[turn.stage];
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
    using F = Split<D, of_keys>;
    __shared__ BackwardShared<F> shared;
    static_assert(F::tiles_bytes + own_shared<sizeof shared> <= largest_shared);
    const BackwardTiles<F> tiles{dynamic_shared()};
    run_block(op, tiles, shared, [&](int consumer) { consume_backward<T, F>(op, tiles, shared, consumer); });
#endif
}

}  // namespace sm90

namespace {

using namespace sm90;

template <class T, int D> void start(const Attention& op, cudaStream_t stream) {
    const auto run = [&](auto form, void (*kernel)(Backward), int bytes) {
        using F = decltype(form);
        const Backward parameters = backward_parameters<F>(op, bytes);
        launch(kernel, parameters, parameters.order, F::tiles_bytes, stream);
    };
    run(Split<D, false>{}, attention_backward_kernel<T, D, false>, D * 4);                           // k and v
    run(Split<D, true>{}, attention_backward_kernel<T, D, true>, op.heads / op.groups * D * 4);  // q and dout
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
