// What the fuzz targets share: reading an input in parts, and making valid UTF-8 of any bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace pynanochat::test {

// Hands out an input from its front; zeros and empty strings once it is used up.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : left_(reinterpret_cast<const char*>(data), size) {}

    std::uint8_t byte() {
        const std::string one = string(1);
        return one.empty() ? 0 : static_cast<std::uint8_t>(one[0]);
    }
    std::string string(std::size_t size) {
        const std::string_view part = left_.substr(0, size);
        left_.remove_prefix(part.size());
        return std::string(part);
    }
    bool empty() const { return left_.empty(); }
    std::string rest() { return string(left_.size()); }

  private:
    std::string_view left_;
};

// Bytes of the character of valid UTF-8 at the front of `text`; 0 if there is none.
inline std::size_t character_size(std::string_view text) {
    const auto in = [&](std::size_t i, unsigned first, unsigned last) {
        return i < text.size() && static_cast<std::uint8_t>(text[i]) >= first &&
               static_cast<std::uint8_t>(text[i]) <= last;
    };
    const auto tails = [&](std::size_t from, std::size_t to) {
        while (from < to && in(from, 0x80, 0xBF)) ++from;
        return from == to;
    };
    if (in(0, 0x00, 0x7F)) return 1;
    if (in(0, 0xC2, 0xDF) && tails(1, 2)) return 2;
    if (in(0, 0xE0, 0xE0) && in(1, 0xA0, 0xBF) && tails(2, 3)) return 3;
    if (in(0, 0xED, 0xED) && in(1, 0x80, 0x9F) && tails(2, 3)) return 3;
    if (in(0, 0xE1, 0xEF) && !in(0, 0xED, 0xED) && tails(1, 3)) return 3;
    if (in(0, 0xF0, 0xF0) && in(1, 0x90, 0xBF) && tails(2, 4)) return 4;
    if (in(0, 0xF4, 0xF4) && in(1, 0x80, 0x8F) && tails(2, 4)) return 4;
    if (in(0, 0xF1, 0xF3) && tails(1, 4)) return 4;
    return 0;
}

// `bytes` with every byte that is not part of a character of valid UTF-8 left out.
inline std::string valid_part(std::string_view bytes) {
    std::string text;
    for (std::size_t i = 0; i < bytes.size();) {
        const std::size_t size = character_size(bytes.substr(i));
        text += bytes.substr(i, size);
        i += std::max<std::size_t>(size, 1);
    }
    return text;
}

}  // namespace pynanochat::test
