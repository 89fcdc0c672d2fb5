// See device.h.
#include "cuda/check.cuh"

namespace pynanochat::cuda {

Availability available() {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return {false, "no NVIDIA driver: libcuda.so.1 was not found on this machine"};
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) {
        cudaGetLastError();  // leave no sticky error behind for the next check
        return {false, std::string("the NVIDIA driver answers ") + cudaGetErrorName(error) + ": " + cudaGetErrorString(error)};
    }
    if (devices == 0) return {false, "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES empty?)"};
    return {true, ""};
}

}  // namespace pynanochat::cuda
