// The driver's tensor maps, emulated: the map keeps what it was made from, and is refused where the driver would refuse it.
#pragma once

#include <cuda_runtime.h>

#define CUDART_VERSION 13000

using cuuint32_t = std::uint32_t;
using cuuint64_t = std::uint64_t;

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

struct CUtensorMap {
    char* data;
    cuuint64_t dims[4], strides[4];  // bytes
    cuuint32_t box[4];
};

inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data, const cuuint64_t* dims,
                                       const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                                       CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                       CUtensorMapFloatOOBfill) {
    bool good = rank == 4 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && swizzle == CU_TENSOR_MAP_SWIZZLE_128B &&
                box[0] * 2 == 128;
    *map = {static_cast<char*>(data)};
    for (unsigned i = 0; i < 4; ++i) {
        map->dims[i] = dims[i];
        map->box[i] = box[i];
        map->strides[i] = i == 0 ? 2 : strides[i - 1];
        good &= dims[i] >= 1 && dims[i] <= cuuint64_t{1} << 32 && box[i] >= 1 && box[i] <= 256 && steps[i] == 1;
        good &= i == 0 || (map->strides[i] % 16 == 0 && map->strides[i] < cuuint64_t{1} << 40);
        good &= i < 2 || map->strides[i] >= dims[i - 1];  // an assertion of the manual's
    }
    return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
constexpr unsigned long long cudaEnableDefault = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** entry, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* found) {
    const bool known = std::string(name) == "cuTensorMapEncodeTiled";
    *entry = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
    *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
