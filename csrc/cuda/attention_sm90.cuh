// What the forward and the backward of attention share on Hopper: the rings of tiles, the order of blocks, rows and their store.
// D head dim 64 or 128.
#pragma once

#include <algorithm>

#include "cuda/attention_sm90.h"
#include "cuda/hopper.cuh"
#include "cuda/launch.h"
#include "cuda/tensor_map.h"

// A name and not an unnamed namespace: the binaries of other cards leave most of it unused, which must not warn.
namespace pynanochat::cuda::sm90 {

inline constexpr int tile_rows = 128;   // that a block keeps, and of a tile of keys of the forward
inline constexpr int group_rows = 64;   // of a consumer
inline constexpr int group_threads = 128;
inline constexpr int consumers = 2;
inline constexpr int block_threads = (1 + consumers) * group_threads;
inline constexpr int consumer_warps = consumers * group_threads / 32;
inline constexpr int producer_registers = 24, consumer_registers = 240;
static_assert(group_threads * (producer_registers + consumers * consumer_registers) <= 65536);
inline constexpr int largest_shared = 227 << 10;
// What a kernel's own variables take of it, as the dynamic part behind them begins at a whole kilobyte.
template <std::size_t bytes> inline constexpr std::size_t own_shared = (bytes + eight_rows - 1) / eight_rows * eight_rows;
inline constexpr std::int64_t section_bytes = std::int64_t{24} << 20;  // half of L2, for what blocks that run together stream
inline constexpr float log2_of_e = 1.4426950408889634f;

template <int D> inline constexpr int parts = D / part_columns;

// Blocks in the order they start: sections of heads, in a section the last tile of all its heads first.
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
    unsigned blocks() const { return static_cast<unsigned>(tiles) * static_cast<unsigned>(pairs); }
};

// `heads` that blocks of 128 rows do, `sharing` of which stream the same tensors, `bytes` of each position. Throws ShapeError.
inline Order order_of(const Attention& op, int heads, int sharing, int bytes) {
    const std::int64_t tiles = divide_up(op.positions, tile_rows), pairs = op.batch * heads;
    if (tiles * pairs > max_grid) throw ShapeError("attention: over 2^31 - 1 blocks of 128 positions");
    const std::int64_t streams = std::max<std::int64_t>(1, section_bytes / (op.positions * bytes));
    return {static_cast<int>(tiles), static_cast<int>(pairs), static_cast<int>(std::min(pairs, streams * sharing))};
}

inline Extent queries(const Attention& op) { return {op.batch, op.positions, op.heads, op.head_dim}; }
inline Extent keys(const Attention& op) { return {op.batch, op.positions, op.groups, op.head_dim}; }
inline int window_of(const Attention& op) {
    return static_cast<int>(op.window < 0 ? op.positions : std::min(op.window, op.positions));
}

// A ring of tiles between the producer and the consumers. Tile n goes to stage n % stages, in round r = n / stages.
//   full[s]   its r-th phase ends when the tile of round r is there: the producer has arrived, and TMA's bytes with it
//   empty[s]  its r-th phase ends when each consumer warp has arrived: the last reader is done with the tile of round r
// The consumers wait for phase r of full, the producer for phase r - 1 of empty before it fills round r: parities r % 2 and
// 1 - r % 2. In round 0 the producer waits for parity 1 of a fresh barrier, which passes. No barrier runs two phases ahead of a
// waiter: full[s] cannot end phase r + 1 before all consumers released round r, nor empty[s] before the producer refilled it.
template <int n> struct Ring {
    Barrier full[n], empty[n];

    __device__ __forceinline__ void start(unsigned producers) {
        for (int stage = 0; stage < n; ++stage) {
            barrier_start(full[stage], producers);
            barrier_start(empty[stage], consumer_warps);
        }
    }
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

__device__ __forceinline__ void release(Barrier& empty) {
    meet_warp();  // lane 0 arrives for all: their reads come first
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

// Has TMA bring a tile of `rows` positions; its bytes must be expected by `full`.
template <int D, int rows>
__device__ __forceinline__ void load_tile(char* to, const CUtensorMap& map, Barrier& full, int position, int head, int batch) {
#pragma unroll
    for (int part = 0; part < parts<D>; ++part)
        tma_load(to + part * rows * row_bytes, map, full, part * part_columns, position, head, batch);
}

// d (64 x N) = or += A · Bᵀ over D columns, A and B tiles of `a_rows` and N rows.
template <class T, int D, int N, int a_rows>
__device__ __forceinline__ void start_inner(float (&d)[N / 2], std::uint32_t a, std::uint32_t b) {
    hold(d);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        const int part = step / 4 * row_bytes, column = step % 4 * along_row;
        wgmma<T, N, false, false>(d, descriptor(a + part * a_rows + column, 0), descriptor(b + part * N + column, 0), step > 0);
    }
    wgmma_commit();
}

// d (64 x D) += P · B, B a tile of `rows` rows.
template <class T, int D, int rows>
__device__ __forceinline__ void start_outer(float (&d)[D / 2], std::uint32_t (&p)[rows / 16][4], std::uint32_t b) {
    hold(d);
#pragma unroll
    for (int step = 0; step < rows / 16; ++step) hold(p[step]);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < rows / 16; ++step)
        wgmma<T, D, true>(d, p[step], descriptor(b + step * down_rows, rows * row_bytes), true);
    wgmma_commit();
}

