// The pointwise losses on the CPU: forward and backward over tiles (tile.h, stager.h).
#include <numeric>

#include "devices.h"
#include "output.h"
#include "stager.h"

namespace mtlfast {
namespace {

template <class Visit>
void visit_bool(bool value, Visit&& visit) {
  value ? visit(std::true_type{}) : visit(std::false_type{});
}

// Sums of one partition, per task.
struct TaskSums {
  double *loss, *count, *weight;
};

template <class F>
MTLFAST_CLONES void move_into(F* __restrict slots, double* __restrict totals, int64_t width) {
  for (int64_t j = 0; j < width; ++j) {
    totals[j] += static_cast<double>(slots[j]);
    slots[j] = F(0);
  }
}

template <class T>
void fold(const T* slots, int64_t width, int64_t columns, double* tasks) {
  for (int64_t start = 0; start < width; start += columns) {
    for (int64_t t = 0; t < columns; ++t) tasks[t] += static_cast<double>(slots[start + t]);
  }
}

// A slot of the super-row sums one tile's values in F, sixteen at most, or those of more tiles up
// to kSlotValues, before they move into float64: summing 64 Ki elements in float32 cost up to ten
// times the error of plain PyTorch. Counts stay in F: exact while a slot of one partition sees at
// most 2^24 elements.
constexpr int64_t kSlotValues = 8;

template <class F>
void forward_partition(const PointwiseCall& call, const Layout& layout, int64_t partition,
                       int64_t column, int64_t columns, const TaskSums& out, void* elements) {
  const int64_t width = layout.period * columns;
  const F* lambda = static_cast<const F*>(call.task_weight);
  if (lambda != nullptr) lambda += column;
  Stager<F> stager(call, layout, column, columns, nullptr);
  F sums[kTile], counts[kTile], buffer[kTile], weight_tile[kTile], task_weight[kMaxWidth];
  double totals[kTile], weight_totals[kTile];
  for (F* slots : {sums, counts}) std::fill_n(slots, width, F(0));
  if (elements != nullptr) stager.repeat(lambda, columns, task_weight);
  std::fill_n(totals, width, 0.0);
  if (call.weighted_mean) std::fill_n(weight_totals, width, 0.0);
  int64_t held = 0;  // values in a slot
  layout.walk(call.rows, partition, column, columns, [&](const Rectangle& where) {
    const Tile<F> tile = stager(where);
    const Sink<F> sink(elements, call, where, width, buffer);
    const int64_t more = divide_up(tile.size, width);
    if (held + more > kSlotValues || call.weighted_mean) {
      move_into(sums, totals, width);
      held = 0;
    }
    held += more;
    const auto add_values = [&](auto plain, auto written, auto label) {
      tile_values<plain(), written(), decltype(label)>(call.loss, call.params, tile, task_weight,
                                                       sums, counts, sink.rows);
    };
    visit_bool(elements != nullptr, [&](auto written) {
      if constexpr (kManyLoops<F>) {
        visit_bool(tile.plain, [&](auto plain) {
          tile.labels.data ? add_values(plain, written, int8_t{}) : add_values(plain, written, F{});
        });
      } else {
        add_values(std::false_type{}, written, F{});
      }
    });
    if (call.weighted_mean) {
      move_into(sums, totals, width);
      const F* weight = stage(call.weight, where, call.tasks, weight_tile);
      for (int64_t r = 0; r * width < tile.size; ++r) {
        add_labelled(tile.y[r], weight + r * width, sums, std::min(width, tile.size - r * width));
      }
      move_into(sums, weight_totals, width);
    }
    if (elements != nullptr) sink.store();
  });
  move_into(sums, totals, width);
  fold(totals, width, columns, out.loss);
  fold(counts, width, columns, out.count);
  if (out.weight != nullptr) fold(weight_totals, width, columns, out.weight);
}

MTLFAST_CLONES void add_to(const double* __restrict from, double* __restrict to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// Per task: `count` and the mean over it. Apart from finish(), so that it vectorises: T may be
// 10^5.
template <class F>
MTLFAST_CLONES void task_means(const double* __restrict sums, const double* __restrict labelled,
                               F* __restrict task_loss, int64_t* __restrict count, int64_t tasks) {
  for (int64_t t = 0; t < tasks; ++t) {
    task_loss[t] = static_cast<F>(sums[t] / (labelled[t] < 1.0 ? 1.0 : labelled[t]));
    count[t] = static_cast<int64_t>(labelled[t]);
  }
}

template <class F>
MTLFAST_CLONES void denominators(const double* __restrict given, double shared,
                                 F* __restrict denominator, int64_t tasks) {
  for (int64_t t = 0; t < tasks; ++t) {
    const double d = given == nullptr ? shared : given[t];
    denominator[t] = static_cast<F>(d == 0 ? 1.0 : d);
  }
}

// `scratch` holds, per partition, the tasks' sums, their counts and, for three kinds, their
// weights.
template <class F>
void finish(const PointwiseCall& call, const Layout& layout, double* scratch, int kinds,
            const PointwiseResult& result) {
  const int64_t tasks = call.tasks;
  for (int64_t p = 1; p < layout.partitions; ++p) {
    add_to(scratch + p * kinds * tasks, scratch, kinds * tasks);
  }
  const double *sums = scratch, *labelled = sums + tasks;
  const double* counted = call.weighted_mean ? labelled + tasks : labelled;
  const F* lambda = static_cast<const F*>(call.task_weight);
  F* task_loss = static_cast<F*>(result.task_loss.mutable_data_ptr());
  task_means(sums, labelled, task_loss, static_cast<int64_t*>(result.count.mutable_data_ptr()),
             tasks);
  const bool own = call.reduction == Reduction::kTaskMean;
  const double shared[] = {1, 1, std::accumulate(counted, counted + tasks, 0.0),
                           static_cast<double>(call.rows), 1};
  const double divisor = shared[static_cast<int>(call.reduction)];
  denominators(own ? labelled : nullptr, divisor,
               static_cast<F*>(result.denominator.mutable_data_ptr()), tasks);
  if (call.reduction == Reduction::kNone) return;
  double loss = 0;
  for (int64_t t = 0; t < tasks; ++t) {
    if (labelled[t] == 0) continue;
    const double sum = own ? sums[t] / labelled[t] : sums[t];
    loss += (lambda ? static_cast<double>(lambda[t]) : 1.0) * sum;
  }
  *static_cast<F*>(result.loss.mutable_data_ptr()) =
      static_cast<F>(loss / (divisor == 0 ? 1.0 : divisor));
}

template <class F>
void forward_as(const PointwiseCall& call, const PointwiseResult& result) {
  const Layout layout(call.rows, call.tasks, call.logits.dtype);
  const int kinds = call.weighted_mean ? 3 : 2;
  Tensor scratch =
      new_tensor(result.task_loss, {layout.partitions * kinds * call.tasks}, ScalarType::Double);
  auto* sums = static_cast<double*>(scratch.mutable_data_ptr());
  void* elements = call.reduction == Reduction::kNone ? result.loss.mutable_data_ptr() : nullptr;
  std::fill_n(sums, layout.partitions * kinds * call.tasks, 0.0);
  if (call.rows * call.tasks > 0) {
    layout.parallel(call.rows, call.tasks, [&](int64_t partition, int64_t column, int64_t columns) {
      double* own = sums + partition * kinds * call.tasks + column;
      const TaskSums out{own, own + call.tasks, kinds == 3 ? own + 2 * call.tasks : nullptr};
      forward_partition<F>(call, layout, partition, column, columns, out, elements);
    });
  }
  finish<F>(call, layout, sums, kinds, result);
}

template <class F>
void backward_as(const PointwiseCall& call, const Upstream& upstream, void* gradient) {
  const Layout layout(call.rows, call.tasks, call.logits.dtype);
  const bool none = call.reduction == Reduction::kNone;
  const F* lambda = static_cast<const F*>(call.task_weight);
  layout.parallel(call.rows, call.tasks, [&](int64_t partition, int64_t column, int64_t columns) {
    F coefficient[kMaxWidth], task_coefficient[kMaxWidth];
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t t = column + j;
      const double weight = lambda ? lambda[t] : 1.0, of_task = upstream.of_task<F>(t);
      task_coefficient[j] = static_cast<F>(of_task);
      coefficient[j] = none ? F(1) : static_cast<F>(weight * upstream.of_loss<F>(t) + of_task);
    }
    Stager<F> stager(call, layout, column, columns, coefficient);
    F buffer[kTile], upstream_tile[kTile];
    layout.walk(call.rows, partition, column, columns, [&](const Rectangle& where) {
      Tile<F> tile = stager(where);
      if (none) {
        F* multiplier = stager.spread(tile);
        const F* given = upstream.loss ? stage(upstream.loss, where, call.tasks, upstream_tile)
                                       : std::fill_n(upstream_tile, tile.size, F(0)) - tile.size;
        for (int64_t start = 0; start < tile.size; start += columns) {
          for (int64_t j = 0; j < columns; ++j) {
            const F weight = lambda ? lambda[column + j] : F(1);
            multiplier[start + j] *= weight * given[start + j] + task_coefficient[j];
          }
        }
      }
      const Sink<F> sink(gradient, call, where, tile.width, buffer);
      const auto write = [&](auto plain, auto label) {
        tile_gradients<plain(), decltype(label)>(call.loss, call.params, tile, sink.rows);
      };
      if constexpr (kManyLoops<F>) {
        visit_bool(tile.unit_positives, [&](auto plain) {
          tile.labels.data ? write(plain, int8_t{}) : write(plain, F{});
        });
      } else {
        write(std::false_type{}, F{});
      }
      sink.store();
    });
  });
}

}  // namespace

void Cpu::forward(const PointwiseCall& call, const PointwiseResult& result) {
  if (call.reduction == Reduction::kNone) prefer_huge_pages(result.loss);
  visit_compute(call.compute, [&](auto f) { forward_as<decltype(f)>(call, result); });
}

void Cpu::backward(const PointwiseCall& call, const Upstream& upstream, const Tensor& gradient) {
  prefer_huge_pages(gradient);
  visit_compute(call.compute, [&](auto f) {
    backward_as<decltype(f)>(call, upstream, gradient.mutable_data_ptr());
  });
}

}  // namespace mtlfast
