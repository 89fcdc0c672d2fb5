// Two forms of the splitter. piece_end() reads one character at a time. split() looks at a window of up to 64 bytes
// that begins at a known start of a piece, turns it into one bit mask for each class, and finds the starts of all
// pieces in it by bit arithmetic. A piece whose end is not certain within the window becomes the start of the next
// window, so no state is carried; a piece longer than a window falls back to piece_end().
#include "bpe/splitter.h"

#include <bit>
#include <cstring>

#include "bpe/patterns.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PYNANOCHAT_BPE_AVX2 1
#include <immintrin.h>
#endif

namespace pynanochat::bpe {

namespace {

using Bits = std::uint64_t;

constexpr Bits low_bits(std::size_t n) { return n >= 64 ? ~Bits{0} : (Bits{1} << n) - 1; }

// One bit a character; bit 0 is a known start of a piece.
struct Masks {
    Bits letter = 0, number = 0, space = 0, newline = 0, other = 0;
    Bits blank = 0;  // the characters of `space` that are U+0020
};

// The first of every `most` numbers in a row.
template <int most>
inline Bits number_starts(Bits number) {
    Bits starts = 0, full = number;  // `full`: those with `most` - 1 numbers right before them
    for (int i = 1; i < most; ++i) full &= number << i;
    for (Bits first = number & ~(number << 1); first; first = (first << most) & full) starts |= first;
    return starts;
}

// Starts of pieces among the `valid` characters. `at_end`: the text ends with them. Starts that depend on what
// follows the window are left out.
template <Pattern pattern>
inline Bits starts_of(const Masks& m, Bits valid, bool at_end) {
    const Bits white = m.space | m.newline;
    // A run of newlines right after a mark belongs to that mark.
    const Bits taken = m.newline & ~(m.newline + (m.newline & (m.other << 1)));
    const Bits free_white = white & ~taken;
    // A run of marks starts a piece, unless a blank before it does. If it is one mark, letters may follow it.
    const Bits mark_start = m.other & ~(m.other << 1) & ~(m.blank << 1);
    const Bits prefix = m.space | mark_start;
    Bits starts = 1 | mark_start;
    starts |= m.letter & ~(m.letter << 1) & ~(prefix << 1);
    starts |= free_white & ~(free_white << 1);
    starts |= m.space & ((valid & ~white) >> 1);  // the last of a run of spaces goes with what follows, or alone

    starts |= number_starts<digits(pattern)>(m.number);

    // A space after a newline starts a piece if no newline follows in the same run of white space, nor does the end
    // of the text where white space there is one piece.
    const Bits after_newline = m.space & (m.newline << 1) & ~starts;
    if (after_newline) {
        Bits reach = (m.newline >> 1) | (at_end && !whole_tail(pattern) ? 0 : valid & ~(valid >> 1));
        Bits run = m.space;
        reach &= run;
        for (int step = 1; step < 64; step *= 2) {
            reach |= run & (reach >> step);
            run &= run >> step;
        }
        starts |= after_newline & ~reach;
    }
    return starts & valid;
}

// Starts inside a contraction's window: the character after each contraction among `apostrophes`.
inline Bits after_contractions(const Byte* p, const Byte* end, Bits apostrophes) {
    Bits starts = 0;
    for (; apostrophes; apostrophes &= apostrophes - 1) {
        const std::size_t at = static_cast<std::size_t>(std::countr_zero(apostrophes));
        const std::size_t size = contraction_size(p + at, end);
        if (size && at + size < 64) starts |= Bits{1} << (at + size);
    }
    return starts;
}

// Bytes of the window at `p`: 64, less a character that it would cut.
inline std::size_t window_size(const Byte* p, const Byte* end) {
    const std::size_t left = static_cast<std::size_t>(end - p);
    if (left <= 64) return left;
    std::size_t n = 64;
    while (n > 60 && (p[n] & 0xC0) == 0x80) --n;
    return n;
}

template <Pattern pattern>
Bits window_portable(const Byte* p, std::size_t n, const Byte* end) {
    Masks masks;
    Byte at[64];
    std::size_t count = 0;
    Bits apostrophes = 0;
    for (std::size_t i = 0; i < n; ++count) {
        const Classified c = classify(p + i, end);
        const Bits bit = Bits{1} << count;
        switch (c.kind) {
            case CharClass::letter: masks.letter |= bit; break;
            case CharClass::number: masks.number |= bit; break;
            case CharClass::space: masks.space |= bit; break;
            case CharClass::newline: masks.newline |= bit; break;
            case CharClass::other: masks.other |= bit; break;
        }
        if (p[i] == ' ') masks.blank |= bit;
        if (p[i] == '\'') apostrophes |= bit;
        at[count] = static_cast<Byte>(i);
        i += c.size;
    }
    const Bits starts = starts_of<pattern>(masks, low_bits(count), p + n == end);
    Bits result = 0, contractions = 0;
    for (Bits rest = starts; rest; rest &= rest - 1) {
        const int i = std::countr_zero(rest);
        result |= Bits{1} << at[i];
        if (apostrophes >> i & 1) contractions |= Bits{1} << at[i];
    }
    return (result | after_contractions(p, end, contractions)) & low_bits(n);
}

#if PYNANOCHAT_BPE_AVX2
#define PYNANOCHAT_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt")))

struct ByteMasks {
    Bits letter, number, blank, space, newline, apostrophe, high, tail;
};

PYNANOCHAT_AVX2 inline Bits movemask(__m256i low, __m256i high) {
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(low)) |
           static_cast<Bits>(static_cast<std::uint32_t>(_mm256_movemask_epi8(high))) << 32;
}

PYNANOCHAT_AVX2 inline __m256i in_range(__m256i v, char first, char count) {
    const __m256i distance = _mm256_sub_epi8(v, _mm256_set1_epi8(first));
    return _mm256_cmpeq_epi8(_mm256_min_epu8(distance, _mm256_set1_epi8(static_cast<char>(count - 1))), distance);
}

PYNANOCHAT_AVX2 inline __m256i equal(__m256i v, char c) { return _mm256_cmpeq_epi8(v, _mm256_set1_epi8(c)); }

PYNANOCHAT_AVX2 inline ByteMasks byte_masks(const Byte* p) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
    const __m256i lower = _mm256_set1_epi8(0x20);
    ByteMasks m;
    m.letter = movemask(in_range(_mm256_or_si256(a, lower), 'a', 26), in_range(_mm256_or_si256(b, lower), 'a', 26));
    m.number = movemask(in_range(a, '0', 10), in_range(b, '0', 10));
    m.blank = movemask(equal(a, ' '), equal(b, ' '));
    m.apostrophe = movemask(equal(a, '\''), equal(b, '\''));
    const Bits control = movemask(in_range(a, '\t', 5), in_range(b, '\t', 5));  // \t \n \v \f \r
    m.newline = 0;
    if (control)
        m.newline = movemask(_mm256_or_si256(equal(a, '\n'), equal(a, '\r')),
                             _mm256_or_si256(equal(b, '\n'), equal(b, '\r')));
    m.space = m.blank | (control & ~m.newline);
    m.high = movemask(a, b);
    const __m256i limit = _mm256_set1_epi8(-64);
    m.tail = m.high ? movemask(_mm256_cmpgt_epi8(limit, a), _mm256_cmpgt_epi8(limit, b)) : 0;
    return m;
}

