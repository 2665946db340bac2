// What a rows op was called with: parsed and checked once, for every device.
#pragma once

#include <cmath>

#include "call.h"
#include "rows.h"

namespace mtlfast {

constexpr int kMaxRows = 32;  // the anchor and 31 levels

enum class Metric : int { kSquares, kAbsolutes, kPowers };
enum class RowsLoss : int { kContrastive, kCosineContrastive, kTriplet, kHierarchical };

enum class RowsName : int {
#define MTLFAST_ENUMERATE(name) name,
  MTLFAST_ROWS_LOSSES(MTLFAST_ENUMERATE)
#undef MTLFAST_ENUMERATE
};

constexpr const char* kRowsNames[] = {
#define MTLFAST_NAME(name) #name,
    MTLFAST_ROWS_LOSSES(MTLFAST_NAME)
#undef MTLFAST_NAME
};

// Rows first and second of a sample, whose distance the loss sees.
struct RowPair {
  int first, second;
};

struct RowsCall {
  int64_t samples, width;     // N, D
  int inputs = 0;             // rows in a sample
  Operand rows[kMaxRows];     // (N, D), column_stride 1
  ScalarType dtype, compute;  // of the rows; Float, or Double for Double rows
  int pairs = 0;              // distances in a sample
  RowPair pair[kMaxRows];     // (0, 1), (0, 2) ...; last (1, 2) where the loss swaps
  RowsLoss loss;
  Metric metric = Metric::kSquares;
  Reduction reduction;
  double p = 2, eps = 0;
  bool normalize = false, squared = false, swap = false, soft = false;
  double margin_value = 0;                       // where there is no margin tensor
  double gaps[kMaxRows] = {0};                   // hierarchical: m_k - m_{k+1}
  Operand same, margin, sample_weight;           // (N,): row_stride alone counts
  const void *scale = nullptr, *bias = nullptr;  // 0-dimensional, of dtype compute

