// The matrix iteration of Muon on a stack of matrices X (R, C) in bf16 or fp16: for each (a, b, c)
//
//   A = X·Xᵀ      P = b·A + c·A·A      X ← a·X + P·X          where R <= C
//   A = Xᵀ·X      P = b·A + c·A·A      X ← a·X + X·P          where R > C
//
// Three products, each one launch for the whole stack, summed in fp32 and rounded once. A and P are symmetric: only
// their tiles on and above the diagonal are computed, and each is written twice. No transposition is ever made:
// ldmatrix turns what lies the other way round in shared memory.
//
// A block does a tile of 128 x 128, its eight warps 64 x 32 each, from parts 32 deep that cp.async brings in three
// stages; 16-byte chunks lie in shared memory so that eight rows of a matrix load meet no bank twice. Sizes are
// multiples of 8 (the caller pads with zeros, which the iteration keeps), so that every chunk is either whole or
// outside.
//
// Bound: tensor cores, 2·m²·(2·M + m) FLOPs a step, with m and M the smaller and larger of R and C, of which symmetry
// saves nearly m²·(M + m). mma.sync reaches about two thirds of what wgmma does on Hopper: that version is owed there.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  cp.async, ldmatrix and mma.sync, tiles of 128 x 128 x 32, only the upper tiles of A and P
// Registers (ptxas 13.0, sm_80 and sm_90a): 122 to 128, no spills; 48 KiB of shared memory.
#include "cuda/muon_step.h"

#include <utility>

#include "cuda/check.cuh"
#include "cuda/mma.cuh"

namespace pynanochat::cuda {

namespace {

constexpr int chunk = 8;                               // elements of 16 bytes
constexpr int part = muon_tile * muon_depth;           // elements of a factor in one stage
constexpr int copies = part / chunk / muon_block;      // that a thread makes of each factor and stage
constexpr int warp_rows = 64, warp_columns = 32;       // of the tile that a warp does
constexpr int across = warp_rows / 16, down = warp_columns / 8;  // its products, in units of mma
constexpr int staged_row = muon_tile + chunk;          // of the result in shared memory
static_assert(muon_tile * staged_row * 2 <= muon_shared);

template <class Element> struct Product {  // out = scale · left · right + keep · add, for each of the stack; all dense
    const Element* left;   // (rows, depth), or (depth, rows)
    const Element* right;  // (depth, columns), or (columns, depth)
    const Element* add;    // (rows, columns), or null
    Element* out;          // (rows, columns)
    int rows, columns, depth;
    float scale, keep;
};

struct Tile {
    std::int64_t matrix;
    int row, column;  // of its first element

