// Python bindings of csrc/cuda/linear_softcap_cross_entropy.cu.
#include "cuda/linear_softcap_cross_entropy.h"

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

void cross_entropy(py::handle products, py::handle targets, py::object token_scale, py::handle losses, float softcap,
                   std::int64_t ignore_index, std::uintptr_t stream) {
    const cuda::Where where = where_of(products, stream);
    const Tensor z = cuda_view(products, "products", 2, where.device);
    const Tensor t = cuda_view(targets, "targets", 1, where.device);
    const Tensor l = cuda_view(losses, "losses", 1, where.device);
    require(z.stride[1] == 1, "products must be contiguous along the vocabulary");
    require(t.dtype == DType::i64 && t.shape[0] == z.shape[0], "targets must be int64, one a row of products");
    require(l.dtype == DType::f32 && l.shape[0] == z.shape[0] && l.contiguous(), "losses must be contiguous float32, one a row of products");
    require(softcap > 0.0f, "softcap must be above 0");
    cuda::SoftcapCrossEntropy op;
    op.products = z.data;
    op.row_stride = z.stride[0];
    op.dtype = z.dtype;
    op.targets = t.as<std::int64_t>();
    op.target_stride = t.stride[0];
    op.losses = l.as<float>();
    op.rows = z.shape[0];
    op.columns = z.shape[1];
    op.ignore_index = ignore_index;
    op.softcap = softcap;
    if (!token_scale.is_none()) {
        const Tensor s = cuda_view(token_scale, "token_scale", 1, where.device);
        require(s.dtype == DType::f32 && s.shape[0] == z.shape[0], "token_scale must be float32, one a row of products");
        op.token_scale = s.as<float>();
        op.scale_stride = s.stride[0];
    }
    const py::gil_scoped_release release;
    cuda::linear_softcap_cross_entropy(op, where);
}

}  // namespace

#endif

void bind_cuda_linear_softcap_cross_entropy(py::module_& module) {
    module.def(
        "launch_linear_softcap_cross_entropy",
        [](std::int64_t rows, std::int64_t columns, int bytes, bool aligned) {
            return as_dict(cuda::launch_linear_softcap_cross_entropy(rows, columns, bytes, aligned));
        },
        py::arg("rows"), py::arg("columns"), py::arg("bytes"), py::arg("aligned"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def("cuda_linear_softcap_cross_entropy", &cross_entropy, py::arg("products"), py::arg("targets"),
               py::arg("token_scale"), py::arg("losses"), py::arg("softcap"), py::arg("ignore_index"), py::arg("stream"));
#endif
}

}  // namespace pynanochat
