// csrc/cuda/hopper.cuh on the CPU: mbarriers, TMA, wgmma, named barriers. What is asynchronous happens as late as it may:
//   a load makes its target NaN when it starts, and brings the bytes only when every thread of the block waits, newest first: who
//   reads too early gets NaN, and so does a product that still reads what is being replaced;
//   a product is computed only when its warpgroup waits for it, from the shared memory and the registers of that moment;
//   a store or an addition reads shared memory only when its thread waits for that, and a block must not end before.
// With EMULATED_ORDER=back products, stores and additions happen as early as they may instead: who starts them too early shows.
// Layouts are written here a second time, from the PTX manual: which bytes a descriptor means, which element a register holds.
// Not emulated: the order of memory between ordinary and asynchronous accesses (writes_before_async, wgmma_fence), that warps of
// a warpgroup run apart (they meet at every wgmma_wait here), and the limits of registers.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <map>
#include <type_traits>

#include "cuda/hopper_layout.h"
#include "cuda/shared.cuh"

namespace emulator::sm90 {

constexpr std::uint32_t dynamic_shared_begins = 2048;  // a shared address, at a kilobyte: behind what is the system's and a kernel's own

struct Arrivals {
    int each_phase = 0, missing = 0;
    std::int64_t bytes = 0;  // that TMA has yet to write
    unsigned phase = 0;

    void settle() {
        if (missing < 0) throw std::runtime_error("an mbarrier has more arrivals than its phase takes");
        if (missing > 0 || bytes != 0) return;
        ++phase;
        missing = each_phase;
    }
};

struct Meeting {  // a named barrier, or a warpgroup at wgmma_wait
    int arrived = 0;
    unsigned times = 0;

    bool arrive(int threads) {
        if (++arrived < threads) return false;
        arrived = 0;
        ++times;
        return true;
    }
};

struct Product {
    int columns;
    bool bf16, a_in_registers, transposed_a, transposed_b, add;
    std::uint64_t a_descriptor, b_descriptor;
    std::array<float*, 128> d{};
    std::array<const std::uint32_t*, 128> a{};

    bool same(const Product& other) const {
        return columns == other.columns && bf16 == other.bf16 && a_in_registers == other.a_in_registers &&
               transposed_a == other.transposed_a && transposed_b == other.transposed_b && add == other.add && a_descriptor == other.a_descriptor &&
               b_descriptor == other.b_descriptor;
    }
};

struct Warpgroup {
    std::vector<Product> products;
    std::size_t computed = 0;
    std::array<std::size_t, 128> started{};
    std::array<std::vector<std::size_t>, 128> committed{};  // for each group of a thread the number of products up to its end
    Meeting waits;

    void compute_to(std::size_t end);
};

struct HopperBlock {
    std::map<const void*, Arrivals> barriers;
    std::map<int, Meeting> named;
    std::vector<std::function<void()>> loads;
    std::map<unsigned, std::vector<std::function<void()>>> stores;  // by thread
    std::map<unsigned, Warpgroup> warpgroups;
    unsigned block = 0;
};

inline HopperBlock& hopper() {
    static HopperBlock state;
    if (state.block != blocks_begun) {
        state = {};
        state.block = blocks_begun;
        when_all_wait = [] {
            auto& loads = hopper().loads;
            if (loads.empty()) return false;
            const auto load = std::move(loads.back());
            loads.pop_back();
            load();
            return true;
        };
        when_block_ends = [] {
            for (const auto& [thread, stores] : hopper().stores)
                if (!stores.empty()) throw std::runtime_error("a block ends while TMA may still read its shared memory");
        };
    }
    return state;
}

inline Arrivals& arrivals(const void* barrier) {
    const auto found = hopper().barriers.find(barrier);
    if (found == hopper().barriers.end()) throw std::runtime_error("an mbarrier is used before it is started");
    return found->second;
}

inline char* at_shared(std::uint32_t address) { return reinterpret_cast<char*>(block->dynamic_shared.get()) + (address - dynamic_shared_begins); }
inline std::uint32_t address_of(const void* pointer) {
    return static_cast<std::uint32_t>(reinterpret_cast<const char*>(pointer) - reinterpret_cast<char*>(block->dynamic_shared.get())) + dynamic_shared_begins;
}
// 16-byte unit c of 128-byte line r of an aligned kilobyte lies at unit c xor r % 8.
inline char* at_swizzled(std::uint32_t address) {
    const std::uint32_t line = address / 128, unit = address / 16 % 8;
    return at_shared(line * 128 + (unit ^ line % 8) * 16 + address % 16);
}

// Calls body(shared, global, inside) for each element of a box; `global` is null out of bounds.
template <class F> void each_of_box(const CUtensorMap& map, std::uint32_t shared, const std::array<int, 4>& corner, F body) {
    if (shared % 128 != 0) throw std::runtime_error("a TMA box in shared memory must be aligned to 128 bytes");
    std::array<unsigned, 4> i{};
    std::uint32_t address = shared;
    for (i[3] = 0; i[3] < map.box[3]; ++i[3])
        for (i[2] = 0; i[2] < map.box[2]; ++i[2])
            for (i[1] = 0; i[1] < map.box[1]; ++i[1])
                for (i[0] = 0; i[0] < map.box[0]; ++i[0], address += 2) {
                    char* global = map.data;
                    bool inside = true;
                    for (int axis = 0; axis < 4; ++axis) {
                        const std::int64_t index = std::int64_t{corner[axis]} + i[axis];
                        inside &= index >= 0 && index < static_cast<std::int64_t>(map.dims[axis]);
                        if (inside) global += index * static_cast<std::int64_t>(map.strides[axis]);
                    }
                    body(at_swizzled(address), inside ? global : nullptr);
                }
}

inline float decoded(std::uint16_t bits, bool bf16) { return bf16 ? __bfloat162float({bits}) : __half2float({bits}); }

// Element (i, k) of the operand that a descriptor means; i runs along m or n, k in [0, 16).
inline float element(std::uint64_t descriptor, int i, int k, bool transposed, bool bf16) {
    const auto field = [&](int bit) { return static_cast<std::uint32_t>(descriptor >> bit & 0x3fff) << 4; };
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) throw std::runtime_error("a descriptor without the 128-byte swizzle, or with a base offset");
    const std::uint32_t base = field(0), leading = field(16), stride = field(32);
    const std::uint32_t offset = transposed ? i / 64 * leading + i % 64 * 2 + k / 8 * stride + k % 8 * 128
                                            : i / 8 * stride + i % 8 * 128 + k * 2;
    std::uint16_t bits;
    std::memcpy(&bits, at_swizzled(base + offset), 2);
    return decoded(bits, bf16);
}

