// Hashes of runs of bytes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <random>
#include <string_view>

namespace pynanochat::bpe {

__extension__ using Wide = unsigned __int128;

// The product of two words, folded: every bit of both moves every bit of the result.
inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// A number that nobody can know beforehand.
inline std::uint64_t draw_word() {
    try {
        std::random_device device;
        return static_cast<std::uint64_t>(device()) << 32 | device();
    } catch (const std::exception&) {  // a system without such a device: the clock is better than nothing
        const auto now = std::chrono::high_resolution_clock::now().time_since_epoch().count();
        return mix(static_cast<std::uint64_t>(now), 0x9E3779B97F4A7C15u);
    }
}

// Drawn anew by every process. Were they known, then so were texts whose pieces all have the same hash: once
// hash ^ word[0] is odd_words[0] in hash_bytes, what else the 16 bytes hold makes no difference. Tables would then
// cost the square of their size. No result depends on a hash.
inline const std::uint64_t odd_words[2] = {draw_word() | 1, draw_word() | 1};

// For bytes that are too long for a PieceKey.
inline std::uint64_t hash_bytes(std::string_view bytes) {
    std::uint64_t hash = bytes.size();
    const char* p = bytes.data();
    std::size_t left = bytes.size();
    for (; left >= 16; p += 16, left -= 16) {
        std::uint64_t word[2];
        std::memcpy(word, p, 16);
        hash = mix(hash ^ word[0] ^ odd_words[0], word[1] ^ odd_words[1]);
    }
    std::uint64_t word[2] = {0, 0};
    if (bytes.size() >= 16)
        std::memcpy(word, p + left - 16, 16);  // the last 16, some of them once more
    else
        std::memcpy(word, p, left);
    return mix(hash ^ word[0] ^ odd_words[0], word[1] ^ odd_words[1]);
}

// A hash by prefixes: the hash of a part follows from those of two prefixes. A polynomial modulo the prime 2^61 - 1.
struct PolynomialHash {
    static constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;
    static inline const std::uint64_t base = 256 + draw_word() % (prime - 256);  // see odd_words

    static std::uint64_t times(std::uint64_t a, std::uint64_t b) {
        const Wide product = static_cast<Wide>(a) * b;
        const std::uint64_t sum =
            static_cast<std::uint64_t>(product & prime) + static_cast<std::uint64_t>(product >> 61);
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
