#include "data/packer.h"

#include <algorithm>
#include <bit>

namespace pynanochat::data {

void Packer::add(Token first, std::span<const Token> rest) {
    const std::size_t kept = std::min(rest.size(), row_size_ - 1);
    dropped_ += rest.size() - kept;
    std::vector<Token> tokens;
    tokens.reserve(1 + kept);
    tokens.push_back(first);
    tokens.insert(tokens.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(kept));
    by_size_[1 + kept].push_back({arrivals_++, std::make_shared<const std::vector<Token>>(std::move(tokens))});
    used_[(1 + kept) / 64] |= std::uint64_t{1} << (1 + kept) % 64;
    ++size_;
}

Packer::Document Packer::take(std::size_t room) {
    std::size_t word = room / 64;
    std::uint64_t bits = used_[word] & (~std::uint64_t{0} >> (63 - room % 64));
    while (!bits && word > 0) bits = used_[--word];
    const bool fits = bits != 0;
    if (!fits)
        for (word = 0; !bits; ++word) bits = used_[word];
    const std::size_t at = fits ? word * 64 + 63 - static_cast<std::size_t>(std::countl_zero(bits))
                                : (word - 1) * 64 + static_cast<std::size_t>(std::countr_zero(bits));
    std::deque<Entry>& equals = by_size_[at];
    const Document taken = std::move((fits ? equals.front() : equals.back()).document);
    if (fits)
        equals.pop_front();
    else
        equals.pop_back();
    if (equals.empty()) used_[at / 64] &= ~(std::uint64_t{1} << at % 64);
    --size_;
    return taken;
}

std::size_t Packer::fill(std::span<Token> rows, std::size_t at, std::size_t least) {
    while (at < rows.size() && size_ >= std::max<std::size_t>(least, 1)) {
        const std::size_t room = row_size_ - at % row_size_;
        const Document document = take(room);
        const std::size_t used = std::min(room, document->size());
        std::copy_n(document->data(), used, rows.data() + at);
        dropped_ += document->size() - used;
        at += used;
    }
    return at;
}

std::vector<Packer::Document> Packer::documents() const {
    std::vector<const Entry*> entries;
    for (const auto& equals : by_size_)
        for (const Entry& entry : equals) entries.push_back(&entry);
    std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) { return a->arrival < b->arrival; });
    std::vector<Document> result;
    for (const Entry* entry : entries) result.push_back(entry->document);
    return result;
}

}  // namespace pynanochat::data