inline void compute(const Product& product) {
    std::vector<float> a(64 * 16), b(product.columns * 16);
    for (int m = 0; m < 64; ++m)
        for (int k = 0; k < 16; ++k) {
            // register 0: row g, columns 2t; 1: row g + 8; 2: row g, columns 8 + 2t; 3: both; the lower half first
            const int thread = m / 16 * 32 + m % 8 * 4 + k % 8 / 2, which = m % 16 / 8 + k / 8 * 2;
            a[m * 16 + k] = product.a_in_registers ? decoded(product.a[thread][which] >> k % 2 * 16 & 0xffff, product.bf16)
                                                   : element(product.a_descriptor, m, k, product.transposed_a, product.bf16);
        }
    for (int n = 0; n < product.columns; ++n)
        for (int k = 0; k < 16; ++k) b[n * 16 + k] = element(product.b_descriptor, n, k, product.transposed_b, product.bf16);
    for (int m = 0; m < 64; ++m)
        for (int n = 0; n < product.columns; ++n) {
            float& d = product.d[m / 16 * 32 + m % 8 * 4 + n % 8 / 2][n / 8 * 4 + m % 16 / 8 * 2 + n % 2];
            float sum = product.add ? d : 0.0f;
            for (int k = 0; k < 16; ++k) sum += a[m * 16 + k] * b[n * 16 + k];
            d = sum;
        }
}

inline void Warpgroup::compute_to(std::size_t end) {
    for (; computed < end; ++computed) compute(products[computed]);
}

// A store or an addition of this thread.
inline void bring_out(std::function<void()> store) {
    if (order() == Order::back) store();
    else hopper().stores[threadIdx.x].push_back(std::move(store));
}

inline Warpgroup& warpgroup() { return hopper().warpgroups[threadIdx.x / 128]; }

inline void start(const Product& product, float* d, const std::uint32_t* a) {
    Warpgroup& group = warpgroup();
    const unsigned me = threadIdx.x % 128;
    const std::size_t index = group.started[me]++;
    if (index == group.products.size()) group.products.push_back(product);
    Product& shared = group.products.at(index);
    if (!shared.same(product)) throw std::runtime_error("the threads of a warpgroup start different products");
    shared.d[me] = d;
    shared.a[me] = a;
}

}  // namespace emulator::sm90

