// Which instruction set the CPU kernels use. Every file of csrc/cpu is compiled once per instruction set, into a namespace
// of that name (CMakeLists.txt passes PYNANOCHAT_ISA); callers choose among the copies with PYNANOCHAT_CALL.
//
// The copies are free functions on plain structs: they use no std:: template and no inline member function, because the
// linker keeps one copy of such a function for the whole library, and it could be the one with AVX-512 instructions.
#pragma once

namespace pynanochat {

enum class Isa { portable, avx2, avx512, avx512bf16 };

Isa isa();                       // the choice: set_isa's, else PYNANOCHAT_ISA of the environment, else the best the CPU has
void set_isa(const char* name);  // "auto" or a name below; throws std::invalid_argument for one the CPU lacks
const char* isa_name(Isa isa);
bool isa_supported(Isa isa);

}  // namespace pynanochat

#if defined(__x86_64__)
#define PYNANOCHAT_KERNEL(NAME, ARGUMENTS)                      \
    namespace pynanochat::portable { void NAME(ARGUMENTS); }    \
    namespace pynanochat::avx2 { void NAME(ARGUMENTS); }        \
    namespace pynanochat::avx512 { void NAME(ARGUMENTS); }      \
    namespace pynanochat::avx512bf16 { void NAME(ARGUMENTS); }
#define PYNANOCHAT_CALL(NAME, ...)                                              \
    do {                                                                        \
        switch (::pynanochat::isa()) {                                          \
            case Isa::portable: ::pynanochat::portable::NAME(__VA_ARGS__); break;     \
            case Isa::avx2: ::pynanochat::avx2::NAME(__VA_ARGS__); break;             \
            case Isa::avx512: ::pynanochat::avx512::NAME(__VA_ARGS__); break;         \
            case Isa::avx512bf16: ::pynanochat::avx512bf16::NAME(__VA_ARGS__); break; \
        }                                                                       \
    } while (false)
#else
#define PYNANOCHAT_KERNEL(NAME, ARGUMENTS) \
    namespace pynanochat::portable { void NAME(ARGUMENTS); }
#define PYNANOCHAT_CALL(NAME, ...) ::pynanochat::portable::NAME(__VA_ARGS__)
#endif
