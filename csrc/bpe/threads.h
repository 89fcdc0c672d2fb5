// Runs one job on several threads that last no longer than the call.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace pynanochat::bpe {

// Calls work(next) on up to `threads` threads (never more than `items`), the caller's being one of them; each takes
// items by next.fetch_add(1) until `items` is reached. The first exception is thrown again when all have ended.
template <class Work>
void run_threads(unsigned threads, std::size_t items, Work work) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    const auto guarded = [&] {
        try {
            work(next);
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
            next = items;
        }
    };
    std::vector<std::thread> helpers;
    const std::size_t count = std::min<std::size_t>(std::max(threads, 1u), std::max<std::size_t>(items, 1));
    helpers.reserve(count);
    try {
        for (std::size_t i = 1; i < count; ++i) helpers.emplace_back(guarded);
    } catch (const std::system_error&) {
        // The system gives no more threads: go on with those there are.
    }
    guarded();
    for (std::thread& helper : helpers) helper.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace pynanochat::bpe
