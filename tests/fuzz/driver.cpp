// Stands in for libFuzzer where there is none: runs a fuzz target on the files of a folder, each also cut and damaged,
// and on random bytes.
//
//   fuzz_NAME FOLDER INPUTS
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "fuzz.h"

namespace {

void run(const std::string& input) {
    const pynanochat::test::Exact copy(input);
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(copy.view().data()), input.size());
}

std::string soup(std::mt19937& random, std::size_t size) {
    return pynanochat::test::soup(random, pynanochat::test::characters, size);
}

std::string damaged(std::string input, std::mt19937& random) {
    for (int times = 1 + static_cast<int>(random() % 4); times > 0 && !input.empty(); --times) {
        const std::size_t at = random() % input.size();
        switch (random() % 4) {
            case 0: input[at] = static_cast<char>(random()); break;
            case 1: input.erase(at, random() % 8); break;
            case 2: input.insert(at, input.substr(random() % input.size(), random() % 64)); break;
            default: input.insert(at, soup(random, random() % 8)); break;
        }
    }
    return input;
}

}  // namespace

int main(int, char** arguments) {
    std::vector<std::string> inputs = {""};
    for (const auto& file : std::filesystem::directory_iterator(arguments[1])) {
        std::ifstream stream(file.path(), std::ios::binary);
        inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
    std::mt19937 random(1);
    std::string input;
    try {
        for (const std::string& kept : inputs) run(input = kept);
        for (int i = std::atoi(arguments[2]); i > 0; --i) {
            input = inputs[random() % inputs.size()];
            if (i % 4 == 0) input = soup(random, random() % 200);
            run(input = damaged(input, random));
        }
    } catch (const std::exception& error) {
        std::ofstream("crash", std::ios::binary) << input;
        std::printf("%s, by the input that is now in the file crash\n", error.what());
        return 1;
    }
    std::printf("ok      %zu files of %s\n", inputs.size() - 1, arguments[1]);
    return 0;
}
