// Python bindings of csrc/bpe.
#include "bindings/view.h"

namespace pynanochat {

void bind_bpe(py::module_&) {}

}  // namespace pynanochat
