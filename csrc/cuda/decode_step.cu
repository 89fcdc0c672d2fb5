// One decoding step of one row in one cooperative launch: from the token's id to the logits of the next. C width, H query heads, G
// key/value heads, D head dim, V vocabulary, L layers.
//
//   x0 = norm(embedding[id]), smeared with the token before; every layer: x = λr·x + λ0·x0, q | k | v = norm(x) W, v += gate·value
//   embedding, rotary and norm of q and k, k and v into their page, attention over the pages that the window lets it see,
//   x += out W, x += relu(norm(x) W)² W; then x -= λ·x(middle), logits = softcap · tanh(norm(x) W / softcap)
//
// All blocks are resident at once and meet five times a layer, as often as a value that needs all of the one before is made: heads,
// parts of attention, the stream after attention, hidden, the stream after the MLP. What is cheap every block does whole for itself
// instead (embedding, norms, residual scalars, joining the parts of attention); so the residual stream lies in each block's shared
// memory in fp32, and only its change goes through L2. Between arriving at a barrier and waiting there a block asks L2 for its first
// 64 KB of the product after the next (weights depend on nothing) and for its keys and values; when a product begins, for 128 KB
// more of it. So memory goes on working while the blocks wait for each other and do what stands before a product.
//
// Everything of a step is read from device memory, so the launch may stand in a CUDA graph. The barriers' counter is set to 0 on the
// stream before each launch: a launch that was broken off leaves nothing behind that could hold up the next.
//
// Bound: memory, every weight once: d12 (C 768, V 32,768) 220 MB in bf16, 52 us at 4.2 TB/s (H200); d24 (C 1,536) 1.46 GB, 350 us;
// of keys and values 1,024 tokens add at most 38 MB and 151 MB. ESTIMATED, not measured: a barrier and what a phase does before its
// product (reading the stream, a norm) take about 1.8 us, nine a layer; d12 is bound by them, 12·9 + 30 + 16 = 155 us a token
// (6,400 tokens/s); in d24 what was asked for, 30 MB a layer, keeps memory busy for seven of the nine: 350 + 24·2 + 16 = 415 us
// (2,400 tokens/s), with keys and values of a full window 36 us more.
//
// Versions (none has run on a GPU yet, only in tests/cuda/emulator; `pynanochat bench gpu` measures them)
//   1  phases, barriers, products in chunks of 32 vectors, split attention, weights asked for one product ahead
//   2  two products ahead, pages too; a row's sums by eight lanes; parts of attention joined by weights, not one after the other
//   3  loads that are all asked for, whatever of them counts: nvcc had made one after the other of bf16's (q, k, v and the pages)
// Registers (ptxas 13.0, sm_80 and sm_90a): 108 to 124, no spills; at most 96 KB of shared memory.
#include "cuda/decode_step.h"

#include <cmath>

#include "cuda/decode_attention.cuh"
#include "cuda/decode_product.cuh"

namespace pynanochat::cuda {

namespace {

// The token's id: its number, or below 0 one that the pass before drew, counted from the end of the table.
__device__ __forceinline__ std::int64_t id_of(const DecodeStep& op) {
    const std::int64_t number = op.numbers[0];
    return number >= 0 ? number : op.drawn[op.drawn_count + number];
}

template <class T> __device__ __forceinline__ float sigmoid_of(const void* weight, const T* x, int channels) {
    const T* w = static_cast<const T*>(weight);
    float sum = 0.0f;
    for (int i = 0; i < channels; ++i) sum += wide(w[i]) * wide(x[i]);
    return 1.0f / (1.0f + expf(-sum));
}

// room.stream = the normed embedding of a token, or zeros where there is none (-1).
template <class T>
__device__ __forceinline__ void embed(const DecodeStep& op, const Room<T>& room, std::int64_t id) {
    const int width = width_of(op);
    const T* row = static_cast<const T*>(op.embedding) + id * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) room.stream[i] = id < 0 ? 0.0f : wide(row[i]);
    const float r = norm_of(room.stream, width, op.eps, room.scratch);
    for (int i = threadIdx.x; i < width; i += blockDim.x) room.stream[i] *= r;
    __syncthreads();
}

// room.first and room.stream: what goes into the first layer. Every block computes it whole.
template <class T> __device__ __forceinline__ void begin(const DecodeStep& op, const Room<T>& room) {
    const int width = width_of(op);
    if (op.smear_gate != nullptr) {
        embed(op, room, op.numbers[1]);
        for (int i = threadIdx.x; i < width; i += blockDim.x) room.middle[i] = room.stream[i];
        __syncthreads();
    }
    embed(op, room, id_of(op));
    for (int i = threadIdx.x; i < width; i += blockDim.x) room.operand[i] = narrow<T>(room.stream[i]);
    __syncthreads();
    float share = 0.0f;
    if (op.smear_gate != nullptr)
        share = wide(*static_cast<const T*>(op.smear_scale)) * sigmoid_of(op.smear_gate, room.operand, op.smear_channels);
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        if (op.smear_gate != nullptr) room.stream[i] += share * room.middle[i];
        room.first[i] = room.stream[i];
    }
    __syncthreads();
}

