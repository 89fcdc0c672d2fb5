// Whether CUDA can run here, and the error that a failed CUDA call becomes. No CUDA header: bindings include this.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace pynanochat::cuda {

// A CUDA call that failed; becomes Python's RuntimeError of the type _C.CudaError.
struct CudaError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Availability {
    bool yes = false;
    std::string reason;  // "" where it can run
};

// Asks the driver; never throws.
Availability available();

// Where a kernel runs: the device's index and its stream, as torch.cuda.current_stream().cuda_stream gives it.
struct Where {
    int device = 0;
    std::uintptr_t stream = 0;
};

}  // namespace pynanochat::cuda
