#include "bpe/encoder.h"

#include <algorithm>

namespace pynanochat::bpe {

void IdBuffer::grow(std::size_t needed) {
    const std::size_t capacity = std::max(needed, capacity_ * 2);
    std::unique_ptr<Id[]> data(new Id[capacity]);
    std::copy_n(data_.get(), size_, data.get());
    data_ = std::move(data);
    capacity_ = capacity;
}

Encoder::Lease Encoder::borrow() const {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return Lease(*this, std::make_unique<Workspace>(vocabulary_));
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return Lease(*this, std::move(workspace));
}

Encoder::Lease::~Lease() {
    if (!workspace_) return;
    const std::lock_guard lock(encoder_.mutex_);
    encoder_.idle_.push_back(std::move(workspace_));
}

Encoder::Workspace::Workspace(const Vocabulary& vocabulary) : merger(vocabulary) {
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
    if (const Id whole = vocabulary_.find(piece, hash); whole != no_id) {
        *out = whole;
        return 1;
    }
    const auto ids = workspace.merger.merge(piece);
    std::copy(ids.begin(), ids.end(), out);
    return ids.size();
}

// A piece that is not where it was looked for first. Returns the number of ids; room for max_ids is needed at `out`.
std::size_t Encoder::encode_rare(std::string_view piece, const PieceKey& key, std::uint64_t hash, Id* out,
                                 Workspace& workspace) const {
    const bool is_short = piece.size() <= PieceKey::max_size;
    if (is_short) {
        ShortCache::Entry copy;
        if (const auto* const hit = workspace.short_pieces.find_other(hash, key, copy)) {
            hit->read(out);
            return hit->count;
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

// Pieces go through in blocks, in passes, so that memory is on its way before it is needed: the first computes keys
// and prefetches what the caches have on each piece, the last reads it.
void Encoder::encode(std::string_view text, IdBuffer& out, Workspace& workspace) const {
    constexpr std::size_t block = 256;
    constexpr PieceKey too_long_key = {1, 0};  // in no cache
    const Byte* ends[block];
    PieceKey keys[block];  // `too_long_key` for a piece too long for one
    std::uint64_t hashes[block];
    std::uint32_t too_long[block];
    const Byte* p = reinterpret_cast<const Byte*>(text.data());
    const Byte* const text_end = p + text.size();
    while (p < text_end) {
        const std::size_t count = split(p, text_end, ends, block, pattern_);
        std::size_t too_long_count = 0;
        const Byte* start = p;
        for (std::size_t i = 0; i < count; start = ends[i++]) {
            const std::size_t size = static_cast<std::size_t>(ends[i] - start);
            if (size <= PieceKey::max_size) {
                keys[i] = PieceKey::of(start, size, static_cast<std::size_t>(text_end - start));
                hashes[i] = keys[i].hash();
                __builtin_prefetch(&workspace.short_pieces.set(hashes[i]), 1);
            } else {
                keys[i] = too_long_key;
                hashes[i] = hash_bytes({reinterpret_cast<const char*>(start), size});
                workspace.long_pieces.prefetch_slots(hashes[i]);
                too_long[too_long_count++] = static_cast<std::uint32_t>(i);
            }
        }
        for (std::size_t i = 0; i < too_long_count; ++i) workspace.long_pieces.prefetch_record(hashes[too_long[i]]);

        // A piece has at most as many ids as bytes; a hit writes max_ids whatever its count.
        Id* const first = out.reserve(static_cast<std::size_t>(start - p) + ShortCache::max_ids);
        Id* at = first;
        for (std::size_t i = 0; i < count; p = ends[i++]) {
            if (const auto* const hit = ShortCache::find(workspace.short_pieces.set(hashes[i]), keys[i])) [[likely]] {
                hit->read(at);
                at += hit->count;
            } else {
                const std::string_view piece(reinterpret_cast<const char*>(p), static_cast<std::size_t>(ends[i] - p));
                at += encode_rare(piece, keys[i], hashes[i], at, workspace);
            }
        }
        out.advance(static_cast<std::size_t>(at - first));
    }
}

void Encoder::encode(std::string_view text, IdBuffer& out) const {
    const Lease lease = borrow();
    encode(text, out, lease.workspace());
}

}  // namespace pynanochat::bpe
