// Mining on the CPU: from a tile of similarities to losses and weights, anchor by anchor.
// mtlfast/ops/inbatch.py holds the loop over tiles, and tells what each op does.
#include "mining.h"

#include "counting.h"
#include "devices.h"
#include "partition.h"

namespace mtlfast {
namespace {

// One loss of a call: its anchors are rows of x from `first` on.
template <class F>
struct Batch {
  Side<F> x, y;
  int64_t first, width, words;
  bool own, shared;
  std::vector<double> params;

  // The column of the anchor itself, or -1.
  int64_t itself(int64_t row) const { return own ? first + row : -1; }
};

template <class F>
struct RowScratch {
  std::vector<F> members, members_weight, others, others_weight;
  std::vector<int32_t> index;
  std::vector<uint8_t> same, near;
  SortScratch<F> sort;

  explicit RowScratch(int64_t count)
      : members(count),
        members_weight(count),
        others(count),
        others_weight(count),
        index(count),
        same(count),
        near(count) {}
};

template <class F>
bool distances(const Batch<F>& batch, int64_t i, F* row, uint8_t* near, bool squared) {
  const int64_t anchor = batch.first + i, itself = batch.itself(i);
  int64_t found =
      square_distances(row, batch.x.square[anchor], batch.y.square, near, batch.y.count);
  if (itself >= 0) {
    found -= near[itself];
    near[itself] = 0;
    row[itself] = F(0);
  }
  if (found > 0) {
    const auto repeat = batch.x.rest ? repeat_near<true, F> : repeat_near<false, F>;
    repeat(row, batch.x, anchor, batch.y, near, batch.width);
  }
  return finish_distances(row, squared, batch.y.count);
}

struct Matches {
  int64_t itself, positives, negatives;  // itself: the anchor's own column, or -1
};

template <class F>
Matches matches(const Batch<F>& batch, int64_t i, uint8_t* same) {
  const int64_t found = match(batch.x.labels + batch.first + i, batch.x.count, batch.y.labels,
                              batch.words, batch.shared, same, batch.y.count);
  const int64_t itself = batch.itself(i);
  const bool own = itself >= 0, counted = own && same[itself];
  return {itself, found - counted, batch.y.count - found - (own && !counted)};
}

template <class F>
struct TripletCall {
  Mining mining;
  F margin;
  bool squared, soft;

  explicit TripletCall(const parameters_of::batch_triplet_loss::Parameters<double>& given)
      : mining(static_cast<Mining>(static_cast<int>(given.mining))),
        margin(static_cast<F>(given.margin)),
        squared(given.squared != 0),
        soft(given.soft != 0) {}

