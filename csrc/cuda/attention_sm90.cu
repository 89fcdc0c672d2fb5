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
#include "cuda/attention_sm90.h"

#include <algorithm>

#include "cuda/hopper.cuh"
#include "cuda/launch.h"
#include "cuda/tensor_map.h"

namespace pynanochat::cuda {

// A name and not an unnamed namespace: the other binaries leave most of it unused, which must not warn.
namespace sm90 {

inline constexpr int tile_rows = 128;   // queries of a block, and keys of a tile
inline constexpr int group_rows = 64;   // queries of a consumer
inline constexpr int group_threads = 128;
inline constexpr int consumers = 2;
inline constexpr int block_threads = (1 + consumers) * group_threads;
inline constexpr int consumer_warps = consumers * group_threads / 32;
inline constexpr std::int64_t section_bytes = std::int64_t{24} << 20;  // of K and V that blocks at work together read: half of L2

template <int D> inline constexpr int parts = D / part_columns;
template <int D> inline constexpr int stages = D == 64 ? 4 : 2;
inline constexpr int part_bytes = tile_rows * row_bytes;
template <int D> inline constexpr int tile_bytes = parts<D> * part_bytes;
template <int D> inline constexpr int shared_bytes = (1 + 2 * stages<D>) * tile_bytes<D> + eight_rows;  // the last to align the first

// Blocks in the order they start: sections of heads, in a section the last tile (the heaviest) of all heads first.
struct Order {
    int tiles = 0, pairs = 0, section = 0;  // pairs of batch and head

    struct Work {
        int tile, pair;
    };
    __device__ Work at(int block) const {
        const int whole = section * tiles;
        const int before = block / whole * section;
        const int width = min(section, pairs - before);
        const int rest = block % whole;
        return {tiles - 1 - rest / width, before + rest % width};
    }
};

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
__device__ inline Range visible(const Forward& op, int begin) { return {max(0, begin - op.window) / tile_rows, begin / tile_rows}; }

// A ring of tiles between the producer and the consumers. Tile n goes to stage n % stages, in round r = n / stages.
//   full[s]   1 arrival (the producer's, which also expects the tile's bytes) and the bytes: its r-th phase ends when the tile is there
//   empty[s]  one arrival of each consumer warp: its r-th phase ends when the last reader is done with the tile of round r
// The consumers wait for phase r of full, the producer for phase r - 1 of empty before it loads round r: parities r % 2 and
// 1 - r % 2. In round 0 the producer waits for parity 1 of a fresh barrier, which passes. No barrier runs two phases ahead of a
// waiter: full[s] cannot end phase r + 1 before all consumers released round r, nor empty[s] before the producer refilled it.
template <int n> struct Ring {
    Barrier full[n], empty[n];
};

template <int n> struct Turn {  // whose turn it is in a ring
    int stage = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void next() {
        if (++stage == n) {
            stage = 0;
            parity ^= 1;
        }
    }
};

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

template <int D>
__device__ __forceinline__ void load_tile(char* to, const CUtensorMap& map, Barrier& full, int position, int head, int batch) {
    barrier_expect(full, tile_bytes<D>);
#pragma unroll
    for (int part = 0; part < parts<D>; ++part)
        tma_load(to + part * part_bytes, map, full, part * part_columns, position, head, batch);
}

// The loads in the order the consumers wait for them: Q, K of the last tile, then K of the next and V of this.
template <int D>
__device__ void produce(const Forward& op, const Tiles<D>& tiles, Barriers<stages<D>>& barriers, Range range, int begin, int head,
                        int batch) {
    const int kv_head = head / op.group;
    Turn<stages<D>> k, v;
    const auto load = [&](auto& ring, auto& turn, const CUtensorMap& map, char* to, int tile) {
        barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);
        load_tile<D>(to, map, ring.full[turn.stage], tile * tile_rows, kv_head, batch);
        turn.next();
    };
    load_tile<D>(tiles.q(), op.q, barriers.q, begin, head, batch);
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

template <class T, int D> __device__ __forceinline__ void start_scores(Held<D>& held, std::uint32_t q, std::uint32_t k) {
    hold(held.scores);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        const int offset = step / 4 * part_bytes + step % 4 * along_row;
        wgmma<T, tile_rows, false>(held.scores, descriptor(q + offset, 0), descriptor(k + offset, 0), step > 0);
    }
    wgmma_commit();
}

template <class T, int D> __device__ __forceinline__ void start_out(Held<D>& held, std::uint32_t v) {
    hold(held.out);
#pragma unroll
    for (int step = 0; step < tile_rows / 16; ++step) hold(held.p[step]);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < tile_rows / 16; ++step)
        wgmma<T, D, true>(held.out, held.p[step], descriptor(v + step * down_rows, part_bytes), true);
    wgmma_commit();
}

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

