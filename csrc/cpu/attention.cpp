// Causal softmax attention with a window and grouped queries, training form: forward with the log of each row's sum, backward
// from it. Scores are never stored beyond one block.
//
// A block is 96 queries against up to 256 keys. Its scores lie transposed, S^T = K Q^T (keys, queries): queries along
// vectors, so maxima, sums and masks need no reduction across lanes, and the products that follow read it where it lies:
//     forward    O += P V                        P by column
//     backward   dV += P^T dO, dK += dS^T Q      by row
//                dQ += dS K                      by column
// For bf16, P and dS are rounded to bf16, as rows and as pairs of rows. Tiles that no query sees are skipped, and a product
// over keys or queries runs over the visible ones only.
//
// Deterministic for any number of threads: forward tasks are (batch, head, query block), backward tasks (batch, key head).
// Bound: 4 (forward) or 10 (backward) D operations for each visible pair at the GEMM rate, and one exponential.
// Measured (2 cores with AVX-512, forward and backward, d12 window and full): 296 and 350 GFLOP/s in fp32, 518 and 598 in
// bf16; 8.6 and 2.7, 10.9 and 3.4 times torch's scaled_dot_product_attention.
#include "cpu/attention.h"

#include <omp.h>

#include "common/workspace.h"
#include "cpu/gemm.h"

