// The tokens of a byte-pair encoding and the pairs that merge into them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace pynanochat::bpe {

using Id = std::uint32_t;
constexpr Id no_id = 0xFFFFFFFF;
constexpr Id max_vocabulary = 1u << 24;

// What a pair of ids leads to: a hash table with open addressing, at most half full, that grows.
class PairTable {
  public:
    explicit PairTable(std::size_t expected = 0);

    // `left`, `right` must not be in the table yet.
    void insert(Id left, Id right, std::uint32_t value);

    // The value of a pair, or no_id.
    std::uint32_t find(Id left, Id right) const {
        const std::uint64_t key = pack(left, right);
        for (std::size_t i = slot(key);; i = (i + 1) & mask_) {
            if (slots_[i].key == key) return slots_[i].value;
            if (slots_[i].key == empty) return no_id;
        }
    }

  private:
    static constexpr std::uint64_t empty = ~std::uint64_t{0};
    struct Slot {
        std::uint64_t key = empty;
        std::uint32_t value = no_id;
    };
    static std::uint64_t pack(Id left, Id right) { return static_cast<std::uint64_t>(left) << 32 | right; }
    std::size_t slot(std::uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; }
    void resize(std::size_t capacity);
    void place(const Slot& entry);

    std::vector<Slot> slots_;
    std::size_t mask_ = 0, used_ = 0;
    int shift_ = 0;
};

// Tokens by id. The id is also the rank: where several neighbouring pairs could merge, the one whose bytes have the
// lowest id merges first, the leftmost among equals.
class Vocabulary {
  public:
    // `tokens[id]` are the bytes of a token; an empty view is an id that is not in use. Every single byte must be
    // a token and no token may come twice (std::invalid_argument).
    explicit Vocabulary(const std::vector<std::string_view>& tokens);

    std::size_t size() const { return offset_.size() - 1; }  // highest id + 1
    std::string_view bytes(Id id) const {
        return {blob_.data() + offset_[id], static_cast<std::size_t>(offset_[id + 1] - offset_[id])};
    }
    bool contains(std::uint64_t id) const { return id < size() && offset_[id + 1] > offset_[id]; }

    Id byte_id(std::uint8_t byte) const { return byte_id_[byte]; }
    Id pair(Id left, Id right) const { return pairs_.find(left, right); }

    // The id whose bytes are `text`, or no_id.
    Id find(std::string_view text) const;

    // The two tokens that merge into each id (no_id where it is a single byte or merging its bytes does not end in
    // two tokens). If every longer token has its two, the vocabulary is regular: merging then never needs other pairs.
    const std::vector<std::pair<Id, Id>>& parts() const { return parts_; }
    bool regular() const { return regular_; }

  private:
    void index_tokens();
    void index_pairs();
    void keep_canonical_pairs();

    std::vector<char> blob_;
    std::vector<std::uint64_t> offset_;
    std::array<Id, 256> byte_id_;
    std::vector<Id> slots_;  // open addressing by hash of the bytes
    std::size_t mask_ = 0;
    PairTable pairs_;
    std::vector<std::pair<Id, Id>> parts_;
    bool regular_ = true;
};

}  // namespace pynanochat::bpe
