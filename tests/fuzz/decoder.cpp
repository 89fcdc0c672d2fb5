// Fuzz: decoding puts the bytes of the ids one after another, and names the first id that is not in use.
#include "bpe/decoder.h"

#include "fuzz.h"
#include "naive.h"

namespace pynanochat::test {

namespace {

// Mostly ids near those in use, else any eight bytes.
std::int64_t id_of(Input& input, std::size_t tokens) {
    const std::uint8_t kind = input.byte();
    if (kind < 250) return static_cast<std::int64_t>(kind % (tokens + 2)) - 1;
    std::uint64_t wild = 0;
    for (int i = 0; i < 8; ++i) wild = wild << 8 | input.byte();
    return static_cast<std::int64_t>(wild);
}

}  // namespace

}  // namespace pynanochat::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pynanochat;
    using namespace pynanochat::test;
    Input input(data, size);
    std::vector<std::string> tokens;
    for (int count = input.byte() % 32; count > 0; --count) tokens.push_back(input.string(input.byte() % 40));
    std::map<bpe::Id, std::string> special;
    for (int count = input.byte() % 4; count > 0; --count) {
        const bpe::Id id = input.byte() % 40;
        special[id] = input.string(input.byte() % 40);
    }
    const bpe::Decoder decoder(std::vector<std::string_view>(tokens.begin(), tokens.end()), special);

    for (const auto& [id, name] : special)
        if (id < tokens.size()) tokens[id] = name;
    std::vector<std::int64_t> ids;
    std::string expected, wrong;
    while (!input.empty()) {
        const std::int64_t id = ids.emplace_back(id_of(input, tokens.size()));
        const bool known = id >= 0 && static_cast<std::uint64_t>(id) < tokens.size() && !tokens[id].empty();
        if (known) expected += tokens[static_cast<std::size_t>(id)];
        if (!known && wrong.empty()) wrong = std::to_string(id);
    }
    try {
        CHECK(decoded(decoder, ids) == expected && wrong.empty());
    } catch (const std::out_of_range& error) {
        CHECK(error.what() == wrong);
    }
    return 0;
}
