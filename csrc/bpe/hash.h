// The hash of a run of bytes, by prefixes: equal bytes give equal hashes, and the hash of a part follows from those
// of two prefixes. A polynomial modulo the prime 2^61 - 1.
#pragma once

#include <cstdint>
#include <string_view>

namespace pynanochat::bpe {

struct PolynomialHash {
    static constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;
    static constexpr std::uint64_t base = 0x1A2B3C4D5E6F7081 & prime;

    static std::uint64_t times(std::uint64_t a, std::uint64_t b) {
        __extension__ using Wide = unsigned __int128;
        const Wide product = static_cast<Wide>(a) * b;
        std::uint64_t sum = static_cast<std::uint64_t>(product & prime) + static_cast<std::uint64_t>(product >> 61);
        return sum >= prime ? sum - prime : sum;
    }

    static std::uint64_t append(std::uint64_t hash, char byte) {
        const std::uint64_t sum = times(hash, base) + static_cast<std::uint8_t>(byte) + 1;
        return sum >= prime ? sum - prime : sum;
    }

    static std::uint64_t of(std::string_view bytes) {
        std::uint64_t hash = 0;
        for (const char byte : bytes) hash = append(hash, byte);
        return hash;
    }
};

}  // namespace pynanochat::bpe
