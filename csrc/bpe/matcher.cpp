#include "bpe/matcher.h"

#include <algorithm>

namespace pynanochat::bpe {

bool Matcher::suits(const Vocabulary& vocabulary, const TokenTrie& trie) {
    constexpr std::size_t most = 4096;  // steps for one place of a piece, at the worst
    if (!vocabulary.regular()) return false;
    std::size_t deepest = 0, longest = 0;
    std::vector<std::size_t> depth(vocabulary.size());
    for (Id id = 0; id < vocabulary.size(); ++id) {
        if (const auto [left, right] = vocabulary.parts()[id]; left != no_id)  // both are lower than id
            depth[id] = 1 + std::max(depth[left], depth[right]);
        deepest = std::max(deepest, depth[id]);
        std::size_t chain = 1;
        for (Id shorter = id; chain <= most && (shorter = trie.shorter(shorter)) != no_id;) ++chain;
        longest = std::max(longest, chain);
        if (longest * (2 * deepest + 1) > most) return false;
    }
    return true;
}

void Matcher::trim() {
    constexpr std::size_t kept = std::size_t{1} << 16;
    if (ids_.size() > kept) ids_ = {};
    if (closed_.size() > kept) closed_ = {};
}

std::span<const Id> Matcher::match(std::string_view piece) {
    ids_.clear();
    closed_.clear();
    std::size_t at = 0;
    Id next = trie_.longest(piece);
    while (true) {
        while (next != no_id) {
            const std::size_t end = at + vocabulary_.bytes(next).size();
            const bool open = closed_.empty() || !closed_[end];
            if (open && (ids_.empty() || stay_apart(ids_.back(), next))) {
                at = end;
                break;
            }
            next = trie_.shorter(next);
        }
        if (next != no_id) {
            ids_.push_back(next);
            if (at == piece.size()) return ids_;
            next = trie_.longest(piece.substr(at));
        } else {
            closed_.resize(piece.size() + 1);
            closed_[at] = true;
            next = ids_.back();
            ids_.pop_back();
            at -= vocabulary_.bytes(next).size();
        }
    }
}

// Whether merging the bytes of both ends with these two: taking their merges back, the latest first, no pair over the
// border between them may ever have come before the merge that is taken back. Of equal pairs the left one comes first.
bool Matcher::stay_apart(Id left, Id right) const {
    const auto& parts = vocabulary_.parts();
    Id bound = no_id;  // a pair over the border that becomes a lower id would have been merged
    while (true) {
        if (vocabulary_.pair(left, right) < bound) return false;
        const Id left_end = parts[left].second, right_start = parts[right].first;
        if (left_end == no_id && right_start == no_id) return true;
        if (right_start == no_id || (left_end != no_id && left > right)) {
            bound = left;
            left = left_end;
        } else {
            bound = right + 1;
            right = right_start;
        }
    }
}

}  // namespace pynanochat::bpe
