#include "bpe/unicode.h"

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

const UnicodeTable& unicode_table() {
    static const UnicodeTable table(code_point_ranges);
    return table;
}

const CodePointTable<LetterCase>& case_table() {
    static const CodePointTable<LetterCase> table(case_ranges);
    return table;
}

}  // namespace pynanochat::bpe
