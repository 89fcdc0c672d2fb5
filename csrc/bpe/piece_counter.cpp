#include "bpe/piece_counter.h"

#include "bpe/splitter.h"

namespace pynanochat::bpe {

PieceCounter::PieceCounter() : short_(std::size_t{1} << 14), long_(std::size_t{1} << 8) {}

void PieceCounter::add_text(std::string_view text) {
    constexpr std::size_t block = 256;
    const Byte* ends[block];
    PieceKey keys[block];
    std::uint64_t hashes[block];
    const Byte* p = reinterpret_cast<const Byte*>(text.data());
    const Byte* const text_end = p + text.size();
    while (p < text_end) {
        const std::size_t count = split(p, text_end, ends, block);
        std::size_t short_pieces = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t size = static_cast<std::size_t>(ends[i] - p);
            if (size <= PieceKey::max_size) {
                const PieceKey key = PieceKey::of(p, size, static_cast<std::size_t>(text_end - p));
                keys[short_pieces] = key;
                hashes[short_pieces] = key.hash();
                __builtin_prefetch(&short_[hashes[short_pieces] & (short_.size() - 1)], 1);
                ++short_pieces;
            } else {
                const std::string_view piece(reinterpret_cast<const char*>(p), size);
                count_long(piece, hash_bytes(piece), 1);
            }
            p = ends[i];
        }
        for (std::size_t i = 0; i < short_pieces; ++i) count_short(keys[i], hashes[i], 1);
    }
}

void PieceCounter::add(const PieceCounter& other, std::size_t part, std::size_t parts) {
    const auto mine = [=](std::uint64_t hash) { return (hash >> 32) % parts == part; };  // tables use the low bits
    for (const Short& entry : other.short_) {
        if (!entry.count) continue;
        if (const std::uint64_t hash = entry.key.hash(); mine(hash)) count_short(entry.key, hash, entry.count);
    }
    for (const Long& entry : other.long_)
        if (entry.count && mine(entry.hash))
            count_long({other.arena_.data() + entry.offset, entry.size}, entry.hash, entry.count);
}

void PieceCounter::count_short(const PieceKey& key, std::uint64_t hash, std::uint64_t count) {
    const std::size_t mask = short_.size() - 1;
    std::size_t i = hash & mask;
    for (; short_[i].count; i = (i + 1) & mask) {
        if (short_[i].key == key) {
            short_[i].count += count;
            return;
        }
    }
    short_[i] = {key, count};
    if (++short_used_ * 2 > short_.size()) grow_short();
}

void PieceCounter::count_long(std::string_view piece, std::uint64_t hash, std::uint64_t count) {
    const std::size_t mask = long_.size() - 1;
    std::size_t i = hash & mask;
    for (; long_[i].count; i = (i + 1) & mask) {
        const Long& entry = long_[i];
        if (entry.hash == hash && std::string_view(arena_.data() + entry.offset, entry.size) == piece) {
            long_[i].count += count;
            return;
        }
    }
    long_[i] = {hash, arena_.size(), piece.size(), count};
    arena_.insert(arena_.end(), piece.begin(), piece.end());
    if (++long_used_ * 2 > long_.size()) grow_long();
}

void PieceCounter::grow_short() {
    std::vector<Short> old(short_.size() * 2);
    old.swap(short_);
    const std::size_t mask = short_.size() - 1;
    for (const Short& entry : old) {
        if (!entry.count) continue;
        std::size_t i = entry.key.hash() & mask;
        while (short_[i].count) i = (i + 1) & mask;
        short_[i] = entry;
    }
}

void PieceCounter::grow_long() {
    std::vector<Long> old(long_.size() * 2);
    old.swap(long_);
    const std::size_t mask = long_.size() - 1;
    for (const Long& entry : old) {
        if (!entry.count) continue;
        std::size_t i = entry.hash & mask;
        while (long_[i].count) i = (i + 1) & mask;
        long_[i] = entry;
    }
}

}  // namespace pynanochat::bpe
