// Merges the bytes of one piece into tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// Holds the working memory, so that merging many pieces allocates once. Not for two threads at a time.
class Merger {
  public:
    explicit Merger(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

    // The tokens of `piece` by the merges whose id is below `limit`. Valid until the next call. Short pieces are
    // scanned for the next merge; long ones take it from a heap, so that n bytes cost n log n.
    std::span<const Id> merge(std::string_view piece, Id limit = no_id);

    // Gives back the memory that a very long piece has taken.
    void trim();

  private:
    std::span<const Id> merge_short(std::string_view piece, Id limit);
    std::span<const Id> merge_long(std::string_view piece, Id limit);

    Id pair(Id left, Id right, Id limit) const {
        const Id merged = vocabulary_.pair(left, right);
        return merged < limit ? merged : no_id;
    }

    const Vocabulary& vocabulary_;
    std::vector<Id> ids_;
    std::vector<std::uint32_t> next_, previous_;
    std::vector<std::uint64_t> heap_;  // the merged id, then the place: the smallest is the next to do
};

}  // namespace pynanochat::bpe
