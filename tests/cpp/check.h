// What the C++ tests share: checks that say where they fail, and text that ends where its memory ends.
#pragma once

#include <cstring>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pynanochat::test {

inline void fail(const char* file, int line, const std::string& what) {
    std::ostringstream text;
    text << file << ":" << line << ": " << what;
    throw std::runtime_error(text.str());
}

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) pynanochat::test::fail(__FILE__, __LINE__, #condition); \
    } while (false)

#define CHECK_THROWS(expression, Error)                                                                \
    do {                                                                                               \
        bool thrown = false;                                                                           \
        try {                                                                                          \
            (void)(expression);                                                                        \
        } catch (const Error&) {                                                                       \
            thrown = true;                                                                             \
        }                                                                                              \
        if (!thrown) pynanochat::test::fail(__FILE__, __LINE__, #expression " throws no " #Error);      \
    } while (false)

// A copy of text in memory of exactly its size, so that AddressSanitizer sees a read past its end.
class Exact {
  public:
    explicit Exact(std::string_view text) : data_(new char[text.size()]), size_(text.size()) {
        std::memcpy(data_.get(), text.data(), text.size());
    }
    std::string_view view() const { return {data_.get(), size_}; }

  private:
    std::unique_ptr<char[]> data_;
    std::size_t size_;
};

// `size` draws from `alphabet`.
inline std::string soup(std::mt19937& random, const std::vector<std::string>& alphabet, std::size_t size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) text += alphabet[random() % alphabet.size()];
    return text;
}

inline const std::vector<std::string> characters = {
    "a", "b", "S", "s", "l", "v", "e", "r", "t", "1", "9", " ", " ", "\t", "\n", "\r", "'", "'", ".", "-",
    "\u017F", "\u00E9", "\u4E2D", "\u00A0", "\u3000", "\u0660", "\U0001F600", "\u0301", "\U0010FFFF",
    "\u01C5", "\u02B0", "/",
};

}  // namespace pynanochat::test
