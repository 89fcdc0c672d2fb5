// attention_sm90 DTYPE B T H G D WINDOW IN OUT, then of each of q, k, v, dout its three strides and its number of elements:
// Hopper's attention (csrc/cuda/attention*_sm90.cu) on the CPU. IN holds the four one after the other; OUT gets out, then dq, dk,
// dv of attention_backward_fused_sm90.cu and those of attention_backward_sm90.cu, all contiguous, and lse.
// `attention_sm90 order TILES PAIRS SECTION` prints tile and pair of each block instead.
// Run by tests/cuda/test_attention_sm90.py.
#include "cuda/attention_sm90.cuh"
#include "cuda/launch_attention.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

using namespace pynanochat;

namespace {

using Bytes = std::unique_ptr<char[]>;  // aligned to 16 bytes, and ASan stands at its end

float element(const cuda::Attention& op, const cuda::Heads& x, std::int64_t b, std::int64_t t, std::int64_t h, int d) {
    const auto bits = static_cast<const std::uint16_t*>(x.data)[b * x.batch + t * x.position + h * x.head + d];
    return op.dtype == DType::bf16 ? __bfloat162float({bits}) : __half2float({bits});
}

std::vector<float> row_dots(const cuda::Attention& op) {
    std::vector<float> delta;
    for (std::int64_t b = 0; b < op.batch; ++b)
        for (int h = 0; h < op.heads; ++h)
            for (std::int64_t t = 0; t < op.positions; ++t) {
                float sum = 0.0f;
                for (int d = 0; d < op.head_dim; ++d) sum += element(op, op.out, b, t, h, d) * element(op, op.dout, b, t, h, d);
                delta.push_back(sum);
            }
    return delta;
}

}  // namespace

int main(int count, char** words) {
    int next = 1;
    const auto number = [&] { return std::stoll(words[next++]); };
    if (count == 5 && std::string(words[next]) == "order") {
        const cuda::sm90::Order order{std::stoi(words[2]), std::stoi(words[3]), std::stoi(words[4])};
        for (unsigned block = 0; block < order.blocks(); ++block) {
            const auto work = order.at(static_cast<int>(block));
            std::printf("%d %d\n", work.tile, work.pair);
        }
        return 0;
    }
    cuda::Attention op;
    op.dtype = std::string(words[next++]) == "bfloat16" ? DType::bf16 : DType::f16;
    op.batch = number();
    op.positions = number();
    op.heads = static_cast<int>(number());
    op.groups = static_cast<int>(number());
    op.head_dim = static_cast<int>(number());
    op.window = number();
    op.scale = 1.0f / std::sqrt(static_cast<float>(op.head_dim));
    std::ifstream in(words[next++], std::ios::binary);
    std::ofstream to(words[next++], std::ios::binary);
    std::vector<Bytes> memory;
    for (cuda::Heads* x : {&op.q, &op.k, &op.v, &op.dout}) {
        x->batch = number();
        x->position = number();
        x->head = number();
        const std::streamsize bytes = 2 * number();
        in.read(memory.emplace_back(new char[bytes]).get(), bytes);
        x->data = memory.back().get();
    }
    const auto bytes_of = [&](int heads) { return op.batch * op.positions * heads * op.head_dim * 2; };
    const auto room = [&](int heads) {
        char* data = memory.emplace_back(new char[bytes_of(heads)]).get();
        return cuda::Heads{data, op.positions * heads * op.head_dim, std::int64_t{heads} * op.head_dim, op.head_dim};
    };
    op.out = room(op.heads);
    std::vector<float> lse(op.batch * op.heads * op.positions), delta;
    op.lse = lse.data();
    if (count != next || !in) return std::puts("arguments or input are wrong"), 2;
    op.dq = room(op.heads);
    op.dk = room(op.groups);
    op.dv = room(op.groups);
    const bool forward = cuda::attention_sm90_takes(op, 0), backward = cuda::attention_backward_sm90_takes(op, 0);
    if (!forward || !backward) return std::puts(forward || backward ? "half taken" : "not taken"), 3;
    try {
        cuda::attention_forward_sm90(op, {});
        delta = row_dots(op);
        op.delta = delta.data();
        to.write(static_cast<char*>(op.out.data), bytes_of(op.heads));
        const std::vector<float> nothing(cuda::dq_sum_floats(op.batch, op.positions, op.heads, op.head_dim), NAN);
        for (const bool fused : {true, false}) {
            std::vector<float> dq_sum = nothing;
            op.dq_sum = dq_sum.data();
            (fused ? cuda::attention_backward_fused_sm90 : cuda::attention_backward_sm90)(op, {});
            to.write(static_cast<char*>(op.dq.data), bytes_of(op.heads));
            for (const cuda::Heads* x : {&op.dk, &op.dv}) to.write(static_cast<char*>(x->data), bytes_of(op.groups));
            for (const auto& [x, heads] : {std::pair(&op.dq, op.heads), {&op.dk, op.groups}, {&op.dv, op.groups}})
                std::memset(x->data, 0xff, static_cast<std::size_t>(bytes_of(heads)));
        }
    } catch (const std::exception& error) {
        return std::puts(error.what()), 4;
    }
    to.write(reinterpret_cast<char*>(lse.data()), static_cast<std::streamsize>(lse.size() * 4));
    return to.good() ? 0 : 5;
}
