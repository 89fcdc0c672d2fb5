// The merge loop of the trainer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "bpe/pair_table.h"
#include "bpe/piece_counter.h"
#include "bpe/trainer.h"

namespace pynanochat::bpe {

// All distinct words lie one after another in a flat array of positions, one a byte. A token stands at its first and
// its last position (`ids_`), so that both neighbours of a token are one read away; positions between hold nothing.
// Every pair of neighbouring tokens keeps a list of where it occurs. A merge walks the list of its pair and makes
// the lists of the pairs that the new token forms, all of them new, so each is allocated once at its size.
class MergeLearner {
  public:
    // `words` are counted together; no word may be in two of them.
    explicit MergeLearner(std::span<const PieceCounter> words);

    // The next merge, or false if no pair is left.
    bool step();
    const std::vector<std::pair<Id, Id>>& merges() const { return merges_; }

  private:
    using Position = std::uint32_t;
    static constexpr Id boundary = 0xFFFFFFFE;  // between words

    struct Pair {
        Id left, right;
        std::int64_t count;
        std::unique_ptr<Position[]> at;  // ascending within each word; some may be stale
        Position occurrences;
    };
    struct Candidate {
        std::int64_t count;
        std::uint32_t pair;
    };
    // A token beside the one being made: how often, and how often the pair with its old neighbour is lost.
    struct Neighbour {
        Id id;
        Position occurrences;
        std::int64_t count, lost;
    };
    struct Side {
        std::vector<Neighbour> neighbours;
        std::vector<std::uint32_t> slot_of;  // by id, no_id if not met
        std::vector<std::pair<std::uint32_t, Position>> found;
        Neighbour& meet(Id id, Position at, std::int64_t weight);
    };

    void lay_out(std::span<const PieceCounter> words);
    void index_pairs();
    std::uint32_t next_pair();
    void replace(const Pair& pair, Id merged);
    void lose(Id left, Id right, std::int64_t count);
    void add_pairs(Side& side, Id merged, bool merged_is_left);
    void push(std::uint32_t pair);
    bool less(const Candidate& a, const Candidate& b) const;

    std::vector<Id> ids_;
    std::vector<std::uint32_t> count_at_;  // of the word, by position
    std::vector<Position> length_;  // bytes, by id
    std::vector<Pair> pairs_;
    PairTable index_;  // (left, right) -> index into pairs_
    std::vector<Candidate> heap_;
    std::int64_t floor_ = std::int64_t{1} << 62;
    Side left_, right_;
    std::vector<std::pair<Id, Id>> merges_;
};

}  // namespace pynanochat::bpe
