// Remembers the ids of pieces, so that common words are merged once. Two caches, both of a fixed size: one for short
// pieces, where nearly all of the text is found, and one for the longer rest.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "bpe/fresh_memory.h"
#include "bpe/piece_key.h"
#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// Pieces up to 15 bytes and 4 ids, in sets of two that share a cache line. A piece belongs to either of two sets. A new
// one goes where there is room; if nowhere, the first set forgets its older piece.
class ShortCache {
  public:
    static constexpr std::size_t max_ids = 4;
    static constexpr std::size_t capacity = std::size_t{1} << 18;

    // The ids of a piece: 24 bits each, and how many are meant in the high byte of the last.
    struct Ids {
        Id id[max_ids];

        static Ids of(std::span<const Id> ids) {
            Ids packed{};
            std::copy(ids.begin(), ids.end(), packed.id);
            packed.id[max_ids - 1] |= static_cast<Id>(ids.size() << id_bits);
            return packed;
        }
        std::size_t count() const { return id[max_ids - 1] >> id_bits; }
        // Writes max_ids ids at `out`.
        void read(Id* out) const {
            Id copy[max_ids];  // so that the compiler sees that they do not overlap, and takes four at a time
            std::memcpy(copy, id, sizeof copy);
            for (Id& one : copy) one &= id_mask;
            std::memcpy(out, copy, sizeof copy);
        }
    };
    struct alignas(64) Set {
        PieceKey key[2];  // size 0: empty
        Ids ids[2];
    };
    static_assert(sizeof(Set) == 64 && id_bits == 24);

    Set& set(std::uint64_t hash) { return sets_[hash & (set_count - 1)]; }
    Set& other_set(std::uint64_t hash) { return sets_[hash >> 32 & (set_count - 1)]; }

    // Which of the two is meant cannot be foretold, and a branch on it, mispredicted before the line has come, would
    // cost more than all else: so the compiler must not see that the second comparison follows from the first.
    static const Ids* find(const Set& set, const PieceKey& key) {
        std::size_t which = set.key[0] == key ? 0 : 1;
        __asm__("" : "+r"(which));
        return set.key[which] == key ? &set.ids[which] : nullptr;
    }

    // Looks into the other set. What is found there moves to the first set now and then, where it is found sooner, if
    // the older piece there can go to its own other set: so the common pieces gather in their first sets.
    const Ids* find_other(std::uint64_t hash, const PieceKey& key, Ids& copy) {
        Set& other = other_set(hash);
        const Ids* const found = find(other, key);
        if (!found) return nullptr;
        copy = *found;
        Set& first = set(hash);
        const std::uint64_t its_hash = first.key[1].hash();
        Set& refuge = &set(its_hash) == &first ? other_set(its_hash) : set(its_hash);
        if (++moves_ % 4 == 0 && refuge.key[1].size() == 0 && first.key[1].size() != 0 && &refuge != &other) {
            push(refuge, first.key[1], first.ids[1]);
            const std::size_t place = static_cast<std::size_t>(found - other.ids);
            other.key[place] = other.key[1];
            other.ids[place] = other.ids[1];
            other.key[1] = {};
            push(first, key, copy);
        }
        return &copy;
    }

    void insert(std::uint64_t hash, const PieceKey& key, const Id* ids, std::size_t count) {
        Set& first = set(hash);
        Set& second = other_set(hash);
        push(first.key[1].size() != 0 && second.key[1].size() == 0 ? second : first, key, Ids::of({ids, count}));
    }

  private:
    static void push(Set& set, const PieceKey& key, const Ids& ids) {
        set.key[1] = set.key[0];
        set.ids[1] = set.ids[0];
        set.key[0] = key;
        set.ids[0] = ids;
    }

    static constexpr std::size_t set_count = capacity / 2;  // 8 MiB
    FreshMemory<Set> sets_{set_count};
    std::uint32_t moves_ = 0;
};

// Pieces up to 255 bytes and any number of ids. What is remembered is written one after another into a ring, over the
// oldest; a slot says where, and is void once the ring has passed that place. Slots come in pairs, as in ShortCache.
class LongCache {
  public:
    static constexpr std::size_t max_size = 255;

    void prefetch_slots(std::uint64_t hash) const { __builtin_prefetch(&pairs_[hash & (pair_count - 1)]); }

    void prefetch_record(std::uint64_t hash) const {
        const Pair& pair = pairs_[hash & (pair_count - 1)];
        const Id* const record = ring_.data() + pair.slot[pair.slot[0].hash != hash].at % ring_words;
        __builtin_prefetch(record);
        __builtin_prefetch(record + 16);
    }

    // The ids of `piece`, valid until the next insert; empty if it is not remembered.
    std::span<const Id> find(std::string_view piece, std::uint64_t hash) const {
        const Pair& pair = pairs_[hash & (pair_count - 1)];
        const Slot& slot = pair.slot[pair.slot[0].hash != hash];
        if (slot.hash != hash || head_ - slot.at > ring_words) return {};
        const Id* const record = ring_.data() + slot.at % ring_words;
        const std::size_t size = record[0] & 255, count = record[0] >> 8;
        if (size != piece.size() || std::memcmp(record + 1 + count, piece.data(), size) != 0) return {};
        return {record + 1, count};
    }

    void insert(std::string_view piece, std::uint64_t hash, std::span<const Id> ids) {
        const std::size_t words = 1 + ids.size() + (piece.size() + 3) / 4;
        if (head_ % ring_words + words > ring_words) head_ += ring_words - head_ % ring_words;
        Id* const record = ring_.data() + head_ % ring_words;
        record[0] = static_cast<Id>(ids.size() << 8 | piece.size());
        std::memcpy(record + 1, ids.data(), ids.size() * sizeof(Id));
        std::memcpy(record + 1 + ids.size(), piece.data(), piece.size());
        Pair& pair = pairs_[hash & (pair_count - 1)];
        pair.slot[1] = pair.slot[0];
        pair.slot[0] = {hash, head_};
        head_ += words;
    }

  private:
    static constexpr std::size_t pair_count = std::size_t{1} << 17;  // 4 MiB
    static constexpr std::size_t ring_words = std::size_t{1} << 22;  // 16 MiB
    struct Slot {
        std::uint64_t hash = 0, at = 0;
    };
    struct alignas(32) Pair {
        Slot slot[2];
    };
    FreshMemory<Pair> pairs_{pair_count};
    FreshMemory<Id> ring_{ring_words};
    std::uint64_t head_ = 2 * ring_words;  // so that empty slots are void
};

}  // namespace pynanochat::bpe
