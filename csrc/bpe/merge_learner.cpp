#include "bpe/merge_learner.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pynanochat::bpe {

MergeLearner::MergeLearner(const PieceCounter& words) {
    length_.assign(256, 1);
    lay_out(words);
    index_pairs();
    left_.slot_of.assign(256, no_id);
    right_.slot_of.assign(256, no_id);
}

// Frequent words come first: most of the work then falls on memory that stays in cache.
void MergeLearner::lay_out(const PieceCounter& words) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> order;  // count, where in `text` the word starts
    std::vector<char> text;
    words.each([&](std::string_view word, std::uint64_t count) {
        if (word.size() < 2) return;
        order.emplace_back(count, text.size());
        const std::uint32_t size = static_cast<std::uint32_t>(word.size());
        const char* header = reinterpret_cast<const char*>(&size);
        text.insert(text.end(), header, header + sizeof size);
        text.insert(text.end(), word.begin(), word.end());
    });
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    const std::size_t positions = text.size() - 4 * order.size() + order.size() + 1;
    if (positions >= no_id)
        throw std::length_error("the distinct words of the text take " + std::to_string(positions) +
                                " bytes; the limit is 4294967294; train on fewer characters");
    ids_.reserve(positions);
    word_of_.reserve(positions);
    ids_.push_back(boundary);
    word_of_.push_back(0);
    for (const auto& [count, at] : order) {
        std::uint32_t size;
        std::memcpy(&size, text.data() + at, sizeof size);
        const std::uint32_t word = static_cast<std::uint32_t>(word_count_.size());
        word_count_.push_back(static_cast<std::int64_t>(count));
        for (std::uint32_t i = 0; i < size; ++i) ids_.push_back(static_cast<std::uint8_t>(text[at + sizeof size + i]));
        ids_.push_back(boundary);
        word_of_.insert(word_of_.end(), size + 1, word);
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
        pair.count += word_count_[word_of_[at]];
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
    for (std::uint32_t i = 0; i < pairs_.size(); ++i) {
        index_.insert(pairs_[i].left, pairs_[i].right, i);
        push(i);
    }
}

bool MergeLearner::less(const Candidate& a, const Candidate& b) const {
    if (a.count != b.count) return a.count < b.count;
    const Pair &x = pairs_[a.pair], &y = pairs_[b.pair];
    return x.left != y.left ? x.left > y.left : x.right > y.right;
}

void MergeLearner::push(std::uint32_t pair) {
    if (pairs_[pair].count <= 0) return;
    heap_.push_back({pairs_[pair].count, pair});
    std::push_heap(heap_.begin(), heap_.end(), [this](const auto& a, const auto& b) { return less(a, b); });
}

// Counts only ever fall after a pair was pushed, so a candidate whose count is out of date goes back with the new one.
std::uint32_t MergeLearner::next_pair() {
    while (!heap_.empty()) {
        std::pop_heap(heap_.begin(), heap_.end(), [this](const auto& a, const auto& b) { return less(a, b); });
        const Candidate best = heap_.back();
        heap_.pop_back();
        if (best.count == pairs_[best.pair].count) return best.pair;
        push(best.pair);
    }
    return no_id;
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
            __builtin_prefetch(&word_of_[pair.at[i + ahead]]);
        }
        const Position at = pair.at[i];
        if (ids_[at] != pair.left || ids_[at + left_size] != pair.right) continue;  // stale
        const std::int64_t weight = word_count_[word_of_[at]];
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