// As window_portable; 64 bytes at `p` must be readable.
template <Pattern pattern>
PYNANOCHAT_AVX2 inline Bits window_avx2(const Byte* p, std::size_t n, bool at_end, const Byte* end) {
    const ByteMasks bytes = byte_masks(p);
    const Bits valid = low_bits(n);
    Masks m;
    m.letter = bytes.letter & valid;
    m.number = bytes.number & valid;
    m.space = bytes.space & valid;
    m.newline = bytes.newline & valid;
    m.blank = bytes.blank & valid;
    Bits starts, marks;
    if (!(bytes.high & valid)) {
        m.other = valid & ~(m.letter | m.number | m.space | m.newline);
        starts = starts_of<pattern>(m, valid, at_end);
        marks = starts & bytes.apostrophe;
    } else {
        const UnicodeTable& table = unicode_table();
        for (Bits lead = bytes.high & ~bytes.tail & valid; lead; lead &= lead - 1) {
            const int i = std::countr_zero(lead);
            const Bits bit = lead & (0 - lead);
            switch (table[decode_utf8(p + i, p + n).code_point]) {
                case CharClass::letter: m.letter |= bit; break;
                case CharClass::number: m.number |= bit; break;
                case CharClass::space: m.space |= bit; break;
                default: break;
            }
        }
        // One bit a character: drop the bits of all but the first byte of each.
        const Bits keep = valid & ~(bytes.tail & ~Bits{1});
        m.letter = _pext_u64(m.letter, keep);
        m.number = _pext_u64(m.number, keep);
        m.space = _pext_u64(m.space, keep);
        m.newline = _pext_u64(m.newline, keep);
        m.blank = _pext_u64(m.blank, keep);
        const Bits characters = low_bits(static_cast<std::size_t>(std::popcount(keep)));
        m.other = characters & ~(m.letter | m.number | m.space | m.newline);
        starts = _pdep_u64(starts_of<pattern>(m, characters, at_end), keep);
        marks = starts & bytes.apostrophe;
    }
    if (marks) starts |= after_contractions(p, end, marks) & valid;
    return starts;
}
#endif