    __device__ __forceinline__ bool diagonal() const { return row == column; }
};

template <bool symmetric, class Element> __device__ __forceinline__ Tile find_tile(const Product<Element>& op) {
    const int rows = (op.rows + muon_tile - 1) / muon_tile, columns = (op.columns + muon_tile - 1) / muon_tile;
    const int tiles = symmetric ? rows * (rows + 1) / 2 : rows * columns;
    const int matrix = blockIdx.x / tiles;
    int index = blockIdx.x - matrix * tiles;
    if constexpr (!symmetric) return {matrix, index / columns * muon_tile, index % columns * muon_tile};
    int row = 0;
    for (; index >= columns - row; ++row) index -= columns - row;
    return {matrix, row * muon_tile, (row + index) * muon_tile};
}

// A factor's part in shared memory. A line is a row of the left factor or a column of the right one. `dense` along the
// depth: 128 lines of 4 chunks; else 32 depths of 16 chunks of lines.
template <bool dense, class Element> __device__ __forceinline__ Element* place(Element* shared, int line, int depth) {
    if constexpr (dense) return shared + line * muon_depth + ((depth / chunk ^ (line >> 1 & 3)) * chunk);
    else return shared + depth * muon_tile + ((line / chunk ^ (depth & 7)) * chunk);
}

// Begins to copy a factor's part; lines and depths beyond its ends become zeros.
template <bool dense, class Element>
__device__ __forceinline__ void fetch(Element* shared, const Element* factor, int lines, int depths, int first_line,
                                      int first_depth) {
#pragma unroll
    for (int i = 0; i < copies; ++i) {
        const int index = threadIdx.x + i * muon_block;
        constexpr int chunks = (dense ? muon_depth : muon_tile) / chunk;  // of a row in shared memory
        const int line = dense ? index / chunks : index % chunks * chunk;
        const int depth = dense ? index % chunks * chunk : index / chunks;
        const int at_line = first_line + line, at_depth = first_depth + depth;
        const bool inside = at_line < lines && at_depth < depths;
        const std::int64_t row = dense ? at_line : at_depth, width = dense ? depths : lines;
        const std::int64_t offset = row * width + (dense ? at_depth : at_line);
        copy_async_16(place<dense>(shared, line, depth), inside ? factor + offset : factor, inside);
    }
}

// Four 8 x 8 matrices from (line, depth) on: the second of a pair is 8 lines on (left) or 8 depths on (right).
template <bool dense, bool left, class Element>
__device__ __forceinline__ void load_fragments(unsigned (&to)[4], Element* shared, int line, int depth) {
    const int lane = threadIdx.x % 32, matrix = lane / 8, within = lane % 8;
    line += 8 * (left ? matrix % 2 : matrix / 2);
    depth += 8 * (left ? matrix / 2 : matrix % 2);
    if constexpr (dense) load_matrices(to, place<true>(shared, line + within, depth));
    else load_matrices_transposed(to, place<false>(shared, line, depth + within));
}

template <class Element> struct WarpProduct {
    float at[across][down][4];
    int row, column;  // of the tile, where the warp begins

    __device__ __forceinline__ void clear() {
        const int warp = threadIdx.x / 32;
        row = warp / (muon_tile / warp_columns) * warp_rows;
        column = warp % (muon_tile / warp_columns) * warp_columns;
#pragma unroll
        for (auto& of_row : at)
#pragma unroll
            for (auto& c : of_row)
#pragma unroll
                for (float& value : c) value = 0.0f;
    }

    template <bool left_dense, bool right_dense> __device__ __forceinline__ void add(Element* left, Element* right) {
#pragma unroll
        for (int depth = 0; depth < muon_depth; depth += 16) {
            unsigned a[across][4], b[down / 2][4];
#pragma unroll
            for (int i = 0; i < across; ++i) load_fragments<left_dense, true>(a[i], left, row + i * 16, depth);
#pragma unroll
            for (int j = 0; j < down / 2; ++j) load_fragments<right_dense, false>(b[j], right, column + j * 16, depth);
#pragma unroll
            for (int i = 0; i < across; ++i)
#pragma unroll
                for (int j = 0; j < down; ++j) {
                    const auto& pair = b[j / 2];
                    multiply<Element>(at[i][j], a[i], pair[j % 2 * 2], pair[j % 2 * 2 + 1]);
                }
        }
    }

    // Rounds scale · product + keep · add into the tile in shared memory.
    __device__ __forceinline__ void stage(Element* shared, const Product<Element>& op, const Tile& tile) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < across; ++i)
#pragma unroll
            for (int j = 0; j < down; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int r = row + i * 16 + half * 8 + lane / 4, c = column + j * 8 + lane % 4 * 2;
                    float value[2] = {op.scale * at[i][j][half * 2], op.scale * at[i][j][half * 2 + 1]};
                    if (op.add != nullptr && tile.row + r < op.rows && tile.column + c < op.columns) {
                        float kept[2];
                        load(kept, op.add + (tile.matrix * op.rows + tile.row + r) * op.columns + tile.column + c);
                        value[0] += op.keep * kept[0];
                        value[1] += op.keep * kept[1];
                    }
                    store(shared + r * staged_row + c, value);
                }
    }
};

// The tile from shared memory to where it belongs, as rows.
template <class Element>
__device__ __forceinline__ void write(const Element* shared, const Product<Element>& op, const Tile& tile) {
    constexpr int chunks = muon_tile / chunk;
    for (int i = threadIdx.x; i < muon_tile * chunks; i += muon_block) {
        const int r = i / chunks, c = i % chunks * chunk;
        if (tile.row + r >= op.rows || tile.column + c >= op.columns) continue;
        Element* to = op.out + (tile.matrix * op.rows + tile.row + r) * op.columns + tile.column + c;
        const Element* from = shared + r * staged_row + c;
        *reinterpret_cast<Vector<Element, chunk>*>(to) = *reinterpret_cast<const Vector<Element, chunk>*>(from);
    }
}

