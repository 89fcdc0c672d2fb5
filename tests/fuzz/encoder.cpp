// Fuzz: ids decode to their text, equal those of naive merging, and are the same from the cache. The vocabulary is a
// fixed one whose tokens are mostly out of reach of their parts, or made of the input; a bad one is refused.
#include "bpe/encoder.h"

#include <algorithm>
#include <optional>

#include "bpe/decoder.h"
#include "fuzz.h"
#include "naive.h"

namespace pynanochat::test {

namespace {

enum Kind { made = 1, bytes_last = 2, gaps = 4, byte_missing = 8, many_times = 16 };

Table all_bytes() {
    Table table;
    for (int byte = 0; byte < 256; ++byte) table.emplace_back(1, static_cast<char>(byte));
    return table;
}

const Table fixed = [] {
    Table table = all_bytes();
    for (const char* token : {"abc", "bc", " a", "aaaa", "aa", "aaa", "'s", "  ", "\n\n", "\xCC\x81", "\xB8\xAD", "11"})
        table.emplace_back(token);
    return table;
}();

Table make(Input& input, int kind) {
    Table table = all_bytes();
    if (kind & byte_missing) table[input.byte()].clear();
    for (int count = input.byte() % 64; count > 0 && !input.empty(); --count)
        table.push_back(input.string(input.byte() % 12));  // an empty one is an id not in use
    if (kind & gaps) table.insert(table.begin() + 100, input.byte(), "");
    if (kind & bytes_last) std::reverse(table.begin(), table.end());
    return table;
}

void check(const bpe::Encoder& encoder, const Table& table, const std::string& text) {
    const Ids ids = encode(encoder, text);
    CHECK(encode(encoder, text) == ids);  // now from the cache
    CHECK(decoded(bpe::Decoder(views(table), {}), {ids.begin(), ids.end()}) == text);
    if (text.size() < 1000 && valid_part(text) == text) CHECK(naive_ids(text, ranks_of(table)) == ids);
}

}  // namespace

}  // namespace pynanochat::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pynanochat;
    using namespace pynanochat::test;
    static const bpe::Encoder known(views(fixed));  // it has seen the earlier inputs
    Input input(data, size);
    const int kind = input.byte();
    const Table table = kind & made ? make(input, kind) : fixed;
    std::optional<bpe::Encoder> fresh;
    try {
        if (kind & made) fresh.emplace(views(table));
    } catch (const std::invalid_argument&) {  // a token twice, or a byte without one
        return 0;
    }
    const bpe::Encoder& encoder = fresh ? *fresh : known;
    const int times = kind & many_times ? input.byte() : 1;
    const std::string unit = input.rest();
    std::string text;
    for (int i = 0; i < times; ++i) text += unit;
    check(encoder, table, text);
    check(encoder, table, valid_part(text));
    return 0;
}
