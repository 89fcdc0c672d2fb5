#include "bpe/patterns.h"

#include <utility>

namespace pynanochat::bpe {

const Byte* skip(const Byte* p, const Byte* end, CharClass kind) {
    while (p < end) {
        const Classified c = classify(p, end);
        if (c.kind != kind) break;
        p += c.size;
    }
    return p;
}

const Byte* space_end(const Byte* p, const Byte* end, bool whole_tail) {
    const Byte* after_newline = nullptr;
    const Byte* last = p;
    const Byte* q = p;
    while (q < end) {
        const Classified c = classify(q, end);
        if (c.kind != CharClass::space && c.kind != CharClass::newline) break;
        last = q;
        q += c.size;
        if (c.kind == CharClass::newline) after_newline = q;
    }
    if (whole_tail && q == end) return end;
    if (after_newline) return after_newline;
    return q == end || last == p ? q : last;
}

const Byte* skip_numbers(const Byte* p, const Byte* end, int most) {
    for (; most > 0 && p < end; --most) {
        const Classified c = classify(p, end);
        if (c.kind != CharClass::number) break;
        p += c.size;
    }
    return p;
}

namespace {

// What o200k makes of a run of letters and combining marks at `p`: the end of X*Y+ or, where there is none, of X+Y*,
// X being upper or either, Y lower or either; `p` itself where there is neither. `mixed` says which it was. X* takes
// as much as it can: X*Y+ ends after the lower letters behind it, or else with the last character that is both.
struct Word {
    const Byte* end;
    bool mixed;
};

Word word_at(const Byte* p, const Byte* end) {
    const Byte* q = p;
    const Byte* last_either = nullptr;
    const auto next = [&] {
        const Char c = decode_utf8(q, end);
        const LetterCase kind = case_table()[c.code_point];
        return std::pair{kind, q + c.size};
    };
    while (q < end) {
        const auto [kind, after] = next();
        if (kind == LetterCase::none || kind == LetterCase::lower) break;
        q = after;
        if (kind == LetterCase::either) last_either = q;
    }
    const Byte* const upper_end = q;
    while (q < end) {
        const auto [kind, after] = next();
        if (kind == LetterCase::none || kind == LetterCase::upper) break;
        q = after;
    }
    if (q > upper_end) return {q, true};
    if (last_either) return {last_either, true};
    return {upper_end, false};
}

}  // namespace

const Byte* gpt2_end(const Byte* p, const Byte* end) {
    if (*p == '\'' && end - p >= 2) {
        const Byte a = p[1];
        if (a == 's' || a == 'd' || a == 'm' || a == 't') return p + 2;
        if (end - p >= 3 && ((a == 'l' && p[2] == 'l') || ((a == 'v' || a == 'r') && p[2] == 'e'))) return p + 3;
    }
    const auto white = [](CharClass kind) { return kind == CharClass::space || kind == CharClass::newline; };
    const Classified first = classify(p, end);
    const Byte* q = p + first.size;
    if (!white(first.kind)) return skip(q, end, first.kind);
    if (q == end) return q;
    Classified c = classify(q, end);
    if (!white(c.kind)) return *p == ' ' ? skip(q, end, c.kind) : q;
    const Byte* last;  // of the white space
    do {
        last = q;
        q += c.size;
        if (q == end) return end;
        c = classify(q, end);
    } while (white(c.kind));
    return last;
}

// A character before the letters may be taken with them, and is tried first: a combining mark, which is itself both
// upper and lower, then goes with the letters only if they are X*Y+, and otherwise is X*Y+ alone. Letters are
// looked at no more than three times: behind X*Y+ that ends within a run of X there are only upper ones in the run.
const Byte* o200k_end(const Byte* p, const Byte* end) {
    const auto with_contraction = [end](const Byte* q) {
        return q < end && *q == '\'' ? q + contraction_size(q, end) : q;
    };
    const Classified first = classify(p, end);
    const Byte* const q = p + first.size;
    if (first.kind == CharClass::number) return skip_numbers(q, end, 2);
    if (first.kind == CharClass::letter) return with_contraction(word_at(p, end).end);
    if (first.kind != CharClass::newline) {
        const Word word = word_at(q, end);
        if (word.mixed) return with_contraction(word.end);
        if (case_table()[decode_utf8(p, end).code_point] == LetterCase::either) return with_contraction(q);
        if (word.end > q) return with_contraction(word.end);
    }
    const bool mark_next = *p == ' ' && q < end && classify(q, end).kind == CharClass::other;
    if (first.kind != CharClass::other && !mark_next) return space_end(p, end, false);
    const Byte* at = skip(q, end, CharClass::other);
    while (at < end && (*at == '\r' || *at == '\n' || *at == '/')) ++at;
    return at;
}

}  // namespace pynanochat::bpe
