"""The backward kernel: gradient = coefficient x derivative, recomputed from logits and targets."""
# ruff: noqa: SIM102 -- Triton decides about a constant before it compiles what the other says.

import triton
import triton.language as tl

from .pointwise_operands import (
    ABSENT,
    GRAD_LOSS,
    POS_WEIGHT,
    SHAPES,
    STRIDES,
    decode,
    evaluate,
    factor_of,
    read_batch,
    read_columns,
    read_rest,
    walk,
)


@triton.jit
def _grad(
    step, inside, smoothing, params, gradient, at, coefficient, task_coefficient,
    GRAD: tl.constexpr, POWERS: tl.constexpr, CLASSIFICATION: tl.constexpr, LAYOUTS: tl.constexpr,
    SIDED: tl.constexpr,
):  # fmt: skip
    # Stores the gradients of one step; returns the labels.
    x, y, present = decode(step, inside, smoothing, CLASSIFICATION, LAYOUTS, SIDED)
    if LAYOUTS[GRAD_LOSS] != ABSENT:
        coefficient = coefficient * step[2][GRAD_LOSS].to(tl.float32) + task_coefficient
    grad = evaluate(x, y, step[2][POS_WEIGHT], params, GRAD, POWERS, SIDED)
    if SIDED:
        grad = tl.where(y > 0, -grad, grad)
    grad = tl.where(present, grad * (factor_of(step[2], LAYOUTS) * coefficient), 0.0)
    if inside is None:
        tl.store(gradient + at, grad.to(gradient.dtype.element_ty))
    else:
        tl.store(gradient + at, grad.to(gradient.dtype.element_ty), inside)
    return y


@triton.jit
def _grads_of_rest(
    begin, end, tensors, strides, columns, walked, smoothing, params, gradient, coefficient,
    task_coefficient, most, GRAD: tl.constexpr, POWERS: tl.constexpr,
    CLASSIFICATION: tl.constexpr, LAYOUTS: tl.constexpr, SIDED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    HEIGHT: tl.constexpr = most.shape[0]
    for first in range(begin, end, HEIGHT):
        step, inside, at = read_rest(
            first, end, tensors, strides, columns, walked, LAYOUTS, ALIGN
        )  # fmt: skip
        y = _grad(
            step, inside, smoothing, params, gradient, at, coefficient,
            task_coefficient, GRAD, POWERS, CLASSIFICATION, LAYOUTS, SIDED,
        )  # fmt: skip
        if SIDED:
            most = tl.maximum(most, y)
    return most


@triton.jit(do_not_specialize=[*SHAPES, *STRIDES, "grad_n", "grad_t"])
def backward_kernel(
    logits, target, mask, weight, pos_weight, sample_weight, grad_loss, task_weight, count,
    denominator, grad_task_loss, gradient,
    tasks, period, units, ends, rows, tiles, split_rows,
    mask_n, mask_t, weight_n, weight_t, pos_n, pos_t, sample_n, sample_t, grad_n, grad_t,
    keep, shift, a, b, c, d,
    GRAD: tl.constexpr, ON_SIDE: tl.constexpr, POWERS: tl.constexpr, CLASSIFICATION: tl.constexpr,
    LAYOUTS: tl.constexpr, ALIGN: tl.constexpr, END: tl.constexpr, HEIGHT: tl.constexpr,
    LANES: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    begin, batches, end, width, total, slot, lanes = walk(
        tl.program_id(0), tasks, period, units, ends, rows, tiles, split_rows,
        ALIGN, END, HEIGHT, LANES, BATCH,
    )  # fmt: skip
    height = tl.arange(0, HEIGHT)[:, None]
    task = slot % tasks
    tensors = (logits, target, (mask, weight, pos_weight, sample_weight, grad_loss))
    strides = (
        (mask_n, mask_t), (weight_n, weight_t), (pos_n, pos_t), (sample_n, sample_t),
        (grad_n, grad_t),
    )  # fmt: skip
    columns = read_columns(tensors[2], strides, task, LAYOUTS)
    smoothing = (keep, shift)
    params = (a, b, c, d)

    # d L / d S_t: one coefficient for each lane, whatever the reduction. For "none" the part that
    # comes from the loss is multiplied by each element's own upstream gradient. The two may cancel:
    # quotients are rounded once, which NVIDIA's fast ones are not.
    coefficient = tl.zeros([1, LANES], tl.float32)
    if grad_loss is not None:
        coefficient += 1.0
        if task_weight is not None:
            coefficient *= tl.load(task_weight + task)
        if LAYOUTS[GRAD_LOSS] == ABSENT:
            upstream = tl.load(grad_loss).to(tl.float32)
            coefficient *= tl.div_rn(upstream, tl.load(denominator + task))
    task_coefficient = tl.zeros([1, LANES], tl.float32)
    if grad_task_loss is not None:
        own = tl.maximum(tl.load(count + task), 1).to(tl.float32)
        task_coefficient += tl.div_rn(tl.load(grad_task_loss + task), own)
    if LAYOUTS[GRAD_LOSS] == ABSENT:
        coefficient += task_coefficient

    SIDED: tl.constexpr = ON_SIDE is not None
    FUNCTION: tl.constexpr = ON_SIDE if SIDED else GRAD
    walked = (width, total, slot, lanes, height, period, tasks)
    most = tl.zeros([HEIGHT, LANES], tl.int32)
    for first in range(begin, batches, HEIGHT * BATCH):
        steps = read_batch(first, tensors, strides, columns, walked, LAYOUTS, ALIGN, BATCH)
        for i in tl.static_range(BATCH):
            y = _grad(
                steps[i][0], None, smoothing, params, gradient, steps[i][1], coefficient,
                task_coefficient,
                FUNCTION, POWERS, CLASSIFICATION, LAYOUTS, SIDED,
            )  # fmt: skip
            if SIDED:
                most = tl.maximum(most, y)
    most = _grads_of_rest(
        batches, end, tensors, strides, columns, walked, smoothing, params, gradient, coefficient,
        task_coefficient, most, FUNCTION, POWERS, CLASSIFICATION, LAYOUTS, SIDED, ALIGN,
    )  # fmt: skip
    if SIDED:
        if tl.max(most) > 1:
            _grads_of_rest(
                begin, end, tensors, strides, columns, walked, smoothing, params, gradient,
                coefficient, task_coefficient, most,
                GRAD, POWERS, CLASSIFICATION, LAYOUTS, False, ALIGN,
            )  # fmt: skip
