// The patterns one character at a time. Each function gives the end of the piece that starts at `p` < `end`.
#pragma once

#include "bpe/splitter.h"
#include "bpe/unicode.h"

namespace pynanochat::bpe {

// What the family of GPT-4's patterns differs in: numbers in a piece at most, and whether white space at the end of
// the text is one piece whatever newlines it holds.
constexpr int digits(Pattern pattern) { return pattern == Pattern::ours ? 2 : pattern == Pattern::qwen2 ? 1 : 3; }
constexpr bool whole_tail(Pattern pattern) { return pattern == Pattern::cl100k; }

const Byte* gpt2_end(const Byte* p, const Byte* end);
const Byte* o200k_end(const Byte* p, const Byte* end);

struct Classified {
    CharClass kind;
    std::uint32_t size;
};

inline Classified classify(const Byte* p, const Byte* end) {
    const Char c = decode_utf8(p, end);
    return {unicode_table()[c.code_point], c.size};
}

// Bytes of the contraction ('s 't 'd 'm 'll 've 're in either case) at `p`, which holds an apostrophe; 0 if none.
inline std::size_t contraction_size(const Byte* p, const Byte* end) {
    const std::size_t left = static_cast<std::size_t>(end - p);
    if (left < 2) return 0;
    const Byte a = p[1] | 0x20;
    if (a == 's' || a == 'd' || a == 'm' || a == 't') return 2;
    if (left < 3) return 0;
    if (p[1] == 0xC5 && p[2] == 0xBF) return 3;  // U+017F, the long s, folds to s
    const Byte b = p[2] | 0x20;
    return (a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e') ? 3 : 0;
}

// The first character from `p` on that is not of that kind.
const Byte* skip(const Byte* p, const Byte* end, CharClass kind);
// \p{N}{1,most}
const Byte* skip_numbers(const Byte* p, const Byte* end, int most);
// \s*[\r\n]|\s+(?!\S)|\s+, and \s+\z before them for a whole tail
const Byte* space_end(const Byte* p, const Byte* end, bool whole_tail);

// The patterns of the family. `Skip` is called as skip() is, and does the same.
template <Pattern pattern, class Skip>
const Byte* end_of_piece(const Byte* p, const Byte* end, Skip skip) {
    const Classified first = classify(p, end);
    const Byte* q = p + first.size;
    if (first.kind == CharClass::letter) return skip(q, end, CharClass::letter);
    if (first.kind == CharClass::number) return skip_numbers(q, end, digits(pattern) - 1);
    if (*p == '\'') {
        if (const std::size_t size = contraction_size(p, end)) return p + size;
    }
    const CharClass next = q < end ? classify(q, end).kind : CharClass::newline;
    if (first.kind != CharClass::newline && next == CharClass::letter) return skip(q, end, CharClass::letter);
    if (first.kind == CharClass::other || (*p == ' ' && next == CharClass::other))  // [^\s\p{L}\p{N}]*[\r\n]*
        return skip(skip(q, end, CharClass::other), end, CharClass::newline);
    return space_end(p, end, whole_tail(pattern));
}

}  // namespace pynanochat::bpe
