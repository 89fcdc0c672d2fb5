#include "bpe/merge.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

namespace pynanochat::bpe {

namespace {
constexpr std::size_t short_piece = 64;  // bytes; beyond, scanning for every merge costs more than a heap
}

std::span<const Id> Merger::merge(std::string_view piece, Id limit) {
    return piece.size() <= short_piece ? merge_short(piece, limit) : merge_long(piece, limit);
}

// A merge and its place in one number, so that the smallest is the next to do: id << 8 | place.
std::span<const Id> Merger::merge_short(std::string_view piece, Id limit) {
    constexpr Id none = no_id << 8;  // and above
    Id ids[short_piece];
    Id merges[short_piece];  // of ids[i] with the one after it
    std::uint8_t next[short_piece], previous[short_piece];
    const std::size_t n = piece.size();
    const auto merge_at = [&](std::size_t i, std::size_t j) {
        merges[i] = pair(ids[i], ids[j], limit) << 8 | static_cast<Id>(i);
    };
    for (std::size_t i = 0; i < n; ++i) {
        ids[i] = vocabulary_.byte_id(static_cast<std::uint8_t>(piece[i]));
        next[i] = static_cast<std::uint8_t>(i + 1);
        previous[i] = static_cast<std::uint8_t>(i - 1);
    }
    for (std::size_t i = 0; i + 1 < n; ++i) merge_at(i, i + 1);
    merges[n - 1] = none;
    while (true) {
        Id best = none;
        for (std::size_t i = 0; i < n; ++i) best = std::min(best, merges[i]);
        if (best >= none) break;
        const std::size_t at = best & 255, gone = next[at];
        ids[at] = best >> 8;
        merges[at] = merges[gone] = none;
        next[at] = next[gone];
        if (next[at] < n) {
            previous[next[at]] = static_cast<std::uint8_t>(at);
            merge_at(at, next[at]);
        }
        if (at > 0) merge_at(previous[at], at);
    }
    ids_.resize(std::max(ids_.size(), n));
    std::size_t count = 0;
    for (std::size_t i = 0; i < n; i = next[i]) ids_[count++] = ids[i];
    return {ids_.data(), count};
}

std::span<const Id> Merger::merge_long(std::string_view piece, Id limit) {
    if (piece.size() >= no_id)
        throw std::length_error("a word of " + std::to_string(piece.size()) +
                                " bytes is too long; the limit is 4294967294");
    const std::uint32_t n = static_cast<std::uint32_t>(piece.size());
    ids_.resize(std::max<std::size_t>(ids_.size(), n));
    next_.resize(n);
    previous_.resize(n);
    heap_.clear();
    const auto candidate = [](Id merged, std::uint32_t at) { return std::uint64_t{merged} << 32 | at; };
    for (std::uint32_t i = 0; i < n; ++i) {
        ids_[i] = vocabulary_.byte_id(static_cast<std::uint8_t>(piece[i]));
        next_[i] = i + 1;
        previous_[i] = i - 1;
    }
    for (std::uint32_t i = 0; i + 1 < n; ++i) {
        const Id merged = pair(ids_[i], ids_[i + 1], limit);
        if (merged != no_id) heap_.push_back(candidate(merged, i));
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    const auto push = [&](Id merged, std::uint32_t at) {
        if (merged == no_id) return;
        heap_.push_back(candidate(merged, at));
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    };
    while (!heap_.empty()) {
        const Id merged = static_cast<Id>(heap_.front() >> 32);
        const std::uint32_t at = static_cast<std::uint32_t>(heap_.front());
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
        heap_.pop_back();
        // A candidate is stale once either of its tokens was merged otherwise.
        if (ids_[at] == no_id || next_[at] >= n || pair(ids_[at], ids_[next_[at]], limit) != merged) continue;
        const std::uint32_t gone = next_[at];
        ids_[at] = merged;
        ids_[gone] = no_id;
        next_[at] = next_[gone];
        if (next_[at] < n) {
            previous_[next_[at]] = at;
            push(pair(merged, ids_[next_[at]], limit), at);
        }
        if (at > 0) push(pair(ids_[previous_[at]], merged, limit), previous_[at]);
    }
    std::size_t count = 0;
    for (std::uint32_t i = 0; i < n; i = next_[i]) ids_[count++] = ids_[i];
    return {ids_.data(), count};
}

void Merger::trim() {
    constexpr std::size_t kept = std::size_t{1} << 16;
    if (ids_.size() <= kept) return;
    ids_ = {};
    next_ = {};
    previous_ = {};
    heap_ = {};
}

}  // namespace pynanochat::bpe
