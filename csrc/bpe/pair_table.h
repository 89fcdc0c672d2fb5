// A growing hash table by pairs of ids.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

// A number for each pair of ids. Open addressing, at most half full.
class PairTable {
  public:
    PairTable() { resize(1024); }

    // The pair must not be in the table yet.
    void insert(Id left, Id right, std::uint32_t value) {
        if (++used_ * 2 > slots_.size()) resize(slots_.size() * 2);
        place({pack(left, right), value});
    }

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

    void place(const Slot& entry) {
        std::size_t i = slot(entry.key);
        while (slots_[i].key != empty) i = (i + 1) & mask_;
        slots_[i] = entry;
    }

    void resize(std::size_t capacity) {
        std::vector<Slot> old(capacity);
        old.swap(slots_);
        mask_ = capacity - 1;
        shift_ = 64 - std::countr_zero(capacity);
        for (const Slot& entry : old)
            if (entry.key != empty) place(entry);
    }

    std::vector<Slot> slots_;
    std::size_t mask_ = 0, used_ = 0;
    int shift_ = 0;
};

}  // namespace pynanochat::bpe
