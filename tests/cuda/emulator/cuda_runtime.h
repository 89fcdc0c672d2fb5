// CUDA on the CPU, for tests: enough of the language and runtime that csrc/cuda compiles with g++ and its kernels run.
//
// Every thread of a block is a coroutine; blocks run one after the other, and a warp runs as far ahead of the others as barriers
// let it, which shows where one is missing. The blocks of a cooperative launch are all there at once and take turns: each runs as
// far as it can without the others, in an order that turns round each time. Their shared memory must be dynamic. A thread stops at a
// shuffle until its whole warp has arrived, and at __syncthreads until its whole block has. EMULATED_ORDER=forth or =back has the
// first or the last warps run ahead even further, the others only when those can do nothing, and =back runs the last blocks first: a
// GPU promises no order. A warp or block in which a thread has returned, or waits for something else, is a bug of the kernel
// (undefined on a GPU) and fails the launch. Timing, memory order between barriers and the precision of the hardware's
// approximations are not emulated.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time, on one thread of the CPU
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x_ = 1) : x(x_) {}
};
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchFailure = 719 };
using cudaStream_t = struct EmulatedStream*;
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int cooperative;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    cudaLaunchAttribute* attrs = nullptr;
    unsigned numAttrs = 0;
};

namespace emulator {

inline std::string failure;  // of the last launch

enum class Wait { nothing, warp, block, event };

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Wait wait = Wait::nothing;
    std::function<bool()> happened;  // what a thread that waits for an event waits for
    bool finished = false;
    unsigned shuffles = 0;
};

struct Block {
    std::vector<Thread> threads;
    std::vector<float> slots[2];  // what threads give to a shuffle; two, as fast threads reach the next one early
    ucontext_t scheduler;
    unsigned running = 0;
    std::exception_ptr error;  // that a thread threw
    std::unique_ptr<unsigned char[]> dynamic_shared;
    unsigned index = 0;
};
inline Block* block = nullptr;
inline unsigned blocks_begun = 0;
inline bool (*when_all_wait)() = nullptr;  // lets something that is late happen; false where nothing is outstanding
inline void (*when_block_ends)() = nullptr;  // throws where something is outstanding that must not be

inline void stop(Wait wait) {
    Thread& self = block->threads[block->running];
    self.wait = wait;
    swapcontext(&self.context, &block->scheduler);
}

inline void wait_for(std::function<bool()> event) {
    if (event()) return;
    block->threads[block->running].happened = std::move(event);
    stop(Wait::event);
}

inline void give_way() {
    block->threads[block->running].happened = [] { return true; };
    stop(Wait::event);
}

template <class F> struct Start {
    static inline F* body;
    static void run() {
        try {
            (*body)();
        } catch (...) {
            block->error = std::current_exception();
        }
        Thread& self = block->threads[block->running];
        self.finished = true;
        swapcontext(&self.context, &block->scheduler);
    }
};

// True once every thread of [first, last) waits for `wait`, which releases them. Throws where that can never be.
inline bool release(unsigned first, unsigned last, Wait wait) {
    unsigned waiting = 0, finished = 0;
    for (unsigned i = first; i < last; ++i) {
        waiting += !block->threads[i].finished && block->threads[i].wait == wait;
        finished += block->threads[i].finished;
    }
    if (waiting == 0) return false;
    if (finished > 0) throw std::runtime_error(wait == Wait::warp ? "a shuffle misses threads that returned" : "a barrier misses threads that returned");
    if (waiting < last - first) return false;
    for (unsigned i = first; i < last; ++i) block->threads[i].wait = Wait::nothing;
    return true;
}

enum class Order { in_turn, forth, back };
inline Order order() {
    static const char* const name = std::getenv("EMULATED_ORDER");
    return name == nullptr ? Order::in_turn : std::string(name) == "back" ? Order::back : Order::forth;
}
inline unsigned in_order(unsigned n, unsigned count) { return order() == Order::back ? count - 1 - n : n; }

// A block whose threads have not begun.
template <class F> std::unique_ptr<Block> begin_block(unsigned index, unsigned threads, std::size_t shared_bytes, F& body) {
    if (threads == 0 || threads > 1024 || threads % 32 != 0) throw std::runtime_error("a block must be 1 to 32 whole warps");
    auto here = std::make_unique<Block>();
    here->index = index;
    here->threads = std::vector<Thread>(threads);
    for (auto& slots : here->slots) slots.resize(threads);
    here->dynamic_shared.reset(new unsigned char[shared_bytes]);
    std::memset(here->dynamic_shared.get(), 0xff, shared_bytes);  // NaN in every format
    Start<F>::body = &body;
    constexpr std::size_t stack_bytes = 64 << 10;
    for (Thread& thread : here->threads) {
        thread.stack.reset(new char[stack_bytes]);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = stack_bytes;
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, &Start<F>::run, 0);
    }
    return here;
}

