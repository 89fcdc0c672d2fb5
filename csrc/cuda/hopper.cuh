// Hopper's instructions as functions: mbarriers, TMA, wgmma, named barriers, registers of a warpgroup. sm_90a only.
// tests/cuda/emulator/cuda/hopper.cuh is the same interface on the CPU.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/hopper_layout.h"
#include "cuda/shared.cuh"

namespace pynanochat::cuda::sm90 {

using Barrier = std::uint64_t;  // in shared memory

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- mbarriers ---
// A barrier counts arrivals and bytes that TMA has yet to write. When both are done, its phase ends and the counts start anew.

__device__ __forceinline__ void barrier_start(Barrier& barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}

// After barrier_start and before the __syncthreads() that lets others use the barriers: TMA sees them too.
__device__ __forceinline__ void barriers_started() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Barrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// Arrives, and has the phase wait for `bytes` more of TMA.
__device__ __forceinline__ void barrier_expect(Barrier& barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes) : "memory");
}

// Waits for the end of the phase of this parity: 0 the first, 1 the second ... For a fresh barrier parity 1 has ended already.
__device__ __forceinline__ void barrier_wait(Barrier& barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra over;\n"
        "bra again;\n"
        "over:\n"
        "}\n" ::"r"(shared_address(&barrier)), "r"(parity)
        : "memory");
}

// --- TMA ---

__device__ __forceinline__ void tma_prefetch(const CUtensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// One thread: a box of a tensor_map(), whose axes are (column, head, position, batch), to shared memory. What lies out of bounds
// becomes zero, and counts.
__device__ __forceinline__ void tma_load(void* to, const CUtensorMap& map, Barrier& barrier, int column, int position, int head,
                                         int batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
                     shared_address(to)),
                 "l"(&map), "r"(column), "r"(head), "r"(position), "r"(batch), "r"(shared_address(&barrier))
                 : "memory");
}

// One thread: a box of shared memory to global. What lies out of bounds is not written.
__device__ __forceinline__ void tma_store(const CUtensorMap& map, const void* from, int column, int position, int head, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map), "r"(column),
                 "r"(head), "r"(position), "r"(batch), "r"(shared_address(from))
                 : "memory");
}

