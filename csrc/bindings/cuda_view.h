// What the bindings of every CUDA op share: checks of tensors on a GPU, where a call runs, the launch arithmetic as a dict.
#pragma once

#include <string>

#include "bindings/view.h"
#include "cuda/device.h"
#include "cuda/launch.h"

namespace pynanochat {

inline void require(bool holds, const std::string& message) {
    if (!holds) throw ShapeError(message);
}

// A view of a tensor that must have `dims` dimensions and lie on GPU `device`. Throws ShapeError.
inline Tensor cuda_view(py::handle tensor, const char* name, int dims, int device) {
    const Tensor result = view(tensor, name);
    require(result.dims == dims, std::string(name) + " has " + std::to_string(result.dims) + " dimensions, not " + std::to_string(dims));
    require(result.on_cuda, std::string(name) + " is not on a GPU; use the cpu or reference backend for it");
    require(tensor.attr("device").attr("index").cast<int>() == device, std::string(name) + " is on another GPU than the first argument");
    return result;
}

inline cuda::Where where_of(py::handle tensor, std::uintptr_t stream) {
    const py::object index = tensor.attr("device").attr("index");
    require(!index.is_none(), "the first argument is not on a GPU; use the cpu or reference backend for it");
    return {index.cast<int>(), stream};
}

inline py::dict as_dict(const cuda::Launch& launch) {
    py::dict result;
    result["grid"] = launch.grid;
    result["block"] = launch.block;
    result["vector"] = launch.vector;
    result["lanes"] = launch.lanes;
    return result;
}

}  // namespace pynanochat
