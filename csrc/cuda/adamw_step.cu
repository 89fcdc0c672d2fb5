// AdamW over a list of tensors in one launch, in place.
//
//   p ← keep·p;  m ← m + (1-β1)·(g - m);  v ← β2·v + (1-β2)·g²;  p ← p - step_size·m / (√v·root + ε)
//
// The table of tensors (pointers, sizes, where their blocks begin) is an argument of the kernel, so that a step copies
// nothing to the GPU and waits for nothing. A block finds its tensor by bisection and does 4,096 of its elements. The
// factors that depend on the step are computed by the host in double.
//
// Bound: memory, 28 bytes an element (p, m, v read and written, g read; 26 with 16-bit gradients). Embedding and head of
// a d24, 2 x 32,768 x 1,536: 2.8 GB, 0.84 ms at 3.35 TB/s. A thread has eight loads on their way before it computes.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  element by element: kept for tensors that do not begin on 16 bytes, and for the last size % 4 elements
//   2  16-byte vectors, two of each array at a time
// Registers (ptxas 13.0, sm_80 and sm_90a): 53 to 53, no spills.
#include "cuda/adamw_step.h"

#include <cmath>

#include "cuda/check.cuh"

namespace pynanochat::cuda {

namespace {

struct Table {
    AdamwTensor tensors[adamw_tensors];
    AdamwRates rates;
    int count = 0;
};
static_assert(sizeof(Table) <= 4096, "the arguments of a kernel");

template <int N> struct Elements {  // N neighbours of all four arrays
    float param[N], grad[N], exp_avg[N], exp_avg_sq[N];

    __device__ __forceinline__ void read(const AdamwTensor& tensor, std::int64_t at) {
        load(param, tensor.param + at);
        if (tensor.grad_dtype == DType::f32)
            load(grad, static_cast<const float*>(tensor.grad) + at);
        else if (tensor.grad_dtype == DType::bf16)
            load(grad, static_cast<const __nv_bfloat16*>(tensor.grad) + at);
        else
            load(grad, static_cast<const __half*>(tensor.grad) + at);
        load(exp_avg, tensor.exp_avg + at);
        load(exp_avg_sq, tensor.exp_avg_sq + at);
    }

    __device__ __forceinline__ void step(const AdamwRates& rates) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            exp_avg[j] += rates.take1 * (grad[j] - exp_avg[j]);
            exp_avg_sq[j] = rates.beta2 * exp_avg_sq[j] + rates.take2 * grad[j] * grad[j];
            const float divisor = sqrtf(exp_avg_sq[j]) * rates.root + rates.eps;
            param[j] = rates.keep * param[j] - rates.step_size * exp_avg[j] / divisor;
        }
    }

    __device__ __forceinline__ void write(const AdamwTensor& tensor, std::int64_t at) const {
        store(tensor.param + at, param);
        store(tensor.exp_avg + at, exp_avg);
        store(tensor.exp_avg_sq + at, exp_avg_sq);
    }
};

// The tensor whose block this is: the last whose blocks begin at it or before. Tensors of no elements are passed over.
__device__ __forceinline__ int find_tensor(const Table& table) {
    int low = 0, high = table.count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (table.tensors[middle].first_block <= static_cast<int>(blockIdx.x))
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

__global__ void __launch_bounds__(adamw_block) adamw(const __grid_constant__ Table table) {
    constexpr int N = adamw_vector;
    const AdamwTensor& tensor = table.tensors[find_tensor(table)];
    const std::int64_t begin = std::int64_t{static_cast<int>(blockIdx.x) - tensor.first_block} * adamw_chunk;
    const std::int64_t left = tensor.size - begin;
    const int count = left < adamw_chunk ? static_cast<int>(left) : adamw_chunk;
    const int whole = tensor.vectors ? count / N : 0;
    for (int i = threadIdx.x; i < whole; i += 2 * adamw_block) {
        Elements<N> first, second;
        const bool both = i + adamw_block < whole;
        first.read(tensor, begin + i * N);
        if (both) second.read(tensor, begin + (i + adamw_block) * N);
        first.step(table.rates);
        first.write(tensor, begin + i * N);
        if (both) {
            second.step(table.rates);
            second.write(tensor, begin + (i + adamw_block) * N);
        }
    }
    for (int i = whole * N + threadIdx.x; i < count; i += adamw_block) {
        Elements<1> one;
        one.read(tensor, begin + i);
        one.step(table.rates);
        one.write(tensor, begin + i);
    }
}

bool allows_vectors(const AdamwTensor& tensor) {
    const int bytes = element_bytes(tensor.grad_dtype);
    return vector_aligned(tensor.param, 4) && vector_aligned(tensor.exp_avg, 4) &&
           vector_aligned(tensor.exp_avg_sq, 4) &&
           reinterpret_cast<std::uintptr_t>(tensor.grad) % (adamw_vector * bytes) == 0;
}

}  // namespace

AdamwRates adamw_rates(std::int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay) {
    const double correction1 = 1.0 - std::pow(beta1, static_cast<double>(step));
    const double correction2 = 1.0 - std::pow(beta2, static_cast<double>(step));
    AdamwRates rates;
    rates.keep = static_cast<float>(1.0 - lr * weight_decay);
    rates.take1 = static_cast<float>(1.0 - beta1);
    rates.beta2 = static_cast<float>(beta2);
    rates.take2 = static_cast<float>(1.0 - beta2);
    rates.step_size = static_cast<float>(lr / correction1);
    rates.root = static_cast<float>(1.0 / std::sqrt(correction2));
    rates.eps = static_cast<float>(eps);
    return rates;
}

void adamw_step(std::vector<AdamwTensor> tensors, const AdamwRates& rates, const Where& where) {
    std::vector<std::int64_t> sizes;
    for (const AdamwTensor& tensor : tensors) sizes.push_back(tensor.size);
    const cudaStream_t stream = enter(where);
    for (const AdamwLaunch& part : launch_adamw_step(sizes)) {
        if (part.shape.grid == 0) continue;
        Table table;
        table.rates = rates;
        table.count = static_cast<int>(part.first_blocks.size());
        for (int i = 0; i < table.count; ++i) {
            table.tensors[i] = tensors[part.first + i];
            table.tensors[i].first_block = static_cast<std::int32_t>(part.first_blocks[i]);
            table.tensors[i].vectors = allows_vectors(table.tensors[i]);
        }
        launch("adamw_step", adamw, part.shape.grid, part.shape.block, stream, table);
    }
}

}  // namespace pynanochat::cuda
