// attention_sm90 DTYPE B T H G D WINDOW IN OUT, and the strides of q, k, v (three each, in elements): csrc/cuda/attention_sm90.cu
// on the CPU. IN holds q, k and v one after the other, each with its own number of elements given after its strides; OUT gets
// out (B, T, H, D) and lse (B, H, T). Run by tests/cuda/test_attention_sm90.py.
#include "cuda/attention_sm90.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

using namespace pynanochat;

using Bytes = std::unique_ptr<char[]>;  // aligned to 16 bytes, and ASan stands at its end

int main(int count, char** words) {
    int next = 1;
    const auto number = [&] { return std::stoll(words[next++]); };
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
    for (cuda::Heads* x : {&op.q, &op.k, &op.v}) {
        x->batch = number();
        x->position = number();
        x->head = number();
        const std::size_t bytes = 2 * number();
        in.read(memory.emplace_back(new char[bytes]).get(), static_cast<std::streamsize>(bytes));
        x->data = memory.back().get();
    }
    const std::size_t rows = op.batch * op.heads * op.positions, bytes = rows * op.head_dim * 2;
    const Bytes out(new char[bytes]), lse(new char[rows * 4]);
    op.out = {out.get(), op.positions * op.heads * op.head_dim, op.heads * op.head_dim, op.head_dim};
    op.lse = reinterpret_cast<float*>(lse.get());
    if (!cuda::attention_sm90_takes(op, 0)) return std::puts("not taken"), 3;
    try {
        cuda::attention_forward_sm90(op, {});
    } catch (const std::exception& error) {
        return std::puts(error.what()), 4;
    }
    to.write(out.get(), static_cast<std::streamsize>(bytes));
    to.write(lse.get(), static_cast<std::streamsize>(rows * 4));
    return to.good() && count == next ? 0 : 5;
}