// The driver of both forms of window. `Window` is called as window(p, n) and gives the starts in n bytes at p.
template <Pattern pattern, class Window>
inline std::size_t split_windows(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity,
                                 Window window) {
    std::size_t count = 0;
    while (p < end && count + min_split_capacity <= capacity) {
        const std::size_t n = window_size(p, end);
        Bits starts = window(p, n) & ~Bits{1};
        const bool at_end = p + n == end;
        if (!starts && !at_end) {
            p = family_end<pattern>(p, end);
            ends[count++] = p;
            continue;
        }
        const Byte* base = p;
        for (; starts; starts &= starts - 1) {
            p = base + std::countr_zero(starts);
            ends[count++] = p;
        }
        if (at_end) ends[count++] = p = end;
    }
    return count;
}

#if PYNANOCHAT_BPE_AVX2
template <Pattern pattern>
PYNANOCHAT_AVX2 std::size_t split_avx2(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity) {
    const auto window = [end](const Byte* at, std::size_t n) PYNANOCHAT_AVX2 {
        const bool at_end = at + n == end;
        if (end - at >= 64) return window_avx2<pattern>(at, n, at_end, end);
        Byte copy[64] = {};
        std::memcpy(copy, at, n);
        return window_avx2<pattern>(copy, n, at_end, copy + n);
    };
    return split_windows<pattern>(p, end, ends, capacity, window);
}
#endif

template <Pattern pattern>
std::size_t split_portable(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity) {
    const auto window = [end](const Byte* at, std::size_t n) { return window_portable<pattern>(at, n, end); };
    return split_windows<pattern>(p, end, ends, capacity, window);
}

// split() one character at a time, for a pattern that has no windows.
std::size_t split_scalar(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity, Pattern pattern) {
    std::size_t count = 0;
    while (p < end && count < capacity) ends[count++] = p = piece_end(p, end, pattern);
    return count;
}

}  // namespace

const Byte* piece_end(const Byte* p, const Byte* end, Pattern pattern) {
    switch (pattern) {
        case Pattern::cl100k: return family_end<Pattern::cl100k>(p, end);
        case Pattern::llama3: return family_end<Pattern::llama3>(p, end);
        case Pattern::qwen2: return family_end<Pattern::qwen2>(p, end);
        case Pattern::gpt2: return gpt2_end(p, end);
        case Pattern::o200k: return o200k_end(p, end);
        default: return family_end<Pattern::ours>(p, end);
    }
}

std::size_t split_portable(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity, Pattern pattern) {
    switch (pattern) {
        case Pattern::ours: return split_portable<Pattern::ours>(p, end, ends, capacity);
        case Pattern::cl100k: return split_portable<Pattern::cl100k>(p, end, ends, capacity);
        case Pattern::llama3: return split_portable<Pattern::llama3>(p, end, ends, capacity);
        case Pattern::qwen2: return split_portable<Pattern::qwen2>(p, end, ends, capacity);
        default: return split_scalar(p, end, ends, capacity, pattern);
    }
}

std::size_t split(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity, Pattern pattern) {
#if PYNANOCHAT_BPE_AVX2
    static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    if (avx2) {
        switch (pattern) {
            case Pattern::ours: return split_avx2<Pattern::ours>(p, end, ends, capacity);
            case Pattern::cl100k: return split_avx2<Pattern::cl100k>(p, end, ends, capacity);
            case Pattern::llama3: return split_avx2<Pattern::llama3>(p, end, ends, capacity);
            case Pattern::qwen2: return split_avx2<Pattern::qwen2>(p, end, ends, capacity);
            default: break;
        }
    }
#endif
    return split_portable(p, end, ends, capacity, pattern);
}

}  // namespace pynanochat::bpe
