// Warm on 8 MB of English, one thread of a Zen 5 core: 513 MB/s with a branch for each of the two places of a piece,
// 620 without one, 710 with twice as many places (four times as many: less), 820 with all ids of a piece read at once,
// 840 without storing hashes. Without the prefetch 790. Pieces of 16 bytes and more looked up in a pass of their own,
// Hindi: 490 to 770 MB/s. Tokens matched from left to right instead of merged, seen for the first time: Chinese 18 to
// 59 MB/s, English 230 to 290. Tried and dropped: hoisting what the passes read of the cache, blocks of 128 and 512;
// for text seen for the first time a memory of which tokens stay apart, and marks that say where no pair merges (2 %).
#include "bpe/encoder.h"

#include <algorithm>

namespace pynanochat::bpe {

Encoder::Lease Encoder::borrow() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return Lease(*this, std::make_unique<Workspace>(*this));
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return Lease(*this, std::move(workspace));
}

Encoder::Lease::~Lease() {
    if (!workspace_) return;
    workspace_->matcher.trim();
    workspace_->merger.trim();
    const std::lock_guard lock(encoder_.mutex_);
    encoder_.idle_.push_back(std::move(workspace_));
}

Encoder::Workspace::Workspace(const Encoder& encoder)
    : matcher(encoder.vocabulary_, encoder.trie_), merger(encoder.vocabulary_) {
    const Vocabulary& vocabulary = encoder.vocabulary_;
    // Most pieces are one token: begin with these in the cache, the common ones (low ids) in the best places.
    const Id known = static_cast<Id>(std::min(vocabulary.size(), ShortCache::capacity / 2));
    for (Id id = 0; id < known; ++id) {
        const std::string_view token = vocabulary.bytes(id);
        if (token.empty() || token.size() > PieceKey::max_size) continue;
        const PieceKey key = PieceKey::of(reinterpret_cast<const Byte*>(token.data()), token.size(), token.size());
        short_pieces.insert(key.hash(), key, &id, 1);
    }
}

std::size_t Encoder::merge(std::string_view piece, std::uint64_t hash, Id* out, Workspace& workspace) const {
    std::span<const Id> ids;
    Id whole;
    if (matches_)
        ids = workspace.matcher.match(piece);
    else if ((whole = vocabulary_.find(piece, hash)) != no_id)
        ids = {&whole, 1};
    else
        ids = workspace.merger.merge(piece);
    std::copy(ids.begin(), ids.end(), out);
    return ids.size();
}

// A piece that is not where it was looked for first. Returns the number of ids; room for max_ids is needed at `out`.
std::size_t Encoder::encode_rare(std::string_view piece, const PieceKey& key, Id* out, Workspace& workspace) const {
    const bool is_short = piece.size() <= PieceKey::max_size;
    const std::uint64_t hash = is_short ? key.hash() : hash_bytes(piece);
    workspace.long_pieces.prefetch_slots(hash);
    if (is_short) {
        ShortCache::Ids copy;
        if (const auto* const hit = workspace.short_pieces.find_other(hash, key, copy)) {
            hit->read(out);
            return hit->count();
        }
    } else if (piece.size() > LongCache::max_size) {
        return merge(piece, hash, out, workspace);
    }
    if (const auto ids = workspace.long_pieces.find(piece, hash); !ids.empty()) {
        std::copy(ids.begin(), ids.end(), out);
        return ids.size();
    }
    const std::size_t count = merge(piece, hash, out, workspace);
    if (is_short && count <= ShortCache::max_ids)
        workspace.short_pieces.insert(hash, key, out, count);
    else
        workspace.long_pieces.insert(piece, hash, {out, count});
    return count;
}

// Pieces go through in blocks, in passes, so that memory is on its way before it is needed and no branch is taken that
// cannot be foretold: the first makes the keys of all and prefetches what the caches have on them; the second looks the
// long ones up and lays what it finds where the third, which writes the ids of all, looks for short ones.
void Encoder::encode(std::string_view text, IdBuffer& out, Workspace& workspace) const {
    constexpr std::size_t block = 256;
    constexpr PieceKey long_key = {1, 0};  // of no short piece
    const Byte* ends[block];
    PieceKey keys[block];
    const ShortCache::Set* sets[block];
    std::uint32_t long_pieces[block];
    std::uint64_t long_hashes[block];
    ShortCache::Set long_found[block];
    const Byte* p = reinterpret_cast<const Byte*>(text.data());
    const Byte* const text_start = p;
    const Byte* const text_end = p + text.size();
    const std::size_t size_before = out.size();
    // How many ids there will be if the rest of the text has as many for its bytes as what is before `at`, and a few more.
    const auto expected = [&](const Byte* at) {
        if (at == text_start) return size_before;
        const double part = static_cast<double>(at - text_start) / static_cast<double>(text.size());
        return size_before + static_cast<std::size_t>(1.1 * static_cast<double>(out.size() - size_before) / part);
    };
    while (p < text_end) {
        const std::size_t count = split(p, text_end, ends, block, pattern_);
        std::size_t long_count = 0;
        const Byte* start = p;
        for (std::size_t i = 0; i < count; start = ends[i++]) {
            const std::size_t size = static_cast<std::size_t>(ends[i] - start);
            const std::size_t readable = static_cast<std::size_t>(text_end - start);
            keys[i] = PieceKey::of(start, std::min(size, PieceKey::max_size), readable);
            sets[i] = &workspace.short_pieces.set(keys[i].hash());
            __builtin_prefetch(sets[i]);
            long_pieces[long_count] = static_cast<std::uint32_t>(i);
            long_count += size > PieceKey::max_size;
        }
        const auto piece = [&](std::size_t i) {
            const Byte* const from = i == 0 ? p : ends[i - 1];
            return std::string_view(reinterpret_cast<const char*>(from), static_cast<std::size_t>(ends[i] - from));
        };
        for (std::size_t k = 0; k < long_count; ++k) {
            const std::size_t i = long_pieces[k];
            keys[i] = long_key;
            long_hashes[k] = hash_bytes(piece(i));
            workspace.long_pieces.prefetch_slots(long_hashes[k]);
        }
        for (std::size_t k = 0; k < long_count; ++k) workspace.long_pieces.prefetch_record(long_hashes[k]);
        for (std::size_t k = 0; k < long_count; ++k) {
            const std::size_t i = long_pieces[k];
            const auto ids = workspace.long_pieces.find(piece(i), long_hashes[k]);
            if (ids.empty() || ids.size() > ShortCache::max_ids) continue;
            long_found[k].key[0] = long_key;
            long_found[k].ids[0] = ShortCache::Ids::of(ids);
            sets[i] = &long_found[k];
        }

        // A piece has at most as many ids as bytes; a hit writes max_ids whatever its count.
        Id* const first = out.reserve(static_cast<std::size_t>(start - p) + ShortCache::max_ids, expected(p));
        Id* at = first;
        for (std::size_t i = 0; i < count; ++i) {
            if (const auto* const hit = ShortCache::find(*sets[i], keys[i])) [[likely]] {
                hit->read(at);
                at += hit->count();
            } else {
                at += encode_rare(piece(i), keys[i], at, workspace);
            }
        }
        p = start;
        out.advance(static_cast<std::size_t>(at - first));
    }
}

void Encoder::encode(std::string_view text, IdBuffer& out) const {
    const Lease lease = borrow();
    encode(text, out, lease.workspace());
}

}  // namespace pynanochat::bpe
