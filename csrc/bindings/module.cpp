// The extension module pynanochat._C. This folder is the only one that includes pybind11: it checks arguments,
// releases the GIL and turns C++ exceptions into Python's. One file per room of csrc/.
#include <string>

#include "bindings/view.h"

namespace pynanochat {

namespace {

DType dtype_of(py::handle dtype, const char* name) {
    const std::string text = py::str(dtype);
    if (text == "torch.float32") return DType::f32;
    if (text == "torch.bfloat16") return DType::bf16;
    if (text == "torch.float16") return DType::f16;
    if (text == "torch.float64") return DType::f64;
    if (text == "torch.int64") return DType::i64;
    if (text == "torch.int32") return DType::i32;
    if (text == "torch.uint32") return DType::u32;
    if (text == "torch.uint8") return DType::u8;
    throw ShapeError(std::string(name) + " has dtype " + text + ", which no kernel takes");
}

}  // namespace

Tensor view(py::handle tensor, const char* name) {
    Tensor result;
    const auto shape = py::reinterpret_borrow<py::tuple>(tensor.attr("shape"));
    const auto stride = py::reinterpret_steal<py::tuple>(tensor.attr("stride")().release());
    if (shape.size() > max_dims)
        throw ShapeError(std::string(name) + " has " + std::to_string(shape.size()) + " dimensions; the limit is " +
                         std::to_string(max_dims));
    result.dims = static_cast<int>(shape.size());
    for (int i = 0; i < result.dims; ++i) {
        result.shape[i] = shape[i].cast<std::int64_t>();
        result.stride[i] = stride[i].cast<std::int64_t>();
    }
    result.dtype = dtype_of(tensor.attr("dtype"), name);
    result.on_cuda = tensor.attr("is_cuda").cast<bool>();
    result.data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
    return result;
}

Tensor optional_view(py::handle tensor, const char* name) { return tensor.is_none() ? Tensor{} : view(tensor, name); }

}  // namespace pynanochat

PYBIND11_MODULE(_C, module) {
    module.doc() = "Compiled code of pynanochat: byte-pair encoding, packing, and CPU and CUDA kernels";
    pynanochat::bind_bpe(module);
    pynanochat::bind_cpu(module);
    pynanochat::bind_cuda(module);
    pynanochat::bind_data(module);
}
