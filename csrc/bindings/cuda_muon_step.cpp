// Python bindings of csrc/cuda/muon_step.cu.
#include "cuda/muon_step.h"

#include <pybind11/stl.h>

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

// A contiguous stack of matrices of `dtype` that begins on 16 bytes.
void* stack(py::handle tensor, const char* name, int device, std::int64_t count, std::int64_t rows,
            std::int64_t columns, DType dtype) {
    const Tensor result = cuda_view(tensor, name, 3, device);
    require(result.shape[0] == count && result.shape[1] == rows && result.shape[2] == columns,
            std::string(name) + " must be a stack of " + std::to_string(count) + " matrices " + std::to_string(rows) +
                " x " + std::to_string(columns));
    require(result.dtype == dtype && result.contiguous() && cuda::vector_aligned(result.data, 2),
            std::string(name) + " must have the dtype of x, be contiguous and begin on 16 bytes");
    return result.data;
}

void iterate(py::handle x, py::handle next, py::handle gram, py::handle polynomial,
             const std::vector<std::array<float, 3>>& coefficients, std::uintptr_t stream) {
    const cuda::Where where = where_of(x, stream);
    const Tensor shape = cuda_view(x, "x", 3, where.device);
    cuda::MuonIteration op;
    require(shape.dtype == DType::bf16 || shape.dtype == DType::f16, "x must be bfloat16 or float16");
    op.dtype = shape.dtype;
    op.count = shape.shape[0];
    cuda::launch_muon_step(op.count, shape.shape[1], shape.shape[2], false);  // refuses what no launch takes
    op.rows = static_cast<int>(shape.shape[1]);
    op.columns = static_cast<int>(shape.shape[2]);
    const std::int64_t m = std::min(op.rows, op.columns);
    op.x = stack(x, "x", where.device, op.count, op.rows, op.columns, op.dtype);
    op.next = stack(next, "next", where.device, op.count, op.rows, op.columns, op.dtype);
    op.gram = stack(gram, "gram", where.device, op.count, m, m, op.dtype);
    op.polynomial = stack(polynomial, "polynomial", where.device, op.count, m, m, op.dtype);
    op.coefficients = coefficients;
    const py::gil_scoped_release release;
    cuda::muon_iterate(op, where);
}

}  // namespace

#endif

void bind_cuda_muon_step(py::module_& module) {
    module.def(
        "launch_muon_step",
        [](std::int64_t count, std::int64_t rows, std::int64_t columns, bool symmetric) {
            return as_dict(cuda::launch_muon_step(count, rows, columns, symmetric));
        },
        py::arg("count"), py::arg("rows"), py::arg("columns"), py::arg("symmetric"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def("cuda_muon_iterate", &iterate, py::arg("x"), py::arg("next"), py::arg("gram"), py::arg("polynomial"),
               py::arg("coefficients"), py::arg("stream"));
#endif
}

}  // namespace pynanochat