  template <class Visit>
  void visit_term(Visit&& visit) const {
    if (mining == Mining::kAll) {
      soft ? visit(SoftTriplet<F, false>{margin}) : visit(HingeTriplet<F>{margin});
    } else {
      soft ? visit(SoftTriplet<F, true>{margin}) : visit(SemihardTriplet<F>{margin});
    }
  }
};

// All or the semi-hard triplets of one anchor. same[itself] counts as a member.
template <class F>
void many_triplets(const TripletCall<F>& call, F* row, const Matches& found, int64_t columns,
                   RowScratch<F>& scratch, double* stats) {
  const auto [itself, positives, negatives] = found;
  const bool ascending = positives <= negatives;
  const F sign = ascending ? F(-1) : F(1), never = -sign * std::numeric_limits<F>::infinity();
  if (!ascending) {
    for (auto& byte : scratch.same) byte ^= 1;
  }
  if (itself >= 0) scratch.same[itself] = 1;
  select<true>(row, scratch.same.data(), F(1), never, scratch.others.data(), columns);
  int64_t number = 0;
  for_set(scratch.same.data(), columns, [&](int64_t j) {
    if (j == found.itself) return;
    scratch.index[number] = static_cast<int32_t>(j);
    scratch.members[number++] = row[j];
  });
  Counted<F> counted{scratch.members_weight.data(), scratch.others_weight.data()};
  call.visit_term([&](auto term) {
    const F *members = scratch.members.data(), *others = scratch.others.data();
    ascending ? count<true>(term, members, number, others, columns, counted, scratch.sort)
              : count<false>(term, members, number, others, columns, counted, scratch.sort);
  });
  double active = 0;
  for (int64_t i = 0; i < number; ++i) {
    active += counted.members[i];
    counted.others[scratch.index[i]] = -counted.members[i];
  }
  if (itself >= 0) counted.others[itself] = F(0);
  const auto apply = call.squared ? apply_weights<true, F> : apply_weights<false, F>;
  const double sum = apply(row, counted.others, sign, columns);
  const double all = call.mining == Mining::kAll
                         ? static_cast<double>(positives) * static_cast<double>(negatives)
                         : counted.mined;
  stats[0] = call.soft ? counted.value : sum + active * static_cast<double>(call.margin);
  stats[1] = call.soft ? all : active;
  stats[2] = all;
}

// The farthest positive and the nearest negative of one anchor.
template <class F>
void hard_triplet(const TripletCall<F>& call, F* row, uint8_t* near, int64_t itself,
                  int64_t columns, RowScratch<F>& scratch, double* stats) {
  constexpr F kNever = -std::numeric_limits<F>::infinity();
  F* values = scratch.others.data();
  select<false>(row, scratch.same.data(), F(1), kNever, values, columns);
  if (itself >= 0) values[itself] = kNever;
  const int32_t p = first_greatest(values, static_cast<int32_t>(columns));
  select<true>(row, scratch.same.data(), F(-1), kNever, values, columns);
  if (itself >= 0) values[itself] = kNever;
  const int32_t n = first_greatest(values, static_cast<int32_t>(columns));
  const F h = row[p] - row[n] + call.margin;
  const Logistic<F> logistic(h);
  const F weight = call.soft ? logistic.sigmoid().plus : (h > F(0) ? F(1) : F(0));
  stats[0] = call.soft ? logistic.softplus().plus : hinge(h);
  stats[1] = call.soft || h > F(0) ? 1 : 0;
  stats[2] = 1;
  std::fill_n(near, columns, uint8_t{0});
  near[p] = near[n] = 1;
  const auto chain = call.squared ? chained<true, F> : chained<false, F>;
  row[p] = chain(weight, row[p]);
  row[n] = chain(-weight, row[n]);
}

template <class F>
void mine_triplets(const Batch<F>& batch, F* tile, uint8_t* near, double* stats, int64_t rows) {
  const TripletCall<F> call(named<parameters_of::batch_triplet_loss, double>(batch.params.data()));
  const int64_t columns = batch.y.count;
  for_rows(
      rows, columns, [&] { return RowScratch<F>(columns); },
      [&](int64_t i, RowScratch<F>& scratch) {
        F* row = tile + i * columns;
        uint8_t* marks = near == nullptr ? scratch.near.data() : near + i * columns;
        double* sums = stats + 3 * i;
        const bool invalid = distances(batch, i, row, marks, call.squared);
        const Matches found = matches(batch, i, scratch.same.data());
        std::fill_n(sums, 3, 0.0);
        if (found.positives == 0 || found.negatives == 0) {
          std::fill_n(row, columns, F(0));
          std::fill_n(marks, columns, uint8_t{0});
        } else if (call.mining == Mining::kHard) {
          hard_triplet(call, row, marks, found.itself, columns, scratch, sums);
        } else {
          many_triplets(call, row, found, columns, scratch, sums);
        }
        if (invalid) sums[0] = std::numeric_limits<double>::quiet_NaN();
      });
}

template <class F>
void mine_pairs(const Batch<F>& batch, F* tile, uint8_t* near, double* stats, int64_t rows) {
  constexpr F kNever = -std::numeric_limits<F>::infinity();
  const int64_t columns = batch.y.count;
  const auto given = named<parameters_of::batch_contrastive_loss, F>(batch.params.data());
  for_rows(
      rows, columns, [&] { return RowScratch<F>(columns); },
      [&](int64_t i, RowScratch<F>& scratch) {
        F *row = tile + i * columns, *values = scratch.others.data();
        uint8_t *marks = near == nullptr ? scratch.near.data() : near + i * columns,
                *same = scratch.same.data();
        double* sums = stats + 6 * i;
        const bool invalid = distances(batch, i, row, marks, given.squared != 0);
        const Matches found = matches(batch, i, same);
        select<false>(row, same, F(1), kNever, values, columns);
        if (found.itself >= 0) values[found.itself] = kNever;
        sum_hinges(values, -given.pos_margin, columns, sums);
        select<true>(row, same, F(-1), kNever, values, columns);
        if (found.itself >= 0) values[found.itself] = kNever;
        sum_hinges(values, given.neg_margin, columns, sums + 3);
        sums[2] = static_cast<double>(found.positives);
        sums[5] = static_cast<double>(found.negatives);
        if (invalid) sums[0] = sums[3] = std::numeric_limits<double>::quiet_NaN();
      });
}

template <class F>
Side<F> side(const InBatchRows& rows, bool rounded) {
  return {read<F>(rows.units), rounded ? read<F>(rows.rest) : nullptr, read<F>(rows.square),
          read<int64_t>(rows.labels), rows.units.size(0)};
}

}  // namespace

void Cpu::run(const MineCall& call) {
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    const Batch<F> batch{side<F>(call.x, call.rounded),
                         side<F>(call.y, call.rounded),
                         call.first,
                         call.x.units.size(1),
                         call.x.labels.size(0),
                         call.own,
                         call.shared,
                         call.params};
    uint8_t* marks = call.near ? written<uint8_t>(*call.near) : nullptr;
    double* sums = written<double>(call.stats) + call.first * (call.triplets ? 3 : 6);
    (call.triplets ? mine_triplets<F> : mine_pairs<F>)(batch, written<F>(call.tile), marks, sums,
                                                       call.tile.size(0));
  });
}

void Cpu::run(const WeighCall& call) {
  const int64_t rows = call.tile.size(0), columns = call.tile.size(1);
  const int64_t words = call.x_labels.size(0), anchors = call.x_labels.size(1);
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    const F* coefficient = read<F>(call.coefficient);
    const auto given = named<parameters_of::batch_contrastive_loss, F>(call.params.data());
    for_rows(
        rows, columns, [&] { return std::vector<uint8_t>(columns); },
        [&](int64_t i, std::vector<uint8_t>& same) {
          F* row = written<F>(call.tile) + i * columns;
          match(read<int64_t>(call.x_labels) + call.first + i, anchors,
                read<int64_t>(call.y_labels), words, call.shared, same.data(), columns);
          (given.squared != 0 ? weigh_row<true, F>
                              : weigh_row<false, F>)(row, same.data(), given.pos_margin,
                                                     given.neg_margin, coefficient[0],
                                                     coefficient[1], columns);
          if (call.own) row[call.first + i] = F(0);
        });
  });
}

}  // namespace mtlfast
