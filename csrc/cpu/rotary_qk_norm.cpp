// Rotary embedding by -theta, RMS norm over the head, scale: y = rot(x); out = scale * y / sqrt(mean(y^2) + eps).
// Backward, with g = d out, r = 1 / sqrt(mean(y^2) + eps): dy = scale * r * (g - y * (y . g) * r^2 / D); dx = rot^-1(dy).
// y is computed again in the backward, so nothing is saved.
//
// Bound: memory. Bytes moved per element: 2 (forward) or 3 (backward) times the element's size; the table stays in cache.
// Ladder: eager torch reads and writes a dozen temporaries; here each head is read once, kept in L1, written once: 5.8 to
// 10 times eager, 1.1 to 2.3 times torch.compile.
#include "cpu/rotary_qk_norm.h"

#include "common/simd.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr i64 parallel_elements = 1 << 14;  // below this a thread team costs more than it saves

struct Head {  // one rotated head, padded with zeros to whole vectors
    float y1[rotary_max_half], y2[rotary_max_half];
};

// Calls body(i, load_part, n) for the vectors of a half: whole ones, then the remainder of n elements.
template <class Body> PYNANOCHAT_INLINE void for_vectors(i64 half, Body body) {
    i64 i = 0;
    for (; i + width <= half; i += width) body(i, [](auto* p) { return load(p); }, [](auto* p, vf v) { store(p, v); });
    const i64 rest = half - i;
    if (rest > 0)
        body(i, [rest](auto* p) { return load_first(p, rest); }, [rest](auto* p, vf v) { store_first(p, v, rest); });
}

// Rotates x into head; returns the sum of its squares.
template <class T> PYNANOCHAT_INLINE float rotate(const T* x, const float* cos, const float* sin, i64 half, Head& head) {
    vf squares = zero();
    for_vectors(half, [&](i64 i, auto get, auto) {
        const vf x1 = get(x + i), x2 = get(x + half + i), c = get(cos + i), s = get(sin + i);
        const vf y1 = x1 * c + x2 * s, y2 = x2 * c - x1 * s;
        store(head.y1 + i, y1);
        store(head.y2 + i, y2);
        squares += y1 * y1 + y2 * y2;
    });
    return sum(squares);
}

template <class T> void forward_head(const RotaryQkNorm& op, const T* x, T* out, const float* cos, const float* sin) {
    Head head;
    const float mean = rotate(x, cos, sin, op.half, head) / static_cast<float>(2 * op.half);
    const vf factor = all(op.scale / __builtin_sqrtf(mean + op.eps));
    for_vectors(op.half, [&](i64 i, auto, auto put) {
        put(out + i, load(head.y1 + i) * factor);
        put(out + op.half + i, load(head.y2 + i) * factor);
    });
}

template <class T>
void backward_head(const RotaryQkNorm& op, const T* x, const T* grad, T* dx, const float* cos, const float* sin) {
    Head head;
    const i64 half = op.half;
    const float size = static_cast<float>(2 * half);
    const float r = 1.0f / __builtin_sqrtf(rotate(x, cos, sin, half, head) / size + op.eps);
    vf dots = zero();
    for_vectors(half, [&](i64 i, auto get, auto) {
        dots += load(head.y1 + i) * get(grad + i) + load(head.y2 + i) * get(grad + half + i);
    });
    const vf factor = all(op.scale * r), along = all(-sum(dots) * r * r / size);
    for_vectors(half, [&](i64 i, auto get, auto put) {
        const vf d1 = (load(head.y1 + i) * along + get(grad + i)) * factor;
        const vf d2 = (load(head.y2 + i) * along + get(grad + half + i)) * factor;
        const vf c = get(cos + i), s = get(sin + i);
        put(dx + i, d1 * c - d2 * s);
        put(dx + half + i, d1 * s + d2 * c);
    });
}

template <bool Backward, class T> void row(const RotaryQkNorm& op, i64 b, i64 t) {
    const i64 at = b * op.table_stride[0] + t * op.table_stride[1];
    for (const RotaryQkNorm::Side& side : op.side) {
        const T* x = static_cast<const T*>(side.x) + b * side.x_stride[0] + t * side.x_stride[1];
        const T* grad = static_cast<const T*>(side.grad);
        if (Backward) grad += b * side.grad_stride[0] + t * side.grad_stride[1];
        T* out = static_cast<T*>(side.out) + b * side.out_stride[0] + t * side.out_stride[1];
        for (i64 h = 0; h < side.heads; ++h) {
            const T* head = x + h * side.x_stride[2];
            T* result = out + h * side.out_stride[2];
            if constexpr (Backward)
                backward_head(op, head, grad + h * side.grad_stride[2], result, op.cos + at, op.sin + at);
            else
                forward_head(op, head, result, op.cos + at, op.sin + at);
        }
    }
}

template <bool Backward> void run(const RotaryQkNorm& op) {
    const i64 rows = op.batch * op.positions;
    const i64 elements = rows * (op.side[0].heads + op.side[1].heads) * 2 * op.half;
#pragma omp parallel for schedule(static) if (elements >= parallel_elements)
    for (i64 i = 0; i < rows; ++i) {
        const i64 b = i / op.positions, t = i % op.positions;
        if (op.is_bf16)
            row<Backward, bf16>(op, b, t);
        else
            row<Backward, float>(op, b, t);
    }
}

}  // namespace

void rotary_qk_norm_forward(const RotaryQkNorm& op) { run<false>(op); }
void rotary_qk_norm_backward(const RotaryQkNorm& op) { run<true>(op); }

}  // namespace pynanochat::PYNANOCHAT_ISA
