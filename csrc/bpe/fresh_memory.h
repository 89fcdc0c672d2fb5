// Memory that is zero without being written, and costs nothing before it is used.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

namespace pynanochat::bpe {

// `count` values of a type for which all bits zero is a value, from a multiple of 2 MiB on; in huge pages, which spare
// page faults and the TLB. Throws std::bad_alloc.
template <class T>
class FreshMemory {
  public:
    explicit FreshMemory(std::size_t count) : size_((count * sizeof(T) + huge_page - 1) / huge_page * huge_page) {
#ifdef __linux__
        mapping_ = mmap(nullptr, size_ + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping_ == MAP_FAILED) throw std::bad_alloc();
        const std::size_t address = reinterpret_cast<std::size_t>(mapping_);
        data_ = reinterpret_cast<T*>((address + huge_page - 1) / huge_page * huge_page);
        madvise(static_cast<void*>(data_), size_, MADV_HUGEPAGE);
#else
        mapping_ = std::aligned_alloc(huge_page, size_);
        if (!mapping_) throw std::bad_alloc();
        std::memset(mapping_, 0, size_);
        data_ = static_cast<T*>(mapping_);
#endif
    }
    ~FreshMemory() {
#ifdef __linux__
        munmap(mapping_, size_ + huge_page);
#else
        std::free(mapping_);
#endif
    }
    FreshMemory(const FreshMemory&) = delete;
    FreshMemory& operator=(const FreshMemory&) = delete;

    T* data() const { return data_; }
    T& operator[](std::size_t i) const { return data_[i]; }

  private:
    static constexpr std::size_t huge_page = std::size_t{1} << 21;
    std::size_t size_;
    void* mapping_;
    T* data_;
};

}  // namespace pynanochat::bpe
