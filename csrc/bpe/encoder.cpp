#include "bpe/encoder.h"

#include <algorithm>

#include "bpe/splitter.h"

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

std::size_t Encoder::encode_piece(std::string_view piece, Id* out, Workspace& workspace) const {
    if (const Id whole = vocabulary_.find(piece); whole != no_id) {
        *out = whole;
        return 1;
    }
    const auto ids = workspace.merger.merge(piece);
    std::copy(ids.begin(), ids.end(), out);
    return ids.size();
}

// Pieces go through in blocks. The first pass computes keys and prefetches the cache, the second reads it.
void Encoder::encode(std::string_view text, IdBuffer& out, Workspace& workspace) const {
    constexpr std::size_t block = 256;
    struct Probe {
        PieceKey key;
        PieceCache::Set* set;  // null for a piece too long for the cache
    };
    const Byte* ends[block];
    Probe probes[block];
    const Byte* p = reinterpret_cast<const Byte*>(text.data());
    const Byte* const text_end = p + text.size();
    while (p < text_end) {
        const std::size_t count = split(p, text_end, ends, block);
        const Byte* start = p;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t size = static_cast<std::size_t>(ends[i] - start);
            if (size <= PieceKey::max_size) {
                probes[i].key = PieceKey::of(start, size, static_cast<std::size_t>(text_end - start));
                probes[i].set = &workspace.cache.set(probes[i].key.hash());
                __builtin_prefetch(probes[i].set, 1);
            } else {
                probes[i].set = nullptr;
            }
            start = ends[i];
        }
        // A piece has at most as many ids as bytes; a hit writes max_ids whatever its count.
        Id* const first = out.reserve(static_cast<std::size_t>(start - p) + PieceCache::max_ids);
        Id* at = first;
        start = p;
        for (std::size_t i = 0; i < count; ++i) {
            const std::string_view piece(reinterpret_cast<const char*>(start),
                                         static_cast<std::size_t>(ends[i] - start));
            start = ends[i];
            if (PieceCache::Set* const set = probes[i].set) {
                if (const PieceCache::Entry* const hit = PieceCache::find(*set, probes[i].key)) {
                    for (std::size_t k = 0; k < PieceCache::max_ids; ++k) at[k] = hit->ids[k];
                    at += hit->count;
                    continue;
                }
                const std::size_t n = encode_piece(piece, at, workspace);
                if (n <= PieceCache::max_ids) PieceCache::insert(*set, probes[i].key, at, n);
                at += n;
            } else {
                at += encode_piece(piece, at, workspace);
            }
        }
        out.advance(static_cast<std::size_t>(at - first));
        p = start;
    }
}

void Encoder::encode(std::string_view text, IdBuffer& out) const {
    const Lease lease = borrow();
    encode(text, out, lease.workspace());
}

}  // namespace pynanochat::bpe
