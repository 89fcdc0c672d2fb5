#include "bpe/unicode.h"

#include "bpe/unicode_tables.h"

namespace pynanochat::bpe {

UnicodeTable::UnicodeTable() {
    std::vector<CharClass> flat(0x110000, CharClass::other);
    for (const CodePointRange& range : code_point_ranges)
        for (std::uint32_t c = range.first; c <= range.last; ++c) flat[c] = range.kind;
    for (std::size_t b = 0; b < block_.size(); ++b) {
        std::array<CharClass, 256> leaf;
        for (std::size_t i = 0; i < 256; ++i) leaf[i] = flat[b * 256 + i];
        std::size_t index = 0;
        while (index < leaves_.size() && leaves_[index] != leaf) ++index;
        if (index == leaves_.size()) leaves_.push_back(leaf);
        block_[b] = static_cast<std::uint16_t>(index);
    }
}

const std::vector<CodePointBlock> code_point_block_table = [] {
    std::vector<CodePointBlock> blocks(code_point_blocks);
    for (const CodePointRange& range : code_point_ranges) {
        for (std::uint32_t c = range.first; c <= range.last; ++c) {
            const std::uint64_t bit = std::uint64_t{1} << (c & 63);
            if (range.kind != CharClass::number) blocks[c >> 6].low |= bit;
            if (range.kind != CharClass::letter) blocks[c >> 6].high |= bit;
        }
    }
    return blocks;
}();

const UnicodeTable& unicode_table() {
    static const UnicodeTable table;
    return table;
}

}  // namespace pynanochat::bpe
