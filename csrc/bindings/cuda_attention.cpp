// Python bindings of csrc/cuda/attention*.cu.
#include <algorithm>
#include <cmath>

#include "cuda/attention.h"
#include "cuda/launch_attention.h"

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

// A (B, T, heads, D) tensor whose heads can be read 16 bytes at a time.
cuda::Heads heads_of(const Tensor& tensor, const std::string& name) {
    const int bytes = cuda::element_bytes(tensor.dtype);
    require(tensor.stride[3] == 1, name + " must be contiguous along the head's channels");
    require(cuda::vector_aligned(tensor.data, bytes) && cuda::vector_stride(tensor.stride[0], bytes) &&
                cuda::vector_stride(tensor.stride[1], bytes) && cuda::vector_stride(tensor.stride[2], bytes),
            name + " must begin at a multiple of 16 bytes, and so must each of its heads; make it contiguous");
    return {tensor.data, tensor.stride[0], tensor.stride[1], tensor.stride[2]};
}

struct Shape {
    std::int64_t batch, positions, heads, head_dim;
};

// A tensor of the op's dtype and of that shape.
cuda::Heads heads_of(py::handle tensor, const std::string& name, DType dtype, const Shape& shape, int device) {
    const Tensor t = cuda_view(tensor, name.c_str(), 4, device);
    require(t.dtype == dtype, name + " must have q's dtype");
    require(t.shape[0] == shape.batch && t.shape[1] == shape.positions && t.shape[2] == shape.heads &&
                t.shape[3] == shape.head_dim,
            name + " has another shape than q and k ask for");
    return heads_of(t, name);
}

// (B, H, T), contiguous fp32.
float* rows_of(py::handle tensor, const std::string& name, const Shape& shape, int device) {
    const Tensor t = cuda_view(tensor, name.c_str(), 3, device);
    require(t.dtype == DType::f32 && t.contiguous() && t.shape[0] == shape.batch && t.shape[1] == shape.heads &&
                t.shape[2] == shape.positions,
            name + " must be contiguous float32 (batch, heads, positions)");
    return t.as<float>();
}

struct Shapes {
    Shape q, k;
};

