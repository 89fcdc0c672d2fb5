// The rooms of the extension that the emulated module leaves out.
#include "bindings/view.h"

namespace pynanochat {

void bind_bpe(py::module_&) {}
void bind_data(py::module_&) {}
void bind_cpu(py::module_&) {}

}  // namespace pynanochat
