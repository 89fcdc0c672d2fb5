// Two forms of the splitter. piece_end() reads one character at a time. split() looks at a window of up to 64 bytes
// that begins at a known start of a piece, turns it into one bit mask for each class, and finds the starts of all
// pieces in it by bit arithmetic. A piece whose end is not certain within the window becomes the start of the next
// window, so no state is carried; a piece longer than a window is followed to its end.
//
// Classes of non-ASCII characters: one look-up each took 3 ns a character; a look-up for all characters of a block at
// once made text of six scripts 1.9 times faster to split. AVX-512 masks are level with AVX2's on a Zen 5 core.
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

PYNANOCHAT_AVX2 inline ByteMasks byte_masks_avx2(const Byte* p) {
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

#define PYNANOCHAT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,bmi,bmi2,lzcnt,popcnt")))

PYNANOCHAT_AVX512 inline ByteMasks byte_masks_avx512(const Byte* p) {
    const __m512i v = _mm512_loadu_si512(p);
    const auto from = [v](char first) PYNANOCHAT_AVX512 { return _mm512_sub_epi8(v, _mm512_set1_epi8(first)); };
    const auto equal = [v](char c) PYNANOCHAT_AVX512 { return _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(c)); };
    const __m512i folded = _mm512_sub_epi8(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), _mm512_set1_epi8('a'));
    ByteMasks m;
    m.letter = _mm512_cmplt_epu8_mask(folded, _mm512_set1_epi8(26));
    m.number = _mm512_cmplt_epu8_mask(from('0'), _mm512_set1_epi8(10));
    m.blank = equal(' ');
    m.apostrophe = equal('\'');
    const Bits control = _mm512_cmplt_epu8_mask(from('\t'), _mm512_set1_epi8(5));
    m.newline = equal('\n') | equal('\r');
    m.space = m.blank | (control & ~m.newline);
    m.high = _mm512_movepi8_mask(v);
    m.tail = _mm512_cmplt_epi8_mask(v, _mm512_set1_epi8(-64));
    return m;
}

// Where the byte is `c` among the 64 at `p`.
PYNANOCHAT_AVX2 inline Bits where(__m256i low, __m256i high, Byte c) {
    return movemask(equal(low, static_cast<char>(c)), equal(high, static_cast<char>(c)));
}

// The classes of the characters whose first bytes are `lead`, at those bytes. All characters of the same 64 code points
// (that is, of equal bytes but the last) are looked up together: text of one script has few such blocks in a window.
// 67 bytes at `p` must be readable.
PYNANOCHAT_AVX2 inline CodePointBlock classes_of(const Byte* p, Bits lead) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32));
    CodePointBlock found{};
    // Chinese characters and Korean syllables lie in hundreds of blocks, but there is nothing else after these bytes.
    found.low = lead & (movemask(in_range(a, '\xE5', 5), in_range(b, '\xE5', 5)) |
                        movemask(in_range(a, '\xEB', 2), in_range(b, '\xEB', 2)));
    lead &= ~found.low;
    if (!lead) return found;
    // A last byte chooses a byte of its block's bits, and a bit of that byte.
    const __m256i seven = _mm256_set1_epi8(7);
    const __m256i powers = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const __m256i byte_a = _mm256_and_si256(_mm256_srli_epi16(a, 3), seven);
    const __m256i byte_b = _mm256_and_si256(_mm256_srli_epi16(b, 3), seven);
    const __m256i bit_a = _mm256_shuffle_epi8(powers, _mm256_and_si256(a, seven));
    const __m256i bit_b = _mm256_shuffle_epi8(powers, _mm256_and_si256(b, seven));
    const auto chosen = [&](Bits bits) PYNANOCHAT_AVX2 {
        const __m256i all = _mm256_set1_epi64x(static_cast<long long>(bits));
        const __m256i in_a = _mm256_and_si256(_mm256_shuffle_epi8(all, byte_a), bit_a);
        const __m256i in_b = _mm256_and_si256(_mm256_shuffle_epi8(all, byte_b), bit_b);
        return movemask(_mm256_cmpeq_epi8(in_a, bit_a), _mm256_cmpeq_epi8(in_b, bit_b));
    };
    while (lead) {
        const Byte* const c = p + std::countr_zero(lead);
        Bits same = where(a, b, c[0]);
        if ((c[0] == 0xE4 && c[1] >= 0xB8) || (c[0] == 0xEA && c[1] >= 0xB0)) {  // nor from here on after these
            const char first = c[0] == 0xE4 ? '\xB8' : '\xB0', count = c[0] == 0xE4 ? 8 : 16;
            same &= movemask(in_range(a, first, count), in_range(b, first, count)) >> 1;
            same = (same | (lead & (0 - lead))) & lead;
            found.low |= same;
            lead &= ~same;
            continue;
        }
        std::uint32_t number = c[0] & 0x1F;
        int last = 1;
        if (c[0] >= 0xE0) {
            same &= where(a, b, c[1]) >> 1;
            number = (number & 0x0F) << 6 | (c[1] & 0x3F);
            last = 2;
        }
        if (c[0] >= 0xF0) {
            same &= where(a, b, c[2]) >> 2;
            number = (number & 0x1FF) << 6 | (c[2] & 0x3F);
            last = 3;
        }
        same = (same | (lead & (0 - lead))) & lead;  // in malformed text it may not find itself
        const CodePointBlock& block = code_point_block(number);
        found.low |= same & chosen(block.low) >> last;
        if (block.high) found.high |= same & chosen(block.high) >> last;
        lead &= ~same;
    }
    return found;
}

