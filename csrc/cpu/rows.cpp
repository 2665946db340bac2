// The losses on rows on the CPU: forward and backward over samples (sample.h).
#include <vector>

#include "devices.h"
#include "output.h"
#include "sample.h"

namespace mtlfast {
namespace {

// Number i of an (N,) output like the rows.
void set_element(void* elements, ScalarType dtype, int64_t i, double value) {
  visit_floating(dtype, [&](auto t) {
    using T = decltype(t);
    if constexpr (std::is_floating_point_v<T>) {
      static_cast<T*>(elements)[i] = static_cast<T>(value);
    } else {
      static_cast<T*>(elements)[i] = narrow<T>(static_cast<float>(value));
    }
  });
}

double element(const Operand& elements, int64_t i) {
  double value = 0;
  visit_floating(elements.dtype, [&](auto t) {
    value = widen<double>(static_cast<const decltype(t)*>(elements.data)[i * elements.row_stride]);
  });
  return value;
}

// A partition's sum of losses, and its samples with a positive one: all of a soft loss, which may
// underflow.
struct RowSums {
  double loss, positive;
};

template <class Metric, class A, class F>
MTLFAST_CLONES void forward_partition(const RowsCall& call, int64_t begin, int64_t end,
                                      RowSums* sums, void* elements) {
  Sample<Metric, false, A, F> sample(call);
  for (int64_t i = begin; i < end; ++i) {
    const double value = sample.value(i), weighted = value * number(call.sample_weight, i, 1);
    sums->loss += weighted;
    sums->positive += call.soft || value > 0 ? 1 : 0;
    if (elements != nullptr) set_element(elements, call.dtype, i, weighted);
  }
}

// Rows of gradients in F, of whole blocks: the outputs themselves, or buffers to be stored there.
template <class F>
class GradientRows {
 public:
  GradientRows(const RowsCall& call, void* const* wanted, bool streamed)
      : call_(call),
        wanted_(wanted),
        stride_(staged_stride<F>(call.width)),
        streamed_(streamed && call.dtype == call.compute),
        in_place_(!streamed_ && call.dtype == call.compute &&
                  call.width == whole_blocks(call.width)),
        buffer_(call.inputs * stride_) {}

  F* const* at(int64_t index) {
    for (int row = 0; row < call_.inputs; ++row) {
      const bool direct = in_place_ && wanted_[row] != nullptr;
      out_[row] = direct ? static_cast<F*>(wanted_[row]) + index * call_.width
                         : buffer_.data() + row * stride_;
    }
    return out_;
  }

  void store(int64_t index) const {
    if (in_place_) return;
    visit_floating(call_.dtype, [&](auto t) {
      using T = decltype(t);
      for (int row = 0; row < call_.inputs; ++row) {
        if (wanted_[row] == nullptr) continue;
        T* to = static_cast<T*>(wanted_[row]) + index * call_.width;
        if constexpr (std::is_same_v<T, F>) {
          const int64_t bytes = call_.width * static_cast<int64_t>(sizeof(T));
          if (streamed_) {
            stream(out_[row], to, bytes);
          } else {
            std::memcpy(to, out_[row], bytes);
          }
        } else if constexpr (!std::is_floating_point_v<T>) {
          narrow_all(out_[row], to, call_.width);
        }
      }
    });
  }

 private:
  const RowsCall& call_;
  void* const* wanted_;
  int64_t stride_;
  bool streamed_, in_place_;
  std::vector<F> buffer_;
  F* out_[kMaxRows];
};

template <class Metric, bool kDots, class A, class F>
MTLFAST_CLONES void backward_partition(const RowsCall& call, const RowsUpstream& upstream,
                                       int64_t begin, int64_t end, void* const* wanted,
                                       bool streamed) {
  Sample<Metric, kDots, A, F> sample(call);
  const double share = 1 / number({upstream.denominator, call.compute, 0, 0}, 0, 1);
  GradientRows<F> gradients(call, wanted, streamed);
  for (int64_t i = begin; i < end; ++i) {
    sample.value(i);
    sample.grad(share * number(call.sample_weight, i, 1) * element(upstream.loss, i),
                gradients.at(i));
    gradients.store(i);
  }
  if (streamed) end_streams();
}

// The samples in partitions.
struct RowPartitions {
  int64_t work;  // of one sample, in elements; the constant is what a sample costs beside its rows
  int64_t size, count;

  explicit RowPartitions(const RowsCall& call) : work(call.inputs * call.width + 64) {
    const int64_t wanted = std::min(call.samples * work / kMinPartition, kMaxPartitions);
    size = std::max<int64_t>(divide_up(call.samples, std::max<int64_t>(wanted, 1)), 1);
    count = std::max<int64_t>(divide_up(call.samples, size), 1);
  }

  template <class Work>
  void parallel(const RowsCall& call, const Work& partition) const {
    for_partitions(count, size * work, [&](int64_t i) {
      partition(i, i * size, std::min(call.samples, (i + 1) * size));
    });
  }
};

}  // namespace

void Cpu::forward(const RowsCall& call, const RowsResult& result) {
  const bool none = call.reduction == Reduction::kNone;
  void* elements = none && call.samples > 0 ? result.loss.mutable_data_ptr() : nullptr;
  RowSums sums[kMaxPartitions] = {};
  const auto run = [&](auto partition) {
    RowPartitions(call).parallel(call, [&](int64_t i, int64_t begin, int64_t end) {
      partition(call, begin, end, sums + i, elements);
    });
  };
  if (float_serves(call)) {
    run(forward_partition<Squares, float, float>);
  } else {
    visit_metric(call.metric, [&](auto metric) {
      visit_compute(call.compute,
                    [&](auto f) { run(forward_partition<decltype(metric), double, decltype(f)>); });
    });
  }
  RowSums total{0, 0};
  for (const RowSums& each : sums) {
    total.loss += each.loss;
    total.positive += each.positive;
  }
  double denominator = 1;
  if (call.reduction == Reduction::kMean) denominator = static_cast<double>(call.samples);
  if (call.reduction == Reduction::kNonzero) denominator = total.positive;
  denominator = std::max(denominator, 1.0);
  set_element(result.denominator.mutable_data_ptr(), call.compute, 0, denominator);
  if (!none) {
    set_element(result.loss.mutable_data_ptr(), call.compute, 0, total.loss / denominator);
  }
}

void Cpu::backward(const RowsCall& call, const RowsUpstream& upstream,
                   const RowsGradients& gradients) {
  int64_t bytes = 0;
  for (const Tensor& each : gradients.tensors) {
    prefer_huge_pages(each);
    bytes += each.numel() * static_cast<int64_t>(each.element_size());
  }
  const auto run = [&](auto partition) {
    RowPartitions(call).parallel(call, [&](int64_t, int64_t begin, int64_t end) {
      partition(call, upstream, begin, end, gradients.data, bytes >= kStreamed);
    });
  };
  if (float_serves(call)) return run(backward_partition<Squares, false, float, float>);
  visit_metric(call.metric, [&](auto metric) {
    visit_compute(call.compute, [&](auto f) {
      using M = decltype(metric);
      using F = decltype(f);
      if constexpr (std::is_same_v<F, double>) {
        run(backward_partition<M, false, double, F>);
      } else if (std::is_same_v<M, Squares> && (!call.normalize || call.eps == 0)) {
        run(backward_partition<M, false, double, F>);
      } else {
        run(backward_partition<M, true, double, F>);
      }
    });
  });
}

}  // namespace mtlfast
