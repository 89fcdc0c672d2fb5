// Cuts text into the pieces that byte-pair merging never crosses: the matches, one after another, of a regular
// expression, without a regex engine. Every byte belongs to exactly one piece. The time is linear in the text.
#pragma once

#include <cstddef>

#include "bpe/unicode.h"

namespace pynanochat::bpe {

// Whose pattern. The first four are one family, which is read by windows; see `pattern_table` for what they are.
enum class Pattern : std::uint8_t { ours, cl100k, llama3, qwen2, gpt2, o200k };

struct NamedPattern {
    const char* name;
    const char* regex;  // means the same to tiktoken (fancy-regex) and to Hugging Face tokenizers (Oniguruma)
};

// By Pattern. cl100k (GPT-4 as tiktoken defines it since 0.8) differs from llama3 (and GPT-4 as it was defined before)
// in that white space at the end of the text is one piece. gpt2 is also r50k's and p50k's.
constexpr NamedPattern pattern_table[] = {
    {"pynanochat",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2})"
     R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {"cl100k",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+\z|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {"llama3",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {"qwen2",
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"},
    {"gpt2", R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {"o200k",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
     R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
     R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};

// End of the piece that starts at `p` < `end`, one character at a time: the specification of split().
const Byte* piece_end(const Byte* p, const Byte* end, Pattern pattern = Pattern::ours);

// Writes the ends of the next pieces from `p` on, at most `capacity` (at least min_split_capacity), and returns
// how many. The text is used up when the last end written is `end`; otherwise call again from there. `p` must be
// the start of a piece. The text should be valid UTF-8 (malformed text is cut somewhere, but safely).
std::size_t split(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity,
                  Pattern pattern = Pattern::ours);
std::size_t split_portable(const Byte* p, const Byte* end, const Byte** ends, std::size_t capacity,
                           Pattern pattern = Pattern::ours);
constexpr std::size_t min_split_capacity = 64;

}  // namespace pynanochat::bpe