// room.stream = the residual stream as the blocks before left it.
template <class T> __device__ __forceinline__ void read_stream(const DecodeStep& op, const Room<T>& room) {
    const float* stream = op.workspace + op.launch.stream;
    for (int i = threadIdx.x; i < width_of(op); i += blockDim.x) room.stream[i] = fresh(stream + i);
}

template <class T>
__device__ __forceinline__ QueriesKeysValues<T> queries_keys_values(const DecodeStep& op, const DecodeLayer& layer) {
    const int queries = queries_of(op), keys = keys_of(op);
    return {static_cast<const T*>(layer.q), static_cast<const T*>(layer.k), static_cast<const T*>(layer.v),
            queries, keys, queries + 2 * keys, width_of(op)};
}
template <class T> __device__ __forceinline__ Matrix<T> output_weight(const DecodeStep& op, const DecodeLayer& layer) {
    return {static_cast<const T*>(layer.out), width_of(op), queries_of(op)};
}
template <class T> __device__ __forceinline__ Matrix<T> hidden_weight(const DecodeStep& op, const DecodeLayer& layer) {
    return {static_cast<const T*>(layer.fc), hidden_of(op), width_of(op)};
}
template <class T> __device__ __forceinline__ Matrix<T> mlp_weight(const DecodeStep& op, const DecodeLayer& layer) {
    return {static_cast<const T*>(layer.proj), width_of(op), hidden_of(op)};
}
template <class T> __device__ __forceinline__ Matrix<T> head_weight(const DecodeStep& op) {
    return {static_cast<const T*>(op.head), static_cast<int>(op.shape.vocab), width_of(op)};
}

// The stream with its residual scalars, normed, times the weights of queries, keys and values, with the value embedding.
template <class T>
__device__ __forceinline__ void make_heads(const DecodeStep& op, const DecodeLayer& layer, int index, const Room<T>& room) {
    const int width = width_of(op), head_dim = op.shape.head_dim;
    if (op.stream_scales != nullptr) {
        const float kept = wide(static_cast<const T*>(op.stream_scales)[index]);
        const float added = wide(static_cast<const T*>(op.first_scales)[index]);
        for (int i = threadIdx.x; i < width; i += blockDim.x) room.stream[i] = kept * room.stream[i] + added * room.first[i];
    }
    normalise(op, room);
    const int values = queries_of(op) + keys_of(op);  // the first row of the values
    const T* embedding = static_cast<const T*>(layer.embedding);
    if (embedding != nullptr) embedding += id_of(op) * keys_of(op);
    float* heads = op.workspace + op.launch.heads;
    product(queries_keys_values<T>(op, layer), room, [&](int row, float sum) {
        if (embedding != nullptr && row >= values) {
            const int channel = row - values;
            const T* gate = static_cast<const T*>(layer.gate) + channel / head_dim * op.gate_channels;
            sum += 3.0f * sigmoid_of(gate, room.operand, op.gate_channels) * wide(embedding[channel]);
        }
        heads[row] = sum;
    });
}

// The parts of attention joined, times the output weight, added to the stream.
template <class T>
__device__ __forceinline__ void add_attention(const DecodeStep& op, const DecodeLayer& layer, const Room<T>& room) {
    join_attention(op, layer, room);
    float* stream = op.workspace + op.launch.stream;
    product(output_weight<T>(op, layer), room, [&](int row, float sum) { stream[row] = room.stream[row] + sum; });
}

template <class T>
__device__ __forceinline__ void make_hidden(const DecodeStep& op, const DecodeLayer& layer, const Room<T>& room) {
    read_stream(op, room);
    normalise(op, room);
    T* hidden = reinterpret_cast<T*>(op.workspace + op.launch.hidden);
    product(hidden_weight<T>(op, layer), room, [&](int row, float sum) {
        const float positive = sum < 0.0f ? 0.0f : sum;  // NaN stays
        hidden[row] = narrow<T>(positive * positive);
    });
}

