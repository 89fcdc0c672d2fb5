#include "check.h"
#include "naive.h"

namespace pynanochat::test {

void trainer_equals_naive_training() {
    std::mt19937 random(7);
    const std::vector<std::string> alphabets[] = {
        {"a", "b"}, {"a", "b", "c", " "}, {"a", "aa", "aaa", " "}, characters};
    for (int round = 0; round < 60; ++round) {
        std::vector<std::string> texts;
        for (int i = 0; i < 4; ++i) texts.push_back(soup(random, alphabets[round % 4], random() % 120));
        CHECK(train(texts, 40, 1, 4) == naive_merges(texts, 40));
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