template <class T, int D> __device__ __forceinline__ void keep_p(Held<D>& held) {
#pragma unroll
    for (int i = 0; i < tile_rows / 2; i += 2) held.p[i / 8][i / 2 % 4] = pair<T>(held.scores[i], held.scores[i + 1]);
}

template <int D> __device__ __forceinline__ void scale_out(Held<D>& held, float first, float second) {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) held.out[i] *= i / 2 % 2 == 0 ? first : second;
}

__device__ __forceinline__ void release(Barrier& empty) {
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

inline constexpr int turn_barrier = 1;   // and 2: it is the turn of consumer 0, of consumer 1
inline constexpr int group_barrier = 3;  // and 4: all threads of consumer 0, of consumer 1

// Writes the rows over the consumer's own half of Q, which only it has read, and has TMA store them; rows >= T are not written.
template <class T, int D>
__device__ __forceinline__ void store(const Forward& op, Held<D>& held, char* q, int consumer, int begin, int head, int batch) {
    const int thread = threadIdx.x % group_threads;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float total = over_row(held.total[r], [](float a, float b) { return a + b; });
        const int position = begin + accumulator_row(thread, 2 * r);
        inverse[r] = 1.0f / total;
        if (thread % 4 == 0 && position < op.positions)
            op.lse[(static_cast<std::int64_t>(batch) * op.heads + head) * op.positions + position] =
                held.maximum[r] * op.scale + logf(total);
    }
    scale_out<D>(held, inverse[0], inverse[1]);
    named_wait(group_barrier + consumer, group_threads);  // no warp still has products to read from Q
    const std::uint32_t base = shared_address(q);
#pragma unroll
    for (int i = 0; i < D / 2; i += 2) {
        const int column = accumulator_column(thread, i);
        const int offset = column / part_columns * part_bytes + accumulator_row(thread, i) * row_bytes + column % part_columns * 2;
        *reinterpret_cast<std::uint32_t*>(q + (swizzled(base + offset) - base)) = pair<T>(held.out[i], held.out[i + 1]);
    }
    writes_before_async();
    named_wait(group_barrier + consumer, group_threads);
    if (thread == 0) {
#pragma unroll
        for (int part = 0; part < parts<D>; ++part)
            tma_store(op.out, q + part * part_bytes, part * part_columns, begin, head, batch);
        tma_stores_have_read();
    }
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
    start_scores<T, D>(held, queries, shared_address(tiles.k(0)));
    wgmma_wait<0>();
    hold(held.scores);
    release(barriers.k.empty[0]);
    k.next();
    bend(range.last);
    keep_p<T, D>(held);
    barrier_wait(barriers.v.full[0], 0);

    if (consumer == 1 && range.last > range.first) named_arrive(others, 2 * group_threads);
    for (int tile = range.last - 1; tile >= range.first; --tile) {
        barrier_wait(barriers.k.full[k.stage], k.parity);
        named_wait(mine, 2 * group_threads);
        start_scores<T, D>(held, queries, shared_address(tiles.k(k.stage)));
        start_out<T, D>(held, shared_address(tiles.v(v.stage)));
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
        scale_out<D>(held, held.shrink[0], held.shrink[1]);
        keep_p<T, D>(held);
    }
    start_out<T, D>(held, shared_address(tiles.v(v.stage)));
    wgmma_wait<0>();
    hold(held.out);
    store<T, D>(op, held, q, consumer, begin, head, batch);
}

