// Python bindings of csrc/cuda/rotary_qk_norm.cu.
#include "cuda/rotary_qk_norm.h"

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

cuda::Strides strides(const Tensor& tensor) { return {tensor.stride[0], tensor.stride[1], tensor.stride[2], tensor.stride[3]}; }

// Fills `op` with what forward and backward share: x and out of both sides, and the tables.
void rotary_sides(cuda::RotaryQkNorm& op, const Tensor (&x)[2], const Tensor (&out)[2], const Tensor (&table)[2]) {
    op.dtype = x[0].dtype;
    op.batch = x[0].shape[0];
    op.positions = x[0].shape[1];
    require(x[0].shape[3] <= 65536, "head_dim " + std::to_string(x[0].shape[3]) + " is over 65536");
    op.head_dim = static_cast<int>(x[0].shape[3]);
    for (int i = 0; i < 2; ++i) {
        const std::string name = i == 0 ? "q" : "k";
        require(x[i].dtype == op.dtype && out[i].dtype == op.dtype, name + " and its result must have q's dtype");
        require(x[i].shape[0] == op.batch && x[i].shape[1] == op.positions && x[i].shape[3] == op.head_dim,
                name + " must agree with q in batch, positions and head_dim");
        require(x[i].shape == out[i].shape, name + " and its result differ in shape");
        require(x[i].shape[2] <= 65536, name + " has more than 65536 heads");
        cuda::RotarySide& side = i == 0 ? op.q : op.k;
        side.x = x[i].data;
        side.out = out[i].data;
        side.x_stride = strides(x[i]);
        side.out_stride = strides(out[i]);
        side.heads = static_cast<int>(x[i].shape[2]);
        const Tensor& t = table[i];
        require(t.dtype == DType::f32, "cos and sin must be float32");
        require((t.shape[0] == op.batch || t.stride[0] == 0) && t.shape[1] == op.positions && t.shape[2] * 2 == op.head_dim,
                "cos and sin must be (positions, head_dim/2) or (batch, positions, head_dim/2)");
        (i == 0 ? op.cos : op.sin) = {t.as<float>(), t.stride[0], t.stride[1], t.stride[2]};
    }
}

// (T, D/2) becomes (1, T, D/2) with batch stride 0.
Tensor table_view(py::handle tensor, const char* name, int device) {
    const int dims = static_cast<int>(py::len(tensor.attr("shape")));
    if (dims == 3) return cuda_view(tensor, name, 3, device);
    Tensor table = cuda_view(tensor, name, 2, device);
    table.shape = {1, table.shape[0], table.shape[1]};
    table.stride = {0, table.stride[0], table.stride[1]};
    table.dims = 3;
    return table;
}

void rotary(py::handle q, py::handle k, py::handle grad_q, py::handle grad_k, py::handle cos, py::handle sin,
            py::handle out_q, py::handle out_k, float scale, float eps, std::uintptr_t stream, bool backward) {
    const cuda::Where where = where_of(q, stream);
    cuda::RotaryQkNorm op;
    op.scale = scale;
    op.eps = eps;
    op.backward = backward;
    rotary_sides(op, {cuda_view(q, "q", 4, where.device), cuda_view(k, "k", 4, where.device)},
                 {cuda_view(out_q, "out_q", 4, where.device), cuda_view(out_k, "out_k", 4, where.device)},
                 {table_view(cos, "cos", where.device), table_view(sin, "sin", where.device)});
    if (backward) {
        const Tensor grads[2] = {cuda_view(grad_q, "grad_q", 4, where.device), cuda_view(grad_k, "grad_k", 4, where.device)};
        require(grads[0].dtype == op.dtype && grads[1].dtype == op.dtype, "the gradients must have q's dtype");
        require(grads[0].shape == view(q, "q").shape && grads[1].shape == view(k, "k").shape, "the gradients must have the shapes of q and k");
        op.q.grad = grads[0].data;
        op.k.grad = grads[1].data;
        op.q.grad_stride = strides(grads[0]);
        op.k.grad_stride = strides(grads[1]);
    }
    const py::gil_scoped_release release;
    cuda::rotary_qk_norm(op, where);
}

}  // namespace

#endif

void bind_cuda_rotary_qk_norm(py::module_& module) {
    module.def(
        "launch_rotary_qk_norm",
        [](std::int64_t rows, std::int64_t head_dim, int bytes, bool aligned) {
            return as_dict(cuda::launch_rotary_qk_norm(rows, head_dim, bytes, aligned));
        },
        py::arg("rows"), py::arg("head_dim"), py::arg("bytes"), py::arg("aligned"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def(
        "cuda_rotary_qk_norm",
        [](py::handle q, py::handle k, py::handle cos, py::handle sin, py::handle out_q, py::handle out_k, float scale,
           float eps, std::uintptr_t stream) {
            rotary(q, k, py::none(), py::none(), cos, sin, out_q, out_k, scale, eps, stream, false);
        },
        py::arg("q"), py::arg("k"), py::arg("cos"), py::arg("sin"), py::arg("out_q"), py::arg("out_k"), py::arg("scale"),
        py::arg("eps"), py::arg("stream"));
    module.def(
        "cuda_rotary_qk_norm_backward",
        [](py::handle grad_q, py::handle grad_k, py::handle q, py::handle k, py::handle cos, py::handle sin,
           py::handle out_q, py::handle out_k, float scale, float eps, std::uintptr_t stream) {
            rotary(q, k, grad_q, grad_k, cos, sin, out_q, out_k, scale, eps, stream, true);
        },
        py::arg("grad_q"), py::arg("grad_k"), py::arg("q"), py::arg("k"), py::arg("cos"), py::arg("sin"), py::arg("out_q"),
        py::arg("out_k"), py::arg("scale"), py::arg("eps"), py::arg("stream"));
#endif
}

}  // namespace pynanochat
