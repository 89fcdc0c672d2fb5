// Remembers the ids of short pieces, so that common words are merged once. Bounded: a fixed table, sets of two
// entries that share a cache line; a new entry takes the second place and the entry there moves out.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "bpe/unicode.h"
#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// Up to 15 bytes of text, padded with zeros, and their number in the last byte.
struct PieceKey {
    static constexpr std::size_t max_size = 15;
    std::uint64_t low, high;

    bool operator==(const PieceKey& o) const { return ((low ^ o.low) | (high ^ o.high)) == 0; }

    // `size` 1 to 15. Reads 16 bytes at `p` if `readable` says that so many may be read.
    static PieceKey of(const Byte* p, std::size_t size, std::size_t readable) {
        std::uint64_t word[2] = {0, 0};
        std::memcpy(word, p, readable >= 16 ? 16 : size);
        if (size >= 8) {
            word[1] &= (std::uint64_t{1} << (8 * (size - 8))) - 1;
        } else {
            word[0] &= (std::uint64_t{1} << (8 * size)) - 1;
            word[1] = 0;
        }
        return {word[0], word[1] | static_cast<std::uint64_t>(size) << 56};
    }

    std::uint64_t hash() const {
        __extension__ using Wide = unsigned __int128;
        const Wide product = static_cast<Wide>(low ^ 0x9E3779B97F4A7C15u) * (high ^ 0xD1B54A32D192ED03u);
        return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
};

class PieceCache {
  public:
    static constexpr std::size_t max_ids = 3;
    struct Entry {
        PieceKey key;  // size 0: empty
        Id ids[max_ids];
        std::uint32_t count;
    };
    struct alignas(64) Set {
        Entry entry[2];
    };

    PieceCache() : sets_(static_cast<Set*>(std::aligned_alloc(64, set_count * sizeof(Set)))) {
        if (!sets_) throw std::bad_alloc();
        std::memset(static_cast<void*>(sets_.get()), 0, set_count * sizeof(Set));
    }

    Set& set(std::uint64_t hash) { return sets_[hash & (set_count - 1)]; }

    static const Entry* find(const Set& set, const PieceKey& key) {
        if (set.entry[0].key == key) return &set.entry[0];
        if (set.entry[1].key == key) return &set.entry[1];
        return nullptr;
    }

    static void insert(Set& set, const PieceKey& key, const Id* ids, std::size_t count) {
        if (set.entry[0].key.high != 0) set.entry[1] = set.entry[0];
        set.entry[0].key = key;
        for (std::size_t i = 0; i < count; ++i) set.entry[0].ids[i] = ids[i];
        set.entry[0].count = static_cast<std::uint32_t>(count);
    }

  private:
    static constexpr std::size_t set_count = std::size_t{1} << 15;  // 2 MiB
    struct Free {
        void operator()(Set* sets) const { std::free(sets); }
    };
    std::unique_ptr<Set[], Free> sets_;
};

}  // namespace pynanochat::bpe
