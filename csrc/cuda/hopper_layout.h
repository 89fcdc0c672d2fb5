// Where the elements of a tile lie in shared memory and in the registers of a warpgroup, for Hopper's TMA and wgmma.
// Plain arithmetic, which the kernels and tests/cuda/emulator both follow.
//
// Tile: `rows` x 64 elements of 16 bits, a row 128 bytes, the base a multiple of 1,024 bytes, swizzled by 128 bytes: of every
// shared address the bits 4 to 6 (which 16 bytes of the row) are xored with the bits 7 to 9 (which of eight rows). TMA writes
// tiles so and wgmma reads them so. A tile that is wider is `parts` of these, one after the other.
//
// Descriptor of an operand of wgmma: bits 0-13 address / 16, 16-29 leading offset / 16, 32-45 stride offset / 16, 62-63 the
// swizzle (1 = 128 bytes). What the two offsets mean depends on which index runs along the row:
//   along the inner dimension (k):  stride = from eight rows to the next eight; the leading offset is not used
//   along m or n ("transposed"):    stride = from eight rows (k) to the next eight; leading = from one part of 64 to the next
// Sixteen steps of k are one wgmma: 32 bytes further along a row, or 16 rows (2,048 bytes) further down.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define PYNANOCHAT_BOTH __host__ __device__
#else
#define PYNANOCHAT_BOTH
#endif

namespace pynanochat::cuda::sm90 {

constexpr int part_columns = 64;   // elements
constexpr int row_bytes = 128;
constexpr int eight_rows = 1024;   // bytes; also what a tile's base must be a multiple of
constexpr int along_row = 32;      // bytes of 16 elements
constexpr int down_rows = 2048;    // bytes of 16 rows

PYNANOCHAT_BOTH constexpr std::uint32_t swizzled(std::uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

// The descriptor of an operand at shared address `address`; `part_bytes` is read only by transposed operands.
PYNANOCHAT_BOTH constexpr std::uint64_t descriptor(std::uint32_t address, std::uint32_t part_bytes) {
    return static_cast<std::uint64_t>(address >> 4 & 0x3fff) | static_cast<std::uint64_t>(part_bytes >> 4 & 0x3fff) << 16 |
           static_cast<std::uint64_t>(eight_rows >> 4) << 32 | std::uint64_t{1} << 62;
}

// Row and column of the accumulator d[i] of thread `thread` of a warpgroup, in the 64 x n result of a wgmma. The A operand in
// registers has the same order: its four registers of 16 columns hold the pairs d[0..1], d[2..3], d[4..5], d[6..7].
PYNANOCHAT_BOTH constexpr int accumulator_row(int thread, int i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
PYNANOCHAT_BOTH constexpr int accumulator_column(int thread, int i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

}  // namespace pynanochat::cuda::sm90
