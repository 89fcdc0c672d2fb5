// Python bindings of csrc/cuda, one file for each op. Built without CUDA, only cuda_available, cuda_architectures and the
// launch arithmetic are there.
#include <pybind11/stl.h>

#include "bindings/cuda_view.h"

namespace pynanochat {

void bind_cuda_adamw_step(py::module_&);
void bind_cuda_attention(py::module_&);
void bind_cuda_attention_paged(py::module_&);
void bind_cuda_decode_step(py::module_&);
void bind_cuda_linear_softcap_cross_entropy(py::module_&);
void bind_cuda_muon_step(py::module_&);
void bind_cuda_rotary_qk_norm(py::module_&);

void bind_cuda(py::module_& module) {
    module.def(
        "cuda_available",
        []() -> std::pair<bool, std::string> {
#ifdef PYNANOCHAT_CUDA_BUILT
            const cuda::Availability here = cuda::available();
            return {here.yes, here.reason};
#else
            return {false, "the extension was built without CUDA; install with nvcc on PATH or -C cmake.define.PYNANOCHAT_CUDA=on"};
#endif
        },
        "(True, '') where the CUDA kernels can run, else (False, reason)");
    module.def(
        "cuda_architectures",
        []() -> std::string {
#ifdef PYNANOCHAT_CUDA_BUILT
            return PYNANOCHAT_CUDA_BUILT;
#else
            return "";
#endif
        },
        "the architectures compiled in, as CMake names them, parted by commas; '' without CUDA");
    module.def(
        "cuda_code",
        []() -> std::string {
#ifdef PYNANOCHAT_CUDA_CODE
            return PYNANOCHAT_CUDA_CODE;
#else
            return "";
#endif
        },
        "the files of csrc/cuda and their bindings, \"FILE HASH INCLUDED...|\" each; '' without CUDA");
#ifdef PYNANOCHAT_CUDA_BUILT
    py::register_exception<cuda::CudaError>(module, "CudaError", PyExc_RuntimeError);
#endif
    bind_cuda_adamw_step(module);
    bind_cuda_attention(module);
    bind_cuda_attention_paged(module);
    bind_cuda_decode_step(module);
    bind_cuda_linear_softcap_cross_entropy(module);
    bind_cuda_muon_step(module);
    bind_cuda_rotary_qk_norm(module);
}

}  // namespace pynanochat
