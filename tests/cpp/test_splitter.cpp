#include "bpe/splitter.h"
#include "check.h"

namespace pynanochat::test {

namespace {

using Pieces = std::vector<std::string>;
using Form = std::size_t (*)(const bpe::Byte*, const bpe::Byte*, const bpe::Byte**, std::size_t);

std::size_t scalar(const bpe::Byte* p, const bpe::Byte* end, const bpe::Byte** ends, std::size_t) {
    ends[0] = bpe::piece_end(p, end);
    return 1;
}

constexpr Form forms[] = {scalar, bpe::split_portable, bpe::split};

// Also checks that the pieces tile the text, none of them empty.
Pieces pieces(std::string_view text, Form form, std::size_t capacity = bpe::min_split_capacity) {
    const Exact copy(text);
    const auto* p = reinterpret_cast<const bpe::Byte*>(copy.view().data());
    const bpe::Byte* const end = p + text.size();
    std::vector<const bpe::Byte*> ends(capacity);
    Pieces result;
    while (p < end) {
        const std::size_t n = form(p, end, ends.data(), capacity);
        CHECK(n > 0 && n <= capacity);
        for (std::size_t i = 0; i < n; ++i) {
            CHECK(p < ends[i] && ends[i] <= end);
            result.emplace_back(reinterpret_cast<const char*>(p), reinterpret_cast<const char*>(ends[i]));
            p = ends[i];
        }
    }
    return result;
}

}  // namespace

void splitter_known_texts() {
    const std::pair<const char*, Pieces> known[] = {
        {"", {}},
        {"Hello world", {"Hello", " world"}},
        {"it's we'LL x'\u017Fy", {"it", "'s", " we", "'LL", " x", "'\u017F", "y"}},
        {"12345", {"12", "34", "5"}},
        {" 123", {" ", "12", "3"}},
        {"a  b", {"a", " ", " b"}},
        {"a \n b", {"a", " \n", " b"}},
        {"a\n\n  \n  b", {"a", "\n\n  \n", " ", " b"}},
        {"end  ", {"end", "  "}},
        {"end\n  ", {"end", "\n", "  "}},
        {"x...\n\ny", {"x", "...\n\n", "y"}},
        {"(a) .b !!c", {"(a", ")", " .", "b", " !!", "c"}},
        {"\ta\t.b", {"\ta", "\t", ".b"}},
        {" 's ''s", {" '", "s", " ''", "s"}},
        {"\u4E2D\u6587\u3002\u00E9", {"\u4E2D\u6587", "\u3002\u00E9"}},
        {"\u0660\u0661\u0662", {"\u0660\u0661", "\u0662"}},
    };
    for (const auto& [text, expected] : known)
        for (const Form form : forms) CHECK(pieces(text, form) == expected);
}

void splitter_forms_agree() {
    std::mt19937 random(1);
    for (int round = 0; round < 3000; ++round) {
        const std::string text = soup(random, characters, random() % 300);
        const Pieces expected = pieces(text, scalar);
        CHECK(pieces(text, bpe::split_portable) == expected);
        CHECK(pieces(text, bpe::split) == expected);
        CHECK(pieces(text, bpe::split, 256) == expected);
    }
}

void splitter_survives_malformed_text() {
    std::mt19937 random(2);
    for (int round = 0; round < 3000; ++round) {
        std::string text = soup(random, characters, random() % 200);
        for (int damage = 0; damage < 5 && !text.empty(); ++damage)
            text[random() % text.size()] = static_cast<char>(random());
        for (const Form form : forms) pieces(text, form);
    }
}

}  // namespace pynanochat::test
