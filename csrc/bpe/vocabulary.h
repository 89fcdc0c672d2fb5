// The tokens of a byte-pair encoding and the pairs that merge into them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace pynanochat::bpe {

using Id = std::uint32_t;
constexpr Id no_id = 0xFFFFFFFF;
constexpr int id_bits = 24;
constexpr Id id_mask = (Id{1} << id_bits) - 1;
constexpr Id max_vocabulary = id_mask;  // ids are below this

// Which id two ids merge into. Open addressing by buckets of four, which are read without a branch, as whether a pair
// merges cannot be foretold. Multiplying a pair by an odd number loses nothing, so that the bucket where a search
// begins stands for the high bits of the product, and a slot need hold only the rest, how many buckets from there it
// is, and the id: eight bytes.
class MergeTable {
  public:
    explicit MergeTable(std::size_t expected = 0) { clear(expected); }

    // Forgets everything and makes room for `expected` pairs. `multiplier`, an odd number, says where each will be.
    void clear(std::size_t expected, std::uint64_t multiplier = 0x9E3779B97F4A7C15u);

    // False if the table is too crowded around the pair, which must not be in it yet: clear() with another multiplier.
    [[nodiscard]] bool insert(Id left, Id right, Id merged);

    // The id that the pair merges into, or no_id.
    Id find(Id left, Id right) const {
        const std::uint64_t product = multiply(left, right);
        const std::uint64_t* slot = slots_.data() + (product >> rest_bits_) * bucket;
        std::uint64_t wanted = (product & ((std::uint64_t{1} << rest_bits_) - 1)) << (64 - max_rest_bits);
        for (;; slot += bucket, wanted += distance_step) {
            std::uint64_t match = ~std::uint64_t{0};  // a slot that agrees in all but the id leaves the id
            for (std::size_t i = 0; i < bucket; ++i) match = std::min(match, slot[i] ^ wanted);
            if (slot[bucket - 1] == empty) return match < distance_step ? static_cast<Id>(match) : no_id;
            if (match < distance_step) return static_cast<Id>(match);
        }
    }

  private:
    static constexpr std::size_t bucket = 4;
    static constexpr std::uint64_t empty = ~std::uint64_t{0};
    static constexpr std::uint64_t distance_step = std::uint64_t{1} << id_bits;
    static constexpr std::size_t max_distance = 126;
    static constexpr int max_rest_bits = 33;

    std::uint64_t multiply(Id left, Id right) const {
        const std::uint64_t pair = static_cast<std::uint64_t>(left) << id_bits | right;
        return pair * multiplier_ & ((std::uint64_t{1} << 2 * id_bits) - 1);
    }

    std::vector<std::uint64_t> slots_;  // from high to low: 33 bits of the product, 7 of the distance, 24 of the id
    std::uint64_t multiplier_ = 0;
    int rest_bits_ = 0;
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

    // The id whose bytes are `text`, or no_id. `hash` is piece_hash(text).
    Id find(std::string_view text, std::uint64_t hash) const {
        for (std::size_t i = hash & mask_; slots_[i].id != no_id; i = (i + 1) & mask_)
            if (slots_[i].mark == hash >> 32 && bytes(slots_[i].id) == text) return slots_[i].id;
        return no_id;
    }

    // The two tokens that merge into each id (no_id where it is a single byte or merging its bytes does not end in
    // two tokens). If every longer token has its two, the vocabulary is regular: merging then never needs other pairs.
    const std::vector<std::pair<Id, Id>>& parts() const { return parts_; }
    bool regular() const { return regular_; }

  private:
    struct Pair {
        Id left, right, merged;
    };
    void index_tokens();
    void index_pairs();
    void keep_canonical_pairs();
    void set_pairs(const std::vector<Pair>& pairs);

    std::vector<char> blob_;
    std::vector<std::uint64_t> offset_;
    std::array<Id, 256> byte_id_;
    struct Slot {
        Id id = no_id;
        std::uint32_t mark = 0;  // the high half of the hash: unequal bytes seldom need to be compared
    };
    std::vector<Slot> slots_;  // open addressing by piece_hash
    std::size_t mask_ = 0;
    MergeTable pairs_;
    std::vector<std::pair<Id, Id>> parts_;
    bool regular_ = true;
};

}  // namespace pynanochat::bpe
