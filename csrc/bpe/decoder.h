// Token ids to bytes.
#pragma once

#include <cstring>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

class Decoder {
  public:
    // `tokens[id]`, an empty view for an id not in use, unless it is one of `special`.
    Decoder(std::span<const std::string_view> tokens, const std::map<Id, std::string>& special);

    // How many bytes all `ids` have together. Throws std::out_of_range naming the first id that is not in use.
    template <class Int>
    std::size_t size(std::span<const Int> ids) const {
        std::size_t size = 0;
        for (const Int id : ids) {
            const std::uint64_t at = static_cast<std::uint64_t>(id);
            if (at >= offset_.size() - 1 || offset_[at + 1] == offset_[at]) throw std::out_of_range(std::to_string(id));
            size += offset_[at + 1] - offset_[at];
        }
        return size;
    }

    // Writes the bytes of all `ids`, one after another; `out` has size(ids) bytes.
    template <class Int>
    void write(std::span<const Int> ids, std::span<char> out) const {
        char* at = out.data();
        char* const end = at + out.size();
        for (const Int id : ids) {
            const char* const from = blob_.data() + offset_[static_cast<std::size_t>(id)];
            const std::size_t n = offset_[static_cast<std::size_t>(id) + 1] - offset_[static_cast<std::size_t>(id)];
            if (static_cast<std::size_t>(end - at) >= block && n <= block)
                std::memcpy(at, from, block);
            else
                std::memcpy(at, from, n);
            at += n;
        }
    }

  private:
    static constexpr std::size_t block = 16;  // most tokens are shorter, and copying a fixed size is two instructions

    std::vector<char> blob_;  // ends with room for a block
    std::vector<std::uint64_t> offset_;
};

}  // namespace pynanochat::bpe
