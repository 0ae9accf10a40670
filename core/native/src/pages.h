// Memory pages of results.
#pragma once

#include "tile.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

// Requests huge pages for a result before it is written: first-touch faults of small pages cost up to a fifth of a pass.
template <typename T> void want_large_pages(void* data, Index count) {
#if defined(__linux__)
    constexpr std::uintptr_t large = 2 << 20;
    const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(data), stop = start + count * sizeof(T);
    const std::uintptr_t first = (start + large - 1) / large * large;
    if (first < stop / large * large)
        madvise(reinterpret_cast<void*>(first), stop / large * large - first, MADV_HUGEPAGE);
#else
    (void)data, (void)count;
#endif
}

}  // namespace