// One thread: adds `bytes` of floats in shared memory to as many in global memory, all multiples of 16. Each addition is whole, and
// they come in no fixed order.
__device__ __forceinline__ void tma_add(float* to, const float* from, int bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
                 "r"(shared_address(from)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void tma_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// The thread that stored or added waits until that has read shared memory, which must live so long.
__device__ __forceinline__ void tma_stores_have_read() {
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

// What this thread wrote to shared memory is seen by TMA and wgmma that start after it (and after a barrier, for others' threads).
__device__ __forceinline__ void writes_before_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- warpgroups ---

template <int registers> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// Named barrier `id` (1 to 15; __syncthreads is 0) of `threads`: those that wait and those that only arrive.
__device__ __forceinline__ void named_wait(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- wgmma: 64 x N += (64 x 16) · (16 x N), fp32 accumulators; started by all threads of a warpgroup, done after a wait ---

__device__ __forceinline__ void meet_warp() { __syncwarp(); }

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// All but the last `pending` groups are done.
template <int pending> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Keeps the compiler from moving uses of registers that wgmma writes or reads across this place.
template <class T, int N> __device__ __forceinline__ void hold(T (&registers)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if constexpr (std::is_same_v<T, float>)
            asm volatile("" : "+f"(registers[i])::"memory");
        else
            asm volatile("" : "+r"(registers[i])::"memory");
    }
}

#define PYNANOCHAT_D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define PYNANOCHAT_D32(i) PYNANOCHAT_D8(i), PYNANOCHAT_D8(i + 8), PYNANOCHAT_D8(i + 16), PYNANOCHAT_D8(i + 24)
#define PYNANOCHAT_D16 PYNANOCHAT_D8(0), PYNANOCHAT_D8(8)
#define PYNANOCHAT_D64 PYNANOCHAT_D32(0), PYNANOCHAT_D32(32)
#define PYNANOCHAT_R16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PYNANOCHAT_R32                                                                       \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PYNANOCHAT_R64                                                                               \
    PYNANOCHAT_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                   "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
// The operands after the accumulators: `a`, `b`, then the flag that adds to d rather than overwrites it, then what is transposed.
#define PYNANOCHAT_WGMMA(n, type, registers, a, b, flag, last, outputs, ...)                                             \
    asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" flag ", 0;\n"                                                \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, " a ", %" b ", more, 1, 1, " \
                 last ";\n}\n"                                                                                           \
                 : outputs                                                                                               \
                 : __VA_ARGS__)

// Both operands in shared memory, k along their rows but where they are transposed.
template <class T, int N, bool transposed_a, bool transposed_b>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add) {
    constexpr bool bf16 = std::is_same_v<T, __nv_bfloat16>;
#define PYNANOCHAT_INPUTS "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(transposed_a ? 1 : 0), "n"(transposed_b ? 1 : 0)
    if constexpr (N == 128 && bf16)
        PYNANOCHAT_WGMMA("128", "bf16", PYNANOCHAT_R64, "%64", "65", "66", "%67, %68", PYNANOCHAT_D64, PYNANOCHAT_INPUTS);
    else if constexpr (N == 128)
        PYNANOCHAT_WGMMA("128", "f16", PYNANOCHAT_R64, "%64", "65", "66", "%67, %68", PYNANOCHAT_D64, PYNANOCHAT_INPUTS);
    else if constexpr (N == 64 && bf16)
        PYNANOCHAT_WGMMA("64", "bf16", PYNANOCHAT_R32, "%32", "33", "34", "%35, %36", PYNANOCHAT_D32(0), PYNANOCHAT_INPUTS);
    else if constexpr (N == 64)
        PYNANOCHAT_WGMMA("64", "f16", PYNANOCHAT_R32, "%32", "33", "34", "%35, %36", PYNANOCHAT_D32(0), PYNANOCHAT_INPUTS);
    else if constexpr (N == 32 && bf16)
        PYNANOCHAT_WGMMA("32", "bf16", PYNANOCHAT_R16, "%16", "17", "18", "%19, %20", PYNANOCHAT_D16, PYNANOCHAT_INPUTS);
    else if constexpr (N == 32)
        PYNANOCHAT_WGMMA("32", "f16", PYNANOCHAT_R16, "%16", "17", "18", "%19, %20", PYNANOCHAT_D16, PYNANOCHAT_INPUTS);
    else
        static_assert(N == 128);
#undef PYNANOCHAT_INPUTS
}

// The first operand in registers: four pairs of elements, as accumulator_row() and accumulator_column() say.
template <class T, int N, bool transposed_b>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
    constexpr bool bf16 = std::is_same_v<T, __nv_bfloat16>;
#define PYNANOCHAT_INPUTS \
    "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(transposed_b ? 1 : 0)
#define PYNANOCHAT_A64 "{%64, %65, %66, %67}"
#define PYNANOCHAT_A32 "{%32, %33, %34, %35}"
    if constexpr (N == 128 && bf16)
        PYNANOCHAT_WGMMA("128", "bf16", PYNANOCHAT_R64, PYNANOCHAT_A64, "68", "69", "%70", PYNANOCHAT_D64, PYNANOCHAT_INPUTS);
    else if constexpr (N == 128)
        PYNANOCHAT_WGMMA("128", "f16", PYNANOCHAT_R64, PYNANOCHAT_A64, "68", "69", "%70", PYNANOCHAT_D64, PYNANOCHAT_INPUTS);
    else if constexpr (N == 64 && bf16)
        PYNANOCHAT_WGMMA("64", "bf16", PYNANOCHAT_R32, PYNANOCHAT_A32, "36", "37", "%38", PYNANOCHAT_D32(0), PYNANOCHAT_INPUTS);
    else if constexpr (N == 64)
        PYNANOCHAT_WGMMA("64", "f16", PYNANOCHAT_R32, PYNANOCHAT_A32, "36", "37", "%38", PYNANOCHAT_D32(0), PYNANOCHAT_INPUTS);
    else
        static_assert(N == 128);
#undef PYNANOCHAT_INPUTS
}

// --- arithmetic ---

__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two numbers rounded to T in one register, the first in the lower half.
template <class T> __device__ __forceinline__ std::uint32_t pair(float first, float second) {
    std::uint32_t both;
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

}  // namespace pynanochat::cuda::sm90