// Its mirror image below the diagonal: columns become rows. Two neighbouring chunks of a row fill a sector of 32 bytes.
template <class Element>
__device__ __forceinline__ void write_mirrored(const Element* shared, const Product<Element>& op, const Tile& tile) {
    for (int i = threadIdx.x; i < muon_tile * muon_tile / chunk; i += muon_block) {
        const int c = i / 2 % muon_tile, r = (i / 2 / muon_tile * 2 + i % 2) * chunk;
        if (tile.row + r >= op.rows || tile.column + c >= op.columns) continue;
        Vector<Element, chunk> column;
#pragma unroll
        for (int j = 0; j < chunk; ++j) column.at[j] = shared[(r + j) * staged_row + c];
        Element* to = op.out + (tile.matrix * op.columns + tile.column + c) * op.rows + tile.row + r;
        *reinterpret_cast<Vector<Element, chunk>*>(to) = column;
    }
}

template <class Element, bool left_dense, bool right_dense, bool symmetric>
__global__ void __launch_bounds__(muon_block, 2) product(const __grid_constant__ Product<Element> op) {
    Element* shared = reinterpret_cast<Element*>(dynamic_shared());
    const Tile tile = find_tile<symmetric>(op);
    const Element* left = op.left + tile.matrix * op.rows * op.depth;
    const Element* right = op.right + tile.matrix * op.columns * op.depth;
    const int steps = (op.depth + muon_depth - 1) / muon_depth;
    const auto begin = [&](int step) {
        Element* to = shared + step % muon_stages * 2 * part;
        if (step < steps) {
            fetch<left_dense>(to, left, op.rows, op.depth, tile.row, step * muon_depth);
            fetch<right_dense>(to + part, right, op.columns, op.depth, tile.column, step * muon_depth);
        }
        commit_copies();  // an empty group too, so that wait_copies counts the same at the end
    };
    WarpProduct<Element> mine;
    mine.clear();
    for (int step = 0; step < muon_stages - 1; ++step) begin(step);
    for (int step = 0; step < steps; ++step) {
        wait_copies<muon_stages - 2>();
        __syncthreads();  // this step's part is there for all, and nobody reads the part before any more
        begin(step + muon_stages - 1);
        Element* from = shared + step % muon_stages * 2 * part;
        mine.template add<left_dense, right_dense>(from, from + part);
    }
    wait_copies<0>();
    __syncthreads();  // the result takes the place of the parts
    mine.stage(shared, op, tile);
    __syncthreads();
    write(shared, op, tile);
    if (symmetric && !tile.diagonal()) write_mirrored(shared, op, tile);
}

template <bool left_dense, bool right_dense, bool symmetric, class Element>
void start(const Product<Element>& op, std::int64_t count, cudaStream_t stream) {
    const Launch shape = launch_muon_step(count, op.rows, op.columns, symmetric);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.grid));
    config.blockDim = dim3(static_cast<unsigned>(shape.block));
    config.dynamicSmemBytes = muon_shared;
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, product<Element, left_dense, right_dense, symmetric>, Product<Element>(op)), "muon_step");
    check(cudaGetLastError(), "muon_step");
}

template <class Element> void iterate(const MuonIteration& op, cudaStream_t stream) {
    using Step = Product<Element>;
    const bool tall = op.rows > op.columns;
    const int m = tall ? op.columns : op.rows, M = tall ? op.rows : op.columns;
    auto *x = static_cast<Element*>(op.x), *next = static_cast<Element*>(op.next);
    auto *gram = static_cast<Element*>(op.gram), *polynomial = static_cast<Element*>(op.polynomial);
    for (const auto& [a, b, c] : op.coefficients) {
        const Step square{x, x, nullptr, gram, m, m, M, 1.0f, 0.0f};
        if (tall)
            start<false, false, true>(square, op.count, stream);
        else
            start<true, true, true>(square, op.count, stream);
        start<true, true, true>(Step{gram, gram, gram, polynomial, m, m, m, c, b}, op.count, stream);
        if (tall)  // the polynomial is its own transpose
            start<true, true, false>(Step{x, polynomial, x, next, op.rows, op.columns, m, 1.0f, a}, op.count, stream);
        else
            start<true, false, false>(Step{polynomial, x, x, next, op.rows, op.columns, m, 1.0f, a}, op.count, stream);
        std::swap(x, next);
    }
}

}  // namespace

void muon_iterate(const MuonIteration& op, const Where& where) {
    if (op.count == 0) return;
    const cudaStream_t stream = enter(where);
    if (op.dtype == DType::bf16)
        iterate<__nv_bfloat16>(op, stream);
    else
        iterate<__half>(op, stream);
}

}  // namespace pynanochat::cuda
