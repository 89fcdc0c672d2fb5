// Python bindings of csrc/cuda/adamw_step.cu.
#include "cuda/adamw_step.h"

#include <pybind11/stl.h>

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

// A dense tensor of any number of dimensions on GPU `device`, of `size` elements.
Tensor dense_view(py::handle tensor, const char* name, int device, std::int64_t size) {
    const Tensor result = cuda_view(tensor, name, view(tensor, name).dims, device);
    require(result.contiguous(), std::string(name) + " must be contiguous");
    require(result.size() == size, std::string(name) + " must have the shape of its param");
    return result;
}

float* fp32(const Tensor& tensor, const char* name) {
    require(tensor.dtype == DType::f32, std::string(name) + " must be float32");
    return tensor.as<float>();
}

void adamw(const py::list& params, const py::list& grads, const py::list& exp_avgs, const py::list& exp_avg_sqs,
           std::int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
           std::uintptr_t stream) {
    const std::size_t count = params.size();
    require(count > 0 && grads.size() == count && exp_avgs.size() == count && exp_avg_sqs.size() == count,
            "params, grads, exp_avgs and exp_avg_sqs must be as many, and at least one");
    require(step >= 1, "step " + std::to_string(step) + " is below 1");
    const cuda::Where where = where_of(params[0], stream);
    std::vector<cuda::AdamwTensor> tensors(count);
    for (std::size_t i = 0; i < count; ++i) {
        cuda::AdamwTensor& tensor = tensors[i];
        tensor.size = view(params[i], "param").size();
        tensor.param = fp32(dense_view(params[i], "param", where.device, tensor.size), "param");
        tensor.exp_avg = fp32(dense_view(exp_avgs[i], "exp_avg", where.device, tensor.size), "exp_avg");
        tensor.exp_avg_sq = fp32(dense_view(exp_avg_sqs[i], "exp_avg_sq", where.device, tensor.size), "exp_avg_sq");
        const Tensor grad = dense_view(grads[i], "grad", where.device, tensor.size);
        cuda::element_bytes(grad.dtype);  // refuses what is no float of 16 or 32 bits
        tensor.grad = grad.data;
        tensor.grad_dtype = grad.dtype;
    }
    const py::gil_scoped_release release;
    cuda::adamw_step(std::move(tensors), cuda::adamw_rates(step, lr, beta1, beta2, eps, weight_decay), where);
}

}  // namespace

#endif

void bind_cuda_adamw_step(py::module_& module) {
    module.def(
        "launch_adamw_step",
        [](const std::vector<std::int64_t>& sizes) {
            py::list result;
            for (const cuda::AdamwLaunch& part : cuda::launch_adamw_step(sizes)) {
                py::dict launch = as_dict(part.shape);
                launch["first"] = part.first;
                launch["first_blocks"] = part.first_blocks;
                result.append(launch);
            }
            return result;
        },
        py::arg("sizes"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def("cuda_adamw_step", &adamw, py::arg("params"), py::arg("grads"), py::arg("exp_avgs"),
               py::arg("exp_avg_sqs"), py::arg("step"), py::arg("lr"), py::arg("beta1"), py::arg("beta2"),
               py::arg("eps"), py::arg("weight_decay"), py::arg("stream"));
#endif
}

}  // namespace pynanochat
