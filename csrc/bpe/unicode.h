// Classes of code points, as the split patterns distinguish them, and decoding of UTF-8.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pynanochat::bpe {

using Byte = std::uint8_t;

// `newline` is CR and LF, `space` every other white space.
enum class CharClass : std::uint8_t { other, letter, number, space, newline };

// Letters and combining marks as o200k's pattern distinguishes them: `upper` are Lu and Lt, `lower` is Ll, `either`
// are Lm, Lo and M.
enum class LetterCase : std::uint8_t { none, upper, lower, either };

template <class Class>
struct CodePointRange {
    std::uint32_t first, last;
    Class kind;
};

// Two-level table: blocks of 256 code points, equal blocks stored once, so that a script stays in L1.
template <class Class>
class CodePointTable {
  public:
    explicit CodePointTable(std::span<const CodePointRange<Class>> ranges);

    Class operator[](std::uint32_t code_point) const {
        return code_point < 0x110000 ? leaves_[block_[code_point >> 8]][code_point & 255] : Class{};
    }

  private:
    std::array<std::uint16_t, 0x1100> block_{};
    std::vector<std::array<Class, 256>> leaves_;
};

using UnicodeTable = CodePointTable<CharClass>;
const UnicodeTable& unicode_table();
const CodePointTable<LetterCase>& case_table();

// The classes of 64 code points, a bit of `low` and one of `high` for each: 00 other, 01 letter, 10 number, 11 space or
// newline.
struct CodePointBlock {
    std::uint64_t low, high;
};

constexpr std::size_t code_point_blocks = std::size_t{1} << 15;  // any bits that UTF-8 may hold are in one

extern const std::vector<CodePointBlock> code_point_block_table;
inline const CodePointBlock& code_point_block(std::uint32_t number) { return code_point_block_table[number]; }

struct Char {
    std::uint32_t code_point;
    std::uint32_t size;  // bytes, 1-4
};

// The character at `p` < `end`. A malformed sequence reads as one byte of class other (code point 0xFFFFFFFF).
inline Char decode_utf8(const Byte* p, const Byte* end) {
    constexpr std::uint32_t bad = 0xFFFFFFFF;
    const std::uint32_t lead = p[0];
    const std::size_t left = static_cast<std::size_t>(end - p);
    const auto tail = [&](std::size_t i) { return (p[i] & 0xC0) == 0x80; };
    if (lead < 0x80) return {lead, 1};
    if (lead >= 0xC2 && lead < 0xE0 && left >= 2 && tail(1)) return {(lead & 0x1F) << 6 | (p[1] & 0x3Fu), 2};
    if (lead >= 0xE0 && lead < 0xF0 && left >= 3 && tail(1) && tail(2))
        return {(lead & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3};
    if (lead >= 0xF0 && lead < 0xF5 && left >= 4 && tail(1) && tail(2) && tail(3))
        return {(lead & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu), 4};
    return {bad, 1};
}

// Where `text` stops to be UTF-8, or npos if it never does.
std::size_t not_utf8(std::string_view text);

}  // namespace pynanochat::bpe
