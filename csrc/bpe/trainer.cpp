#include "bpe/trainer.h"

#include "bpe/merge_learner.h"
#include "bpe/threads.h"

namespace pynanochat::bpe {

void Trainer::add(std::span<const std::string_view> texts, unsigned threads) {
    while (counters_.size() < std::max(threads, 1u)) counters_.push_back(std::make_unique<PieceCounter>());
    std::atomic<std::size_t> next_counter{0};
    run_threads(threads, texts.size(), [&](std::atomic<std::size_t>& next) {
        PieceCounter& counter = *counters_[next_counter.fetch_add(1)];
        for (std::size_t i; (i = next.fetch_add(1)) < texts.size();) counter.add_text(texts[i]);
    });
}

std::vector<std::pair<Id, Id>> Trainer::train(std::size_t merges, const Progress& progress) {
    constexpr std::size_t steps_a_report = 256;
    // Each part of the words, by their hashes, is added up by one thread.
    const unsigned parts = static_cast<unsigned>(std::max<std::size_t>(counters_.size(), 1));
    std::vector<PieceCounter> words(parts);
    run_threads(parts, parts, [&](std::atomic<std::size_t>& next) {
        for (std::size_t part; (part = next.fetch_add(1)) < parts;)
            for (const auto& counter : counters_) words[part].add(*counter, part, parts);
    });
    counters_.clear();
    MergeLearner learner(words);
    words.clear();
    words.shrink_to_fit();
    for (std::size_t i = 0; i < merges && learner.step(); ++i)
        if (progress && (i + 1) % steps_a_report == 0) progress(i + 1);
    return learner.merges();
}

}  // namespace pynanochat::bpe