enum class Went { on, nowhere, to_its_end };

// Lets every warp of a block run as far as its own barriers let it.
inline Went run_once(Block& here) {
    bool moved = false, all_done = true;
    const unsigned threads = here.threads.size(), warps = threads / 32;
    block = &here;
    blockIdx = dim3(here.index);
    for (unsigned n = 0; n < warps && !(moved && order() != Order::in_turn); ++n) {
        const unsigned warp = in_order(n, warps) * 32;
        do {
            for (unsigned i = warp; i < warp + 32; ++i) {
                Thread& thread = here.threads[i];
                all_done &= thread.finished;
                if (thread.wait == Wait::event && thread.happened()) thread.wait = Wait::nothing;
                if (thread.finished || thread.wait != Wait::nothing) continue;
                here.running = i;
                threadIdx = dim3(i);
                swapcontext(&here.scheduler, &thread.context);
                if (here.error) std::rethrow_exception(here.error);
                moved = true;
            }
        } while (release(warp, warp + 32, Wait::warp));
    }
    if (moved && order() != Order::in_turn) return Went::on;
    if (all_done) return Went::to_its_end;
    return release(0, threads, Wait::block) || moved ? Went::on : Went::nowhere;
}

[[noreturn]] inline void stuck() { throw std::runtime_error("threads wait for each other at different shuffles or barriers"); }

template <class F> void run_block(unsigned index, unsigned threads, std::size_t shared_bytes, F body) {
    const auto here = begin_block(index, threads, shared_bytes, body);
    ++blocks_begun;
    for (Went went = Went::on; went != Went::to_its_end;) {
        went = run_once(*here);
        if (went == Went::nowhere && (when_all_wait == nullptr || !when_all_wait())) stuck();
    }
    if (when_block_ends != nullptr) when_block_ends();
    block = nullptr;
}

template <class F> void run_together(unsigned count, unsigned threads, std::size_t shared_bytes, F body) {
    std::vector<std::unique_ptr<Block>> blocks;
    for (unsigned index = 0; index < count; ++index) blocks.push_back(begin_block(index, threads, shared_bytes, body));
    for (bool forward = true, done = false; !done; forward = !forward) {
        bool moved = false;
        done = true;
        for (unsigned turn = 0; turn < count; ++turn) {
            Block& here = *blocks[forward ? turn : count - 1 - turn];
            Went went = run_once(here);
            moved |= went == Went::on;
            while (went == Went::on) went = run_once(here);
            done &= went == Went::to_its_end;
        }
        if (!moved && !done) stuck();
    }
    block = nullptr;
}

}  // namespace emulator

template <class T> T __shfl_xor_sync(unsigned mask, T value, unsigned offset) {
    static_assert(sizeof(T) == sizeof(float));
    if (mask != 0xffffffffu) throw std::runtime_error("only shuffles of a whole warp are emulated");
    emulator::Thread& self = emulator::block->threads[emulator::block->running];
    auto& slots = emulator::block->slots[self.shuffles++ % 2];
    const unsigned me = emulator::block->running;
    std::memcpy(&slots[me], &value, sizeof value);
    emulator::stop(emulator::Wait::warp);
    std::memcpy(&value, &slots[me ^ offset], sizeof value);
    return value;
}
inline void __syncthreads() { emulator::stop(emulator::Wait::block); }

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
    try {
        blockDim = config->blockDim;
        gridDim = config->gridDim;
        const auto body = [&] { kernel(P(arguments)...); };
        const unsigned blocks = config->gridDim.x, threads = config->blockDim.x;
        const bool together = config->numAttrs == 1 && config->attrs[0].val.cooperative;
        if (together) emulator::run_together(blocks, threads, config->dynamicSmemBytes, body);
        else
            for (unsigned b = 0; b < blocks; ++b)
                emulator::run_block(emulator::in_order(b, blocks), threads, config->dynamicSmemBytes, body);
    } catch (const std::exception& error) {
        emulator::failure = error.what();
        return cudaErrorLaunchFailure;
    }
    return cudaSuccess;
}
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class F> cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) { return cudaSuccess; }
struct cudaFuncAttributes {
    int numRegs = 0;
};
template <class F> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, F*) { return attributes->numRegs = 255, cudaSuccess; }
template <class F> cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F*, int, std::size_t) { return *blocks = 1, cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    if (which == cudaDevAttrMultiProcessorCount) return *value = 20, cudaSuccess;
    const char* major = std::getenv("EMULATED_COMPUTE_CAPABILITY");  // 8 or 9
    return *value = major != nullptr ? std::atoi(major) : 8, cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
    return std::memset(to, value, bytes), cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulator"; }
inline const char* cudaGetErrorString(cudaError_t) { return emulator::failure.c_str(); }

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return std::fabs(b) > 8.5e37f && std::fabs(b) < INFINITY ? 0.0f : a / b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
