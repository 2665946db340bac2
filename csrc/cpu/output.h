// Where results go on the CPU: into huge pages where they are fresh, past the caches where they are
// large.
#pragma once

#include <algorithm>
#include <cstring>

#include "convert.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mtlfast {

// To be called before a result is touched for the first time: its pages may be huge, with one fault
// for 512. glibc maps results of 32 MiB and more afresh in every call, and smaller ones in the
// first. What the system makes of the advice is its own affair.
inline void prefer_huge_pages(const Tensor& result) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t bytes = result.numel() * result.element_size();
  if (bytes < 2 * kHugePage) return;  // else one, at least, lies inside
  const auto start = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t first = (start + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t last = (start + bytes) & ~(kHugePage - 1);
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)result;
#endif
}

// Bytes of results, all together, from which the caches are passed: an ordinary store reads its
// line first. Smaller results are still there when the next reader comes.
constexpr int64_t kStreamed = 8 << 20;

#if defined(__x86_64__)
// Copies whole cache lines, `to` being the start of one.
__attribute__((target("avx"))) inline void stream_lines(const char* from, char* to, int64_t lines) {
  for (int64_t i = 0; i < 64 * lines; i += 64) {
    const auto low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const auto high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + 32), high);
  }
}
#endif

// Copies past the caches; end_streams() must follow, before other threads may read.
inline void stream(const void* from, void* to, int64_t bytes) {
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
#if defined(__x86_64__)
  if (has_avx2()) {
    const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(to) & 63);
    const int64_t lines = (bytes - head) / 64, done = head + 64 * lines;
    std::memcpy(target, source, head);
    stream_lines(source + head, target + head, lines);
    source += done;
    target += done;
    bytes -= done;
  }
#endif
  std::memcpy(target, source, bytes);
}

// Orders what the thread streamed before what it stores next: that it is done, above all.
inline void end_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace mtlfast
