#include "bpe/vocabulary.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "bpe/hash.h"
#include "bpe/merge.h"
#include "bpe/piece_key.h"

namespace pynanochat::bpe {

void MergeTable::clear(std::size_t expected, std::uint64_t multiplier) {
    multiplier_ = multiplier;
    constexpr std::size_t least = std::size_t{1} << (2 * id_bits - max_rest_bits);
    const std::size_t buckets = std::bit_ceil(std::max(expected, least));
    slots_.assign((buckets + max_distance + 1) * bucket, empty);  // a search never runs over the end
    rest_bits_ = 2 * id_bits - std::countr_zero(buckets);
}

bool MergeTable::insert(Id left, Id right, Id merged) {
    const std::uint64_t product = multiply(left, right);
    const std::size_t home = (product >> rest_bits_) * bucket;
    const std::uint64_t rest = product & ((std::uint64_t{1} << rest_bits_) - 1);
    std::size_t at = home;
    while (slots_[at] != empty)
        if (++at == home + max_distance * bucket) return false;
    const std::uint64_t distance = (at - home) / bucket;
    slots_[at] = rest << (64 - max_rest_bits) | distance << id_bits | merged;
    return true;
}

Vocabulary::Vocabulary(const std::vector<std::string_view>& tokens) {
    if (tokens.size() > max_vocabulary)
        throw std::invalid_argument("a vocabulary has ids up to " + std::to_string(tokens.size() - 1) +
                                    "; the limit is " + std::to_string(max_vocabulary - 1));
    offset_.reserve(tokens.size() + 1);
    offset_.push_back(0);
    for (const std::string_view token : tokens) {
        blob_.insert(blob_.end(), token.begin(), token.end());
        offset_.push_back(blob_.size());
    }
    byte_id_.fill(no_id);
    index_tokens();
    for (int byte = 0; byte < 256; ++byte)
        if (byte_id_[static_cast<std::size_t>(byte)] == no_id)
            throw std::invalid_argument("a vocabulary has no token for byte " + std::to_string(byte) +
                                        "; all 256 single bytes are needed");
    index_pairs();
    keep_canonical_pairs();
}

void Vocabulary::index_tokens() {
    const auto in_use = static_cast<std::size_t>(std::count_if(
        offset_.begin() + 1, offset_.end(), [before = std::uint64_t{0}](std::uint64_t offset) mutable {
            return std::exchange(before, offset) != offset;
        }));
    const std::size_t capacity = std::bit_ceil(in_use * 2 + 2);
    slots_.assign(capacity, {});
    mask_ = capacity - 1;
    for (Id id = 0; id < size(); ++id) {
        const std::string_view token = bytes(id);
        if (token.empty()) continue;
        const std::uint64_t hash = piece_hash(token);
        if (const Id known = find(token, hash); known != no_id)
            throw std::invalid_argument("ids " + std::to_string(known) + " and " + std::to_string(id) +
                                        " of a vocabulary have the same bytes; every token may come once");
        std::size_t i = hash & mask_;
        while (slots_[i].id != no_id) i = (i + 1) & mask_;
        slots_[i] = {id, static_cast<std::uint32_t>(hash >> 32)};
        if (token.size() == 1) byte_id_[static_cast<std::uint8_t>(token[0])] = id;
    }
}

// Every way to cut a token into two tokens is a pair that merges into it. The hash of each right part follows from
// two prefix hashes, so that a token of n bytes costs n look-ups and not n^2 bytes of hashing.
void Vocabulary::index_pairs() {
    std::vector<Pair> found;
    std::vector<std::uint64_t> prefix, power;
    std::vector<Id> table(mask_ + 1, no_id);  // the tokens by PolynomialHash, open addressing
    const auto slot_of = [&](std::uint64_t hash, std::string_view text) -> Id& {
        std::size_t i = hash & mask_;
        while (table[i] != no_id && bytes(table[i]) != text) i = (i + 1) & mask_;
        return table[i];
    };
    for (Id id = 0; id < size(); ++id)
        if (!bytes(id).empty()) slot_of(PolynomialHash::of(bytes(id)), bytes(id)) = id;
    for (Id id = 0; id < size(); ++id) {
        const std::string_view token = bytes(id);
        if (token.size() < 2) continue;
        prefix.assign(1, 0);
        power.assign(1, 1);
        for (const char byte : token) {
            prefix.push_back(PolynomialHash::append(prefix.back(), byte));
            power.push_back(PolynomialHash::times(power.back(), PolynomialHash::base));
        }
        for (std::size_t cut = 1; cut < token.size(); ++cut) {
            const Id left = slot_of(prefix[cut], token.substr(0, cut));
            if (left == no_id) continue;
            const std::uint64_t shifted = PolynomialHash::times(prefix[cut], power[token.size() - cut]);
            const std::uint64_t whole = prefix[token.size()];
            const std::uint64_t rest = whole >= shifted ? whole - shifted : whole + PolynomialHash::prime - shifted;
            const Id right = slot_of(rest, token.substr(cut));
            if (right != no_id) found.push_back({left, right, id});
        }
    }
    set_pairs(found);
}

// Ids can be chosen so that all pairs belong into one bucket, of a table of any size: then another multiplier, which
// whoever chose them cannot know, spreads them. A little more room each time, should that be bad luck.
void Vocabulary::set_pairs(const std::vector<Pair>& pairs) {
    const auto insert = [this](const Pair& pair) { return pairs_.insert(pair.left, pair.right, pair.merged); };
    pairs_.clear(pairs.size());
    for (std::size_t room = pairs.size(); !std::all_of(pairs.begin(), pairs.end(), insert); room += room / 8)
        pairs_.clear(room, draw_word() | 1);
}

// In a regular vocabulary a pair that is not the two parts of its token can never stand side by side: merging
// token's bytes goes through the same states wherever they stand, and would have met that pair instead of the parts.
// Dropping such pairs changes no result and keeps the table small.
void Vocabulary::keep_canonical_pairs() {
    parts_.assign(size(), {no_id, no_id});
    Merger merger(*this);
    std::size_t longer = 0, regular = 0;
    for (Id id = 0; id < size(); ++id) {
        const std::string_view token = bytes(id);
        if (token.size() < 2) continue;
        ++longer;
        const auto ids = merger.merge(token, id);
        if (ids.size() != 2) continue;
        parts_[id] = {ids[0], ids[1]};
        ++regular;
    }
    regular_ = regular == longer;
    if (!regular_) return;
    std::vector<Pair> canonical;
    canonical.reserve(longer);
    for (Id id = 0; id < size(); ++id)
        if (parts_[id].first != no_id) canonical.push_back({parts_[id].first, parts_[id].second, id});
    set_pairs(canonical);
}

}  // namespace pynanochat::bpe
