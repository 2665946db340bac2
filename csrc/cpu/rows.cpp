// The losses on rows on the CPU.
//
// A sample is one row of each operand. Its rows are staged in double, and the passes over them hit
// the cache: squared norms while staging, then the sums of differences that the distances follow
// from, then, backwards, all gradients at once. Double between load and store serves every dtype
// with one code, keeps the digits of rows that nearly coincide, and hides behind the memory.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "convert.h"
#include "partition.h"
#include "rows_call.h"

namespace mtlfast {
namespace {

constexpr int kFused = 3;  // rows that one loop takes at once

// Copies rows into double, side by side; returns their squared norms.
template <int kRows, class T>
MTLFAST_INLINE void stage(const T* const* rows, int64_t width, double* __restrict out,
                          double* squares) {
  const T *__restrict x0 = rows[0], *__restrict x1 = rows[kRows > 1 ? 1 : 0],
          *__restrict x2 = rows[kRows > 2 ? 2 : 0];
  double s0 = 0, s1 = 0, s2 = 0;
#pragma omp simd reduction(+ : s0, s1, s2)
  for (int64_t i = 0; i < width; ++i) {
    const auto copy = [&](const T* __restrict x, int64_t row, double& sum) MTLFAST_INLINED {
      const double value = widen<double>(x[i]);
      out[row * width + i] = value;
      sum += value * value;
    };
    copy(x0, 0, s0);
    if constexpr (kRows > 1) copy(x1, 1, s1);
    if constexpr (kRows > 2) copy(x2, 2, s2);
  }
  squares[0] = s0;
  if constexpr (kRows > 1) squares[1] = s1;
  if constexpr (kRows > 2) squares[2] = s2;
}

// u_a - u_b + eps as r_a (a - (r_b / r_a) b) + eps: exactly eps where a and b are the same.
struct Difference {
  double inverse, ratio, eps;

  MTLFAST_INLINE double operator()(double a, double b) const {
    return inverse * (a - ratio * b) + eps;
  }
};

// Sums over one pair of rows: Metric::term(t), and Metric::slope(t) times either row.
struct PairSums {
  double term = 0, first = 0, second = 0;
};

// Compares row a with `kPairs` rows b.
template <class Metric, bool kDots, int kPairs>
MTLFAST_INLINE void compare(const double* __restrict a, const double* const* b,
                            const Difference* difference, double p, int64_t width,
                            PairSums* sums) {
  const double *__restrict b0 = b[0], *__restrict b1 = b[kPairs - 1];
  const Difference t0 = difference[0], t1 = difference[kPairs - 1];
  double term0 = 0, first0 = 0, second0 = 0, term1 = 0, first1 = 0, second1 = 0;
#pragma omp simd reduction(+ : term0, first0, second0, term1, first1, second1)
  for (int64_t i = 0; i < width; ++i) {
    const auto add = [&](const double* __restrict other, const Difference& apart, double& term,
                         double& first, double& second) MTLFAST_INLINED {
      const double t = apart(a[i], other[i]);
      term += Metric::term(t, p);
      if constexpr (kDots) {
        const double slope = Metric::slope(t, p);
        first += slope * a[i];
        second += slope * other[i];
      }
    };
    add(b0, t0, term0, first0, second0);
    if constexpr (kPairs == 2) add(b1, t1, term1, first1, second1);
  }
  sums[0] = {term0, first0, second0};
  if constexpr (kPairs == 2) sums[1] = {term1, first1, second1};
}

// What the gradient of a sample is made of: with s = weight * slope(t) per pair, that of row k is
// outward[k] * (sum of s, signed) - along[k] * x.
struct Coefficients {
  double weight[kMaxRows], outward[kMaxRows], along[kMaxRows];
};

// Gradients of a sample of two or three rows.
template <class Metric, int kInputs, bool kSwap, class F>
MTLFAST_INLINE void gradients(const double* __restrict x, const Difference* difference, double p,
                              const Coefficients& k, int64_t width, F* const* out) {
  const double *__restrict x0 = x, *__restrict x1 = x + width, *__restrict x2 = x1 + width;
  F *__restrict g0 = out[0], *__restrict g1 = out[1], *__restrict g2 = out[kInputs - 1];
  const Difference t0 = difference[0], t1 = difference[1], t2 = difference[2];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const double s0 = k.weight[0] * Metric::slope(t0(x0[i], x1[i]), p);
    double s1 = 0, s2 = 0;
    if constexpr (kInputs == 3) s1 = k.weight[1] * Metric::slope(t1(x0[i], x2[i]), p);
    if constexpr (kSwap) s2 = k.weight[2] * Metric::slope(t2(x1[i], x2[i]), p);
    g0[i] = static_cast<F>(k.outward[0] * (s0 + s1) - k.along[0] * x0[i]);
    g1[i] = static_cast<F>(k.outward[1] * (s2 - s0) - k.along[1] * x1[i]);
    if constexpr (kInputs == 3) {
      g2[i] = static_cast<F>(k.outward[2] * (-s1 - s2) - k.along[2] * x2[i]);
    }
  }
}

// Gradients of a longer sample, level by level; `sum` gathers the anchor's.
template <class Metric, class F>
MTLFAST_INLINE void level_gradients(const double* __restrict x, const Difference* difference,
                                    double p, const Coefficients& k, int inputs, int64_t width,
                                    double* __restrict sum, F* const* out) {
  for (int64_t i = 0; i < width; ++i) sum[i] = 0;
  for (int row = 1; row < inputs; ++row) {
    const double* __restrict y = x + row * width;
    F* __restrict g = out[row];
    const Difference t = difference[row - 1];
    const double weight = k.weight[row - 1], outward = k.outward[row], along = k.along[row];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const double s = weight * Metric::slope(t(x[i], y[i]), p);
      sum[i] += s;
      g[i] = static_cast<F>(-outward * s - along * y[i]);
    }
  }
  F* __restrict g = out[0];
  const double outward = k.outward[0], along = k.along[0];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) g[i] = static_cast<F>(outward * sum[i] - along * x[i]);
}