template <class T, int D> __global__ void __launch_bounds__(block_threads, 1) attention_forward_kernel(const __grid_constant__ Forward op) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
    __shared__ Barriers<stages<D>> barriers;
    const std::uint32_t start = shared_address(dynamic_shared());
    const Tiles<D> tiles{dynamic_shared() + (eight_rows - start % eight_rows) % eight_rows};
    const Order::Work work = op.order.at(static_cast<int>(blockIdx.x));
    const int begin = work.tile * tile_rows, head = work.pair % op.heads, batch = work.pair / op.heads;
    const Range range = visible(op, begin);
    if (threadIdx.x == 0) {
        barrier_start(barriers.q, 1);
        for (int stage = 0; stage < stages<D>; ++stage) {
            barrier_start(barriers.k.full[stage], 1);
            barrier_start(barriers.v.full[stage], 1);
            barrier_start(barriers.k.empty[stage], consumer_warps);
            barrier_start(barriers.v.empty[stage], consumer_warps);
        }
        barriers_started();
    }
    __syncthreads();
    const int warpgroup = threadIdx.x / group_threads;
    if (warpgroup == 0) {
        fewer_registers<24>();
        if (threadIdx.x == 0) produce<D>(op, tiles, barriers, range, begin, head, batch);
    } else {
        more_registers<240>();
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

// The kernels of other binaries than sm_90a's are empty and need next to no registers.
bool built_for_hopper() {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, attention_forward_kernel<__nv_bfloat16, 128>), "cudaFuncGetAttributes");
    return attributes.numRegs > 100;
}

Order order_of(const Attention& op) {
    const std::int64_t tiles = divide_up(op.positions, tile_rows), pairs = op.batch * op.heads;
    if (tiles * pairs > max_grid) throw ShapeError("attention: over 2^31 - 1 blocks of 128 queries");
    const std::int64_t of_a_group = op.positions * op.head_dim * 4;  // bytes of K and V
    const std::int64_t groups = std::max<std::int64_t>(1, section_bytes / of_a_group);
    const std::int64_t section = std::min(pairs, groups * (op.heads / op.groups));
    return {static_cast<int>(tiles), static_cast<int>(pairs), static_cast<int>(section)};
}

Extent queries(const Attention& op) { return {op.batch, op.positions, op.heads, op.head_dim}; }
Extent keys(const Attention& op) { return {op.batch, op.positions, op.groups, op.head_dim}; }

}  // namespace

bool attention_sm90_takes(const Attention& op, int device) {
    if (op.dtype != DType::bf16 && op.dtype != DType::f16) return false;
    if ((op.head_dim != 64 && op.head_dim != 128) || op.positions >= (std::int64_t{1} << 30)) return false;
    if (!tma_takes(op.q, queries(op)) || !tma_takes(op.out, queries(op)) || !tma_takes(op.k, keys(op)) || !tma_takes(op.v, keys(op)))
        return false;
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    if (major != 9) return false;
    check(cudaSetDevice(device), "cudaSetDevice");
    static const bool built = built_for_hopper();
    return built;
}

void attention_forward_sm90(const Attention& op, const Where& where) {
    if (op.batch == 0 || op.positions == 0 || op.heads == 0) return;
    const cudaStream_t stream = enter(where);
    Forward forward;
    forward.order = order_of(op);
    forward.q = tensor_map(op.q, queries(op), op.dtype, tile_rows);
    forward.k = tensor_map(op.k, keys(op), op.dtype, tile_rows);
    forward.v = tensor_map(op.v, keys(op), op.dtype, tile_rows);
    forward.out = tensor_map(op.out, queries(op), op.dtype, group_rows);
    forward.lse = op.lse;
    forward.positions = static_cast<int>(op.positions);
    forward.heads = op.heads;
    forward.group = op.heads / op.groups;
    forward.window = static_cast<int>(op.window < 0 ? op.positions : std::min(op.window, op.positions));
    forward.scale = op.scale;
    forward.scale_log2 = op.scale * 1.4426950408889634f;

    const Kernel kernel = kernel_of(op);
    const int shared = op.head_dim == 64 ? shared_bytes<64> : shared_bytes<128>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), "cudaFuncSetAttribute");
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(forward.order.tiles) * static_cast<unsigned>(forward.order.pairs));
    config.blockDim = dim3(block_threads);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared);
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, forward), "attention_forward_sm90");
    check(cudaGetLastError(), "attention_forward_sm90");
}

}  // namespace pynanochat::cuda
