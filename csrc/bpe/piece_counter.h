// Counts how often each piece comes in a text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bpe/piece_key.h"

namespace pynanochat::bpe {

// Two hash tables with open addressing: one whose keys lie in the table, for pieces up to 15 bytes, and one whose
// keys lie in an arena. Both double when half full.
class PieceCounter {
  public:
    PieceCounter();

    void add_text(std::string_view text);  // valid UTF-8; its pieces count once each
    // Adds those words of `other` that fall, by their hashes, into part `part` of `parts`.
    void add(const PieceCounter& other, std::size_t part, std::size_t parts);

    std::size_t size() const { return short_used_ + long_used_; }

    // Calls visit(bytes, count) for every distinct piece, in no particular order.
    template <class Visit>
    void each(Visit visit) const {
        for (const Short& entry : short_) {
            if (!entry.count) continue;
            char bytes[16];
            std::memcpy(bytes, &entry.key, 16);
            visit(std::string_view(bytes, static_cast<std::size_t>(bytes[15])), entry.count);
        }
        for (const Long& entry : long_)
            if (entry.count) visit(std::string_view(arena_.data() + entry.offset, entry.size), entry.count);
    }

  private:
    struct Short {
        PieceKey key;
        std::uint64_t count;  // 0: empty
    };
    struct Long {
        std::uint64_t hash, offset, size, count;
    };
    void count_short(const PieceKey& key, std::uint64_t hash, std::uint64_t count);
    void count_long(std::string_view piece, std::uint64_t hash, std::uint64_t count);
    void grow_short();
    void grow_long();

    std::vector<Short> short_;
    std::vector<Long> long_;
    std::vector<char> arena_;
    std::size_t short_used_ = 0, long_used_ = 0;
};

}  // namespace pynanochat::bpe