// Number `index` of an operand of one or N numbers in the compute type F.
template <class F>
MTLFAST_INLINE double number(const Operand& operand, int64_t index, double otherwise) {
  return operand ? static_cast<const F*>(operand.data)[index * operand.row_stride] : otherwise;
}

double evaluate(const RowsCall& call, const double* distances, const RowTerms<double>& terms,
                double* slopes) {
  double value = 0;
  visit_rows_loss(call,
                  [&](auto functor) { value = functor.value(distances, terms, slopes); });
  return value;
}

// One sample after the other of operands of type T, computed in F.
template <class T, class Metric>
class Sample {
 public:
  using F = std::conditional_t<std::is_same_v<T, double>, double, float>;

  explicit Sample(const RowsCall& call) : call_(call), staged_((call.inputs + 1) * call.width) {
    terms_.scale = call.scale ? *static_cast<const F*>(call.scale) : 1;
    terms_.bias = call.bias ? *static_cast<const F*>(call.bias) : 0;
    terms_.gaps = call.margin ? nullptr : call.gaps;
    terms_.levels = call.levels();
  }

  // The loss of a sample, before its weight. kDots: with what the gradient needs.
  template <bool kDots>
  MTLFAST_INLINE double value(int64_t index) {
    read(index);
    scale();
    const auto pairs = [&](auto count, int j) MTLFAST_INLINED {
      const RowPair* pair = call_.pair + j;
      const double* others[] = {row(pair[0].second), row(pair[count() - 1].second)};
      for (int i = j; i < j + count(); ++i) {
        const double first = inverse_[call_.pair[i].first];
        difference_[i] = {first, inverse_[call_.pair[i].second] / first, call_.eps};
      }
      compare<Metric, kDots, count()>(row(pair[0].first), others, difference_ + j, call_.p,
                                      call_.width, sums_ + j);
    };
    int j = 0;
    // One by one where the loss swaps: the distances of equal rows must tie.
    for (; j + 1 < call_.pairs && !call_.swap; j += 2) {
      pairs(std::integral_constant<int, 2>{}, j);
    }
    for (; j < call_.pairs; ++j) pairs(std::integral_constant<int, 1>{}, j);
    for (int i = 0; i < call_.pairs; ++i) {
      const auto distance = Metric::distance(sums_[i].term, call_.p, call_.squared);
      distances_[i] = distance.value;
      chains_[i] = distance.chain;
    }
    terms_.margin = number<F>(call_.margin, index, call_.margin_value);
    terms_.same = call_.same && static_cast<const uint8_t*>(
                                    call_.same.data)[index * call_.same.row_stride] != 0;
    terms_.overlap = length_[0] + length_[1];
    return evaluate(call_, distances_, terms_, slopes_);
  }

