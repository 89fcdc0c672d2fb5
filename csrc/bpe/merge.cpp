#include "bpe/merge.h"

#include <algorithm>
#include <cstring>

namespace pynanochat::bpe {

namespace {
constexpr std::size_t short_piece = 64;  // bytes; beyond, scanning for every merge costs more than a heap
}

std::span<const Id> Merger::merge(std::string_view piece, Id limit) {
    return piece.size() <= short_piece ? merge_short(piece, limit) : merge_long(piece, limit);
}

std::span<const Id> Merger::merge_short(std::string_view piece, Id limit) {
    ids_.resize(short_piece);
    Id* ids = ids_.data();
    Id merged[short_piece];  // what ids[i] and ids[i + 1] merge into
    std::size_t n = piece.size();
    for (std::size_t i = 0; i < n; ++i) ids[i] = vocabulary_.byte_id(static_cast<std::uint8_t>(piece[i]));
    for (std::size_t i = 0; i + 1 < n; ++i) merged[i] = pair(ids[i], ids[i + 1], limit);
    while (n > 1) {
        const std::size_t at = static_cast<std::size_t>(std::min_element(merged, merged + n - 1) - merged);
        if (merged[at] == no_id) break;
        ids[at] = merged[at];
        --n;
        std::memmove(ids + at + 1, ids + at + 2, (n - at - 1) * sizeof(Id));
        if (at + 1 < n) {
            std::memmove(merged + at + 1, merged + at + 2, (n - at - 2) * sizeof(Id));
            merged[at] = pair(ids[at], ids[at + 1], limit);
        }
        if (at > 0) merged[at - 1] = pair(ids[at - 1], ids[at], limit);
    }
    return {ids, n};
}

std::span<const Id> Merger::merge_long(std::string_view piece, Id limit) {
    const std::size_t n = piece.size();
    ids_.resize(n);
    next_.resize(n);
    previous_.resize(n);
    heap_.clear();
    for (std::size_t i = 0; i < n; ++i) {
        ids_[i] = vocabulary_.byte_id(static_cast<std::uint8_t>(piece[i]));
        next_[i] = i + 1;
        previous_[i] = i - 1;
    }
    for (std::size_t i = 0; i + 1 < n; ++i) {
        const Id merged = pair(ids_[i], ids_[i + 1], limit);
        if (merged != no_id) heap_.push_back({merged, i});
    }
    std::make_heap(heap_.begin(), heap_.end());
    const auto push = [this](Id merged, std::size_t at) {
        if (merged == no_id) return;
        heap_.push_back({merged, at});
        std::push_heap(heap_.begin(), heap_.end());
    };
    while (!heap_.empty()) {
        const auto [merged, at] = heap_.front();
        std::pop_heap(heap_.begin(), heap_.end());
        heap_.pop_back();
        // A candidate is stale once either of its tokens was merged otherwise.
        if (ids_[at] == no_id || next_[at] >= n || pair(ids_[at], ids_[next_[at]], limit) != merged) continue;
        const std::size_t gone = next_[at];
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
    for (std::size_t i = 0; i < n; i = next_[i]) ids_[count++] = ids_[i];
    return {ids_.data(), count};
}

}  // namespace pynanochat::bpe
