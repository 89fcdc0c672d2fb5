#include <algorithm>

#include "bpe/unicode.h"
#include "check.h"
#include "data/packer.h"

namespace pynanochat::test {

// The best fit by looking at every document each time.
void packer_equals_naive_packing() {
    using Document = std::vector<data::Packer::Token>;
    std::mt19937 random(0);
    for (int round = 0; round < 200; ++round) {
        const std::size_t row_size = 1 + random() % 140, least = random() % 7;
        data::Packer packer(row_size);
        std::vector<Document> waiting;  // in the order of arrival
        std::vector<data::Packer::Token> rows(3 * row_size, -1), expected = rows;
        std::size_t at = 0, place = 0, dropped = 0;
        for (int step = 0; step < 8; ++step) {
            for (std::size_t i = random() % 9; i > 0; --i) {
                Document tokens(random() % (row_size + 20));
                for (auto& token : tokens) token = static_cast<data::Packer::Token>(random() % 1000);
                packer.add(7, tokens);
                dropped += tokens.size() - std::min(tokens.size(), row_size - 1);
                tokens.resize(std::min(tokens.size(), row_size - 1));
                tokens.insert(tokens.begin(), 7);
                waiting.push_back(tokens);
            }
            at = packer.fill(rows, at, least);
            while (place < expected.size() && waiting.size() >= std::max<std::size_t>(least, 1)) {
                const std::size_t room = row_size - place % row_size;
                std::size_t best = waiting.size(), shortest = 0;
                for (std::size_t i = 0; i < waiting.size(); ++i) {
                    const std::size_t size = waiting[i].size();
                    if (size <= room && (best == waiting.size() || size > waiting[best].size())) best = i;
                    if (size <= waiting[shortest].size()) shortest = i;
                }
                if (best == waiting.size()) best = shortest;
                const std::size_t used = std::min(room, waiting[best].size());
                std::copy_n(waiting[best].begin(), used, expected.begin() + static_cast<std::ptrdiff_t>(place));
                dropped += waiting[best].size() - used;
                place += used;
                waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(best));
            }
            CHECK(at == place && rows == expected && packer.size() == waiting.size() && packer.dropped() == dropped);
            const auto kept = packer.documents();
            CHECK(std::equal(kept.begin(), kept.end(), waiting.begin(), waiting.end(),
                             [](const auto& a, const Document& b) { return *a == b; }));
        }
    }
}

void utf8_ends_where_it_is_malformed() {
    constexpr std::size_t never = std::string_view::npos;
    const auto at = [](std::string_view text) { return bpe::not_utf8(Exact(text).view()); };
    CHECK(at("") == never && at("plain text, longer than a word") == never);
    CHECK(at("caf\u00E9 \u4E2D \U0001F600 \U0010FFFF") == never);
    CHECK(at("\xFF") == 0 && at("a\xC3") == 1 && at("12345678\xE4\xB8") == 8 && at("\x80") == 0);
    CHECK(at("a\xC1\x81") == 1 && at("\xE0\x80\x80") == 0 && at("\xF0\x80\x80\x80") == 0);  // longer than need be
    CHECK(at("\xED\xA0\x80") == 0 && at("\xF4\x90\x80\x80") == 0);                          // a surrogate; too high
}

}  // namespace pynanochat::test
