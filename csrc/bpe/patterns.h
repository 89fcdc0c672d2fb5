// The patterns one character at a time. Each function gives the end of the piece that starts at `p` < `end`.
#pragma once

#include "bpe/splitter.h"
#include "bpe/unicode.h"

namespace pynanochat::bpe {

// What the family of GPT-4's patterns differs in: numbers in a piece at most, and whether white space at the end of
// the text is one piece whatever newlines it holds.
constexpr int digits(Pattern pattern) { return pattern == Pattern::ours ? 2 : pattern == Pattern::qwen2 ? 1 : 3; }
constexpr bool whole_tail(Pattern pattern) { return pattern == Pattern::cl100k; }

template <Pattern pattern>
const Byte* family_end(const Byte* p, const Byte* end);
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

}  // namespace pynanochat::bpe
