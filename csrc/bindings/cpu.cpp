// Python bindings of csrc/cpu.
#include "bindings/view.h"

namespace pynanochat {

void bind_cpu(py::module_&) {}

}  // namespace pynanochat