Shapes shapes_of(py::handle q_, py::handle k_) {
    const Tensor q = view(q_, "q"), k = view(k_, "k");
    require(q.dims == 4 && k.dims == 4, "q and k must be (batch, positions, heads, head_dim)");
    require(q.shape[2] <= 65536 && k.shape[2] <= 65536, "at most 65536 heads");
    require(k.shape[2] > 0 ? q.shape[2] % k.shape[2] == 0 : q.shape[2] == 0,
            std::to_string(q.shape[2]) + " query heads cannot share " + std::to_string(k.shape[2]) +
                " key/value heads evenly");
    return {{q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, {q.shape[0], q.shape[1], k.shape[2], q.shape[3]}};
}

// The sizes and the dtype alone.
cuda::Attention sizes_of(const Shapes& shapes, py::handle q) {
    cuda::Attention op;
    op.dtype = view(q, "q").dtype;
    op.batch = shapes.q.batch;
    op.positions = shapes.q.positions;
    op.heads = static_cast<int>(shapes.q.heads);
    op.groups = static_cast<int>(shapes.k.heads);
    op.head_dim = static_cast<int>(std::min<std::int64_t>(shapes.q.head_dim, 65536));
    return op;
}

// What forward and backward share.
cuda::Attention attention(const Shapes& shapes, py::handle q, py::handle k, py::handle v, std::int64_t window,
                          py::handle out, py::handle lse, int device) {
    cuda::Attention op = sizes_of(shapes, q);
    op.window = window;
    op.scale = 1.0f / std::sqrt(static_cast<float>(op.head_dim));
    op.q = heads_of(q, "q", op.dtype, shapes.q, device);
    op.k = heads_of(k, "k", op.dtype, shapes.k, device);
    op.v = heads_of(v, "v", op.dtype, shapes.k, device);
    op.out = heads_of(out, "out", op.dtype, shapes.q, device);
    op.lse = rows_of(lse, "lse", shapes.q, device);
    return op;
}

void forward(py::handle q, py::handle k, py::handle v, std::int64_t window, py::handle out, py::handle lse,
             std::uintptr_t stream) {
    const cuda::Where where = where_of(q, stream);
    const cuda::Attention op = attention(shapes_of(q, k), q, k, v, window, out, lse, where.device);
    const py::gil_scoped_release release;
    cuda::attention_forward(op, where);
}

std::int64_t dq_sum(py::handle q, py::handle k) {
    return cuda::attention_dq_sum(sizes_of(shapes_of(q, k), q), where_of(q, 0).device);
}

// Room for `floats` floats; null where none are needed.
float* room_of(py::handle tensor, const std::string& name, std::int64_t floats, int device) {
    const Tensor t = cuda_view(tensor, name.c_str(), 1, device);
    require(t.dtype == DType::f32 && t.contiguous() && t.shape[0] >= floats && cuda::vector_aligned(t.data, 4),
            name + " must be " + std::to_string(floats) + " contiguous float32, from a multiple of 16 bytes on");
    return floats == 0 ? nullptr : t.as<float>();
}

void backward(py::handle dout, py::handle q, py::handle k, py::handle v, py::handle out, py::handle lse, std::int64_t window,
              bool deterministic, py::handle delta, py::handle dq_sum, py::handle dq, py::handle dk, py::handle dv,
              std::uintptr_t stream) {
    const cuda::Where where = where_of(q, stream);
    const Shapes shapes = shapes_of(q, k);
    cuda::Attention op = attention(shapes, q, k, v, window, out, lse, where.device);
    op.dout = heads_of(dout, "dout", op.dtype, shapes.q, where.device);
    op.delta = rows_of(delta, "delta", shapes.q, where.device);
    op.dq_sum = room_of(dq_sum, "dq_sum", deterministic ? 0 : cuda::attention_dq_sum(op, where.device), where.device);
    op.dq = heads_of(dq, "dq", op.dtype, shapes.q, where.device);
    op.dk = heads_of(dk, "dk", op.dtype, shapes.k, where.device);
    op.dv = heads_of(dv, "dv", op.dtype, shapes.k, where.device);
    const py::gil_scoped_release release;
    cuda::attention_backward(op, where);
}

}  // namespace

#endif

void bind_cuda_attention(py::module_& module) {
    module.def(
        "launch_attention",
        [](std::int64_t batch, std::int64_t positions, std::int64_t heads, int head_dim, bool backward) {
            const cuda::AttentionLaunch launch = cuda::launch_attention(batch, positions, heads, head_dim, backward);
            py::dict result;
            result["rows"] = launch.rows;
            result["columns"] = launch.columns;
            result["block"] = launch.block;
            result["grid"] = launch.grid;
            result["shared"] = launch.shared;
            return result;
        },
        py::arg("batch"), py::arg("positions"), py::arg("heads"), py::arg("head_dim"), py::arg("backward"));
    module.def(
        "attention_tiles",
        [](int first, int rows, int columns, int positions, int window, bool of_keys) {
            const auto tiles = (of_keys ? cuda::key_tiles : cuda::query_tiles)(first, rows, columns, positions, window);
            return std::pair(tiles.first, tiles.end);
        },
        py::arg("first"), py::arg("rows"), py::arg("columns"), py::arg("positions"), py::arg("window"), py::arg("of_keys"),
        "the first tile that rows [first, first + rows) meet and the one after the last: of keys, or else of queries");
    module.def("attention_needs_no_mask", &cuda::all_visible, py::arg("query"), py::arg("queries"), py::arg("key"), py::arg("keys"),
               py::arg("window"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def("cuda_attention_forward", &forward, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("window"), py::arg("out"),
               py::arg("lse"), py::arg("stream"));
    module.def("cuda_attention_backward", &backward, py::arg("dout"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"),
               py::arg("lse"), py::arg("window"), py::arg("deterministic"), py::arg("delta"), py::arg("dq_sum"), py::arg("dq"),
               py::arg("dk"), py::arg("dv"), py::arg("stream"));
    module.def("cuda_attention_dq_sum", &dq_sum, py::arg("q"), py::arg("k"),
               "how many floats cuda_attention_backward wants as dq_sum where it need not be deterministic");
#endif
}

}  // namespace pynanochat
