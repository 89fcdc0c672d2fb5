#include "bpe/vocabulary.h"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bpe/hash.h"
#include "bpe/merge.h"

namespace pynanochat::bpe {

PairTable::PairTable(std::size_t expected) { resize(std::bit_ceil(expected * 2 + 2)); }

void PairTable::resize(std::size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    mask_ = capacity - 1;
    shift_ = 64 - std::countr_zero(capacity);
    for (const Slot& entry : old)
        if (entry.key != empty) place(entry);
}

void PairTable::place(const Slot& entry) {
    std::size_t i = slot(entry.key);
    while (slots_[i].key != empty) i = (i + 1) & mask_;
    slots_[i] = entry;
}

void PairTable::insert(Id left, Id right, std::uint32_t value) {
    if ((used_ + 1) * 2 > slots_.size()) resize(slots_.size() * 2);
    ++used_;
    place({pack(left, right), value});
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
    const std::size_t capacity = std::bit_ceil(size() * 2 + 2);
    slots_.assign(capacity, no_id);
    mask_ = capacity - 1;
    for (Id id = 0; id < size(); ++id) {
        const std::string_view token = bytes(id);
        if (token.empty()) continue;
        std::size_t i = PolynomialHash::of(token) & mask_;
        for (; slots_[i] != no_id; i = (i + 1) & mask_)
            if (bytes(slots_[i]) == token)
                throw std::invalid_argument("ids " + std::to_string(slots_[i]) + " and " + std::to_string(id) +
                                            " of a vocabulary have the same bytes; every token may come once");
        slots_[i] = id;
        if (token.size() == 1) byte_id_[static_cast<std::uint8_t>(token[0])] = id;
    }
}

Id Vocabulary::find(std::string_view text) const {
    for (std::size_t i = PolynomialHash::of(text) & mask_; slots_[i] != no_id; i = (i + 1) & mask_)
        if (bytes(slots_[i]) == text) return slots_[i];
    return no_id;
}

// Every way to cut a token into two tokens is a pair that merges into it. The hash of each right part follows from
// two prefix hashes, so that a token of n bytes costs n look-ups and not n^2 bytes of hashing.
void Vocabulary::index_pairs() {
    struct Pair {
        Id left, right, merged;
    };
    std::vector<Pair> found;
    std::vector<std::uint64_t> prefix, power;
    const auto look_up = [this](std::uint64_t hash, std::string_view text) {
        for (std::size_t i = hash & mask_; slots_[i] != no_id; i = (i + 1) & mask_)
            if (bytes(slots_[i]) == text) return slots_[i];
        return no_id;
    };
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
            const Id left = look_up(prefix[cut], token.substr(0, cut));
            if (left == no_id) continue;
            const std::uint64_t shifted = PolynomialHash::times(prefix[cut], power[token.size() - cut]);
            const std::uint64_t whole = prefix[token.size()];
            const std::uint64_t rest = whole >= shifted ? whole - shifted : whole + PolynomialHash::prime - shifted;
            const Id right = look_up(rest, token.substr(cut));
            if (right != no_id) found.push_back({left, right, id});
        }
    }
    pairs_ = PairTable(found.size());
    for (const Pair& pair : found) pairs_.insert(pair.left, pair.right, pair.merged);
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
    PairTable canonical(longer);
    for (Id id = 0; id < size(); ++id)
        if (parts_[id].first != no_id) canonical.insert(parts_[id].first, parts_[id].second, id);
    pairs_ = std::move(canonical);
}

}  // namespace pynanochat::bpe
