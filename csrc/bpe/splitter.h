// Cuts text into the pieces that byte-pair merging never crosses: the matches, one after another, of
//
//   '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
//
// without a regex engine. Every byte belongs to exactly one piece. The time is linear in the text.
#pragma once

#include <cstddef>

#include "bpe/unicode.h"

namespace pynanochat::bpe {

constexpr const char* split_pattern =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";

// End of the piece that starts at `p` < `end`, one character at a time: the specification of split().
const Byte* piece_end(const Byte* p, const Byte* end);

// Writes the ends of the next pieces from `p` on, at most `capacity` (at least min_split_capacity), and returns
// how many. The text is used up when the last end written is `end`; otherwise call again from there. `p` must be
// the start of a piece. The text should be valid UTF-8 (malformed text is cut somewhere, but safely).
std::size_t split(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity);
std::size_t split_portable(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity);
constexpr std::size_t min_split_capacity = 64;

}  // namespace pynanochat::bpe
