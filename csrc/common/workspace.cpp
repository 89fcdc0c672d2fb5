#include "common/workspace.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace pynanochat {

namespace {

struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    ~Block() { std::free(data); }
};

}  // namespace

void* workspace(std::size_t bytes) {
    thread_local Block block;
    if (block.bytes < bytes) {
        std::free(block.data);
        block.bytes = 0;
        constexpr std::size_t huge = std::size_t{2} << 20;
        const std::size_t alignment = bytes >= huge ? huge : 4096;
        const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        block.data = std::aligned_alloc(alignment, rounded);
        if (!block.data) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        if (alignment == huge) madvise(block.data, rounded, MADV_HUGEPAGE);  // fewer TLB misses; a refusal is harmless
#endif
        block.bytes = rounded;
    }
    return block.data;
}

}  // namespace pynanochat