  int levels() const { return inputs - 1; }
};

// Calls visit(Functor{}) with the call's functor of rows.h.
template <class Visit>
MTLFAST_INLINE void visit_rows_loss(const RowsCall& call, Visit&& visit) {
  switch (call.loss) {
    case RowsLoss::kContrastive:
      return visit(ContrastiveLoss{});
    case RowsLoss::kCosineContrastive:
      return visit(CosineContrastiveLoss{});
    case RowsLoss::kTriplet:
      if (call.swap && call.soft) return visit(TripletMarginLoss<true, true>{});
      if (call.swap) return visit(TripletMarginLoss<true, false>{});
      if (call.soft) return visit(TripletMarginLoss<false, true>{});
      return visit(TripletMarginLoss<false, false>{});
    case RowsLoss::kHierarchical:
      return visit(HierarchicalTripletLoss{});
  }
}

// Calls visit(Metric{}) with the call's metric of rows.h.
template <class Visit>
inline MTLFAST_INLINED void visit_metric(Metric metric, Visit&& visit) {
  switch (metric) {
    case Metric::kSquares:
      return visit(Squares{});
    case Metric::kAbsolutes:
      return visit(Absolutes{});
    case Metric::kPowers:
      return visit(Powers{});
  }
}

// An (N,) tensor of any stride, or none.
inline Operand per_sample(const char* name, const OptionalTensor& tensor, const Tensor& rows,
                          ScalarType dtype) {
  if (!tensor) return {};
  require_readable(name, *tensor, rows);
  require_dtype(name, *tensor, dtype);
  require(tensor->dim() == 1 && tensor->size(0) == rows.size(0), name, " must be (N,).");
  const bool empty = tensor->numel() == 0;
  return {empty ? nullptr : tensor->const_data_ptr(), dtype, tensor->stride(0), 1};
}

inline void parse_rows_loss(RowsName loss, const std::vector<double>& params, RowsCall* call) {
  const auto takes = [&](bool right, const char* wanted) {
    require(right, kRowsNames[static_cast<int>(loss)], " takes ", wanted, "; got ", call->inputs,
            " rows and ", params.size(), " params.");
  };
  if (loss == RowsName::contrastive_loss) {
    takes(call->inputs == 2 && params.size() == 3, "2 rows and 3 params");
    const auto given = named<parameters_of::contrastive_loss, double>(params.data());
    const bool cosine = given.distance == 2;
    call->loss = cosine ? RowsLoss::kCosineContrastive : RowsLoss::kContrastive;
    call->margin_value = given.margin;
    call->p = given.distance == 1 ? 1 : 2;
    call->normalize = cosine || given.normalize != 0;
    call->squared = cosine;
  } else if (loss == RowsName::triplet_margin_loss) {
    takes(call->inputs == 3 && params.size() == 7, "3 rows and 7 params");
    const auto given = named<parameters_of::triplet_margin_loss, double>(params.data());
    call->loss = RowsLoss::kTriplet;
    call->margin_value = given.margin;
    call->p = given.p;
    call->eps = given.eps;
    call->swap = given.swap != 0;
    call->normalize = given.normalize != 0;
    call->squared = given.squared != 0;
    call->soft = given.soft != 0;
    require(call->p > 0 && std::isfinite(call->p), "p must be positive and finite; got ", call->p,
            "; use backend='reference'.");
  } else {
    takes(call->inputs >= 3 && params.size() + 1 == static_cast<size_t>(call->inputs),
          "an anchor, K >= 2 levels and K params");
    const auto given = named<parameters_of::hierarchical_triplet_loss, double>(params.data());
    call->loss = RowsLoss::kHierarchical;
    call->squared = given.squared != 0;
    call->normalize = true;
    std::copy(params.begin() + 1, params.end(), call->gaps);
  }
  call->metric = call->p == 2   ? Metric::kSquares
                 : call->p == 1 ? Metric::kAbsolutes
                                : Metric::kPowers;
  for (int row = 1; row < call->inputs; ++row) call->pair[call->pairs++] = {0, row};
  if (call->swap) call->pair[call->pairs++] = {1, 2};
}

// What both rows ops are given.
struct RowsOperands {
  const std::vector<Tensor>& rows;                      // (N, D) each; the anchor, or x1, is first
  const OptionalTensor &same, &margin, &sample_weight;  // (N,)
  const OptionalTensor &scale, &bias;                   // one number each
  int64_t loss;                                         // its number
  const std::vector<double>& params;
  int64_t reduction;  // its number
};

inline RowsCall parse_rows(const RowsOperands& given) {
  RowsCall call;
  const std::vector<Tensor>& rows = given.rows;
  require(rows.size() >= 2 && rows.size() <= kMaxRows, "rows must be 2 to ", kMaxRows,
          " tensors; got ", rows.size(), ".");
  call.inputs = static_cast<int>(rows.size());
  parse_rows_loss(numbered<RowsName>("loss", given.loss, kRowsNames), given.params, &call);
  call.reduction = numbered<Reduction>("reduction", given.reduction, kReductionNames);
  require(call.reduction != Reduction::kBatchMean && call.reduction != Reduction::kTaskMean,
          "no rows loss has the reduction batchmean or taskmean.");
  const Tensor& first = rows[0];
  require(first.defined(), "rows must be tensors.");
  call.dtype = first.scalar_type();
  call.compute = compute_dtype("rows", call.dtype);
  require(first.dim() == 2 && first.size(1) >= 1, "rows must be (N, D) with D >= 1.");
  call.samples = first.size(0);
  call.width = first.size(1);
  for (int i = 0; i < call.inputs; ++i) {
    call.rows[i] = operand("rows", rows[i], first, call.dtype);
    require(call.width == 1 || call.samples == 0 || call.rows[i].column_stride == 1,
            "the elements of a row must lie side by side.");
  }
  require(given.same.has_value() ==
              (call.loss == RowsLoss::kContrastive || call.loss == RowsLoss::kCosineContrastive),
          "contrastive_loss, and it alone, takes same.");
  require(!given.margin || call.loss != RowsLoss::kHierarchical || call.inputs == 3,
          "hierarchical_triplet_loss takes a margin tensor with two levels only.");
  require((!given.scale && !given.bias) || call.loss == RowsLoss::kCosineContrastive,
          "scale and bias belong to the cosine distance.");
  call.same = per_sample("same", given.same, first, ScalarType::Bool);
  call.margin = per_sample("margin", given.margin, first, call.compute);
  call.sample_weight = per_sample("sample_weight", given.sample_weight, first, call.compute);
  call.scale = scalar("scale", given.scale, first, call.compute);
  call.bias = scalar("bias", given.bias, first, call.compute);
  return call;
}

// The gradient of what the forward returned, and its denominator: a sample's coefficient is
// loss x sample_weight / denominator.
struct RowsUpstream {
  Operand loss;             // (N,) like the rows for "none", else one number of the compute dtype
  const void* denominator;  // of the compute dtype
};

inline RowsUpstream parse_rows_upstream(const RowsCall& call, const Tensor& grad_loss,
                                        const Tensor& denominator, const Tensor& rows) {
  RowsUpstream upstream;
  if (call.reduction == Reduction::kNone) {
    upstream.loss = per_sample("grad_loss", grad_loss, rows, call.dtype);
  } else {
    upstream.loss = {scalar("grad_loss", grad_loss, rows, call.compute), call.compute, 0, 0};
  }
  upstream.denominator = scalar("denominator", denominator, rows, call.compute);
  return upstream;
}

}  // namespace mtlfast
