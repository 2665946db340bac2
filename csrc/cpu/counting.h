// Counting the triplets of one anchor on the CPU, without listing them: every member of the smaller
// side (positives or negatives) with every one of the other side, or by sorting and searching.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "convert.h"
#include "inbatch.h"

namespace mtlfast {

// What the counting loops gave: weights of the members (the smaller of an anchor's positives and
// negatives, gathered) and of the others (all columns; those that are no others hold a distance
// that no triplet takes), beside the sums.
template <class F>
struct Counted {
  F *members, *others;
  double value = 0, mined = 0;
};

// kAscending: members are positives, others negatives.
template <bool kAscending, int kMembers, class Term, class F>
MTLFAST_CLONES void count_some(const Term term, const F* __restrict members,
                               const F* __restrict others, F* __restrict members_weight,
                               F* __restrict others_weight, int64_t count, double* sums) {
  static_assert(kMembers == 4 || kMembers == 1);
  const F m0 = members[0], m1 = members[kMembers > 1], m2 = members[kMembers > 2 ? 2 : 0],
          m3 = members[kMembers > 3 ? 3 : 0];
  F w0 = 0, w1 = 0, w2 = 0, w3 = 0, value = 0, mined = 0;
#pragma omp simd reduction(+ : w0, w1, w2, w3, value, mined)
  for (int64_t j = 0; j < count; ++j) {
    const F other = others[j];
    const auto add = [&](F member, F& weight) MTLFAST_INLINED {
      const auto added = term(kAscending ? other - member : member - other);
      weight += added.weight;
      if constexpr (Term::kValued) value += added.value;
      if constexpr (Term::kCounted) mined += added.mined;
      return added.weight;
    };
    F both = add(m0, w0);
    if constexpr (kMembers == 4) both += add(m1, w1) + (add(m2, w2) + add(m3, w3));
    others_weight[j] += both;
  }
  const F weights[] = {w0, w1, w2, w3};
  std::copy_n(weights, kMembers, members_weight);
  sums[0] += value;
  sums[1] += mined;
}

// Every member with every other.
template <bool kAscending, class Term, class F>
void count_plainly(const Term& term, const F* members, int64_t number, const F* others,
                   int64_t count, Counted<F>& out) {
  double sums[2] = {0, 0};
  std::fill_n(out.others, count, F(0));
  int64_t i = 0;
  for (; i + 4 <= number; i += 4) {
    count_some<kAscending, 4>(term, members + i, others, out.members + i, out.others, count, sums);
  }
  for (; i < number; ++i) {
    count_some<kAscending, 1>(term, members + i, others, out.members + i, out.others, count, sums);
  }
  out.value = sums[0];
  out.mined = sums[1];
}

// Scratch of count_sorted.
template <class F>
struct SortScratch {
  std::vector<F> sorted;
  std::vector<int32_t> first, last, mined, changes;
};

// For each other, how many of the sorted members, from the lowest on, are `inside`; they are padded
// with infinities to one less than a power of two.
template <class Inside, class F>
MTLFAST_CLONES void search(const Inside inside, const F* __restrict sorted, int32_t half,
                           int32_t number, const F* __restrict others, int32_t* __restrict position,
                           int64_t count) {
  constexpr int64_t kBlock = 256;
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t length = std::min(kBlock, count - start);
    std::fill_n(position + start, length, 0);
    for (int32_t step = half; step > 0; step >>= 1) {
#pragma omp simd
      for (int64_t j = start; j < start + length; ++j) {
        const int32_t next = position[j] + step;
        position[j] = inside(sorted[next - 1], others[j]) ? next : position[j];
      }
    }
    for (int64_t j = start; j < start + length; ++j) position[j] = std::min(position[j], number);
  }
}

template <bool kAscending, class F>
MTLFAST_INLINE F difference(F member, F other) {
  return kAscending ? other - member : member - other;
}

// The same as count_plainly without a softplus, by sorting the members: those that form triplets
// with one other stand side by side, from first[j] to last[j].
template <bool kAscending, class Term, class F>
void count_sorted(const Term& term, const F* members, int64_t number, const F* others,
                  int64_t count, Counted<F>& out, SortScratch<F>& scratch) {
  const auto n = static_cast<int32_t>(number);
  int32_t half = 1;
  while (2 * half <= n) half *= 2;
  auto& sorted = scratch.sorted;
  sorted.assign(2 * half - 1, std::numeric_limits<F>::infinity());
  std::copy_n(members, number, sorted.begin());
  std::sort(sorted.begin(), sorted.begin() + n);
  const int64_t longest = std::max(count, number);
  for (auto* positions : {&scratch.first, &scratch.last, &scratch.mined}) {
    positions->resize(longest);
  }
  int32_t *first = scratch.first.data(), *last = scratch.last.data();
  const F margin = term.margin;
  const auto find = [&](const auto& inside, const F* values, int64_t length, int32_t* position) {
    search(inside, sorted.data(), half, n, values, position, length);
  };
  const auto within = [margin](F m, F o) MTLFAST_INLINED {
    return kAscending != (difference<kAscending>(m, o) < margin);
  };
  const auto beyond = [](F m, F o) MTLFAST_INLINED {
    return kAscending == (difference<kAscending>(m, o) > F(0));
  };
  const auto near = [margin](F m, F o) MTLFAST_INLINED {
    return kAscending != (difference<kAscending>(m, o) <= margin);
  };
  int32_t *bound = kAscending ? first : last, *other_bound = kAscending ? last : first;
  find(within, others, count, bound);
  if constexpr (Term::kCounted) {
    find(beyond, others, count, other_bound);
    find(near, others, count, scratch.mined.data());
  } else {
    std::fill_n(other_bound, count, kAscending ? n : 0);
  }
  int64_t mined = 0;
  for (int64_t j = 0; j < count; ++j) {
    if constexpr (Term::kCounted) {  // a margin of 0 or less leaves nothing between the bounds
      auto& edge = scratch.mined[j];
      (kAscending ? first[j] : last[j]) =
          kAscending ? std::min(first[j], last[j]) : std::max(first[j], last[j]);
      edge = kAscending ? std::min(edge, last[j]) : std::max(edge, first[j]);
    }
    out.others[j] = static_cast<F>(last[j] - first[j]);
    if constexpr (Term::kCounted) {
      mined += kAscending ? last[j] - scratch.mined[j] : scratch.mined[j] - first[j];
    }
  }
  out.mined = static_cast<double>(mined);
  // The others that take the member of rank r: those that began at r or before and end after it.
  auto& taken = scratch.changes;
  taken.assign(number + 1, 0);
  for (int64_t j = 0; j < count; ++j) {
    ++taken[first[j]];
    --taken[last[j]];
  }
  for (int64_t r = 0; r < number; ++r) taken[r + 1] += taken[r];
  const auto below = [](F m, F value) MTLFAST_INLINED { return m < value; };
  find(below, members, number, first);
  for (int64_t i = 0; i < number; ++i) out.members[i] = static_cast<F>(taken[first[i]]);
}

// Below this many members, going through them all is faster than sorting them, whatever the others'
// number (measured at 512 and 4096).
constexpr int64_t kFewMembers = 100;

template <bool kAscending, class Term, class F>
void count(const Term& term, const F* members, int64_t number, const F* others, int64_t columns,
           Counted<F>& out, SortScratch<F>& scratch) {
  if (Term::kValued || number < kFewMembers) {
    count_plainly<kAscending>(term, members, number, others, columns, out);
  } else if constexpr (!Term::kValued) {
    count_sorted<kAscending>(term, members, number, others, columns, out, scratch);
  }
}

}  // namespace mtlfast
