#include "bpe/decoder.h"

namespace pynanochat::bpe {

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

}  // namespace pynanochat::bpe
