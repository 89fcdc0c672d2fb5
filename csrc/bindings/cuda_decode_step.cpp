// Python bindings of csrc/cuda/decode_step.cu.
#include "cuda/decode_step.h"

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

// A dense tensor of `dtype` with at least `elements`, or null for None.
const void* dense(py::handle tensor, const char* name, DType dtype, std::int64_t elements, int device) {
    if (tensor.is_none()) return nullptr;
    const Tensor result = cuda_view(tensor, name, view(tensor, name).dims, device);
    require(result.dtype == dtype && result.contiguous() && result.size() >= elements,
            std::string(name) + " must be dense, of the step's dtype and have " + std::to_string(elements) + " elements");
    return result.data;
}

// A step without its numbers, checked once. The Plan that it was made of keeps its tensors alive.
struct PlannedStep {
    cuda::DecodeStep op;
    int device;
};

// `tensors` in the order of DecodeStep: embedding, head, smear gate and scale, stream and first scales, backout, cos, sin.
PlannedStep plan_step(py::handle layers_, const py::list& tensors, const py::tuple& sizes, py::handle workspace_,
                      py::handle logits_) {
    const cuda::Where where = where_of(layers_, 0);
    const Tensor layers = cuda_view(layers_, "layers", 2, where.device);
    require(layers.dtype == DType::i64 && layers.contiguous() && layers.shape[1] == cuda::step_layer_words,
            "layers must be dense int64 of " + std::to_string(cuda::step_layer_words) + " words each");
    require(tensors.size() == 9 && sizes.size() == 11, "decode_step takes 9 tensors and 11 sizes");
    cuda::DecodeStep op;
    int next = 0;
    for (int* size : {&op.shape.heads, &op.shape.kv_heads, &op.groups, &op.columns, &op.page, &op.gate_channels, &op.smear_channels})
        *size = sizes[next++].cast<int>();
    for (float* size : {&op.qk_scale, &op.eps, &op.softcap}) *size = sizes[next++].cast<float>();
    op.multiprocessors = sizes[next].cast<int>();
    const Tensor embedding = cuda_view(tensors[0], "embedding", 2, where.device);
    const Tensor logits = cuda_view(logits_, "logits", 1, where.device);
    const Tensor cos = cuda_view(tensors[7], "cos", 2, where.device);
    op.dtype = embedding.dtype;
    op.shape.width = embedding.shape[1];
    op.shape.vocab = logits.shape[0];
    op.shape.head_dim = static_cast<int>(2 * cos.shape[1]);
    op.layer_count = static_cast<int>(layers.shape[0]);
    op.layers = static_cast<const cuda::DecodeLayer*>(layers.data);
    const cuda::DecodeStepLaunch launch = cuda::launch_decode_step(op.shape, cuda::element_bytes(op.dtype), op.multiprocessors);
    const auto given = [&](int i, const char* name, std::int64_t elements) {
        return dense(tensors[i], name, op.dtype, elements, where.device);
    };
    require(embedding.shape[0] >= op.shape.vocab && op.groups >= 1 && op.page >= 1, "decode_step: sizes do not fit each other");
    op.embedding = given(0, "embedding", op.shape.vocab * op.shape.width);
    op.head = given(1, "head", op.shape.vocab * op.shape.width);
    op.smear_gate = given(2, "smear_gate", op.smear_channels);
    op.smear_scale = given(3, "smear_scale", 1);
    op.stream_scales = given(4, "stream_scales", op.layer_count);
    op.first_scales = given(5, "first_scales", op.layer_count);
    op.backout = given(6, "backout", 1);
    op.cos = static_cast<const float*>(dense(tensors[7], "cos", DType::f32, cos.size(), where.device));
    op.sin = static_cast<const float*>(dense(tensors[8], "sin", DType::f32, cos.size(), where.device));
    op.workspace = const_cast<float*>(
        static_cast<const float*>(dense(workspace_, "workspace", DType::f32, launch.workspace, where.device)));
    op.logits = const_cast<float*>(static_cast<const float*>(dense(logits_, "logits", DType::f32, 1, where.device)));
    return {op, where.device};
}

void step(const PlannedStep& plan, py::handle numbers_, py::handle drawn_, std::uintptr_t stream) {
    cuda::DecodeStep op = plan.op;
    const std::int64_t numbers = 4 + std::int64_t{op.groups} * (1 + op.columns);
    op.numbers = static_cast<const std::int64_t*>(dense(numbers_, "numbers", DType::i64, numbers, plan.device));
    op.drawn = static_cast<const std::int64_t*>(dense(drawn_, "drawn", DType::i64, 1, plan.device));
    op.drawn_count = op.drawn == nullptr ? 0 : view(drawn_, "drawn").size();
    const py::gil_scoped_release release;
    cuda::decode_step(op, {plan.device, stream});
}

}  // namespace

#endif

void bind_cuda_decode_step(py::module_& module) {
    module.attr("decode_step_layer_words") = cuda::step_layer_words;
    module.def(
        "launch_decode_step",
        [](std::int64_t width, std::int64_t vocab, int heads, int kv_heads, int head_dim, int bytes, int multiprocessors) {
            const cuda::DecodeStepLaunch launch =
                cuda::launch_decode_step({width, vocab, heads, kv_heads, head_dim}, bytes, multiprocessors);
            py::dict result = as_dict(launch.shape);
            for (const auto& [name, value] : {std::pair<const char*, std::int64_t>{"splits", launch.splits},
                                              {"operand", launch.operand}, {"scratch", launch.scratch},
                                              {"shared", launch.shared}, {"stream", launch.stream},
                                              {"heads", launch.heads}, {"partials", launch.partials},
                                              {"maxima", launch.maxima}, {"totals", launch.totals},
                                              {"hidden", launch.hidden}, {"workspace", launch.workspace}})
                result[name] = value;
            return result;
        },
        py::arg("width"), py::arg("vocab"), py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("bytes"),
        py::arg("multiprocessors"));
#ifdef PYNANOCHAT_CUDA_BUILT
    // of this module alone: the tests load another one of the same types beside it
    py::class_<PlannedStep>(module, "PlannedStep", py::module_local());
    module.def("plan_cuda_decode_step", &plan_step, py::arg("layers"), py::arg("tensors"), py::arg("sizes"),
               py::arg("workspace"), py::arg("logits"), "A step of these weights, for cuda_decode_step.");
    module.def("cuda_decode_step", &step, py::arg("plan"), py::arg("numbers"), py::arg("drawn"), py::arg("stream"),
               "Launches one step.");
#endif
}

}  // namespace pynanochat
