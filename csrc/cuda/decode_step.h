// decode_step on CUDA: what the launcher takes. See decode_step.cu.
#pragma once

#include <cstdint>

#include "cuda/device.h"
#include "cuda/launch_decode_step.h"

namespace pynanochat::cuda {

// One layer, as it lies in device memory: addresses of its weights, row by row and dense, and of its cache.
struct DecodeLayer {
    const void *q, *k, *v, *out;    // (H·D, C), (G·D, C) twice, (C, H·D)
    const void *fc, *proj;          // (4·C, C), (C, 4·C)
    const void *gate, *embedding;   // (G, gate channels), (V, G·D); null where the layer has no value embedding
    void *keys, *values;            // (pages, page, G, D)
    std::int64_t group, pages, window;  // the group of layers whose slot and table it uses; window < 0: all tokens
};
constexpr int step_layer_words = sizeof(DecodeLayer) / 8;

struct DecodeStep {
    DecodeStepShape shape;
    const DecodeLayer* layers = nullptr;
    const void *embedding = nullptr, *head = nullptr;               // (V or more, C)
    const void *smear_gate = nullptr, *smear_scale = nullptr;       // (1, smear channels), (1,); null without smear
    const void *stream_scales = nullptr, *first_scales = nullptr;   // (layers,): λr and λ0; null without residual scalars
    const void* backout = nullptr;                                  // (1,), null without backout
    const float *cos = nullptr, *sin = nullptr;                     // (positions, D/2)
    // id, the id before it (-1: none), position, length; the slot of each group of layers; the tables (groups, columns)
    const std::int64_t* numbers = nullptr;
    const std::int64_t* drawn = nullptr;  // (drawn_count,): an id below 0 stands that far from its end
    std::int64_t drawn_count = 0;
    float* workspace = nullptr;
    float* logits = nullptr;  // (V,)
    DType dtype = DType::f32;
    int layer_count = 0, groups = 0, columns = 0, page = 0, gate_channels = 0, smear_channels = 0;
    float qk_scale = 1.0f, eps = 0.0f, softcap = 0.0f;
    int multiprocessors = 0;  // that the workspace was made for
    DecodeStepLaunch launch;  // for the launcher to fill
};

// Throws CudaError, also where the blocks would not all be resident at once.
void decode_step(DecodeStep op, const Where& where);

}  // namespace pynanochat::cuda