// As window_portable, from the masks of the bytes at `p`; 67 bytes there must be readable.
template <Pattern pattern>
PYNANOCHAT_AVX2 inline Bits window_x86(const ByteMasks& bytes, const Byte* p, std::size_t n, bool at_end,
                                       const Byte* end) {
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
        const CodePointBlock wide = classes_of(p, bytes.high & ~bytes.tail & valid);
        m.letter |= wide.low & ~wide.high;
        m.number |= wide.high & ~wide.low;
        m.space |= wide.low & wide.high;
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

// The driver of all forms of window. `Window` is called as window(p, n) and gives the starts in n bytes at p; `Skip`
// is as for end_of_piece.
template <Pattern pattern, class Window, class Skip>
inline std::size_t split_windows(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity,
                                 Window window, Skip skip) {
    std::size_t count = 0;
    while (p < end && count + min_split_capacity <= capacity) {
        const std::size_t n = window_size(p, end);
        Bits starts = window(p, n) & ~Bits{1};
        const bool at_end = p + n == end;
        if (!starts && !at_end) {
            p = end_of_piece<pattern>(p, end, skip);
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
// Calls use(p, end) with the same bytes, but 67 of them readable: with a copy near the end of the text.
constexpr std::ptrdiff_t readable = 67;
template <class Use>
inline __attribute__((always_inline)) auto with_readable(const Byte* p, const Byte* end, Use use) {
    if (end - p >= readable) return use(p, end);
    Byte copy[80] = {};
    std::memcpy(copy, p, static_cast<std::size_t>(end - p));
    return use(copy, copy + (end - p));
}

// As skip(), a window at a time, for pieces longer than one.
PYNANOCHAT_AVX2 const Byte* skip_avx2(const Byte* p, const Byte* end, CharClass kind) {
    while (p < end && kind != CharClass::newline) {
        const std::size_t n = window_size(p, end);
        const Bits others = with_readable(p, end, [n, kind](const Byte* at, const Byte*) PYNANOCHAT_AVX2 {
            const ByteMasks bytes = byte_masks_avx2(at);
            const Bits lead = bytes.high & ~bytes.tail & low_bits(n);
            const CodePointBlock wide = lead ? classes_of(at, lead) : CodePointBlock{};
            const Bits letter = bytes.letter | (wide.low & ~wide.high);
            const Bits known = letter | bytes.number | bytes.space | bytes.newline | wide.low | wide.high;
            return (kind == CharClass::letter ? ~letter : known) & ~bytes.tail & low_bits(n);
        });
        if (others) return p + std::countr_zero(others);
        p += n;
    }
    return skip(p, end, kind);
}

template <Pattern pattern>
PYNANOCHAT_AVX2 std::size_t split_avx2(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity) {
    const auto window = [end](const Byte* from, std::size_t n) PYNANOCHAT_AVX2 {
        const bool at_end = from + n == end;
        return with_readable(from, end, [n, at_end](const Byte* p, const Byte* stop) PYNANOCHAT_AVX2 {
            return window_x86<pattern>(byte_masks_avx2(p), p, n, at_end, stop);
        });
    };
    return split_windows<pattern>(p, end, ends, capacity, window, skip_avx2);
}

template <Pattern pattern>
PYNANOCHAT_AVX512 std::size_t split_avx512(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity) {
    const auto window = [end](const Byte* from, std::size_t n) PYNANOCHAT_AVX512 {
        const bool at_end = from + n == end;
        return with_readable(from, end, [n, at_end](const Byte* p, const Byte* stop) PYNANOCHAT_AVX512 {
            return window_x86<pattern>(byte_masks_avx512(p), p, n, at_end, stop);
        });
    };
    return split_windows<pattern>(p, end, ends, capacity, window, skip_avx2);
}
#endif

template <Pattern pattern>
std::size_t split_portable(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity) {
    const auto window = [end](const Byte* at, std::size_t n) { return window_portable<pattern>(at, n, end); };
    return split_windows<pattern>(p, end, ends, capacity, window, skip);
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
        case Pattern::cl100k: return end_of_piece<Pattern::cl100k>(p, end, skip);
        case Pattern::llama3: return end_of_piece<Pattern::llama3>(p, end, skip);
        case Pattern::qwen2: return end_of_piece<Pattern::qwen2>(p, end, skip);
        case Pattern::gpt2: return gpt2_end(p, end);
        case Pattern::o200k: return o200k_end(p, end);
        default: return end_of_piece<Pattern::ours>(p, end, skip);
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
    static const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    const auto by = [=]<Pattern fixed>() {
        return avx512 ? split_avx512<fixed>(p, end, ends, capacity) : split_avx2<fixed>(p, end, ends, capacity);
    };
    if (avx2) {
        switch (pattern) {
            case Pattern::ours: return by.operator()<Pattern::ours>();
            case Pattern::cl100k: return by.operator()<Pattern::cl100k>();
            case Pattern::llama3: return by.operator()<Pattern::llama3>();
            case Pattern::qwen2: return by.operator()<Pattern::qwen2>();
            default: break;
        }
    }
#endif
    return split_portable(p, end, ends, capacity, pattern);
}

}  // namespace pynanochat::bpe
