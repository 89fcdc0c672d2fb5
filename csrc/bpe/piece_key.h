// Short pieces of text as two words, to be compared and hashed without a loop.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "bpe/hash.h"
#include "bpe/unicode.h"

namespace pynanochat::bpe {

static_assert(std::endian::native == std::endian::little, "keys are built from little-endian words");

// Up to 15 bytes of text, padded with zeros, and their number in the last byte.
struct PieceKey {
    static constexpr std::size_t max_size = 15;
    std::uint64_t low, high;

    bool operator==(const PieceKey& o) const { return ((low ^ o.low) | (high ^ o.high)) == 0; }

    // `size` 1 to 15. Reads 16 bytes at `p` if `readable` says that so many may be read.
    static PieceKey of(const Byte* p, std::size_t size, std::size_t readable) {
        std::uint64_t word[2] = {0, 0};
        if (readable >= 16)
            std::memcpy(word, p, 16);
        else
            std::memcpy(word, p, size);
        return {word[0] & masks[size][0], (word[1] & masks[size][1]) | static_cast<std::uint64_t>(size) << 56};
    }

    std::size_t size() const { return high >> 56; }
    std::uint64_t hash() const { return mix(low ^ odd_words[0], high ^ odd_words[1]); }

  private:
    static constexpr std::uint64_t byte_mask(std::size_t bytes) {
        return bytes >= 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes)) - 1;
    }
    struct Masks {
        std::uint64_t word[16][2];
        constexpr Masks() : word() {
            for (std::size_t n = 0; n < 16; ++n) {
                word[n][0] = byte_mask(n);
                word[n][1] = n > 8 ? byte_mask(n - 8) : 0;
            }
        }
        constexpr const std::uint64_t* operator[](std::size_t n) const { return word[n]; }
    };
    static const Masks masks;
};

inline constexpr PieceKey::Masks PieceKey::masks{};

// The hash of any piece, as its key has it where it is short.
inline std::uint64_t piece_hash(std::string_view piece) {
    if (piece.empty() || piece.size() > PieceKey::max_size) return hash_bytes(piece);
    return PieceKey::of(reinterpret_cast<const Byte*>(piece.data()), piece.size(), piece.size()).hash();
}

}  // namespace pynanochat::bpe
