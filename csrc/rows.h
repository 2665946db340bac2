// The losses on rows of embeddings: how two rows are compared, and what a loss makes of the
// distances. Used by the CPU and the CUDA kernels alike; kernels/row_losses.py mirrors the names,
// mtlfast/ops/reference.py is the specification.
//
// Row a enters as u_a = r_a a, where r_a = 1 / |a| if the call normalises, else 1. A pair (a, b)
// is compared element by element, t = u_a - u_b + eps, and its distance d follows from the sum S of
// Metric::term(t) over the row: dd/dt = chain * Metric::slope(t). Differences, not dot products:
// 2 - 2 u_a . u_b loses its digits where rows nearly coincide, as trained embeddings do.
#pragma once

#include "logistic.h"
#include "parameters.h"

namespace mtlfast {

// Rows shorter than this are not normalised to noise: they enter as a / kSmallestNorm and get
// gradient 0.
constexpr double kSmallestNorm = 1e-12;

template <class F>
struct Distance {
  F value, chain;
};

template <class F>
MTLFAST_INLINE F square_root(F x) {
  return ::sqrt(x);
}
template <>
MTLFAST_INLINE float square_root(float x) {
  return ::sqrtf(x);
}

template <class F>
MTLFAST_INLINE F sign(F t) {
  return t > F(0) ? F(1) : (t < F(0) ? F(-1) : t);  // 0 at 0, NaN at NaN
}

// p = 2.
struct Squares {
  template <class F>
  MTLFAST_INLINE static F term(F t, F) {
    return t * t;
  }
  template <class F>
  MTLFAST_INLINE static F slope(F t, F) {
    return t;
  }
  template <class F>
  MTLFAST_INLINE static Distance<F> distance(F sum, F, bool squared) {
    if (squared) return {sum, F(2)};
    const F d = square_root(sum);
    return {d, d == F(0) ? F(0) : divide(F(1), d)};
  }
};

// p = 1.
struct Absolutes {
  template <class F>
  MTLFAST_INLINE static F term(F t, F) {
    return abs(t);
  }
  template <class F>
  MTLFAST_INLINE static F slope(F t, F) {
    return sign(t);
  }
  template <class F>
  MTLFAST_INLINE static Distance<F> distance(F sum, F, bool squared) {
    return squared ? Distance<F>{sum * sum, F(2) * sum} : Distance<F>{sum, F(1)};
  }
};

// Any other p in (0, inf): a libm pow per element, for completeness, not for speed.
struct Powers {
  template <class F>
  MTLFAST_INLINE static F term(F t, F p) {
    return ::pow(abs(t), p);
  }
  template <class F>
  MTLFAST_INLINE static F slope(F t, F p) {
    return t == F(0) ? F(0) : sign(t) * ::pow(abs(t), p - F(1));
  }
  template <class F>
  MTLFAST_INLINE static Distance<F> distance(F sum, F p, bool squared) {
    const F d = ::pow(sum, F(1) / p);
    const F chain = d == F(0) ? F(0) : ::pow(d, F(1) - p);
    return squared ? Distance<F>{d * d, F(2) * d * chain} : Distance<F>{d, chain};
  }
};

// What a loss sees of row i beside its distances.
template <class F>
struct RowTerms {
  F margin;
  bool same;
  F scale, bias;  // of the cosine form
  F overlap;      // |u_0|^2 + |u_1|^2, 2 unless a row is too short to normalise
  const F* gaps;  // hierarchical: m_k - m_{k+1}, one less than the levels
  int levels;
};

template <class F>
MTLFAST_INLINE F hinge(F h) {
  return h < F(0) ? F(0) : h;  // NaN passes
}
template <class F>
MTLFAST_INLINE F hinge_slope(F h) {
  return h >= F(0) ? F(1) : F(0);  // 1 at the edge
}

// A functor returns the loss of one row from its pairs' distances d, and writes the derivatives
// dl/dd to `slopes`. Pairs are (0, 1), (0, 2) ...; last (1, 2) where the loss swaps.

// Half d^2 for a pair of the same class, half the squared hinge on the distance else.
struct ContrastiveLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    const F h = row.same ? d[0] : hinge(row.margin - d[0]);
    slopes[0] = row.same ? h : -h;
    return F(0.5) * h * h;
  }
};

// Half (y - sigmoid(scale cos + bias))^2; d is the squared distance of the unit rows.
struct CosineContrastiveLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    const F cosine = F(0.5) * (row.overlap - d[0]);
    const auto sigmoid = Logistic<F>(row.scale * cosine + row.bias).sigmoid();
    const F residual = row.same ? sigmoid.minus : -sigmoid.plus;  // y - sigmoid
    slopes[0] = F(0.5) * residual * sigmoid.plus * sigmoid.minus * row.scale;
    return F(0.5) * residual * residual;
  }
};

// max(0, d_ap - d_an + margin); kSwap: with d_pn instead of d_an where it is smaller; kSoft:
// softplus instead of the hinge.
template <bool kSwap, bool kSoft>
struct TripletMarginLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    F negative = d[1];
    if constexpr (kSwap) negative = d[2] < d[1] || d[2] != d[2] ? d[2] : d[1];
    const F h = d[0] - negative + row.margin;
    F value, slope;
    if constexpr (kSoft) {
      const Logistic<F> logistic(h);
      value = logistic.softplus().plus;
      slope = logistic.sigmoid().plus;
    } else {
      value = hinge(h);
      slope = hinge_slope(h);
    }
    slopes[0] = slope;
    slopes[1] = -slope;
    if constexpr (kSwap) {
      const F share = d[2] < d[1] ? F(1) : (d[2] == d[1] ? F(0.5) : F(0));  // as torch.minimum
      slopes[1] = -slope * (F(1) - share);
      slopes[2] = -slope * share;
    }
    return value;
  }
};

// Half the sum over k of max(0, d_k - d_{k+1} + m_k - m_{k+1}), levels from nearest to farthest.
// Two levels are the normalised triplet.
struct HierarchicalTripletLoss {
  template <class F>
  MTLFAST_INLINE static F value(const F* d, const RowTerms<F>& row, F* slopes) {
    F value = F(0);
    slopes[0] = F(0);
    for (int k = 0; k + 1 < row.levels; ++k) {
      const F h = d[k] - d[k + 1] + (row.gaps == nullptr ? row.margin : row.gaps[k]);
      value += hinge(h);
      slopes[k] += F(0.5) * hinge_slope(h);
      slopes[k + 1] = F(-0.5) * hinge_slope(h);
    }
    return F(0.5) * value;
  }
};

// The parameters of a loss; `gaps` is the first of as many as there are.
namespace parameters_of {
struct contrastive_loss {
  MTLFAST_PARAMETERS(margin, distance, normalize);
};
struct triplet_margin_loss {
  MTLFAST_PARAMETERS(margin, p, eps, swap, normalize, squared, soft);
};
struct hierarchical_triplet_loss {
  MTLFAST_PARAMETERS(squared, gaps);
};
}  // namespace parameters_of

// The names as in MF, in the order of their numbers; a call's settings choose among a name's
// functors.
#define MTLFAST_ROWS_LOSSES(X) \
  X(contrastive_loss)          \
  X(triplet_margin_loss)       \
  X(hierarchical_triplet_loss)

}  // namespace mtlfast
