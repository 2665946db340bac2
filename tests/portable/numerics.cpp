// Checks csrc/math.h and every functor in float and double, without torch and Python: for machines
// that the tests themselves do not run on. Prints each worst error in units of what is allowed, and
// ends with status 1 where one is above 1. An argument says of how many numbers.
#include "formulas.h"
#include "rows.h"

namespace mtlfast {
namespace {

// Relative errors that are allowed in float, in double and in Wide.
struct Bounds {
  Real of_float, of_double, of_wide;
};

template <class E, class F, class Value, class Truth>
void check_in(const char* name, const char* type, Real low, Real high, Real bound,
              const std::vector<double>& seconds, const Value& value, const Truth& truth) {
  const std::vector<F> x = sweep<F>(low, high);
  std::vector<F> got(x.size());
  Real worst = 0;
  for (const double second : seconds) {
    apply<E>(x.data(), F(second), got.data(), x.size(), value);
    for (size_t i = 0; i < x.size(); ++i) {
      const Real wanted = truth(Real(x[i]), Real(F(second)));
      const Real allowed = bound * std::fabs(wanted) + std::numeric_limits<F>::min();
      worst = worse(worst, std::fabs(Real(got[i]) - wanted) / allowed);
    }
  }
  tell(name, type, worst);
}

template <class Value, class Truth>
void check(const char* name, Real low, Real high, Bounds bounds, const Value& value,
           const Truth& truth, const std::vector<double>& seconds = {0}) {
  check_in<float, float>(name, "float", low, high, bounds.of_float, seconds, value, truth);
  check_in<double, double>(name, "double", low, high, bounds.of_double, seconds, value, truth);
  if (bounds.of_wide > 0) {
    check_in<Wide, double>(name, "wide", low, high, bounds.of_wide, seconds, value, truth);
  }
}

void check_functions() {
  const auto exp = [](Real x, Real) { return std::exp(x); };
  const Bounds of_exp{1e-7L, 1e-15L, 4e-9L};
  check("exp_nonpositive", -87, 0, of_exp, [](auto x, auto) { return exp_nonpositive(x); }, exp);
  check("exp_rounded", -87, 0, of_exp, [](auto x, auto) { return exp_rounded(x); }, exp);
  check("exp_compensated", -87, 0, of_exp, [](auto x, auto) { return exp_compensated(x); }, exp);
  check(
      "log1p_unit", 0, 1, {3.8e-7L, 1e-15L, 6e-9L}, [](auto e, auto) { return log1p_unit(e); },
      [](Real e, Real) { return std::log1p(e); });
  check(
      "log_positive", 0x1p-126L, 3e38L, {1.5e-7L, 1e-15L, 2e-9L},
      [](auto u, auto) { return log_positive(u); }, [](Real u, Real) { return std::log(u); });
  check("pow_whole", 1e-4L, 1, {5e-7L, 2e-15L, 0}, [](auto u, auto g) { return pow_whole(u, g); },
        power, {0, 1, 2, 3, 4, 5, 6, 7});
  check("pow_unit", 1e-4L, 1, {3e-5L, 3e-14L, 2e-7L}, [](auto u, auto g) { return pow_unit(u, g); },
        power, {0, .5, 1, 2, 2.5, 3, 4, 7.25});
  check(
      "divide", -1, 1, {1e-7L, 1e-15L, 0}, [](auto a, auto b) { return divide(a, b); },
      [](Real a, Real b) { return a / b; }, {.3, 1.7, 3});
  const auto logistic = [](auto x) { return Logistic<decltype(x)>(x); };
  check(
      "sigmoid", -85, 85, {3e-7L, 1e-15L, 6e-9L},
      [&](auto x, auto) { return logistic(x).sigmoid().plus; },
      [](Real x, Real) { return sigmoid(x); });
  check(
      "sigmoid of -x", -85, 85, {3e-7L, 1e-15L, 6e-9L},
      [&](auto x, auto) { return logistic(x).sigmoid().minus; },
      [](Real x, Real) { return sigmoid(-x); });
  check(
      "softplus", -85, 85, {4e-7L, 1e-15L, 9e-9L},
      [&](auto x, auto) { return logistic(x).softplus().plus; },
      [](Real x, Real) { return softplus(x); });
  check(
      "softplus of -x", -85, 85, {4e-7L, 1e-15L, 9e-9L},
      [&](auto x, auto) { return logistic(x).softplus().minus; },
      [](Real x, Real) { return softplus(-x); });
}

// Down to 1e-30 five digits, where a soft label's two sides cancel their roundings, and everywhere
// 8 eps of one more than the result, in double 1e-13.
template <class Functor, class F>
void check_loss(const char* type, const Given& given, Real positive_weight) {
  constexpr bool kFloat = std::is_same_v<F, float>;
  Real worst[2] = {};
  for (const F label : {F(0), F(0.25), F(1)}) {
    std::vector<F> x = sweep<F>(-80, 80);
    std::erase_if(x, [&](F one) { return !Functor::kClassification && one == label; });
    std::vector<F> y(x.size(), label), p(x.size(), F(positive_weight)), got[2] = {x, x};
    const bool hard = label == F(0) || label == F(1);
    visit_params<Functor, F>(given, hard, [&](auto functor, auto k) {
      using Found = decltype(functor);
      loop_of_values<Found>(x.data(), y.data(), p.data(), got[0].data(), x.size(), k);
      loop_of_gradients<Found>(x.data(), y.data(), p.data(), got[1].data(), x.size(), k);
    });
    for (size_t i = 0; i < x.size(); ++i) {
      const Exact truth = exact(Functor(), x[i], label, p[i], given);
      const Real wanted[] = {truth.value, truth.gradient};
      for (int of = 0; of < 2; ++of) {
        const Real off = std::fabs(Real(got[of][i]) - wanted[of]), size = std::fabs(wanted[of]);
        const Real soft = hard ? 0 : 8 * std::numeric_limits<F>::epsilon();
        const Real tail = (kFloat ? 1e-5L : 1e-10L) * truth.near * size + kTiny + soft;
        const Real rule = (kFloat ? 8 * std::numeric_limits<float>::epsilon() : 1e-13L);
        worst[of] = worse(worst[of], worse(off / tail, off / (rule * (1 + size))));
      }
    }
  }
  char name[64];
  for (int of = 0; of < 2; ++of) {
    std::snprintf(name, sizeof(name), "%s %s", Functor::kName, of == 0 ? "value" : "gradient");
    tell(name, type, worst[of]);
  }
}

template <class Functor>
void check_loss(const Given& given, Real positive_weight = 1) {
  check_loss<Functor, float>("float", given, positive_weight);
  check_loss<Functor, double>("double", given, positive_weight);
}

void check_losses() {
  for (const Real p : {1, 3}) check_loss<BinaryCrossEntropyWithLogits>({}, p);
  for (const double gamma : {0., 2., 2.5}) check_loss<SigmoidFocalLoss>({0, .25, gamma}, 3);
  check_loss<SigmoidFocalLoss>({0, -1, 2});
  check_loss<AsymmetricLoss>({0, 4, 1, .05, 1e-8});
  check_loss<AsymmetricLoss>({0, 2.5, 1.5, .2, 1e-8});
  check_loss<AsymmetricLoss>({0, 2, 0, 0, 1e-37});
  check_loss<MseLoss>({});
  check_loss<L1Loss>({});
  check_loss<SmoothL1Loss>({0, .5});
  check_loss<SmoothL1Loss>({});
}

// A pair's part in a loss on rows, and its derivative by differences in long double.
template <class F, class Metric>
void check_metric(const char* name, Real p, bool squared) {
  Real worst = 0;
  for (const F t : sweep<F>(-8, 8)) {
    if (std::fabs(t) < F(1e-6)) continue;
    const auto distance = Metric::distance(Metric::term(t, F(p)), F(p), squared);
    const Real wanted = squared ? Real(t) * t : std::fabs(Real(t));  // of a single element
    const Real slope = squared ? 2 * Real(t) : (t < 0 ? -1 : 1);
    const Real got = Real(distance.chain) * Metric::slope(t, F(p));
    const Real allowed = 32 * std::numeric_limits<F>::epsilon();
    worst = worse(worst, std::fabs(distance.value - wanted) / (allowed * wanted));
    worst = worse(worst, std::fabs(got - slope) / (allowed * std::fabs(slope)));
  }
  tell(name, kTypeName<F>, worst);
}

// `formula` gives the loss of distances; the slopes are its differences in long double.
template <class F, class Loss, class Formula>
void check_rows(const char* name, int pairs, bool same, Loss loss, const Formula& formula) {
  const F gaps[] = {F(0.5), F(0.25)};
  Real worst = 0;
  for (int i = 0; i < 4000; ++i) {
    F d[3], slopes[3] = {};
    Real exact_d[3];
    for (int j = 0; j < pairs; ++j) {
      // Odd multiples of 1/64, apart from hinges and ties by as much.
      d[j] = F(2 * ((i * 37 + j * 101 + i / 17 * j) % 120) + 1) / 64 + F(j) / 512;
      exact_d[j] = d[j];
    }
    const RowTerms<F> terms{F(1), same, F(3), F(-1), F(2), pairs == 3 ? gaps : nullptr, pairs};
    const Real value = loss.value(d, terms, slopes), wanted = formula(exact_d);
    const Real allowed = std::is_same_v<F, float> ? 2e-5L : 1e-13L;
    worst = worse(worst, std::fabs(value - wanted) / (allowed * std::fabs(wanted) + kTiny));
    for (int j = 0; j < pairs; ++j) {
      constexpr Real kStep = 1e-4L;
      Real up[3], down[3];
      std::copy_n(exact_d, pairs, up);
      std::copy_n(exact_d, pairs, down);
      up[j] += kStep, down[j] -= kStep;
      const Real slope = (formula(up) - formula(down)) / (2 * kStep);
      worst = worse(worst, std::fabs(Real(slopes[j]) - slope) / (1e-6L + 2e-5L * std::fabs(slope)));
    }
  }
  tell(name, kTypeName<F>, worst);
}

template <class F>
void check_rows() {
  check_metric<F, Squares>("Squares", 2, false);
  check_metric<F, Squares>("Squares, squared", 2, true);
  check_metric<F, Absolutes>("Absolutes", 1, false);
  check_metric<F, Absolutes>("Absolutes, squared", 1, true);
  check_metric<F, Powers>("Powers", 3, false);
  check_metric<F, Powers>("Powers, squared", 1.5L, true);

  const auto hinge = [](Real h) { return std::max(h, Real(0)); };
  const auto half = [](Real h) { return h * h / 2; };
  check_rows<F>("contrastive, same", 1, true, ContrastiveLoss(),
                [&](const Real* d) { return half(d[0]); });
  check_rows<F>("contrastive, different", 1, false, ContrastiveLoss(),
                [&](const Real* d) { return half(hinge(1 - d[0])); });
  for (const bool same : {false, true}) {
    check_rows<F>("cosine", 1, same, CosineContrastiveLoss(), [&](const Real* d) {
      const Real logit = 3 * (1 - d[0] / 2) - 1;
      return half(same ? sigmoid(-logit) : sigmoid(logit));
    });
  }
  check_rows<F>("triplet", 2, false, TripletMarginLoss<false, false>(),
                [&](const Real* d) { return hinge(d[0] - d[1] + 1); });
  check_rows<F>("triplet, soft", 2, false, TripletMarginLoss<false, true>(),
                [&](const Real* d) { return softplus(d[0] - d[1] + 1); });
  check_rows<F>("triplet, swapped", 3, false, TripletMarginLoss<true, false>(),
                [&](const Real* d) { return hinge(d[0] - std::min(d[1], d[2]) + 1); });
  check_rows<F>("hierarchical", 3, false, HierarchicalTripletLoss(), [&](const Real* d) {
    return (hinge(d[0] - d[1] + 0.5L) + hinge(d[1] - d[2] + 0.25L)) / 2;
  });
}

}  // namespace
}  // namespace mtlfast

int main(int count, char** arguments) {
  if (count > 1) mtlfast::numbers = std::atoi(arguments[1]);
  mtlfast::check_functions();
  mtlfast::check_losses();
  mtlfast::check_rows<float>();
  mtlfast::check_rows<double>();
  return mtlfast::failed ? 1 : 0;
}