namespace pynanochat::PYNANOCHAT_ISA {

namespace {

constexpr i64 query_block = 96;             // a multiple of every tile's rows and columns
constexpr i64 key_block = 256;
constexpr i64 score_stride = query_block + 16;  // elements; a multiple of a vector, and no power of two
constexpr float unseen = -1e30f;

constexpr i64 greatest(i64 a, i64 b) { return a > b ? a : b; }

// Hands out parts of one piece of memory.
struct Parts {
    char* at;
    template <class P> P* take(i64 count) {
        P* result = reinterpret_cast<P*>(at);
        at += round_up(count * i64{sizeof(P)}, 64);
        return result;
    }
};

template <class T> struct Run {
    using Unit = typename UnitOf<T>::type;
    using E = typename ElementOf<Unit>::type;
    static constexpr i64 per = sizeof(Unit) / sizeof(E);

    const Attention& op;
    const i64 units;          // of a head
    const i64 wide;           // channels of a head, padded to whole panels
    const i64 even;           // keys, padded to whole units
    const float scale;
    const i64 blocks;         // of queries
    const i64 offset;         // of the first query among the keys

    explicit Run(const Attention& op)
        : op(op),
          units((op.head_dim + per - 1) / per),
          wide(round_up(op.head_dim, columns)),
          even(round_up(op.keys, per)),
          scale(1.0f / __builtin_sqrtf(static_cast<float>(op.head_dim))),
          blocks((op.positions + query_block - 1) / query_block),
          offset(op.keys - op.positions) {}

    static T* row(const Attention::Heads& x, i64 b, i64 t, i64 h) {
        return static_cast<T*>(x.data) + b * x.stride[0] + t * x.stride[1] + h * x.stride[2];
    }

    // The keys of one (batch, key head), as the products want them.
    struct Keys {
        E* k_rows;       // (T, units) in units
        E* v_rows;       // backward
        Unit* v_packed;  // forward: panels of (even / per, columns)
        Unit* k_packed;  // backward
    };

    void rows_of(E* to, const Attention::Heads& x, i64 b, i64 g) const {
        for (i64 t = 0; t < op.keys; ++t) convert_row(to + t * units * per, row(x, b, t, g), op.head_dim, units * per);
    }
    void pack_heads(Unit* to, const Attention::Heads& x, i64 b, i64 g) const {
        pack_rows(to, row(x, b, 0, g), x.stride[1], op.head_dim, op.keys, nullptr, even / per);
    }

    // One block of queries against keys [key, key + count): which of them are visible.
    struct Block {
        i64 query, queries;  // first, how many are real
        i64 key, count;      // first (even), how many
    };
    i64 first_key(i64 query) const { return greatest(0, query - op.window); }  // that a query sees

    // Rows [i, i + height) of S^T and columns [j, j + columns): is any pair visible?
    bool visible(const Block& block, i64 i, i64 height, i64 j) const {
        const i64 key = block.key + i, query = block.query + j;
        return key <= query + columns - 1 && key + height > query - op.window;
    }

    // scores (keys, queries) = A B^T for rows A of keys and packed queries B, where visible.
    void score(const Block& block, const E* a, const Unit* b, float* scores) const {
        const Unit* from = reinterpret_cast<const Unit*>(a + block.key * units * per);
        for (i64 j = 0; j < query_block; j += columns, b += units * columns) {
            if (j >= block.queries) break;
            for (i64 i = 0; i < block.count; i += rows) {
                const i64 height = least(rows, block.count - i);
                if (!visible(block, i, height, j)) continue;
                tile_of<Order::by_row>(height, units, from + i * units, units, b, scores + i * score_stride + j, score_stride,
                                       false);
            }
        }
    }

    // Lanes of queries [query, query + width) that see `key`.
    vi mask(i64 key, i64 query) const {
        vi lane;
        for (int i = 0; i < width; ++i) lane[i] = i;
        const vi distance = lane + static_cast<std::int32_t>(query - key);
        return (distance >= 0) & (distance <= static_cast<std::int32_t>(op.window));
    }
    // How the keys of a block stand to the queries [query, query + width): some see keys in [some, end), all see those in
    // [whole, whole_end).
    struct Span {
        i64 some, whole, whole_end, end;
    };
    Span span(const Block& block, i64 query) const {
        const auto inside = [&](i64 key) { return greatest(0, least(block.count, key - block.key)); };
        const i64 some = inside(query - op.window), end = greatest(some, inside(query + width));
        const i64 whole = least(end, inside(query + width - 1 - op.window));
        return {some, whole, greatest(whole, least(end, inside(query + 1))), end};
    }

    // --- forward ---

    struct ForwardScratch {
        Unit* q_packed;
        float *scores, *out, *top, *total;
        Unit* pairs;  // P in units of keys; scores itself where a unit is one element
        explicit ForwardScratch(Parts parts, i64 units, i64 wide) {
            q_packed = parts.take<Unit>(query_block * units);
            scores = parts.take<float>(key_block * score_stride);
            pairs = per == 2 ? parts.take<Unit>(key_block / 2 * score_stride) : reinterpret_cast<Unit*>(scores);
            out = parts.take<float>(query_block * wide);
            top = parts.take<float>(2 * query_block);
            total = top + query_block;
        }
        static i64 bytes(i64 units, i64 wide) {
            return 4 * (query_block * (units + wide + 2) + key_block * score_stride * 2) + 512;
        }
    };

    // Scores of one vector of queries into P; updates the running maximum and sum. Returns what the sum was scaled by.
    vf softmax(const Block& block, i64 j, const ForwardScratch& s) const {
        const i64 query = block.query + j;
        const Span keys = span(block, query);
        float* at = s.scores + j;
        vf most = all(unseen);
        for (i64 i = keys.some; i < keys.end; ++i) {
            vf x = load(at + i * score_stride);
            if (i < keys.whole || i >= keys.whole_end) x = select(mask(block.key + i, query), x, all(unseen));
            most = larger(most, x);
        }
        const vf before = load(s.top + j), top = larger(before, most * scale);
        const vf kept = exp(before - top);
        vf total = load(s.total + j) * kept;
        const auto probability = [&](i64 i) {
            if (i < keys.some || i >= keys.end) return zero();
            vf p = exp(load(at + i * score_stride) * scale - top);
            if (i < keys.whole || i >= keys.whole_end) p = select(mask(block.key + i, query), p, zero());
            total += p;
            return p;
        };
        for (i64 i = 0; i < block.count; i += 2) {
            const vf p0 = probability(i), p1 = i + 1 < block.count ? probability(i + 1) : zero();
            if constexpr (per == 2) {
                store_units(s.pairs + i / 2 * score_stride + j, p0, p1);
            } else {
                store(at + i * score_stride, p0);
                if (i + 1 < block.count) store(at + (i + 1) * score_stride, p1);
            }
        }
        store(s.top + j, top);
        store(s.total + j, total);
        return kept;
    }

    // C (queries, wide) += P by column times packed rows of keys (panels of even / per units).
    void by_queries(const Block& block, const Unit* pairs, const Unit* packed, float* c) const {
        const i64 first = block.key / per, count = (block.count + per - 1) / per;
        for (i64 j = 0; j < wide; j += columns) {
            const Unit* panel = packed + j * (even / per) + first * columns;
            for (i64 i = 0; i < block.queries; i += rows) {
                const i64 height = least(rows, block.queries - i), query = block.query + i;
                const i64 from = greatest(0, (first_key(query) - block.key) / per);
                const i64 to = least(count, (query + height - 1 - block.key) / per + 1);
                if (from >= to || query + height - 1 < block.key) continue;
                tile_of<Order::by_column>(height, to - from, pairs + from * score_stride + i, score_stride,
                                          panel + from * columns, c + i * wide + j, wide, true);
            }
        }
    }

    void forward_block(i64 b, i64 h, i64 query, const Keys& keys, const ForwardScratch& s) const {
        Block block{query, least(query_block, op.keys - query), 0, 0};
        pack_columns(s.q_packed, row(op.q, b, query - offset, h), op.q.stride[1], block.queries, op.head_dim, units);
        for (i64 i = 0; i < query_block; ++i) s.top[i] = unseen, s.total[i] = 0;
        for (i64 i = 0; i < query_block * wide; ++i) s.out[i] = 0;
        const i64 end = query + block.queries;
        const i64 start = first_key(query) / 2 * 2;
        for (block.key = start; block.key < end; block.key += key_block) {
            block.count = least(key_block, end - block.key);
            score(block, keys.k_rows, s.q_packed, s.scores);
            for (i64 j = 0; j < block.queries; j += width) {
                const vf kept = softmax(block, j, s);
                if (block.key == start) continue;
                for (i64 i = 0; i < width; ++i)
                    if (kept[i] != 1.0f)
                        for (i64 c = 0; c < wide; c += width) {
                            float* at = s.out + (j + i) * wide + c;
                            store(at, load(at) * kept[i]);
                        }
            }
            by_queries(block, s.pairs, keys.v_packed, s.out);
        }
        for (i64 i = 0; i < block.queries; ++i) {
            const float inverse = 1.0f / s.total[i];
            for (i64 c = 0; c < wide; ++c) s.out[i * wide + c] *= inverse;
            convert_row(row(op.out, b, query - offset + i, h), s.out + i * wide, op.head_dim, op.head_dim);
            op.lse[(b * op.heads + h) * op.positions + query - offset + i] = s.top[i] + __builtin_logf(s.total[i]);
        }
    }

    void forward() const {
        const i64 sides = op.batch * op.groups, threads = omp_get_max_threads();
        const i64 keys_bytes = round_up(4 * (op.keys * units + even / per * wide), 4096);
        const i64 scratch_bytes = round_up(ForwardScratch::bytes(units, wide), 4096);
        char* base = static_cast<char*>(workspace(static_cast<std::size_t>(sides * keys_bytes + threads * scratch_bytes)));
        const auto keys_of = [&](i64 side) {
            Parts parts{base + side * keys_bytes};
            Keys keys{};
            keys.k_rows = reinterpret_cast<E*>(parts.template take<Unit>(op.keys * units));
            keys.v_packed = parts.template take<Unit>(even / per * wide);
            return keys;
        };
#pragma omp parallel
        {
            const ForwardScratch scratch(Parts{base + sides * keys_bytes + omp_get_thread_num() * scratch_bytes}, units, wide);
#pragma omp for schedule(dynamic)
            for (i64 side = 0; side < sides; ++side) {
                const Keys keys = keys_of(side);
                rows_of(keys.k_rows, op.k, side / op.groups, side % op.groups);
                pack_heads(keys.v_packed, op.v, side / op.groups, side % op.groups);
            }
#pragma omp for schedule(dynamic)
            for (i64 task = 0; task < op.batch * op.heads * blocks; ++task) {
                const i64 b = task / blocks / op.heads, h = task / blocks % op.heads;
                const i64 query = offset + (blocks - 1 - task % blocks) * query_block;  // those with the most keys first
                forward_block(b, h, query, keys_of(b * op.groups + h / (op.heads / op.groups)), scratch);
            }
        }
    }

    // --- backward ---

    struct BackwardScratch {
        Keys keys{};
        float *dk, *dv;  // (T, wide)
        float *scores, *slopes, *dq, *lse, *delta;
        E *p_rows, *ds_rows;  // P and dS (keys, queries): scores and slopes themselves where a unit is one element
        Unit* ds_pairs;
        Unit *q_columns, *dout_columns, *q_rows, *dout_rows;
        explicit BackwardScratch(Parts parts, i64 positions, i64 even, i64 units, i64 wide) {
            keys.k_rows = reinterpret_cast<E*>(parts.take<Unit>(positions * units));
            keys.v_rows = reinterpret_cast<E*>(parts.take<Unit>(positions * units));
            keys.k_packed = parts.take<Unit>(even / per * wide);
            dk = parts.take<float>(positions * wide);
            dv = parts.take<float>(positions * wide);
            scores = parts.take<float>(key_block * score_stride);
            slopes = parts.take<float>(key_block * score_stride);
            if constexpr (per == 2) {
                p_rows = parts.take<E>(key_block * score_stride);
                ds_rows = parts.take<E>(key_block * score_stride);
                ds_pairs = parts.take<Unit>(key_block / 2 * score_stride);
            } else {
                p_rows = scores;
                ds_rows = ds_pairs = slopes;
            }
            dq = parts.take<float>(query_block * wide);
            lse = parts.take<float>(query_block);
            delta = parts.take<float>(query_block);
            q_columns = parts.take<Unit>(query_block * units);
            dout_columns = parts.take<Unit>(query_block * units);
            q_rows = parts.take<Unit>(query_block * wide);
            dout_rows = parts.take<Unit>(query_block * wide);
        }
        static i64 bytes(i64 positions, i64 even, i64 units, i64 wide) {
            return 4 * (positions * (2 * units + 2 * wide) + even * wide + 5 * key_block * score_stride +
                        query_block * (3 * wide + 2 * units + 2)) + 2048;
        }
    };

    // P and dS = P (dP - delta) scale of one vector of queries.
    void slopes(const Block& block, i64 j, const BackwardScratch& s) const {
        const i64 query = block.query + j;
        const Span keys = span(block, query);
        const vf lse = load(s.lse + j), delta = load(s.delta + j);
        struct Both {
            vf p, ds;
        };
        const auto both = [&](i64 i) -> Both {
            if (i < keys.some || i >= keys.end) return {zero(), zero()};
            vf p = exp(load(s.scores + i * score_stride + j) * scale - lse);
            vf ds = p * (load(s.slopes + i * score_stride + j) - delta) * scale;
            if (i < keys.whole || i >= keys.whole_end) {
                const vi seen = mask(block.key + i, query);
                p = select(seen, p, zero());
                ds = select(seen, ds, zero());
            }
            return {p, ds};
        };
        for (i64 i = 0; i < block.count; i += 2) {
            const bool pair = i + 1 < block.count;
            const Both a = both(i), b = pair ? both(i + 1) : Both{zero(), zero()};
            const i64 at = i * score_stride + j;
            store(s.p_rows + at, a.p);
            store(s.ds_rows + at, a.ds);
            if (pair) store(s.p_rows + at + score_stride, b.p);
            if (pair) store(s.ds_rows + at + score_stride, b.ds);
            if constexpr (per == 2) store_units(s.ds_pairs + i / 2 * score_stride + j, a.ds, b.ds);
        }
    }

    // C (T, wide) += A (keys, queries) times packed rows of queries (panels of query_block / per units).
    void by_keys(const Block& block, const E* a, const Unit* packed, float* c) const {
        const i64 queries = (block.queries + per - 1) / per, panel_units = queries * columns;
        for (i64 j = 0; j < wide; j += columns, packed += panel_units) {
            for (i64 i = 0; i < block.count; i += rows) {
                const i64 height = least(rows, block.count - i), key = block.key + i;
                const i64 from = greatest(0, key - block.query) / per;
                const i64 to = least(queries, greatest(0, key + height - 1 + op.window - block.query + per) / per);
                if (from >= to) continue;
                tile_of<Order::by_row>(height, to - from, reinterpret_cast<const Unit*>(a + i * score_stride) + from,
                                       score_stride / per, packed + from * columns, c + key * wide + j, wide, true);
            }
        }
    }

    void load_queries(i64 b, i64 h, const Block& block, const BackwardScratch& s) const {
        const T *q = row(op.q, b, block.query, h), *dout = row(op.dout, b, block.query, h);
        pack_columns(s.q_columns, q, op.q.stride[1], block.queries, op.head_dim, units);
        pack_columns(s.dout_columns, dout, op.dout.stride[1], block.queries, op.head_dim, units);
        pack_rows(s.q_rows, q, op.q.stride[1], op.head_dim, block.queries, nullptr);
        pack_rows(s.dout_rows, dout, op.dout.stride[1], op.head_dim, block.queries, nullptr);
        for (i64 i = 0; i < query_block; ++i) {
            s.lse[i] = s.delta[i] = 0;
            if (i >= block.queries) continue;
            s.lse[i] = op.lse[(b * op.heads + h) * op.positions + block.query + i];
            const T *out = row(op.out, b, block.query + i, h), *grad = row(op.dout, b, block.query + i, h);
            vf dot = zero();
            i64 c = 0;
            for (; c + width <= op.head_dim; c += width) dot += load(out + c) * load(grad + c);
            if (c < op.head_dim) dot += load_first(out + c, op.head_dim - c) * load_first(grad + c, op.head_dim - c);
            s.delta[i] = sum(dot);
        }
    }

    void backward_block(i64 b, i64 h, i64 query, const BackwardScratch& s) const {
        Block block{query, least(query_block, op.positions - query), 0, 0};
        load_queries(b, h, block, s);
        for (i64 i = 0; i < query_block * wide; ++i) s.dq[i] = 0;
        const i64 end = query + block.queries;
        for (block.key = first_key(query) / 2 * 2; block.key < end; block.key += key_block) {
            block.count = least(key_block, end - block.key);
            score(block, s.keys.k_rows, s.q_columns, s.scores);
            score(block, s.keys.v_rows, s.dout_columns, s.slopes);
            for (i64 j = 0; j < block.queries; j += width) slopes(block, j, s);
            by_keys(block, s.p_rows, s.dout_rows, s.dv);
            by_keys(block, s.ds_rows, s.q_rows, s.dk);
            by_queries(block, s.ds_pairs, s.keys.k_packed, s.dq);
        }
        for (i64 i = 0; i < block.queries; ++i)
            convert_row(row(op.dq, b, query + i, h), s.dq + i * wide, op.head_dim, op.head_dim);
    }

    void backward_side(i64 b, i64 g, const BackwardScratch& s) const {
        rows_of(s.keys.k_rows, op.k, b, g);
        rows_of(s.keys.v_rows, op.v, b, g);
        pack_heads(s.keys.k_packed, op.k, b, g);
        for (i64 i = 0; i < op.positions * wide; ++i) s.dk[i] = s.dv[i] = 0;
        const i64 share = op.heads / op.groups;
        for (i64 h = g * share; h < (g + 1) * share; ++h)
            for (i64 block = 0; block < blocks; ++block) backward_block(b, h, block * query_block, s);
        for (i64 t = 0; t < op.positions; ++t) {
            convert_row(row(op.dk, b, t, g), s.dk + t * wide, op.head_dim, op.head_dim);
            convert_row(row(op.dv, b, t, g), s.dv + t * wide, op.head_dim, op.head_dim);
        }
    }

    void backward() const {
        const i64 bytes = round_up(BackwardScratch::bytes(op.positions, even, units, wide), 4096);
        char* base = static_cast<char*>(workspace(static_cast<std::size_t>(omp_get_max_threads() * bytes)));
#pragma omp parallel
        {
            const BackwardScratch scratch(Parts{base + omp_get_thread_num() * bytes}, op.positions, even, units, wide);
#pragma omp for schedule(dynamic)
            for (i64 side = 0; side < op.batch * op.groups; ++side) backward_side(side / op.groups, side % op.groups, scratch);
        }
    }
};

}  // namespace

void attention_forward(const Attention& op) { op.is_bf16 ? Run<bf16>(op).forward() : Run<float>(op).forward(); }
void attention_backward(const Attention& op) { op.is_bf16 ? Run<bf16>(op).backward() : Run<float>(op).backward(); }

}  // namespace pynanochat::PYNANOCHAT_ISA
