// Scratch memory of the calling thread that survives from call to call, so that an op pays for its pages once.
#pragma once

#include <cstddef>

namespace pynanochat {

// At least `bytes` bytes at a 4 KiB boundary, unspecified contents, valid until this thread's next call. Throws std::bad_alloc.
void* workspace(std::size_t bytes);

}  // namespace pynanochat