  // After value(): the gradients of the sample's rows, times `coefficient`.
  template <bool kDots>
  MTLFAST_INLINE void grad(double coefficient, F* const* out) {
    Coefficients k;
    bool zero = true;
    for (int j = 0; j < call_.pairs; ++j) {
      k.weight[j] = coefficient * slopes_[j] * chains_[j];
      zero = zero && k.weight[j] == 0 && sums_[j].term - sums_[j].term == 0;
    }
    if (zero) {  // nothing to do, unless an inf or NaN is to be passed on
      for (int row = 0; row < call_.inputs; ++row) std::fill_n(out[row], call_.width, F(0));
      return;
    }
    for (int row = 0; row < call_.inputs; ++row) {
      k.along[row] = 0;
      k.outward[row] = short_[row] ? 0 : inverse_[row];
    }
    for (int j = 0; call_.normalize && j < call_.pairs; ++j) {
      const auto [a, b] = call_.pair[j];
      double first = sums_[j].first * inverse_[a], second = sums_[j].second * inverse_[b];
      if constexpr (!kDots) {  // t.u_a and t.u_b from |u_a|, |u_b| and |t|
        first = 0.5 * (length_[a] - length_[b] + sums_[j].term);
        second = 0.5 * (length_[a] - length_[b] - sums_[j].term);
      }
      k.along[a] += k.outward[a] * k.outward[a] * k.weight[j] * first;
      k.along[b] -= k.outward[b] * k.outward[b] * k.weight[j] * second;
    }
    const double* x = staged_.data();
    const int64_t width = call_.width;
    if (call_.inputs == 2) {
      gradients<Metric, 2, false>(x, difference_, call_.p, k, width, out);
    } else if (call_.inputs > 3) {
      level_gradients<Metric>(x, difference_, call_.p, k, call_.inputs, width,
                              row(call_.inputs), out);
    } else if (call_.swap) {
      gradients<Metric, 3, true>(x, difference_, call_.p, k, width, out);
    } else {
      gradients<Metric, 3, false>(x, difference_, call_.p, k, width, out);
    }
  }

 private:
  double* row(int index) { return staged_.data() + index * call_.width; }

  MTLFAST_INLINE void read(int64_t index) {
    const T* rows[kMaxRows];
    for (int i = 0; i < call_.inputs; ++i) {
      rows[i] = static_cast<const T*>(call_.rows[i].data) + index * call_.rows[i].row_stride;
    }
    int i = 0;
    for (; i + 3 <= call_.inputs; i += 3) stage<3>(rows + i, call_.width, row(i), length_ + i);
    if (call_.inputs - i == 2) stage<2>(rows + i, call_.width, row(i), length_ + i);
    if (call_.inputs - i == 1) stage<1>(rows + i, call_.width, row(i), length_ + i);
  }

  // From |x|^2 to how a row enters and what |u|^2 becomes.
  MTLFAST_INLINE void scale() {
    for (int i = 0; i < call_.inputs; ++i) {
      const double norm = square_root(length_[i]);
      short_[i] = call_.normalize && norm < kSmallestNorm;
      inverse_[i] = !call_.normalize ? 1 : 1 / (short_[i] ? kSmallestNorm : norm);
      length_[i] = short_[i] ? length_[i] * inverse_[i] * inverse_[i] : 1;
    }
  }

  const RowsCall& call_;
  std::vector<double> staged_;  // the rows, and one to spare
  RowTerms<double> terms_;
  double length_[kMaxRows], inverse_[kMaxRows], distances_[kMaxRows], chains_[kMaxRows],
      slopes_[kMaxRows];
  bool short_[kMaxRows];
  Difference difference_[kMaxRows];
  PairSums sums_[kMaxRows];
};

// A partition's sum of losses, and its samples with a positive one.
struct RowSums {
  double loss, positive;
};

template <class T>
MTLFAST_INLINE T narrowed(double value) {
  if constexpr (std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>) {
    return narrow<T>(static_cast<float>(value));
  } else {
    return static_cast<T>(value);
  }
}

template <class T, class Metric>
MTLFAST_CLONES void forward_partition(const RowsCall& call, int64_t begin, int64_t end,
                                      RowSums* sums, T* elements) {
  Sample<T, Metric> sample(call);
  using F = typename Sample<T, Metric>::F;
  *sums = {0, 0};
  for (int64_t i = begin; i < end; ++i) {
    const double value = sample.template value<false>(i);
    const double weighted = value * number<F>(call.sample_weight, i, 1);
    sums->loss += weighted;
    sums->positive += value > 0 ? 1 : 0;
    if (elements != nullptr) elements[i] = narrowed<T>(weighted);
  }
}