template <class T>
__device__ __forceinline__ void add_mlp(const DecodeStep& op, const DecodeLayer& layer, const Room<T>& room) {
    constexpr int N = vector_bytes / sizeof(T);
    const T* hidden = reinterpret_cast<const T*>(op.workspace + op.launch.hidden);
    for (int i = threadIdx.x * N; i < hidden_of(op); i += blockDim.x * N)
        *reinterpret_cast<Vector<T, N>*>(room.operand + i) = fresh_vector<T, N>(hidden + i);
    __syncthreads();
    float* stream = op.workspace + op.launch.stream;
    product(mlp_weight<T>(op, layer), room, [&](int row, float sum) { stream[row] = room.stream[row] + sum; });
}

// room.middle = the stream after the middle layer, of which the end takes a share back.
template <class T> __device__ __forceinline__ void keep_middle(const DecodeStep& op, const Room<T>& room) {
    for (int i = threadIdx.x; i < width_of(op); i += blockDim.x) room.middle[i] = room.stream[i];
}

template <class T> __device__ __forceinline__ void make_logits(const DecodeStep& op, const Room<T>& room) {
    if (op.backout != nullptr) {
        const float share = wide(*static_cast<const T*>(op.backout));
        for (int i = threadIdx.x; i < width_of(op); i += blockDim.x) room.stream[i] -= share * room.middle[i];
    }
    normalise(op, room);
    product(head_weight<T>(op), room, [&](int row, float sum) { op.logits[row] = op.softcap * tanhf(sum / op.softcap); });
}

template <class T> __global__ void __launch_bounds__(512, 1) step(const __grid_constant__ DecodeStep op) {
    const Room<T> room(op);
    GridBarrier barrier(reinterpret_cast<unsigned*>(op.workspace));
    ask_for(queries_keys_values<T>(op, op.layers[0]));
    ask_for(output_weight<T>(op, op.layers[0]));
    begin(op, room);
    for (int index = 0; index < op.layer_count; ++index) {
        const DecodeLayer& layer = op.layers[index];
        const bool last = index + 1 == op.layer_count;
        make_heads(op, layer, index, room);
        barrier.arrive();
        ask_for_pages<T>(op, layer);
        ask_for(hidden_weight<T>(op, layer));
        barrier.wait();
        attend_parts(op, layer, room);
        barrier.arrive();
        ask_for(mlp_weight<T>(op, layer));
        barrier.wait();
        add_attention(op, layer, room);
        barrier.arrive();
        if (last) ask_for(head_weight<T>(op));
        else ask_for(queries_keys_values<T>(op, op.layers[index + 1]));
        barrier.wait();
        make_hidden(op, layer, room);
        barrier.arrive();
        if (!last) ask_for(output_weight<T>(op, op.layers[index + 1]));
        barrier.wait();
        add_mlp(op, layer, room);
        barrier.arrive();
        barrier.wait();
        read_stream(op, room);
        if (index == op.layer_count / 2) keep_middle(op, room);
    }
    make_logits(op, room);
}

template <class T> void start(DecodeStep& op, const Where& where) {
    const cudaStream_t stream = enter(where);
    const Launch& shape = op.launch.shape;
    const int shared = static_cast<int>(op.launch.shared);
    // the same for every plan: another thread may be launching one that takes more
    check(cudaFuncSetAttribute(step<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, step_most_shared), "decode_step");
    int resident = 0, multiprocessors = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, where.device), "decode_step");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, step<T>, shape.block, shared), "decode_step");
    if (std::int64_t{resident} * multiprocessors < shape.grid)
        throw CudaError("decode_step: its blocks wait for each other and would not all be resident");
    check(cudaMemsetAsync(op.workspace, 0, sizeof(unsigned), stream), "decode_step");
    cudaLaunchAttribute together{};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.grid));
    config.blockDim = dim3(static_cast<unsigned>(shape.block));
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = &together;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, step<T>, DecodeStep(op)), "decode_step");
    check(cudaGetLastError(), "decode_step");
}

}  // namespace

void decode_step(DecodeStep op, const Where& where) {
    op.launch = launch_decode_step(op.shape, element_bytes(op.dtype), op.multiprocessors);
    if (op.dtype == DType::f32) return start<float>(op, where);
    if (op.dtype == DType::bf16) return start<__nv_bfloat16>(op, where);
    throw CudaError("decode_step takes float32 and bfloat16");
}

}  // namespace pynanochat::cuda
