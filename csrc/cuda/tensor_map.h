// Host side of TMA: the map of a (B, T, heads, D) tensor of 16-bit elements, cut into boxes of `rows` positions x 64 columns.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <string>

#include "cuda/attention.h"
#include "cuda/check.cuh"
#include "cuda/hopper_layout.h"

namespace pynanochat::cuda {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, looked up at run time so that nothing links libcuda; null where the driver has none.
inline EncodeTiled find_encode_tiled() {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess) cudaGetLastError();  // leaves no error behind for the next check
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(entry) : nullptr;
}

struct Extent {
    std::int64_t batch = 0, positions = 0, heads = 0, head_dim = 0;
};

// TMA takes addresses and strides that are multiples of 16 bytes, and strides in (0, 2^40). A stride that is never stepped does
// not count.
inline bool tma_takes(const Heads& x, const Extent& extent) {
    const auto good = [](std::int64_t stride, std::int64_t count) {
        return count == 1 || (stride > 0 && stride % 8 == 0 && stride < (std::int64_t{1} << 39));
    };
    return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && good(x.batch, extent.batch) &&
           good(x.position, extent.positions) && good(x.head, extent.heads);
}

// Throws CudaError where the driver refuses.
inline CUtensorMap tensor_map(const Heads& x, const Extent& extent, DType dtype, int rows) {
    static const EncodeTiled encode = find_encode_tiled();
    if (encode == nullptr) throw CudaError("the NVIDIA driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
    // The manual has each stride step over the axes before it, as it does in this order for the layout (B, T, heads, D). Where an
    // axis has one element torch may give it any stride, 0 or an odd one, which the driver would refuse though it is never stepped:
    // such an axis counts as dense.
    cuuint64_t dense = static_cast<cuuint64_t>(extent.head_dim) * 2;  // bytes of the axes before
    const auto bytes = [&](std::int64_t stride, std::int64_t count) {
        const cuuint64_t step = count == 1 ? dense : static_cast<cuuint64_t>(stride) * 2;
        dense = step * static_cast<cuuint64_t>(count);
        return step;
    };
    const cuuint64_t dims[4] = {static_cast<cuuint64_t>(extent.head_dim), static_cast<cuuint64_t>(extent.heads),
                                static_cast<cuuint64_t>(extent.positions), static_cast<cuuint64_t>(extent.batch)};
    const cuuint64_t head = bytes(x.head, extent.heads), position = bytes(x.position, extent.positions);
    const cuuint64_t strides[3] = {head, position, bytes(x.batch, extent.batch)};
    const cuuint32_t box[4] = {sm90::part_columns, 1, static_cast<cuuint32_t>(rows), 1};
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    const auto type = dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    CUtensorMap map;
    const CUresult result = encode(&map, type, 4, x.data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) throw CudaError("cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(result)));
    return map;
}

}  // namespace pynanochat::cuda
