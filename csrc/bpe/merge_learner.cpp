#include "bpe/merge_learner.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <stdexcept>
#include <string>

namespace pynanochat::bpe {

MergeLearner::MergeLearner(std::span<const PieceCounter> words) {
    length_.assign(256, 1);
    lay_out(words);
    index_pairs();
    left_.slot_of.assign(256, no_id);
    right_.slot_of.assign(256, no_id);
}

// Frequent words come first: most of the work then falls on memory that stays in cache. Words are as frequent as each
// other if their counts have equally many bits.
void MergeLearner::lay_out(std::span<const PieceCounter> words) {
    struct Word {
        std::uint64_t count, start;  // in `text`
        std::uint32_t size;
    };
    std::vector<Word> order;
    std::vector<char> text;
    std::size_t first[66] = {};  // where the words of a frequency begin, the highest first
    const auto place = [](std::uint64_t count) { return static_cast<std::size_t>(64 - std::bit_width(count)); };
    for (const PieceCounter& part : words) {
        part.each([&](std::string_view word, std::uint64_t count) {
            if (word.size() < 2) return;
            order.push_back({count, text.size(), static_cast<std::uint32_t>(word.size())});
            text.insert(text.end(), word.begin(), word.end());
            ++first[place(count) + 1];
        });
    }
    for (std::size_t i = 1; i < std::size(first); ++i) first[i] += first[i - 1];
    std::vector<Word> sorted(order.size());
    for (const Word& word : order) sorted[first[place(word.count)]++] = word;
    const std::size_t positions = text.size() + sorted.size() + 1;
    if (positions >= no_id)
        throw std::length_error("the distinct words of the text take " + std::to_string(positions) +
                                " bytes; the limit is 4294967294; train on fewer characters");
    ids_.reserve(positions);
    count_at_.reserve(positions);
    ids_.push_back(boundary);
    count_at_.push_back(0);
    for (const Word& word : sorted) {
        if (word.count >= no_id)
            throw std::length_error("a word of the text comes " + std::to_string(word.count) +
                                    " times; the limit is 4294967294; train on fewer characters");
        count_at_.insert(count_at_.end(), word.size + 1, static_cast<std::uint32_t>(word.count));
        for (std::uint32_t i = 0; i < word.size; ++i) ids_.push_back(static_cast<std::uint8_t>(text[word.start + i]));
        ids_.push_back(boundary);
    }
}

void MergeLearner::index_pairs() {
    std::vector<std::uint32_t> pair_of(65536, no_id);
    const auto each = [this](auto visit) {
        for (std::size_t i = 1; i + 1 < ids_.size(); ++i)
            if (ids_[i] != boundary && ids_[i + 1] != boundary)
                visit(static_cast<Position>(i), ids_[i] << 8 | ids_[i + 1]);
    };
    each([&](Position at, Id key) {
        if (pair_of[key] == no_id) {
            pair_of[key] = static_cast<std::uint32_t>(pairs_.size());
            pairs_.push_back({key >> 8, key & 255, 0, nullptr, 0});
        }
        Pair& pair = pairs_[pair_of[key]];
        pair.count += count_at_[at];
        ++pair.occurrences;
    });
    for (Pair& pair : pairs_) {
        pair.at.reset(new Position[pair.occurrences]);
        pair.occurrences = 0;
    }
    each([&](Position at, Id key) {
        Pair& pair = pairs_[pair_of[key]];
        pair.at[pair.occurrences++] = at;
    });
    for (std::uint32_t i = 0; i < pairs_.size(); ++i) index_.insert(pairs_[i].left, pairs_[i].right, i);
}

bool MergeLearner::less(const Candidate& a, const Candidate& b) const {
    if (a.count != b.count) return a.count < b.count;
    const Pair &x = pairs_[a.pair], &y = pairs_[b.pair];
    return x.left != y.left ? x.left > y.left : x.right > y.right;
}

void MergeLearner::push(std::uint32_t pair) {
    if (pairs_[pair].count < floor_) return;
    heap_.push_back({pairs_[pair].count, pair});
    std::push_heap(heap_.begin(), heap_.end(), [this](const auto& a, const auto& b) { return less(a, b); });
}

// The heap holds every pair whose count is at least `floor_`; most never get so far. When none is left, the floor sinks.
// Counts only ever fall after a pair was pushed, so a candidate whose count is out of date goes back with the new one.
std::uint32_t MergeLearner::next_pair() {
    constexpr std::int64_t step = 8;
    const auto order = [this](const auto& a, const auto& b) { return less(a, b); };
    while (true) {
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), order);
            const Candidate best = heap_.back();
            heap_.pop_back();
            if (best.count == pairs_[best.pair].count) return best.pair;
            push(best.pair);
        }
        if (floor_ == 1) return no_id;
        floor_ = std::max<std::int64_t>(floor_ / step, 1);
        for (std::uint32_t i = 0; i < pairs_.size(); ++i)
            if (pairs_[i].count >= floor_) heap_.push_back({pairs_[i].count, i});
        std::make_heap(heap_.begin(), heap_.end(), order);
    }
}

