#include "bpe/unicode.h"

#include <cstring>

#include "bpe/unicode_tables.h"

namespace pynanochat::bpe {

template <class Class>
CodePointTable<Class>::CodePointTable(std::span<const CodePointRange<Class>> ranges) {
    std::vector<Class> flat(0x110000, Class{});
    for (const CodePointRange<Class>& range : ranges)
        for (std::uint32_t c = range.first; c <= range.last; ++c) flat[c] = range.kind;
    for (std::size_t b = 0; b < block_.size(); ++b) {
        std::array<Class, 256> leaf;
        for (std::size_t i = 0; i < 256; ++i) leaf[i] = flat[b * 256 + i];
        std::size_t index = 0;
        while (index < leaves_.size() && leaves_[index] != leaf) ++index;
        if (index == leaves_.size()) leaves_.push_back(leaf);
        block_[b] = static_cast<std::uint16_t>(index);
    }
}

const std::vector<CodePointBlock> code_point_block_table = [] {
    std::vector<CodePointBlock> blocks(code_point_blocks);
    for (const auto& range : code_point_ranges) {
        for (std::uint32_t c = range.first; c <= range.last; ++c) {
            const std::uint64_t bit = std::uint64_t{1} << (c & 63);
            if (range.kind != CharClass::number) blocks[c >> 6].low |= bit;
            if (range.kind != CharClass::letter) blocks[c >> 6].high |= bit;
        }
    }
    return blocks;
}();

const UnicodeTable& unicode_table() {
    static const UnicodeTable table(code_point_ranges);
    return table;
}

const CodePointTable<LetterCase>& case_table() {
    static const CodePointTable<LetterCase> table(case_ranges);
    return table;
}

std::size_t not_utf8(std::string_view text) {
    const Byte* const begin = reinterpret_cast<const Byte*>(text.data());
    const Byte* const end = begin + text.size();
    constexpr std::uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};  // of characters that take so many bytes
    for (const Byte* p = begin; p < end;) {
        std::uint64_t eight;
        if (end - p >= 8 && (std::memcpy(&eight, p, 8), !(eight & 0x8080808080808080u))) {
            p += 8;
            continue;
        }
        const Char c = decode_utf8(p, end);
        if (c.code_point < least[c.size] || c.code_point > 0x10FFFF || (c.code_point >> 11) == 0xD800 >> 11)
            return static_cast<std::size_t>(p - begin);
        p += c.size;
    }
    return std::string_view::npos;
}

}  // namespace pynanochat::bpe
