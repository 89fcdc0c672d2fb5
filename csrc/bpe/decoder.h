// Token ids to bytes.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/vocabulary.h"

namespace pynanochat::bpe {

class Decoder {
  public:
    // `tokens[id]`, an empty view for an id not in use, unless it is one of `special`.
    Decoder(std::span<const std::string_view> tokens, const std::map<Id, std::string>& special);

    // The bytes of all `ids`, one after another. Throws std::out_of_range naming the first id that is not in use.
    std::string decode(std::span<const std::int64_t> ids) const;

  private:
    std::vector<char> blob_;  // ends with room for a block
    std::vector<std::uint64_t> offset_;
};

}  // namespace pynanochat::bpe
