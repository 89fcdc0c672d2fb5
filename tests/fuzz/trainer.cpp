// Fuzz: merges equal those of naive training, whatever the number of threads and the batches.
#include "bpe/trainer.h"

#include <algorithm>

#include "fuzz.h"
#include "naive.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pynanochat::test;
    constexpr std::size_t most_bytes = 400;  // for the naive way
    Input input(data, std::min(size, most_bytes));
    const std::size_t merges = input.byte() % 64;
    const unsigned threads = 1 + input.byte() % 4;
    const std::size_t batch = 1 + input.byte() % 4;
    std::vector<std::string> texts;
    while (!input.empty()) texts.push_back(valid_part(input.string(input.byte())));
    CHECK(train(texts, merges, threads, batch) == naive_merges(texts, merges));
    return 0;
}
