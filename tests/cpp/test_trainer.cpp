#include <map>

#include "bpe/splitter.h"
#include "bpe/trainer.h"
#include "check.h"

namespace pynanochat::test {

namespace {

using Merges = std::vector<std::pair<bpe::Id, bpe::Id>>;

// Counts every pair anew for every merge.
Merges naive(const std::vector<std::string>& texts, std::size_t count) {
    std::map<std::vector<bpe::Id>, std::int64_t> words;
    for (const std::string& text : texts) {
        const auto* p = reinterpret_cast<const bpe::Byte*>(text.data());
        const bpe::Byte* const end = p + text.size();
        while (p < end) {
            const bpe::Byte* const next = bpe::piece_end(p, end);
            ++words[std::vector<bpe::Id>(p, next)];
            p = next;
        }
    }
    Merges merges;
    while (merges.size() < count) {
        std::map<std::pair<bpe::Id, bpe::Id>, std::int64_t> pairs;
        for (const auto& [word, times] : words)
            for (std::size_t i = 0; i + 1 < word.size(); ++i) pairs[{word[i], word[i + 1]}] += times;
        if (pairs.empty()) break;
        auto best = pairs.begin();
        for (auto pair = pairs.begin(); pair != pairs.end(); ++pair)
            if (pair->second > best->second) best = pair;  // the map's order settles ties
        const auto [left, right] = best->first;
        const bpe::Id merged = static_cast<bpe::Id>(256 + merges.size());
        std::map<std::vector<bpe::Id>, std::int64_t> after;
        for (const auto& [word, times] : words) {
            std::vector<bpe::Id> shorter;
            for (std::size_t i = 0; i < word.size(); ++i) {
                const bool here = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
                shorter.push_back(here ? merged : word[i]);
                if (here) ++i;
            }
            after[shorter] += times;
        }
        words = after;
        merges.emplace_back(left, right);
    }
    return merges;
}

Merges train(const std::vector<std::string>& texts, std::size_t count, unsigned threads, std::size_t batch) {
    std::vector<std::string_view> views(texts.begin(), texts.end());
    bpe::Trainer trainer;
    for (std::size_t i = 0; i < views.size(); i += batch)
        trainer.add(std::span(views).subspan(i, std::min(batch, views.size() - i)), threads);
    return trainer.train(count);
}

}  // namespace

void trainer_equals_naive_training() {
    std::mt19937 random(7);
    const std::vector<std::string> alphabets[] = {
        {"a", "b"}, {"a", "b", "c", " "}, {"a", "aa", "aaa", " "}, characters};
    for (int round = 0; round < 60; ++round) {
        std::vector<std::string> texts;
        for (int i = 0; i < 4; ++i) texts.push_back(soup(random, alphabets[round % 4], random() % 120));
        CHECK(train(texts, 40, 1, 4) == naive(texts, 40));
    }
    CHECK(train({"", "a", " "}, 10, 1, 4).empty());
}

void trainer_does_not_depend_on_threads() {
    std::mt19937 random(8);
    std::vector<std::string> texts;
    for (int i = 0; i < 100; ++i) texts.push_back(soup(random, characters, random() % 500));
    const Merges expected = train(texts, 300, 1, 100);
    CHECK(expected.size() == 300);
    for (const unsigned threads : {2u, 3u, 8u})
        for (const std::size_t batch : {1, 7, 100}) CHECK(train(texts, 300, threads, batch) == expected);
}

void trainer_passes_exceptions_on() {
    std::mt19937 random(9);
    const std::string text = soup(random, characters, 50'000);
    const std::string_view view = text;
    bpe::Trainer trainer;
    trainer.add({&view, 1}, 2);
    const auto stop = [](std::size_t) { throw std::runtime_error("stop"); };
    CHECK_THROWS(trainer.train(2000, stop), std::runtime_error);
}

}  // namespace pynanochat::test
