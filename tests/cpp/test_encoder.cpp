#include <algorithm>
#include <mutex>
#include <set>

#include "bpe/decoder.h"
#include "check.h"
#include "naive.h"

namespace pynanochat::test {

namespace {

// All bytes and `count` random longer tokens; shuffled, so that few tokens are reachable from their parts.
Table random_table(std::mt19937& random, std::size_t count) {
    std::set<std::string> longer;
    while (longer.size() < count) {
        const std::string token = soup(random, characters, 1 + random() % 4);
        if (token.size() > 1) longer.insert(token);
    }
    Table table(longer.begin(), longer.end());
    for (int byte = 0; byte < 256; ++byte) table.emplace_back(1, static_cast<char>(byte));
    std::shuffle(table.begin(), table.end(), random);
    return table;
}

// All bytes and the merges of random pairs, as training would give.
Table regular_table(std::mt19937& random, std::size_t count) {
    Table table;
    std::set<std::string> known;
    for (int byte = 0; byte < 256; ++byte) table.emplace_back(1, static_cast<char>(byte));
    while (table.size() < 256 + count) {
        const std::string token = table[97 + random() % (table.size() - 97)] + table["abst1 .'"[random() % 8]];
        if (token.size() < 9 && known.insert(token).second) table.push_back(token);
    }
    return table;
}

}  // namespace

void encoder_equals_naive_merging() {
    std::mt19937 random(3);
    const std::vector<std::string> letters = {"a", "b", "s", "t", "1", " ", ".", "'"};
    for (int round = 0; round < 20; ++round) {
        const Table table = round % 2 ? random_table(random, 300) : regular_table(random, 300);
        const Ranks ranks = ranks_of(table);
        const bpe::Encoder encoder(views(table));
        for (int i = 0; i < 40; ++i) {
            const std::string text = soup(random, i % 2 ? characters : letters, random() % 200);
            CHECK(encode(encoder, text) == naive_ids(text, ranks));
            CHECK(encode(encoder, text) == naive_ids(text, ranks));  // now from the cache
        }
        const std::string word = soup(random, {"a", "b", "s", "t"}, 300);  // one long piece
        CHECK(encode(encoder, word) == naive_ids(word, ranks));
    }
}

void encoder_batch_does_not_depend_on_threads() {
    std::mt19937 random(4);
    const Table table = regular_table(random, 500);
    const bpe::Encoder encoder(views(table));
    std::vector<std::string> texts;
    for (int i = 0; i < 200; ++i) texts.push_back(soup(random, characters, random() % 400));
    for (const unsigned threads : {1u, 2u, 8u}) {
        std::vector<Ids> batch(texts.size());
        const auto keep = [&](std::size_t i, std::span<const bpe::Id> ids) { batch[i].assign(ids.begin(), ids.end()); };
        encoder.encode_batch(views(texts), threads, keep);
        for (std::size_t i = 0; i < texts.size(); ++i) CHECK(batch[i] == encode(encoder, texts[i]));
    }
}

void encoder_is_not_quadratic() {
    std::mt19937 random(5);
    const bpe::Encoder encoder(views(regular_table(random, 500)));
    for (const char* unit : {"^", "0", "a", "'s", " ", "\n", "\u0301", "\U0010FFFF", "ab"}) {
        std::string text;
        for (int i = 0; i < 200'000; ++i) text += unit;
        CHECK(!encode(encoder, text).empty());  // a quadratic path would not come back
    }
}

void vocabulary_refuses_bad_tables() {
    Table table;
    for (int byte = 0; byte < 256; ++byte) table.emplace_back(1, static_cast<char>(byte));
    CHECK(bpe::Vocabulary(views(table)).regular());
    Table twice = table;
    twice.insert(twice.end(), {"ab", "ab"});
    CHECK_THROWS(bpe::Vocabulary(views(twice)), std::invalid_argument);
    Table missing = table;
    missing[97] = "";
    CHECK_THROWS(bpe::Vocabulary(views(missing)), std::invalid_argument);
    Table irregular = table;
    irregular.push_back("abc");
    CHECK(!bpe::Vocabulary(views(irregular)).regular());
}

void decoder_inverts_and_refuses() {
    std::mt19937 random(6);
    Table table = regular_table(random, 500);
    const bpe::Encoder encoder(views(table));
    table.push_back("");
    table.push_back("");
    const bpe::Id last = static_cast<bpe::Id>(table.size()) - 1;
    const bpe::Decoder decoder(views(table), {{last, "<|a special token longer than a block|>"}});
    for (int i = 0; i < 200; ++i) {
        const std::string text = soup(random, characters, random() % 200);
        const Ids ids = encode(encoder, text);
        CHECK(decoded(decoder, {ids.begin(), ids.end()}) == text);
    }
    CHECK(decoded(decoder, {97, last}) == "a<|a special token longer than a block|>");
    for (const std::int64_t wrong : {std::int64_t{-1}, std::int64_t{last} - 1, std::int64_t{last} + 1})
        CHECK_THROWS(decoded(decoder, {wrong}), std::out_of_range);
}

}  // namespace pynanochat::test
