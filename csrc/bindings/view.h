// Reads a torch tensor through its Python attributes, so that the extension need not link torch.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "common/tensor.h"

namespace pynanochat {

namespace py = pybind11;

// A view of `tensor` (anything with data_ptr(), shape, stride(), dtype and is_cuda, as torch.Tensor has them).
// The caller keeps `tensor` alive. Throws ShapeError for more than max_dims dimensions or an unknown dtype; `name` is for the message.
Tensor view(py::handle tensor, const char* name);

// As above; None gives a Tensor whose data is null.
Tensor optional_view(py::handle tensor, const char* name);

void bind_bpe(py::module_& module);   // bpe.cpp
void bind_cpu(py::module_& module);   // cpu.cpp
void bind_cuda(py::module_& module);  // cuda.cpp
void bind_data(py::module_& module);  // data.cpp

}  // namespace pynanochat
