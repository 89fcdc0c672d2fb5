// Finds the longest token that a text begins with.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// A trie of all tokens as a double array: the child of a node by a byte is at `base ^ byte`, if that slot says so.
class TokenTrie {
  public:
    explicit TokenTrie(const Vocabulary& vocabulary);

    // The longest token at the start of `text`, which is not empty (every single byte is a token).
    Id longest(std::string_view text) const {
        std::uint32_t node = root;
        Id found = no_id;
        for (const char byte : text) {
            const std::uint32_t child = slots_[node].base ^ static_cast<std::uint8_t>(byte);
            if (slots_[child].parent != node) break;
            node = child;
            if (slots_[node].token != no_id) found = slots_[node].token;
        }
        return found;
    }

    // The longest token that begins `token` and is shorter; no_id for a single byte.
    Id shorter(Id token) const { return shorter_[token]; }

  private:
    static constexpr std::uint32_t root = 0, none = 0xFFFFFFFF;
    static constexpr std::uint32_t row = 256;  // the children of a node lie in one row
    struct Slot {
        std::uint32_t base = row, parent = none;  // without children: those of the row `row`, which are not its own
        Id token = no_id;
    };
    std::uint32_t place(std::string_view bytes);

    std::vector<Slot> slots_;
    std::vector<Id> shorter_;
    std::uint32_t first_free_ = 1;
};

}  // namespace pynanochat::bpe
