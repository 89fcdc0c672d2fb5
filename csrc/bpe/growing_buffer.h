// A growing run of values whose new memory is not set to zero first.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace pynanochat::bpe {

struct Freed {
    void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Memory = std::unique_ptr<T[], Freed>;

// Room for `count` values, whatever they are. Throws std::bad_alloc.
template <class T>
Memory<T> allocate(std::size_t count) {
    Memory<T> memory(static_cast<T*>(std::malloc(std::max<std::size_t>(count, 1) * sizeof(T))));
    if (!memory) throw std::bad_alloc();
    return memory;
}

// At least `bytes` of memory, in huge pages where there are any: small ones cost a page fault each when they are first
// written, which takes as long as tokenizing what fills them.
inline void* allocate_huge(std::size_t bytes) {
    constexpr std::size_t huge_page = std::size_t{1} << 21;
    const std::size_t whole = (bytes + huge_page - 1) / huge_page * huge_page;
    void* const memory = std::aligned_alloc(huge_page, whole);
#ifdef __linux__
    if (memory) madvise(memory, whole, MADV_HUGEPAGE);
#endif
    return memory;
}

template <class T>
class GrowingBuffer {
  public:
    static_assert(std::is_trivially_copyable_v<T>);

    // Room for `more` values at the end. `expected`, if known, is about how many there will be in all.
    T* reserve(std::size_t more, std::size_t expected = 0) {
        if (size_ + more > capacity_) grow(size_ + more, expected);
        return data_.get() + size_;
    }
    void advance(std::size_t n) { size_ += n; }
    void clear() { size_ = 0; }
    std::size_t size() const { return size_; }
    const T* data() const { return data_.get(); }
    // Hands the memory over; the run is empty then.
    Memory<T> release() {
        size_ = capacity_ = 0;
        return std::move(data_);
    }

  private:
    void grow(std::size_t needed, std::size_t expected) {
        const std::size_t capacity = std::max({needed, capacity_ * 2, expected}), bytes = capacity * sizeof(T);
        Memory<T> data(static_cast<T*>(bytes < large ? std::malloc(bytes) : allocate_huge(bytes)));
        if (!data) throw std::bad_alloc();
        if (size_ > 0) std::memcpy(data.get(), data_.get(), size_ * sizeof(T));
        data_ = std::move(data);
        capacity_ = capacity;
    }

    static constexpr std::size_t large = std::size_t{1} << 22;  // bytes

    Memory<T> data_;
    std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace pynanochat::bpe
