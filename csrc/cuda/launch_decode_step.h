// Launch arithmetic of decode_step on CUDA: how many blocks, what they share, the workspace.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.h"

namespace pynanochat::cuda {

constexpr int step_most_head_dim = 256;
constexpr int step_sums = 2048;          // partial sums that a block keeps at a time
constexpr int step_block_bytes = 4096;  // of the largest product that a block should have to itself
constexpr int step_most_shared = 96 << 10;  // bytes of a block; sm_80 and sm_90 have more
constexpr int step_line = 32;               // floats: parts of the workspace begin at cache lines

struct DecodeStepShape {
    std::int64_t width = 0, vocab = 0;
    int heads = 0, kv_heads = 0, head_dim = 0;

    std::int64_t queries() const { return std::int64_t{heads} * head_dim; }
    std::int64_t keys() const { return std::int64_t{kv_heads} * head_dim; }
    std::int64_t hidden() const { return 4 * width; }
};

struct DecodeStepLaunch {
    Launch shape;    // `lanes` share a token in attention
    int splits = 1;  // blocks for the tokens of one head
    // Bytes of dynamic shared memory: three rows of fp32, what a product reads, then partial sums or the parts of attention.
    std::int64_t operand = 0, scratch = 0, shared = 0;
    // Floats of the workspace; the counter of the barriers is its beginning.
    std::int64_t stream = 0, heads = 0, partials = 0, maxima = 0, totals = 0, hidden = 0, workspace = 0;
};

inline std::int64_t round_up(std::int64_t value, std::int64_t unit) { return divide_up(value, unit) * unit; }

inline DecodeStepLaunch launch_decode_step(const DecodeStepShape& step, int bytes, int multiprocessors) {
    const int vector = vector_bytes / bytes;
    if (step.width < 1 || step.vocab < 1 || step.kv_heads < 1 || step.heads < 1 || step.heads % step.kv_heads != 0)
        throw ShapeError("decode_step: query heads must be a multiple of key/value heads, width and vocabulary at least 1");
    if (step.head_dim < 2 || step.head_dim % vector != 0 || step.head_dim > std::min(32 * vector, step_most_head_dim))
        throw ShapeError("decode_step: head_dim " + std::to_string(step.head_dim) + " must be whole vectors of 16 bytes, of a warp at most");
    if (step.width % vector != 0)
        throw ShapeError("decode_step: width " + std::to_string(step.width) + " must be whole vectors of 16 bytes");
    if (multiprocessors < 1) throw ShapeError("decode_step: a GPU has at least one multiprocessor");
    DecodeStepLaunch launch;
    const std::int64_t largest = step.hidden() * step.width * bytes;
    launch.shape.grid = std::clamp<std::int64_t>(largest / step_block_bytes, 1, multiprocessors);
    launch.shape.block = launch.shape.grid == multiprocessors ? 512 : 128;
    launch.shape.vector = vector;
    launch.shape.lanes = 1;
    while (launch.shape.lanes * vector < step.head_dim) launch.shape.lanes *= 2;
    launch.splits = static_cast<int>(std::max<std::int64_t>(1, launch.shape.grid / step.heads));

    const std::int64_t warps = launch.shape.block / 32, parts = std::int64_t{step.heads} * launch.splits;
    const std::int64_t attention = warps * (step.head_dim + 2) + 3 * step.head_dim;
    launch.operand = round_up(3 * step.width * 4, vector_bytes);
    launch.scratch = launch.operand + round_up(std::max(step.hidden(), step.queries()) * bytes, vector_bytes);
    launch.shared = launch.scratch + std::max({std::int64_t{step_sums}, attention, 3 * parts}) * 4;
    if (launch.shared > step_most_shared)
        throw ShapeError("decode_step: width " + std::to_string(step.width) + " needs more shared memory than a block has");

    launch.stream = step_line;
    launch.heads = launch.stream + round_up(step.width, step_line);
    launch.partials = launch.heads + round_up(step.queries() + 2 * step.keys(), step_line);
    launch.maxima = launch.partials + round_up(parts * step.head_dim, step_line);
    launch.totals = launch.maxima + round_up(parts, step_line);
    launch.hidden = launch.totals + round_up(parts, step_line);
    launch.workspace = launch.hidden + round_up(step.hidden(), step_line);
    return launch;
}

}  // namespace pynanochat::cuda