MergeLearner::Neighbour& MergeLearner::Side::meet(Id id, Position at, std::int64_t weight) {
    std::uint32_t& slot = slot_of[id];
    if (slot == no_id) {
        slot = static_cast<std::uint32_t>(neighbours.size());
        neighbours.push_back({id, 0, 0, 0});
    }
    found.emplace_back(slot, at);
    Neighbour& neighbour = neighbours[slot];
    ++neighbour.occurrences;
    neighbour.count += weight;
    neighbour.lost += weight;
    return neighbour;
}

bool MergeLearner::step() {
    const std::uint32_t best = next_pair();
    if (best == no_id) return false;
    const Id merged = static_cast<Id>(length_.size());
    const Pair pair = std::move(pairs_[best]);
    pairs_[best] = {pair.left, pair.right, 0, nullptr, 0};
    merges_.emplace_back(pair.left, pair.right);
    length_.push_back(length_[pair.left] + length_[pair.right]);
    left_.slot_of.push_back(no_id);
    right_.slot_of.push_back(no_id);

    replace(pair, merged);

    for (const Neighbour& before : left_.neighbours) {
        if (before.id == merged)  // a right neighbour that has itself become part of a merged token
            right_.neighbours[right_.slot_of[pair.left]].count -= before.lost;
        else
            lose(before.id, pair.left, before.lost);
    }
    for (const Neighbour& after : right_.neighbours) lose(pair.right, after.id, after.lost);
    add_pairs(left_, merged, false);
    add_pairs(right_, merged, true);
    return true;
}

void MergeLearner::replace(const Pair& pair, Id merged) {
    const Position left_size = length_[pair.left];
    const Position size = length_[merged];
    constexpr Position ahead = 16;
    for (Position i = 0; i < pair.occurrences; ++i) {
        if (i + ahead < pair.occurrences) {
            __builtin_prefetch(&ids_[pair.at[i + ahead]], 1);
            __builtin_prefetch(&count_at_[pair.at[i + ahead]]);
        }
        const Position at = pair.at[i];
        if (ids_[at] != pair.left || ids_[at + left_size] != pair.right) continue;  // stale
        const std::int64_t weight = count_at_[at];
        const Id before = ids_[at - 1], after = ids_[at + size];
        if (before != boundary) left_.meet(before, at - length_[before], weight);
        if (after != boundary) right_.meet(after, at, weight);
        ids_[at + left_size - 1] = no_id;
        ids_[at + left_size] = no_id;
        ids_[at] = merged;
        ids_[at + size - 1] = merged;
    }
}

void MergeLearner::lose(Id left, Id right, std::int64_t count) {
    pairs_[index_.find(left, right)].count -= count;
}

void MergeLearner::add_pairs(Side& side, Id merged, bool merged_is_left) {
    const std::size_t first = pairs_.size();
    for (const Neighbour& n : side.neighbours) {
        const Id left = merged_is_left ? merged : n.id;
        const Id right = merged_is_left ? n.id : merged;
        index_.insert(left, right, static_cast<std::uint32_t>(pairs_.size()));
        pairs_.push_back({left, right, n.count, std::unique_ptr<Position[]>(new Position[n.occurrences]), 0});
    }
    for (const auto& [slot, at] : side.found) {
        Pair& pair = pairs_[first + slot];
        pair.at[pair.occurrences++] = at;
    }
    for (std::size_t i = first; i < pairs_.size(); ++i) push(static_cast<std::uint32_t>(i));
    for (const Neighbour& n : side.neighbours) side.slot_of[n.id] = no_id;
    side.neighbours.clear();
    side.found.clear();
}

}  // namespace pynanochat::bpe
