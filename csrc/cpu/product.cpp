// C = A B with fp32 sums, for any mix of fp32 and bf16 and either orientation of each operand, so that it serves a linear
// layer's three products (x W^T, dy W, dy^T x) on an fp32 master weight without a cast copy, with relu^2 on the way out.
//
// B is packed once for all (workspace: its own size, 4 bytes for each fp32 or two bf16). Tasks are blocks of C; each converts
// its A block by block of k and keeps its sums in the L2 cache. The order of sums over k is the same for any blocking, hence
// for any number of threads.
//
// Bound: 2 m n k operations at the multiply-add rate.
#include "cpu/product.h"

#include <omp.h>

#include "common/workspace.h"
#include "cpu/gemm.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr i64 max_block_rows = 96, min_block_rows = 48;      // multiples of every tile's rows
constexpr i64 max_block_columns = 512, min_block_columns = 128;  // multiples of every tile's columns
constexpr i64 parallel_work = 1 << 20;                       // multiply-adds below which one thread is enough

template <class Unit, class A, class B> struct Run {
    using E = typename ElementOf<Unit>::type;
    static constexpr i64 per = sizeof(Unit) / sizeof(E);

    const Product& op;
    const i64 units, padded;  // of k; n rounded up to whole panels
    const bool a_by_row;
    i64 block_rows, block_columns;
    int threads;
    Unit* packed;
    char* scratch;
    i64 scratch_bytes;

    explicit Run(const Product& op)
        : op(op),
          units((op.k + per - 1) / per),
          padded(round_up(op.n, columns)),
          a_by_row(op.a.column_stride == 1),
          threads(op.m * op.n * op.k < parallel_work ? 1 : omp_get_max_threads()) {
        block_rows = max_block_rows;
        block_columns = max_block_columns;
        if (tasks() < 8 * threads) block_columns = min_block_columns;
        if (tasks() < 8 * threads) block_rows = min_block_rows;
        scratch_bytes = round_up(4 * depth * (block_rows + 16) + 4 * block_rows * (block_columns + 16), 4096);
        const i64 packed_bytes = round_up(4 * units * padded, 4096);
        char* base = static_cast<char*>(workspace(static_cast<std::size_t>(packed_bytes + threads * scratch_bytes)));
        packed = reinterpret_cast<Unit*>(base);
        scratch = base + packed_bytes;
    }

    i64 tasks() const { return blocks(op.m, block_rows) * blocks(op.n, block_columns); }
    static i64 blocks(i64 n, i64 size) { return (n + size - 1) / size; }

    // Units [from, from + depth) of B into their panels.
    void pack(i64 from) const {
        const i64 first = from * per, elements = least(depth * per, op.k - first);
        const B* b = static_cast<const B*>(op.b.data) + first * op.b.row_stride;
        if (op.b.row_stride == 1)
            pack_columns(packed + from * padded, b, op.b.column_stride, op.n, elements);
        else
            pack_rows(packed + from * padded, b, op.b.row_stride, op.n, elements, nullptr);
    }

    // Rows [i, i + count) and units [from, from + part) of A into `to`: by row with stride depth, or by column with stride
    // block_rows + 16.
    void gather(Unit* to, i64 i, i64 count, i64 from, i64 part) const {
        const A* a = static_cast<const A*>(op.a.data) + i * op.a.row_stride + from * per * op.a.column_stride;
        const i64 elements = least(part * per, op.k - from * per);
        if (a_by_row) {
            for (i64 r = 0; r < count; ++r)
                convert_row(reinterpret_cast<E*>(to + r * depth), a + r * op.a.row_stride, elements, part * per);
            return;
        }
        for (i64 unit = 0; unit < part; ++unit, to += block_rows + 16) {
            const A* first = a + unit * per * op.a.column_stride;
            const A* second = first + op.a.column_stride;
            const bool pair = per == 2 && unit * per + 1 < elements;
            for (i64 r = 0; r < count; r += width) {  // `to` has room for a whole vector
                const bool whole = r + width <= count;
                const vf x0 = whole ? load(first + r) : load_first(first + r, count - r);
                const vf x1 = !pair ? zero() : whole ? load(second + r) : load_first(second + r, count - r);
                store_units(to + r, x0, x1);
            }
        }
    }

    template <class C> static vf finish(Product::After after, vf x, const C* h, i64 n) {
        if (after == Product::After::relu2) {
            const vf positive = at_least(x, 0.0f);
            return positive * positive;
        }
        if (after == Product::After::relu2_slope) {
            return x * square_root(n >= width ? load(h) : load_first(h, n)) * 2.0f;
        }
        return x;
    }

    template <class C> void put(const float* sums, i64 sums_stride, i64 i, i64 count, i64 j, i64 n) const {
        for (i64 r = 0; r < count; ++r) {
            const float* from = sums + r * sums_stride;
            C* to = static_cast<C*>(op.c) + (i + r) * op.c_stride + j;
            const C* h = op.h ? static_cast<const C*>(op.h) + (i + r) * op.n + j : nullptr;
            i64 s = 0;
            for (; s + width <= n; s += width) store(to + s, finish(op.after, load(from + s), h ? h + s : h, width));
            if (s < n) store_first(to + s, finish(op.after, load_first(from + s, n - s), h ? h + s : h, n - s), n - s);
        }
    }

    void block(i64 i, i64 j) const {
        const i64 count = least(block_rows, op.m - i), n = least(block_columns, op.n - j);
        const i64 stride = block_columns + 16;
        char* own = scratch + omp_get_thread_num() * scratch_bytes;
        Unit* a = reinterpret_cast<Unit*>(own);
        float* sums = reinterpret_cast<float*>(own + 4 * depth * (block_rows + 16));
        for (i64 from = 0; from < units; from += depth) {
            const i64 part = least(depth, units - from);
            gather(a, i, count, from, part);
            const Unit* b = packed + from * padded + j * part;
            if (a_by_row)
                multiply_block<Order::by_row>(count, n, part, static_cast<const Unit*>(a), depth, b, sums, stride, from > 0);
            else
                multiply_block<Order::by_column>(count, n, part, static_cast<const Unit*>(a), block_rows + 16, b, sums, stride,
                                                 from > 0);
        }
        op.c_is_bf16 ? put<bf16>(sums, stride, i, count, j, n) : put<float>(sums, stride, i, count, j, n);
    }

    void all_blocks() const {
        const i64 across = blocks(op.n, block_columns), count = tasks();
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(dynamic)
            for (i64 from = 0; from < units; from += depth) pack(from);
#pragma omp for schedule(dynamic)
            for (i64 t = 0; t < count; ++t) block(t / across * block_rows, t % across * block_columns);
        }
    }
};

template <class Unit, class A> void run_b(const Product& op) {
    op.b.is_bf16 ? Run<Unit, A, bf16>(op).all_blocks() : Run<Unit, A, float>(op).all_blocks();
}
template <class Unit> void run_a(const Product& op) { op.a.is_bf16 ? run_b<Unit, bf16>(op) : run_b<Unit, float>(op); }

}  // namespace

void product(const Product& op) {
    op.bf16_products ? run_a<UnitOf<bf16>::type>(op) : run_a<float>(op);
}

}  // namespace pynanochat::PYNANOCHAT_ISA
