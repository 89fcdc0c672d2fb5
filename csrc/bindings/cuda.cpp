// Python bindings of csrc/cuda.
#include "bindings/view.h"

namespace pynanochat {

void bind_cuda(py::module_&) {}

}  // namespace pynanochat
