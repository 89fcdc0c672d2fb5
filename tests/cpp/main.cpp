// Runs every C++ test, prints one line each, and exits with the number that failed.
#include <cstdio>
#include <exception>

namespace pynanochat::test {
void splitter_known_texts();
void splitter_other_patterns();
void splitter_forms_agree();
void splitter_survives_malformed_text();
void splitter_survives_any_bytes();
void encoder_equals_naive_merging();
void encoder_batch_does_not_depend_on_threads();
void encoder_is_not_quadratic();
void vocabulary_refuses_bad_tables();
void decoder_inverts_and_refuses();
void trainer_equals_naive_training();
void trainer_does_not_depend_on_threads();
void trainer_passes_exceptions_on();
void packer_equals_naive_packing();
void utf8_ends_where_it_is_malformed();
}  // namespace pynanochat::test

int main() {
    using namespace pynanochat::test;
    struct Test {
        const char* name;
        void (*run)();
    };
    const Test tests[] = {
#define TEST(name) {#name, name}
        TEST(splitter_known_texts),
        TEST(splitter_other_patterns),
        TEST(splitter_forms_agree),
        TEST(splitter_survives_malformed_text),
        TEST(splitter_survives_any_bytes),
        TEST(encoder_equals_naive_merging),
        TEST(encoder_batch_does_not_depend_on_threads),
        TEST(encoder_is_not_quadratic),
        TEST(vocabulary_refuses_bad_tables),
        TEST(decoder_inverts_and_refuses),
        TEST(trainer_equals_naive_training),
        TEST(trainer_does_not_depend_on_threads),
        TEST(trainer_passes_exceptions_on),
        TEST(packer_equals_naive_packing),
        TEST(utf8_ends_where_it_is_malformed),
#undef TEST
    };
    int failed = 0;
    for (const Test& test : tests) {
        try {
            test.run();
            std::printf("ok      %s\n", test.name);
        } catch (const std::exception& error) {
            std::printf("FAILED  %s: %s\n", test.name, error.what());
            ++failed;
        }
    }
    return failed;
}
