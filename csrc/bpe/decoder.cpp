#include "bpe/decoder.h"

#include <cstring>
#include <stdexcept>

namespace pynanochat::bpe {

namespace {
constexpr std::size_t block = 16;  // most tokens are shorter, and copying a fixed size is a pair of instructions
}

Decoder::Decoder(std::span<const std::string_view> tokens, const std::map<Id, std::string>& special) {
    offset_.reserve(tokens.size() + 1);
    offset_.push_back(0);
    for (std::size_t id = 0; id < tokens.size(); ++id) {
        std::string_view token = tokens[id];
        if (const auto name = special.find(static_cast<Id>(id)); name != special.end()) token = name->second;
        blob_.insert(blob_.end(), token.begin(), token.end());
        offset_.push_back(blob_.size());
    }
    blob_.resize(blob_.size() + block);
}

std::string Decoder::decode(std::span<const std::int64_t> ids) const {
    std::size_t size = 0;
    for (const std::int64_t id : ids) {
        const std::uint64_t at = static_cast<std::uint64_t>(id);
        if (at >= offset_.size() - 1 || offset_[at + 1] == offset_[at]) throw std::out_of_range(std::to_string(id));
        size += offset_[at + 1] - offset_[at];
    }
    std::string text(size + block, '\0');
    char* out = text.data();
    for (const std::int64_t id : ids) {
        const char* const from = blob_.data() + offset_[static_cast<std::size_t>(id)];
        const std::size_t n = offset_[static_cast<std::size_t>(id) + 1] - offset_[static_cast<std::size_t>(id)];
        std::memcpy(out, from, block);
        if (n > block) std::memcpy(out + block, from + block, n - block);
        out += n;
    }
    text.resize(size);
    return text;
}

}  // namespace pynanochat::bpe
