#include "bpe/matcher.h"

namespace pynanochat::bpe {

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
