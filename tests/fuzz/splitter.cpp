// Fuzz: the three forms of the splitter agree on valid text; on any bytes each piece begins where the last one ended.
#include "bpe/splitter.h"

#include <algorithm>

#include "fuzz.h"

namespace pynanochat::test {

namespace {

using Ends = std::vector<std::size_t>;

std::size_t scalar(const bpe::Byte* p, const bpe::Byte* end, const bpe::Byte** ends, std::size_t,
                   bpe::Pattern pattern) {
    ends[0] = bpe::piece_end(p, end, pattern);
    return 1;
}

template <class Form>
Ends ends_of(std::string_view text, Form form, std::size_t capacity, bpe::Pattern pattern) {
    const Exact copy(text);
    const auto* const begin = reinterpret_cast<const bpe::Byte*>(copy.view().data());
    const bpe::Byte* const end = begin + text.size();
    std::vector<const bpe::Byte*> block(capacity);
    Ends result;
    for (const bpe::Byte* p = begin; p < end;) {
        const std::size_t count = form(p, end, block.data(), capacity, pattern);
        CHECK(count > 0 && count <= capacity);
        for (std::size_t i = 0; i < count; p = block[i++]) {
            CHECK(p < block[i] && block[i] <= end);
            result.push_back(static_cast<std::size_t>(block[i] - begin));
        }
    }
    return result;
}

}  // namespace

}  // namespace pynanochat::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pynanochat;
    using namespace pynanochat::test;
    constexpr std::size_t least = bpe::min_split_capacity;
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    const std::string text = valid_part(bytes);
    for (std::size_t i = 0; i < std::size(bpe::pattern_table); ++i) {
        const auto pattern = static_cast<bpe::Pattern>(i);
        ends_of(bytes, scalar, 1, pattern);
        ends_of(bytes, bpe::split_portable, least, pattern);
        ends_of(bytes, bpe::split, least, pattern);
        const Ends expected = ends_of(text, scalar, 1, pattern);
        CHECK(ends_of(text, bpe::split_portable, least, pattern) == expected);
        CHECK(ends_of(text, bpe::split, least, pattern) == expected);
        CHECK(ends_of(text, bpe::split, 4 * least, pattern) == expected);
    }
    return 0;
}
