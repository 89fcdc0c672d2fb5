#include "bpe/splitter.h"
#include "check.h"

namespace pynanochat::test {

namespace {

using Pieces = std::vector<std::string>;
using bpe::Pattern;
using Form = std::size_t (*)(const bpe::Byte*, const bpe::Byte*, const bpe::Byte**, std::size_t, Pattern);

constexpr Pattern patterns[] = {Pattern::ours,  Pattern::cl100k, Pattern::llama3,
                                Pattern::qwen2, Pattern::gpt2,   Pattern::o200k};

std::size_t scalar(const bpe::Byte* p, const bpe::Byte* end, const bpe::Byte** ends, std::size_t, Pattern pattern) {
    ends[0] = bpe::piece_end(p, end, pattern);
    return 1;
}

constexpr Form forms[] = {scalar, bpe::split_portable, bpe::split};

// Also checks that the pieces tile the text, none of them empty.
Pieces pieces(std::string_view text, Form form, Pattern pattern = Pattern::ours,
              std::size_t capacity = bpe::min_split_capacity) {
    const Exact copy(text);
    const auto* p = reinterpret_cast<const bpe::Byte*>(copy.view().data());
    const bpe::Byte* const end = p + text.size();
    std::vector<const bpe::Byte*> ends(capacity);
    Pieces result;
    while (p < end) {
        const std::size_t n = form(p, end, ends.data(), capacity, pattern);
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

void splitter_other_patterns() {
    struct Known {
        Pattern pattern;
        const char* text;
        Pieces expected;
    };
    const Known known[] = {
        {Pattern::cl100k, "1234 a\n b", {"123", "4", " a", "\n", " b"}},
        {Pattern::cl100k, "a\n  \n ", {"a", "\n  \n "}},
        {Pattern::cl100k, "a.\n  ", {"a", ".\n", "  "}},
        {Pattern::llama3, "1234567\n ", {"123", "456", "7", "\n", " "}},
        {Pattern::qwen2, "12a\n ", {"1", "2", "a", "\n", " "}},
        {Pattern::gpt2, "it's IT'S 123 ..\n\n x", {"it", "'s", " IT", "'", "S", " 123", " ..", "\n\n", " x"}},
        {Pattern::gpt2, "a\tb \n", {"a", "\t", "b", " \n"}},
        {Pattern::o200k, "HelloWorld ABC's", {"Hello", "World", " ABC's"}},
        {Pattern::o200k, "A\u4E2DBC", {"A\u4E2D", "BC"}},
        {Pattern::o200k, "\u0301AB \u0301Ab", {"\u0301", "AB", " \u0301Ab"}},
        {Pattern::o200k, "1234 ./\n/ \n", {"123", "4", " ./\n/", " \n"}},
    };
    for (const auto& [pattern, text, expected] : known)
        for (const Form form : forms) CHECK(pieces(text, form, pattern) == expected);
}

void splitter_forms_agree() {
    std::mt19937 random(1);
    for (int round = 0; round < 6000; ++round) {
        const std::string text = soup(random, characters, random() % 300);
        const Pattern pattern = patterns[round % std::size(patterns)];
        const Pieces expected = pieces(text, scalar, pattern);
        CHECK(pieces(text, bpe::split_portable, pattern) == expected);
        CHECK(pieces(text, bpe::split, pattern) == expected);
        CHECK(pieces(text, bpe::split, pattern, 256) == expected);
    }
}

void splitter_survives_malformed_text() {
    std::mt19937 random(2);
    for (int round = 0; round < 6000; ++round) {
        std::string text = soup(random, characters, random() % 200);
        for (int damage = 0; damage < 5 && !text.empty(); ++damage)
            text[random() % text.size()] = static_cast<char>(random());
        for (const Form form : forms) pieces(text, form, patterns[round % std::size(patterns)]);
    }
}

void splitter_survives_any_bytes() {
    std::mt19937 random(3);
    for (int round = 0; round < 6000; ++round) {
        std::string text(random() % 150, ' ');
        for (char& byte : text) byte = static_cast<char>(random() % 3 ? random() : "A1 '\n\xCC\x81\xE4"[random() % 8]);
        for (const Form form : forms) pieces(text, form, patterns[round % std::size(patterns)]);
    }
}

}  // namespace pynanochat::test