// Accumulators as the left operand of the next product.
template <class T, int N> __device__ __forceinline__ void keep(std::uint32_t (&p)[N / 8][4], const float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 2) p[i / 8][i / 2 % 4] = pair<T>(d[i], d[i + 1]);
}

template <int N> __device__ __forceinline__ void scale_rows(float (&d)[N], float first, float second) {
#pragma unroll
    for (int i = 0; i < N; ++i) d[i] *= i / 2 % 2 == 0 ? first : second;
}

inline constexpr int turn_barrier = 1;   // and 2: it is the turn of consumer 0, of consumer 1
inline constexpr int group_barrier = 3;  // and 4: all threads of consumer 0, of consumer 1

// Writes 64 rows over a consumer's own half of a tile of 128, which only its products have read, and has TMA store them from
// `position` on; rows >= T are not written. All products that read the half must be waited for.
template <class T, int D>
__device__ __forceinline__ void store_rows(const float (&d)[D / 2], char* half, const CUtensorMap& map, int consumer, int position,
                                           int head, int batch) {
    const int thread = threadIdx.x % group_threads;
    named_wait(group_barrier + consumer, group_threads);  // no other warp of the consumer still reads
    const std::uint32_t base = shared_address(half);
#pragma unroll
    for (int i = 0; i < D / 2; i += 2) {
        const int column = accumulator_column(thread, i);
        const int part_row = column / part_columns * tile_rows + accumulator_row(thread, i);
        const int offset = part_row * row_bytes + column % part_columns * 2;
        *reinterpret_cast<std::uint32_t*>(half + (swizzled(base + offset) - base)) = pair<T>(d[i], d[i + 1]);
    }
    writes_before_async();
    named_wait(group_barrier + consumer, group_threads);
    if (thread == 0) {
#pragma unroll
        for (int part = 0; part < parts<D>; ++part)
            tma_store(map, half + part * tile_rows * row_bytes, part * part_columns, position, head, batch);
        tma_stores_have_read();
    }
}

// --- host ---

template <class Parameters>
void launch(void (*kernel)(Parameters), const Parameters& parameters, const Order& order, int shared, cudaStream_t stream) {
    const char* const what = "attention on sm_90a";
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), what);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(order.blocks());
    config.blockDim = dim3(block_threads);
    config.dynamicSmemBytes = static_cast<std::size_t>(shared);
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, parameters), what);
    check(cudaGetLastError(), what);
}

// The kernels of other binaries than sm_90a's are empty and need next to no registers.
template <class Parameters> bool built_for_hopper(void (*kernel)(Parameters)) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.numRegs > 100;
}

// All but the kernels themselves: the numbers, and the card. Makes `device` current where it is true.
inline bool takes(const Attention& op, int device) {
    if (op.dtype != DType::bf16 && op.dtype != DType::f16) return false;
    if (op.head_dim != 64 && op.head_dim != 128) return false;
    constexpr std::int64_t rows = std::int64_t{1} << 30;  // of lse; the kernels count them, and positions, in an int
    if (op.positions >= rows || op.positions * op.heads >= rows || op.positions * op.heads * op.batch >= rows) return false;
    int major = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    if (major != 9) return false;
    check(cudaSetDevice(device), "cudaSetDevice");
    return true;
}

}  // namespace pynanochat::cuda::sm90
