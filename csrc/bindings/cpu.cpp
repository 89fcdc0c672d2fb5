// Python bindings of csrc/cpu: each checks shapes, dtypes and strides, releases the GIL and calls the kernel of the
// instruction set in use.
#include <string>
#include <type_traits>

#include "bindings/view.h"
#include "common/isa.h"
#include "cpu/attention.h"
#include "cpu/attention_paged.h"
#include "cpu/linear_softcap_cross_entropy.h"
#include "cpu/product.h"
#include "cpu/rotary_qk_norm.h"
#include "cpu/sample_tokens.h"

namespace pynanochat {

namespace {

using std::int64_t;
using std::string;

void require(bool holds, const string& message) {
    if (!holds) throw ShapeError(message);
}

string shape_text(const Tensor& x) {
    string text = "(";
    for (int i = 0; i < x.dims; ++i) text += (i ? ", " : "") + std::to_string(x.shape[i]);
    return text + ")";
}

// A CPU tensor with `dims` dimensions of fp32 or bf16 whose last dimension is dense.
Tensor floats(py::handle tensor, const char* name, int dims) {
    const Tensor x = view(tensor, name);
    require(!x.on_cuda, string(name) + " is on a GPU; the cpu backend takes CPU tensors");
    require(x.dims == dims, string(name) + " has shape " + shape_text(x) + "; expected " + std::to_string(dims) + " dimensions");
    require(x.dtype == DType::f32 || x.dtype == DType::bf16, string(name) + ": the cpu backend takes float32 and bfloat16");
    require(x.size() == 0 || x.shape[dims - 1] == 1 || x.stride[dims - 1] == 1,
            string(name) + " has stride " + std::to_string(x.stride[dims - 1]) + " in its last dimension; expected 1");
    return x;
}

void require_shape(const Tensor& x, const char* name, std::initializer_list<int64_t> shape) {
    bool same = x.dims == static_cast<int>(shape.size());
    string wanted;
    int i = 0;
    for (int64_t n : shape) {
        same = same && x.shape[i] == n;
        wanted += (i++ ? ", " : "") + std::to_string(n);
    }
    require(same, string(name) + " has shape " + shape_text(x) + "; expected (" + wanted + ")");
}

// --- rotary_qk_norm ---

void copy_strides(int64_t (&to)[3], const Tensor& x) {
    for (int i = 0; i < 3; ++i) to[i] = x.stride[i];
}

RotaryQkNorm::Side rotary_side(const RotaryQkNorm& op, DType dtype, py::handle x_, py::handle grad_, py::handle out_) {
    const Tensor x = floats(x_, "q or k", 4), out = floats(out_, "out", 4);
    require_shape(x, "q or k", {op.batch, op.positions, x.shape[2], 2 * op.half});
    require_shape(out, "out", {op.batch, op.positions, x.shape[2], 2 * op.half});
    require(x.dtype == dtype && out.dtype == dtype, "q, k and their results must have one dtype");
    RotaryQkNorm::Side side{};
    side.heads = x.shape[2];
    side.x = x.data;
    side.out = out.data;
    copy_strides(side.x_stride, x);
    copy_strides(side.out_stride, out);
    if (!grad_.is_none()) {
        const Tensor grad = floats(grad_, "grad", 4);
        require_shape(grad, "grad", {op.batch, op.positions, x.shape[2], 2 * op.half});
        require(grad.dtype == dtype, "gradients must have the dtype of q and k");
        side.grad = grad.data;
        copy_strides(side.grad_stride, grad);
    }
    return side;
}

RotaryQkNorm rotary(py::handle q, py::handle k, py::handle cos_, py::handle sin_, float scale, float eps, py::handle dq,
                    py::handle dk, py::handle out_q, py::handle out_k) {
    const Tensor first = floats(q, "q", 4);
    const int64_t size = first.shape[3];
    require(size % 2 == 0 && size <= 2 * rotary_max_half,
            "head dim " + std::to_string(size) + ": the cpu backend takes even ones up to " + std::to_string(2 * rotary_max_half));
    const int dims = view(cos_, "cos").dims == 3 ? 3 : 2;
    const Tensor cos = floats(cos_, "cos", dims), sin = floats(sin_, "sin", dims);
    require(cos.dtype == DType::f32 && sin.dtype == DType::f32, "cos and sin must be float32");
    RotaryQkNorm op{};
    op.batch = first.shape[0];
    op.positions = first.shape[1];
    op.half = size / 2;
    for (const Tensor* table : {&cos, &sin}) {
        if (dims == 3)
            require_shape(*table, "cos or sin", {op.batch, op.positions, op.half});
        else
            require_shape(*table, "cos or sin", {op.positions, op.half});
    }
    op.table_stride[0] = dims == 3 ? cos.stride[0] : 0;
    op.table_stride[1] = cos.stride[dims - 2];
    for (int i = 0; i < dims; ++i)
        require(cos.stride[i] == sin.stride[i] || cos.shape[i] <= 1, "cos and sin must have equal strides");
    op.cos = cos.as<float>();
    op.sin = sin.as<float>();
    op.scale = scale;
    op.eps = eps;
    op.is_bf16 = first.dtype == DType::bf16;
    op.side[0] = rotary_side(op, first.dtype, q, dq, out_q);
    op.side[1] = rotary_side(op, first.dtype, k, dk, out_k);
    return op;
}

void bind_rotary_qk_norm(py::module_& module) {
    module.def(
        "rotary_qk_norm_forward",
        [](py::handle q, py::handle k, py::handle cos, py::handle sin, float scale, float eps, py::handle out_q,
           py::handle out_k) {
            const RotaryQkNorm op = rotary(q, k, cos, sin, scale, eps, py::none(), py::none(), out_q, out_k);
            py::gil_scoped_release release;
            PYNANOCHAT_CALL(rotary_qk_norm_forward, op);
        },
        "Writes rotated, normalised q and k into out_q and out_k.");
    module.def(
        "rotary_qk_norm_backward",
        [](py::handle grad_q, py::handle grad_k, py::handle q, py::handle k, py::handle cos, py::handle sin, float scale,
           float eps, py::handle dq, py::handle dk) {
            const RotaryQkNorm op = rotary(q, k, cos, sin, scale, eps, grad_q, grad_k, dq, dk);
            py::gil_scoped_release release;
            PYNANOCHAT_CALL(rotary_qk_norm_backward, op);
        },
        "Writes the gradients of q and k into dq and dk.");
}

// --- linear_softcap_cross_entropy ---

// Throws where a target is neither a class nor ignore_index.
void check_targets(const LinearSoftcapCrossEntropy& op) {
    for (int64_t i = 0; i < op.tokens; ++i) {
        const int64_t target = op.targets[i * op.targets_stride];
        require(target == op.ignore_index || (target >= 0 && target < op.vocabulary),
                "targets[" + std::to_string(i) + "] = " + std::to_string(target) + " is neither in [0, " +
                    std::to_string(op.vocabulary) + ") nor ignore_index " + std::to_string(op.ignore_index));
    }
}

LinearSoftcapCrossEntropy cross_entropy(py::handle x_, py::handle weight_, py::handle targets_, int64_t vocabulary,
                                        float softcap, int64_t ignore_index, py::handle losses_) {
    const Tensor x = floats(x_, "x", 2), weight = floats(weight_, "weight", 2), losses = floats(losses_, "losses", 1);
    const Tensor targets = view(targets_, "targets");
    LinearSoftcapCrossEntropy op{};
    op.tokens = x.shape[0];
    op.channels = x.shape[1];
    op.vocabulary = vocabulary;
    require(vocabulary >= 1 && vocabulary <= weight.shape[0], "vocab_size " + std::to_string(vocabulary) +
                                                                  " is not in [1, " + std::to_string(weight.shape[0]) + "]");
    require(op.channels >= 1, "x has no channels");
    require_shape(weight, "weight", {weight.shape[0], op.channels});
    require_shape(losses, "losses", {op.tokens});
    require_shape(targets, "targets", {op.tokens});
    require(targets.dtype == DType::i64 && !targets.on_cuda, "targets must be int64 on the CPU");
    require(losses.dtype == DType::f32, "losses must be float32");
    require(softcap > 0, "softcap " + std::to_string(softcap) + " must be above 0");
    op.x = x.data;
    op.x_stride = x.stride[0];
    op.x_is_bf16 = x.dtype == DType::bf16;
    op.weight = weight.data;
    op.weight_stride = weight.stride[0];
    op.weight_is_bf16 = weight.dtype == DType::bf16;
    op.targets = targets.as<int64_t>();
    op.targets_stride = targets.stride[0];
    op.ignore_index = ignore_index;
    op.softcap = softcap;
    op.losses = losses.as<float>();
    return op;
}

void cross_entropy_gradients(LinearSoftcapCrossEntropy& op, py::handle token_scale_, py::handle dx_, py::handle dweight_) {
    const Tensor scale = view(token_scale_, "token_scale"), dx = floats(dx_, "dx", 2), dweight = floats(dweight_, "dweight", 2);
    require(scale.dtype == DType::f32 && !scale.on_cuda, "token_scale must be float32 on the CPU");
    require_shape(scale, "token_scale", {op.tokens});
    require_shape(dx, "dx", {op.tokens, op.channels});
    require_shape(dweight, "dweight", {op.vocabulary, op.channels});
    require(dx.contiguous() && (dx.dtype == DType::bf16) == op.x_is_bf16, "dx must be dense and have x's dtype");
    require(dweight.contiguous() && dweight.dtype == DType::f32, "dweight must be dense float32");
    op.token_scale = scale.as<float>();
    op.token_scale_stride = scale.stride[0];
    op.dx = dx.data;
    op.dweight = dweight.as<float>();
}

void run_cross_entropy(const LinearSoftcapCrossEntropy& op) {
    if (op.tokens == 0) return;
    py::gil_scoped_release release;
    check_targets(op);
    PYNANOCHAT_CALL(linear_softcap_cross_entropy, op);
}

void bind_linear_softcap_cross_entropy(py::module_& module) {
    module.def(
        "linear_softcap_cross_entropy_losses",
        [](py::handle x, py::handle weight, py::handle targets, int64_t vocab_size, float softcap, int64_t ignore_index,
           py::handle losses) {
            run_cross_entropy(cross_entropy(x, weight, targets, vocab_size, softcap, ignore_index, losses));
        },
        "Writes each token's loss.");
    module.def(
        "linear_softcap_cross_entropy_losses_and_grads",
        [](py::handle x, py::handle weight, py::handle targets, py::handle token_scale, int64_t vocab_size, float softcap,
           int64_t ignore_index, py::handle losses, py::handle dx, py::handle dweight) {
            LinearSoftcapCrossEntropy op = cross_entropy(x, weight, targets, vocab_size, softcap, ignore_index, losses);
            cross_entropy_gradients(op, token_scale, dx, dweight);
            run_cross_entropy(op);
        },
        "Writes each token's loss, and the gradients of sum(token_scale * losses); dweight (vocab_size, C) is float32.");
}

// --- attention ---

Attention::Heads heads_of(const Attention& op, py::handle x_, const char* name, int64_t positions, int64_t heads) {
    const Tensor x = floats(x_, name, 4);
    require_shape(x, name, {op.batch, positions, heads, op.head_dim});
    require((x.dtype == DType::bf16) == op.is_bf16, string(name) + " must have the dtype of q");
    Attention::Heads result{};
    result.data = x.data;
    copy_strides(result.stride, x);
    return result;
}

Attention attention(py::handle q_, py::handle k_, py::handle v, py::handle out, py::handle lse_, int64_t window) {
    const Tensor q = floats(q_, "q", 4), k = floats(k_, "k", 4), lse = floats(lse_, "lse", 3);
    Attention op{};
    op.batch = q.shape[0];
    op.positions = q.shape[1];
    op.heads = q.shape[2];
    op.head_dim = q.shape[3];
    op.groups = k.shape[2];
    op.keys = k.shape[1];
    op.is_bf16 = q.dtype == DType::bf16;
    op.window = window < 0 || window > op.keys ? op.keys : window;
    require(op.groups >= 1 && op.heads % op.groups == 0, std::to_string(op.heads) + " query heads are no multiple of " +
                                                             std::to_string(op.groups) + " key heads");
    require(op.head_dim >= 1, "q has no channels");
    require(op.keys >= op.positions, "k has shape " + shape_text(k) + "; q has more positions");
    op.q = heads_of(op, q_, "q", op.positions, op.heads);
    op.k = heads_of(op, k_, "k", op.keys, op.groups);
    op.v = heads_of(op, v, "v", op.keys, op.groups);
    op.out = heads_of(op, out, "out", op.positions, op.heads);
    require_shape(lse, "lse", {op.batch, op.heads, op.positions});
    require(lse.contiguous() && lse.dtype == DType::f32, "lse must be dense float32");
    op.lse = lse.as<float>();
    return op;
}

void bind_attention(py::module_& module) {
    module.def(
        "attention_forward",
        [](py::handle q, py::handle k, py::handle v, int64_t window, py::handle out, py::handle lse) {
            const Attention op = attention(q, k, v, out, lse, window);
            if (op.batch * op.positions == 0) return;
            py::gil_scoped_release release;
            PYNANOCHAT_CALL(attention_forward, op);
        },
        "Writes causal attention and each row's log-sum-exp; of fewer queries than keys, as the last positions.");
    module.def(
        "attention_backward",
        [](py::handle dout, py::handle q, py::handle k, py::handle v, py::handle out, py::handle lse, int64_t window,
           py::handle dq, py::handle dk, py::handle dv) {
            Attention op = attention(q, k, v, out, lse, window);
            require(op.keys == op.positions, "q and k must have as many positions");
            op.dout = heads_of(op, dout, "dout", op.positions, op.heads);
            op.dq = heads_of(op, dq, "dq", op.positions, op.heads);
            op.dk = heads_of(op, dk, "dk", op.positions, op.groups);
            op.dv = heads_of(op, dv, "dv", op.positions, op.groups);
            if (op.batch * op.positions == 0) return;
            py::gil_scoped_release release;
            PYNANOCHAT_CALL(attention_backward, op);
        },
        "Writes the gradients of q, k and v.");
}

// --- attention_paged ---

AttentionPaged::Pages pages_of(const AttentionPaged& op, py::handle x_, const char* name, int64_t pages) {
    const Tensor x = floats(x_, name, 4);
    require_shape(x, name, {pages, op.page, op.groups, op.head_dim});
    require((x.dtype == DType::bf16) == op.is_bf16, string(name) + " must have the dtype of q");
    AttentionPaged::Pages result{};
    result.data = x.data;
    copy_strides(result.stride, x);
    return result;
}

// The elements of a dense CPU tensor of T, int64_t or double, and of this shape.
template <class T> T* dense(py::handle x_, const char* name, std::initializer_list<int64_t> shape) {
    constexpr bool whole = std::is_same_v<T, int64_t>;
    const Tensor x = view(x_, name);
    require(x.dtype == (whole ? DType::i64 : DType::f64) && !x.on_cuda && x.contiguous(),
            string(name) + " must be dense " + (whole ? "int64" : "float64") + " on the CPU");
    require_shape(x, name, shape);
    return x.as<T>();
}

// Throws where the queries do not follow each other, or a page that one of them sees is not among `pages`.
void check_tables(const AttentionPaged& op, int64_t queries, int64_t pages) {
    require(op.starts[0] == 0 && op.starts[op.rows] == queries, "starts must lead from 0 to the number of queries");
    for (int64_t row = 0; row < op.rows; ++row) {
        const int64_t count = op.starts[row + 1] - op.starts[row], length = op.lengths[row];
        require(0 <= count && count <= length && length <= op.table_size * op.page,
                "row " + std::to_string(row) + ": " + std::to_string(count) + " queries at the end of " + std::to_string(length) +
                    " tokens in " + std::to_string(op.table_size) + " pages of " + std::to_string(op.page));
        if (count == 0) continue;
        const int64_t first = length - count > op.window ? (length - count - op.window) / op.page : 0;
        for (int64_t i = first; i * op.page < length; ++i) {
            const int64_t page = op.tables[row * op.table_size + i];
            require(0 <= page && page < pages, "tables[" + std::to_string(row) + ", " + std::to_string(i) + "] = " +
                                                   std::to_string(page) + " is not in [0, " + std::to_string(pages) + ")");
        }
    }
}

void run_attention_paged(py::handle q_, py::handle k_, py::handle v, py::handle tables_, py::handle starts,
                         py::handle lengths, int64_t window, int64_t most_queries, py::handle out_) {
    const Tensor q = floats(q_, "q", 3), out = floats(out_, "out", 3), k = floats(k_, "k_pages", 4);
    const Tensor tables = view(tables_, "tables");
    AttentionPaged op{};
    op.heads = q.shape[1];
    op.head_dim = q.shape[2];
    op.page = k.shape[1];
    op.groups = k.shape[2];
    op.is_bf16 = q.dtype == DType::bf16;
    require(op.groups >= 1 && op.heads % op.groups == 0, std::to_string(op.heads) + " query heads are no multiple of " +
                                                             std::to_string(op.groups) + " key heads");
    require(op.head_dim >= 1 && op.page >= 1, "k_pages has shape " + shape_text(k) + "; it holds nothing");
    op.k = pages_of(op, k_, "k_pages", k.shape[0]);
    op.v = pages_of(op, v, "v_pages", k.shape[0]);
    require(tables.dims == 2, "tables has shape " + shape_text(tables) + "; expected 2 dimensions");
    op.rows = tables.shape[0];
    op.table_size = tables.shape[1];
    op.tables = dense<int64_t>(tables_, "tables", {op.rows, op.table_size});
    op.starts = dense<int64_t>(starts, "starts", {op.rows + 1});
    op.lengths = dense<int64_t>(lengths, "lengths", {op.rows});
    op.window = window < 0 || window > op.table_size * op.page ? op.table_size * op.page : window;
    op.most_queries = most_queries;
    require_shape(out, "out", {q.shape[0], op.heads, op.head_dim});
    require(out.dtype == q.dtype, "out must have the dtype of q");
    op.q = q.data;
    op.out = out.data;
    for (int i = 0; i < 2; ++i) op.q_stride[i] = q.stride[i], op.out_stride[i] = out.stride[i];
    check_tables(op, q.shape[0], k.shape[0]);
    py::gil_scoped_release release;
    PYNANOCHAT_CALL(attention_paged, op);
}

// --- product ---

Product::Operand operand(py::handle x_, const char* name, int64_t rows, int64_t columns) {
    const Tensor x = view(x_, name);
    require(!x.on_cuda && (x.dtype == DType::f32 || x.dtype == DType::bf16),
            string(name) + ": the cpu backend takes float32 and bfloat16 on the CPU");
    require_shape(x, name, {rows, columns});
    Product::Operand result{x.data, x.stride[0], x.stride[1], x.dtype == DType::bf16};
    if (columns == 1 && rows > 1 && result.row_stride == 1) result.column_stride = rows;  // of one element: any will do
    else if (columns == 1) result.column_stride = 1;
    else if (rows == 1 && result.column_stride != 1) result.row_stride = 1;
    require(result.row_stride == 1 || result.column_stride == 1, string(name) + " must be dense along one dimension");
    return result;
}

void run_product(py::handle a, py::handle b, py::handle c_, bool bf16_products, const string& after, py::handle h_) {
    const Tensor c = floats(c_, "c", 2), first = view(a, "a"), h = optional_view(h_, "h");
    require(first.dims == 2, "a has shape " + shape_text(first) + "; expected 2 dimensions");
    Product op{};
    op.m = c.shape[0];
    op.n = c.shape[1];
    op.k = first.shape[1];
    op.a = operand(a, "a", op.m, op.k);
    op.b = operand(b, "b", op.k, op.n);
    op.bf16_products = bf16_products;
    op.c = c.data;
    op.c_stride = c.stride[0];
    op.c_is_bf16 = c.dtype == DType::bf16;
    op.h = h.data;
    op.after = after == "relu2" ? Product::After::relu2 : after == "relu2_slope" ? Product::After::relu2_slope : Product::After::nothing;
    require(after.empty() || op.after != Product::After::nothing, "after=" + after + ": use relu2 or relu2_slope");
    if (op.after == Product::After::relu2_slope) {
        require_shape(h, "h", {op.m, op.n});
        require(h.contiguous() && h.dtype == c.dtype && !h.on_cuda, "h must be dense and have c's dtype");
    }
    require(op.k >= 1, "a has no columns");
    if (op.m * op.n == 0) return;
    py::gil_scoped_release release;
    PYNANOCHAT_CALL(product, op);
}

// --- sample_tokens ---

void run_sample_tokens(py::handle logits_, py::handle temperature, py::handle top_k, py::handle top_p, py::handle min_p,
                       py::handle number, py::handle tokens) {
    const Tensor logits = floats(logits_, "logits", 2);
    require(logits.dtype == DType::f32 && logits.shape[1] >= 1, "logits must be float32 and have a vocabulary");
    SampleTokens op{};
    op.logits = logits.as<float>();
    op.rows = logits.shape[0];
    op.vocabulary = logits.shape[1];
    op.row_stride = logits.stride[0];
    op.temperature = dense<double>(temperature, "temperature", {op.rows});
    op.top_k = dense<int64_t>(top_k, "top_k", {op.rows});
    op.top_p = dense<double>(top_p, "top_p", {op.rows});
    op.min_p = dense<double>(min_p, "min_p", {op.rows});
    op.number = dense<double>(number, "number", {op.rows});
    op.tokens = dense<int64_t>(tokens, "tokens", {op.rows});
    py::gil_scoped_release release;
    PYNANOCHAT_CALL(sample_tokens, op);
}

}  // namespace

void bind_cpu(py::module_& module) {
    module.def("cpu_isa", [] { return isa_name(isa()); }, "The instruction set that the CPU kernels use.");
    module.def("set_cpu_isa", &set_isa, py::arg("name"),
               "Choose the kernels' instruction set: portable, avx2, avx512, avx512bf16 or auto. ValueError if the CPU lacks it.");
    module.def(
        "cpu_isas",
        [] {
            py::list names;
            for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16})
                if (isa_supported(isa)) names.append(isa_name(isa));
            return names;
        },
        "The instruction sets that this CPU has and the kernels know, worst first.");
    bind_rotary_qk_norm(module);
    bind_linear_softcap_cross_entropy(module);
    bind_attention(module);
    module.def("attention_paged", &run_attention_paged,
               "Writes causal attention over paged keys and values, for the rows that have at most most_queries queries.");
    module.def("product", &run_product, py::arg("a"), py::arg("b"), py::arg("c"), py::arg("bf16_products"),
               py::arg("after") = "", py::arg("h") = py::none(),
               "Writes c (m, n) = a (m, k) b (k, n), then relu2(c), or c times relu2's slope where it gave h.");
    module.def("sample_tokens", &run_sample_tokens, "Writes a token for each row of logits, drawn by the row's settings and number.");
}

}  // namespace pynanochat