namespace pynanochat::cuda::sm90 {

using Barrier = std::uint64_t;

inline std::uint32_t shared_address(const void* pointer) { return emulator::sm90::address_of(pointer); }

inline void barrier_start(Barrier& barrier, unsigned arrivals) {
    emulator::sm90::hopper().barriers[&barrier] = {static_cast<int>(arrivals), static_cast<int>(arrivals)};
}
inline void barriers_started() {}
inline void meet_warp() { emulator::stop(emulator::Wait::warp); }
inline void barrier_arrive(Barrier& barrier) {
    emulator::sm90::Arrivals& state = emulator::sm90::arrivals(&barrier);
    --state.missing;
    state.settle();
    if (emulator::order() == emulator::Order::forth) emulator::give_way();  // to those who waited for that
}
inline void barrier_expect(Barrier& barrier, unsigned bytes) {
    emulator::sm90::Arrivals& state = emulator::sm90::arrivals(&barrier);
    state.bytes += bytes;
    --state.missing;
    state.settle();
}
inline void barrier_wait(Barrier& barrier, unsigned parity) {
    emulator::wait_for([&barrier, parity] { return emulator::sm90::arrivals(&barrier).phase % 2 != parity; });
}

inline void tma_prefetch(const CUtensorMap&) {}
inline void tma_load(void* to, const CUtensorMap& map, Barrier& barrier, int column, int position, int head, int batch) {
    const std::uint32_t shared = shared_address(to);
    const std::array<int, 4> corner{column, head, position, batch};
    emulator::sm90::each_of_box(map, shared, corner, [](char* here, char*) { std::memset(here, 0xff, 2); });
    emulator::sm90::hopper().loads.push_back([&map, &barrier, shared, corner] {
        emulator::sm90::Arrivals& state = emulator::sm90::arrivals(&barrier);
        emulator::sm90::each_of_box(map, shared, corner, [&](char* here, char* there) {
            if (there != nullptr) std::memcpy(here, there, 2);
            else std::memset(here, 0, 2);
            state.bytes -= 2;
        });
        state.settle();
    });
}
inline void tma_store(const CUtensorMap& map, const void* from, int column, int position, int head, int batch) {
    const std::uint32_t shared = shared_address(from);
    const std::array<int, 4> corner{column, head, position, batch};
    emulator::sm90::bring_out([&map, shared, corner] {
        emulator::sm90::each_of_box(map, shared, corner, [](char* here, char* there) {
            if (there != nullptr) std::memcpy(there, here, 2);
        });
    });
}
inline void tma_add(float* to, const float* from, int bytes) {
    if (shared_address(from) % 16 != 0 || reinterpret_cast<std::uintptr_t>(to) % 16 != 0 || bytes % 16 != 0)
        throw std::runtime_error("TMA adds multiples of 16 bytes, from and to multiples of 16");
    emulator::sm90::bring_out([to, from, bytes] {
        for (int i = 0; i < bytes / 4; ++i) to[i] += from[i];
    });
}
inline void tma_commit() {}
inline void tma_stores_have_read() {
    auto& stores = emulator::sm90::hopper().stores[threadIdx.x];
    for (const auto& store : stores) store();
    stores.clear();
}
inline void writes_before_async() {}

template <int registers> void fewer_registers() {}
template <int registers> void more_registers() {}

inline void named_arrive(int id, int threads) { emulator::sm90::hopper().named[id].arrive(threads); }
inline void named_wait(int id, int threads) {
    emulator::sm90::Meeting& meeting = emulator::sm90::hopper().named[id];
    const unsigned times = meeting.times;
    if (!meeting.arrive(threads)) emulator::wait_for([&meeting, times] { return meeting.times != times; });
}

inline void wgmma_fence() {}
inline void wgmma_commit() {
    emulator::sm90::Warpgroup& group = emulator::sm90::warpgroup();
    const unsigned me = threadIdx.x % 128;
    group.committed[me].push_back(group.started[me]);
    if (emulator::order() != emulator::Order::back) return;
    const std::size_t groups = group.committed[me].size();
    for (const auto& other : group.committed)
        if (other.size() < groups) return;
    group.compute_to(group.started[me]);
}
template <int pending> void wgmma_wait() {
    emulator::sm90::Warpgroup& group = emulator::sm90::warpgroup();
    const auto& committed = group.committed[threadIdx.x % 128];
    const unsigned times = group.waits.times;
    if (!group.waits.arrive(128)) return emulator::wait_for([&group, times] { return group.waits.times != times; });
    for (const auto& other : group.committed)
        if (other != committed) throw std::runtime_error("the threads of a warpgroup wait for different products");
    if (committed.size() <= pending) return;
    group.compute_to(committed[committed.size() - 1 - pending]);
}
template <class T, int N> void hold(T (&)[N]) {}

template <class T, int N, bool transposed_a, bool transposed_b>
void wgmma(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add) {
    emulator::sm90::start({N, std::is_same_v<T, __nv_bfloat16>, false, transposed_a, transposed_b, add, a, b}, d, nullptr);
}
template <class T, int N, bool transposed_b> void wgmma(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, bool add) {
    emulator::sm90::start({N, std::is_same_v<T, __nv_bfloat16>, true, false, transposed_b, add, 0, b}, d, a);
}

inline float fast_exp2(float x) { return std::exp2(x); }
template <class T> std::uint32_t pair(float first, float second) {
    const auto bits = [](float x) -> std::uint32_t {
        if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x).bits;
        else return __float2half_rn(x).bits;
    };
    return bits(first) | bits(second) << 16;
}

}  // namespace pynanochat::cuda::sm90
