// Encoding and training as their definitions say it, slowly; and ours, called the same way.
#pragma once

#include <map>
#include <utility>

#include "bpe/decoder.h"
#include "bpe/encoder.h"
#include "bpe/splitter.h"
#include "bpe/trainer.h"
#include "check.h"

namespace pynanochat::test {

using Ids = std::vector<bpe::Id>;
using Table = std::vector<std::string>;
using Ranks = std::map<std::string, bpe::Id, std::less<>>;
using Merges = std::vector<std::pair<bpe::Id, bpe::Id>>;

inline std::vector<std::string_view> views(const Table& table) { return {table.begin(), table.end()}; }

inline Ranks ranks_of(const Table& table) {
    Ranks ranks;
    for (bpe::Id id = 0; id < table.size(); ++id)
        if (!table[id].empty()) ranks[table[id]] = id;
    return ranks;
}

inline Ids naive_ids(std::string_view text, const Ranks& ranks) {
    Ids result;
    const auto* p = reinterpret_cast<const bpe::Byte*>(text.data());
    const bpe::Byte* const end = p + text.size();
    while (p < end) {
        const bpe::Byte* const next = bpe::piece_end(p, end);
        std::vector<std::string> parts;
        for (const bpe::Byte* q = p; q < next; ++q) parts.emplace_back(1, static_cast<char>(*q));
        const std::string whole(reinterpret_cast<const char*>(p), reinterpret_cast<const char*>(next));
        if (ranks.contains(whole)) parts = {whole};
        while (true) {
            bpe::Id best = bpe::no_id;
            std::size_t at = 0;
            for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
                const auto found = ranks.find(parts[i] + parts[i + 1]);
                if (found != ranks.end() && found->second < best) best = found->second, at = i;
            }
            if (best == bpe::no_id) break;
            parts[at] += parts[at + 1];
            parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
        }
        for (const std::string& part : parts) result.push_back(ranks.at(part));
        p = next;
    }
    return result;
}

inline Ids encode(const bpe::Encoder& encoder, std::string_view text) {
    const Exact copy(text);
    bpe::IdBuffer ids;
    encoder.encode(copy.view(), ids);
    return {ids.data(), ids.data() + ids.size()};
}

// Counts every pair anew for every merge.
inline Merges naive_merges(const std::vector<std::string>& texts, std::size_t count) {
    std::map<std::vector<bpe::Id>, std::int64_t> words;
    for (const std::string& text : texts) {
        const auto* p = reinterpret_cast<const bpe::Byte*>(text.data());
        const bpe::Byte* const end = p + text.size();
        while (p < end) {
            const bpe::Byte* const next = bpe::piece_end(p, end);
            ++words[std::vector<bpe::Id>(p, next)];
            p = next;
        }
    }
    Merges merges;
    while (merges.size() < count) {
        std::map<std::pair<bpe::Id, bpe::Id>, std::int64_t> pairs;
        for (const auto& [word, times] : words)
            for (std::size_t i = 0; i + 1 < word.size(); ++i) pairs[{word[i], word[i + 1]}] += times;
        if (pairs.empty()) break;
        auto best = pairs.begin();
        for (auto pair = pairs.begin(); pair != pairs.end(); ++pair)
            if (pair->second > best->second) best = pair;  // the map's order settles ties
        const auto [left, right] = best->first;
        const bpe::Id merged = static_cast<bpe::Id>(256 + merges.size());
        std::map<std::vector<bpe::Id>, std::int64_t> after;
        for (const auto& [word, times] : words) {
            std::vector<bpe::Id> shorter;
            for (std::size_t i = 0; i < word.size(); ++i) {
                const bool here = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
                shorter.push_back(here ? merged : word[i]);
                if (here) ++i;
            }
            after[shorter] += times;
        }
        words = after;
        merges.emplace_back(left, right);
    }
    return merges;
}

inline Merges train(const std::vector<std::string>& texts, std::size_t count, unsigned threads, std::size_t batch) {
    std::vector<std::string_view> views(texts.begin(), texts.end());
    bpe::Trainer trainer;
    for (std::size_t i = 0; i < views.size(); i += batch)
        trainer.add(std::span(views).subspan(i, std::min(batch, views.size() - i)), threads);
    return trainer.train(count);
}

// The bytes of `ids`.
inline std::string decoded(const bpe::Decoder& decoder, const std::vector<std::int64_t>& ids) {
    std::string text(decoder.size(std::span(ids)), '\0');
    decoder.write(std::span(ids), text);
    return text;
}

}  // namespace pynanochat::test
