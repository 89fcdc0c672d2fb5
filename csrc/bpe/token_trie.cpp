#include "bpe/token_trie.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace pynanochat::bpe {

TokenTrie::TokenTrie(const Vocabulary& vocabulary) : slots_(2 * row), shorter_(vocabulary.size(), no_id) {
    std::vector<Id> order(vocabulary.size());
    std::iota(order.begin(), order.end(), Id{0});
    std::erase_if(order, [&](Id id) { return vocabulary.bytes(id).empty(); });
    std::sort(order.begin(), order.end(), [&](Id a, Id b) { return vocabulary.bytes(a) < vocabulary.bytes(b); });

    // The tokens order[first] to order[last - 1] begin with the `depth` bytes that lead to `node`.
    struct Branch {
        std::uint32_t node;
        std::size_t first, last, depth;
        Id above;  // the token of the nearest node above that is one
    };
    slots_[root].parent = root;
    std::vector<Branch> todo{{root, 0, order.size(), 0, no_id}};
    std::string bytes;  // by which the node goes on
    std::vector<std::size_t> starts;
    while (!todo.empty()) {
        Branch at = todo.back();
        todo.pop_back();
        if (vocabulary.bytes(order[at.first]).size() == at.depth) {
            const Id token = order[at.first++];
            slots_[at.node].token = token;
            shorter_[token] = at.above;
            at.above = token;
        }
        if (at.first == at.last) continue;
        bytes.clear();
        starts.clear();
        for (std::size_t i = at.first; i < at.last; ++i) {
            const char byte = vocabulary.bytes(order[i])[at.depth];
            if (!bytes.empty() && bytes.back() == byte) continue;
            bytes.push_back(byte);
            starts.push_back(i);
        }
        starts.push_back(at.last);
        const std::uint32_t base = place(bytes);
        slots_[at.node].base = base;
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            const std::uint32_t child = base ^ static_cast<std::uint8_t>(bytes[i]);
            slots_[child].parent = at.node;
            todo.push_back({child, starts[i], starts[i + 1], at.depth + 1, at.above});
        }
    }
}

// A base from which the slots of all `bytes` are free: near the first free slot, or else in a new row.
std::uint32_t TokenTrie::place(std::string_view bytes) {
    constexpr int tries = 32;
    const auto is_free = [this](std::uint32_t slot) { return slots_[slot].parent == none; };
    while (first_free_ < slots_.size() && !is_free(first_free_)) ++first_free_;
    int left = tries;
    for (std::uint32_t slot = first_free_; slot < slots_.size() && left > 0; ++slot) {
        if (!is_free(slot)) continue;
        --left;
        const std::uint32_t base = slot ^ static_cast<std::uint8_t>(bytes[0]);
        if (std::all_of(bytes.begin(), bytes.end(),
                        [&](char byte) { return is_free(base ^ static_cast<std::uint8_t>(byte)); }))
            return base;
    }
    slots_.resize(slots_.size() + row);
    return static_cast<std::uint32_t>(slots_.size() - row);
}

}  // namespace pynanochat::bpe
