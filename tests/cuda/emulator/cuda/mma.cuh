// csrc/cuda/mma.cuh on the CPU. It must be stricter than a GPU where a GPU would forgive:
//   a copy makes its target NaN at once and brings the bytes only when its thread waits for it, so whoever reads too early, or
//   still reads what is being replaced, gets NaN;
//   dynamic shared memory has exactly the bytes of the launch (ASan stands behind them) and is NaN when a block begins;
//   a warp whose lanes meet in different instructions fails the launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "cuda/shared.cuh"

namespace emulator {

struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool inside;
};

// What a lane hands to its warp: a row of a matrix, or its parts of A and B.
struct Offer {
    const char* instruction = nullptr;
    std::array<std::uint32_t, 6> words{};
};

struct LaneState {
    std::vector<std::vector<Copy>> groups{1};  // of copies; the last is still open
    Offer offers[2];                           // two, as fast lanes reach the next instruction early
    unsigned met = 0;
};
inline std::vector<LaneState> lanes;  // of the block
inline unsigned lanes_of_block = 0;

inline LaneState& lane_state() {
    if (lanes_of_block != blocks_begun) {  // a new block began
        lanes.assign(blockDim.x, {});
        lanes_of_block = blocks_begun;
    }
    return lanes[threadIdx.x];
}

inline void perform(std::vector<Copy>& group) {
    for (const Copy& copy : group) {
        if (copy.inside) std::memcpy(copy.to, copy.from, copy.bytes);
        else std::memset(copy.to, 0, copy.bytes);
    }
    group.clear();
}

inline void copy_later(void* to, const void* from, int bytes, bool inside) {
    if (reinterpret_cast<std::uintptr_t>(to) % bytes != 0 || reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
        throw std::runtime_error("an asynchronous copy is not aligned");
    std::memset(to, 0xff, bytes);
    lane_state().groups.back().push_back({to, from, bytes, inside});
}


struct Warp {
    unsigned first, slot;
    const Offer& operator[](unsigned lane) const { return lanes[first + lane].offers[slot]; }
};

inline Warp meet(const Offer& mine) {
    LaneState& self = lane_state();
    const unsigned slot = self.met++ % 2;
    self.offers[slot] = mine;
    stop(Wait::warp);
    const Warp warp{threadIdx.x / 32 * 32, slot};
    for (unsigned lane = 0; lane < 32; ++lane)
        if (warp[lane].instruction != mine.instruction) throw std::runtime_error("the lanes of a warp met in different instructions");
    return warp;
}

inline void load_matrices(unsigned (&to)[4], const void* row, bool transposed) {
    Offer mine{"ldmatrix"};
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) throw std::runtime_error("a matrix row is not aligned");
    std::memcpy(mine.words.data(), row, 16);
    const Warp warp = meet(mine);
    const unsigned lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
    const auto element = [&](unsigned matrix, unsigned i, unsigned j) {
        return warp[matrix * 8 + i].words[j / 2] >> (j % 2 * 16) & 0xffffu;
    };
    for (unsigned m = 0; m < 4; ++m)
        to[m] = transposed ? element(m, 2 * t, r) | element(m, 2 * t + 1, r) << 16
                           : element(m, r, 2 * t) | element(m, r, 2 * t + 1) << 16;
}

template <class T> float half_of(std::uint32_t word, unsigned which) {
    const std::uint16_t bits = word >> (which * 16);
    if constexpr (std::is_same_v<T, __half>) return __half2float({bits});
    else return __bfloat162float({bits});
}

template <class T> void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const Warp warp = meet({"mma", {a[0], a[1], a[2], a[3], b0, b1}});
    const unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; ++k) {
            const std::uint32_t left = warp[row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2];
            const std::uint32_t right = warp[column * 4 + k % 8 / 2].words[4 + k / 8];
            sum += half_of<T>(left, k % 2) * half_of<T>(right, k % 2);
        }
        c[i] += sum;
    }
}

}  // namespace emulator

namespace pynanochat::cuda {

inline void copy_async_16(void* to, const void* from, bool inside) { emulator::copy_later(to, from, 16, inside); }
inline void copy_async_4(void* to, const void* from, bool inside) { emulator::copy_later(to, from, 4, inside); }
inline void commit_copies() { emulator::lane_state().groups.emplace_back(); }
template <int N> void wait_copies() {
    auto& groups = emulator::lane_state().groups;  // the last is open: a wait leaves it and the N before it
    for (std::size_t i = 0; i + N + 1 < groups.size(); ++i) emulator::perform(groups[i]);
    if (groups.size() > N + 1) groups.erase(groups.begin(), groups.end() - (N + 1));
}
inline void load_matrices(unsigned (&to)[4], const void* row) { emulator::load_matrices(to, row, false); }
inline void load_matrices_transposed(unsigned (&to)[4], const void* row) { emulator::load_matrices(to, row, true); }
template <class T> void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulator::multiply<T>(c, a, b0, b1);
}
template <class T> unsigned pack(float first, float second) {
    const auto bits = [](float x) -> unsigned {
        if constexpr (std::is_same_v<T, __half>) return __float2half_rn(x).bits;
        else return __float2bfloat16_rn(x).bits;
    };
    return bits(first) | bits(second) << 16;
}
inline float exp2_fast(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }
inline void meet_warp() { emulator::meet({"syncwarp"}); }

}  // namespace pynanochat::cuda
