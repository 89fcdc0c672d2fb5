// Python bindings of csrc/cuda/attention_paged.cu.
#include "cuda/attention_paged.h"

#include "bindings/cuda_view.h"

namespace pynanochat {

#ifdef PYNANOCHAT_CUDA_BUILT

namespace {

cuda::Pages pages_of(const Tensor& pages, const Tensor& q, const char* name) {
    require(pages.dtype == q.dtype, std::string(name) + " must have the dtype of q");
    require(pages.shape[3] == q.shape[2] && pages.stride[3] == 1, std::string(name) + " must have q's head_dim, dense");
    return {pages.data, pages.stride[0], pages.stride[1], pages.stride[2]};
}

const std::int64_t* dense_int64(const Tensor& tensor, const char* name, std::int64_t rows) {
    require(tensor.dtype == DType::i64 && tensor.contiguous() && tensor.shape[0] == rows,
            std::string(name) + " must be dense int64 of " + std::to_string(rows) + " rows");
    return tensor.as<std::int64_t>();
}

void paged(py::handle q_, py::handle k_pages, py::handle v_pages, py::handle tables_, py::handle starts,
           py::handle lengths, py::handle partials_, py::handle out_, int splits, std::int64_t window,
           std::uintptr_t stream) {
    const cuda::Where where = where_of(q_, stream);
    const Tensor q = cuda_view(q_, "q", 3, where.device), out = cuda_view(out_, "out", 3, where.device);
    const Tensor k = cuda_view(k_pages, "k_pages", 4, where.device), v = cuda_view(v_pages, "v_pages", 4, where.device);
    const Tensor tables = cuda_view(tables_, "tables", 2, where.device);
    const Tensor partials = cuda_view(partials_, "partials", 1, where.device);
    require(q.stride[2] == 1, "q must be dense along the head");
    require(out.shape == q.shape && out.dtype == q.dtype && out.contiguous(), "out must be contiguous and like q");
    require(k.shape == v.shape, "k_pages and v_pages differ in shape");
    require(k.shape[1] >= 1 && k.shape[1] <= (1 << 30), "a page must have 1 to 2^30 tokens");
    require(q.shape[1] <= 65536 && q.shape[2] <= cuda::paged_head_dim, "q has too many heads, or a head over 256");
    cuda::AttentionPaged op;
    op.q = q.data;
    op.q_row = q.stride[0];
    op.q_head = q.stride[1];
    op.k = pages_of(k, q, "k_pages");
    op.v = pages_of(v, q, "v_pages");
    op.rows = tables.shape[0];
    op.columns = tables.shape[1];
    op.tables = dense_int64(tables, "tables", op.rows);
    op.starts = dense_int64(cuda_view(starts, "starts", 1, where.device), "starts", op.rows + 1);
    op.lengths = dense_int64(cuda_view(lengths, "lengths", 1, where.device), "lengths", op.rows);
    op.out = out.data;
    op.dtype = q.dtype;
    op.pages = k.shape[0];
    op.heads = static_cast<int>(q.shape[1]);
    op.kv_heads = static_cast<int>(k.shape[2]);
    op.head_dim = static_cast<int>(q.shape[2]);
    op.page = static_cast<int>(k.shape[1]);
    op.window = window;
    op.splits = splits;
    require(splits >= 1 && splits <= cuda::paged_most_splits, "splits must be in [1, 64]");
    const std::int64_t needed = splits == 1 ? 0 : op.rows * op.heads * splits * (op.head_dim + 2);
    require(partials.dtype == DType::f32 && partials.contiguous() && partials.shape[0] >= needed,
            "partials must be " + std::to_string(needed) + " dense float32");
    op.partials = partials.as<float>();
    const py::gil_scoped_release release;
    cuda::attention_paged(op, where);
}

}  // namespace

#endif

void bind_cuda_attention_paged(py::module_& module) {
    module.def(
        "launch_attention_paged",
        [](std::int64_t rows, std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, std::int64_t tokens,
           int bytes, bool aligned, int multiprocessors) {
            const cuda::AttentionPagedLaunch launch =
                cuda::launch_attention_paged(rows, heads, kv_heads, head_dim, tokens, bytes, aligned, multiprocessors);
            py::dict result = as_dict(launch.shape);
            result["heads"] = launch.heads;
            result["chunks"] = launch.chunks;
            result["splits"] = launch.splits;
            return result;
        },
        py::arg("rows"), py::arg("heads"), py::arg("kv_heads"), py::arg("head_dim"), py::arg("tokens"),
        py::arg("bytes"), py::arg("aligned"), py::arg("multiprocessors"));
#ifdef PYNANOCHAT_CUDA_BUILT
    module.def("cuda_attention_paged", &paged, py::arg("q"), py::arg("k_pages"), py::arg("v_pages"), py::arg("tables"),
               py::arg("starts"), py::arg("lengths"), py::arg("partials"), py::arg("out"), py::arg("splits"),
               py::arg("window"), py::arg("stream"));
#endif
}

}  // namespace pynanochat