template <class T, class Metric, bool kDots>
MTLFAST_CLONES void backward_partition(const RowsCall& call, const RowsUpstream& upstream,
                                       int64_t begin, int64_t end, void* const* wanted) {
  Sample<T, Metric> sample(call);
  using F = typename Sample<T, Metric>::F;
  constexpr bool kNarrow = !std::is_same_v<T, F>;
  const double share = 1 / double{*static_cast<const F*>(upstream.denominator)};
  std::vector<F> buffer(call.inputs * call.width);
  F* out[kMaxRows];
  for (int64_t i = begin; i < end; ++i) {
    for (int row = 0; row < call.inputs; ++row) {
      out[row] = buffer.data() + row * call.width;
      if (!kNarrow && wanted[row]) out[row] = static_cast<F*>(wanted[row]) + i * call.width;
    }
    double coefficient = share * number<F>(call.sample_weight, i, 1);
    if (call.reduction == Reduction::kNone) {
      const T* given = static_cast<const T*>(upstream.loss.data);
      coefficient *= widen<double>(given[i * upstream.loss.row_stride]);
    } else {
      coefficient *= *static_cast<const F*>(upstream.loss.data);
    }
    sample.template value<kDots>(i);
    sample.template grad<kDots>(coefficient, out);
    if constexpr (kNarrow) {
      for (int row = 0; row < call.inputs; ++row) {
        if (wanted[row] == nullptr) continue;
        narrow_all(out[row], static_cast<T*>(wanted[row]) + i * call.width, call.width);
      }
    }
  }
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

// Calls visit(T{}, Metric{}).
template <class Visit>
void visit_rows(const RowsCall& call, const Visit& visit) {
  visit_metric(call.metric, [&](auto metric) {
    switch (call.dtype) {
      case ScalarType::Double:
        return visit(double{}, metric);
      case ScalarType::BFloat16:
        return visit(BFloat16{}, metric);
      case ScalarType::Half:
        return visit(Half{}, metric);
      default:
        return visit(float{}, metric);
    }
  });
}

std::tuple<Tensor, Tensor> rows_forward(const std::vector<Tensor>& rows, const OptionalTensor& same,
                                        const OptionalTensor& margin,
                                        const OptionalTensor& sample_weight,
                                        const OptionalTensor& scale, const OptionalTensor& bias,
                                        const std::string& loss, const std::vector<double>& params,
                                        const std::string& reduction) {
  const auto call =
      parse_rows(rows, same, margin, sample_weight, scale, bias, loss, params, reduction);
  const RowsResult result(call, rows[0]);
  const RowPartitions partitions(call);
  RowSums sums[kMaxPartitions] = {};
  const bool none = call.reduction == Reduction::kNone;
  void* elements = none && call.samples > 0 ? result.loss.mutable_data_ptr() : nullptr;
  visit_rows(call, [&](auto t, auto metric) {
    using T = decltype(t);
    partitions.parallel(call, [&](int64_t i, int64_t begin, int64_t end) {
      forward_partition<T, decltype(metric)>(call, begin, end, sums + i,
                                             static_cast<T*>(elements));
    });
  });
  RowSums total{0, 0};
  for (const RowSums& each : sums) {
    total.loss += each.loss;
    total.positive += each.positive;
  }
  double denominator = 1;
  if (call.reduction == Reduction::kMean) denominator = static_cast<double>(call.samples);
  if (call.reduction == Reduction::kNonzero) denominator = total.positive;
  denominator = std::max(denominator, 1.0);
  visit_compute(call.compute, [&](auto f) {
    using F = decltype(f);
    *static_cast<F*>(result.denominator.mutable_data_ptr()) = static_cast<F>(denominator);
    if (!none) {
      *static_cast<F*>(result.loss.mutable_data_ptr()) = static_cast<F>(total.loss / denominator);
    }
  });
  return result.as_tuple();
}

std::vector<Tensor> rows_backward(const Tensor& grad_loss, const std::vector<Tensor>& rows,
                                  const OptionalTensor& same, const OptionalTensor& margin,
                                  const OptionalTensor& sample_weight, const OptionalTensor& scale,
                                  const OptionalTensor& bias, const Tensor& denominator,
                                  const std::string& loss, const std::vector<double>& params,
                                  const std::string& reduction,
                                  const std::vector<int64_t>& wanted) {
  const auto call =
      parse_rows(rows, same, margin, sample_weight, scale, bias, loss, params, reduction);
  const auto upstream = parse_rows_upstream(call, grad_loss, denominator, rows[0]);
  RowsGradients gradients(call, rows[0], wanted);
  const bool dots = call.normalize && (call.metric != Metric::kSquares || call.eps != 0);
  visit_rows(call, [&](auto t, auto metric) {
    using T = decltype(t);
    using M = decltype(metric);
    const auto work = dots ? backward_partition<T, M, true> : backward_partition<T, M, false>;
    RowPartitions(call).parallel(call, [&](int64_t, int64_t begin, int64_t end) {
      work(call, upstream, begin, end, gradients.data);
    });
  });
  return gradients.tensors;
}

}  // namespace
}  // namespace mtlfast

STABLE_TORCH_LIBRARY_IMPL(mtlfast, CPU, library) {
  library.impl("rows_forward", TORCH_BOX(&mtlfast::rows_forward));
  library.impl("rows_backward", TORCH_BOX(&mtlfast::rows_backward));
}
