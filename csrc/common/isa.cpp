#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pynanochat {

namespace {

constexpr Isa all[] = {Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::portable};  // best first
std::atomic<int> chosen{-1};

Isa best() {
    for (Isa isa : all)
        if (isa_supported(isa)) return isa;
    return Isa::portable;
}

}  // namespace

bool isa_supported(Isa isa) {
    if (isa == Isa::portable) return true;
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (isa == Isa::avx2) return avx2;
    if (isa == Isa::avx512) return avx512;
    return avx512 && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

const char* isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512bf16: return "avx512bf16";
        default: return "portable";
    }
}

void set_isa(const char* name) {
    const std::string wanted = name;
    if (wanted == "auto") {
        chosen = static_cast<int>(best());
        return;
    }
    std::string have = "auto";
    for (Isa isa : all) {
        if (!isa_supported(isa)) continue;
        if (wanted == isa_name(isa)) {
            chosen = static_cast<int>(isa);
            return;
        }
        have += std::string(", ") + isa_name(isa);
    }
    throw std::invalid_argument("PYNANOCHAT_ISA=" + wanted + ": this CPU has no such instruction set; use one of " + have);
}

Isa isa() {
    if (chosen < 0) {
        const char* name = std::getenv("PYNANOCHAT_ISA");
        set_isa(name && *name ? name : "auto");
    }
    return static_cast<Isa>(chosen.load());
}

}  // namespace pynanochat
