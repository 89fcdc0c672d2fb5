// Learns the merges of a byte-pair encoding from text.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe/piece_counter.h"
#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// Called now and then with the number of merges learnt; may throw to stop.
using Progress = std::function<void(std::size_t)>;

// Feed text in batches, then train once. Memory follows the number of distinct pieces, not the text.
class Trainer {
  public:
    // Counts the pieces of `texts` (valid UTF-8) on up to `threads` threads.
    void add(std::span<const std::string_view> texts, unsigned threads);

    // At most `merges` pairs in the order learnt; the i-th pair becomes id 256 + i, and ids below 256 are bytes. Each
    // is the most frequent pair of neighbours at its time, the smallest (left id, then right id) among equals. Fewer
    // where the text holds no more pairs. Forgets the text.
    std::vector<std::pair<Id, Id>> train(std::size_t merges, const Progress& progress = {});

  private:
    std::vector<std::unique_ptr<PieceCounter>> counters_;  // one a thread
};

}  // namespace pynanochat::bpe
