"""Every argument of the weightings and their like: of the wrong kind it is named, in one line."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from test_weightings import WEIGHTINGS

import mtlfast
import mtlfast.functional as MF
from mtlfast import MarginUpdater
from mtlfast.distributed import gather_embeddings
from mtlfast.train import Best, EarlyStopping, Stage, TaskStopping
from mtlfast.weighting import (
    DynamicWeightAverage,
    Fixed,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
)

T = torch.ones(3)
NO_NUMBER = ["x", None, [1.0], {}, 1j, torch.ones(2), object()]
NO_WHOLE = [*NO_NUMBER, 2.5, math.nan, math.inf, True, np.float32(2)]
NO_TENSOR = ["x", None, 1.0, [1.0, 2.0, 3.0], (T, T), np.ones(3), {}]
JAGGED = torch.nested.nested_tensor([T, T], layout=torch.jagged)
NO_REAL = [T * 1j, T.to_sparse(), T.to("meta"), JAGGED]
NO_LOSSES = [*NO_REAL, T.long(), T.bool(), torch.ones(2), torch.ones(3, 1), torch.ones(())]
NO_COUNTS = [*[bad for bad in NO_TENSOR if bad is not None], *NO_REAL, torch.ones(2)]
NO_NAMES = ["abc", 5, [1], [None], [["a"]]]


def bad_values(name, call, *values):
    """Returns cases: the argument ``name`` of ``call``, which takes it alone, and what it is."""
    return [(name, call, value) for value in values]


def whole(name, call, low):
    return bad_values(name, call, *NO_WHOLE, low - 1, -(10**30))


def number(name, call, *more, none=False):
    return bad_values(name, call, *(x for x in NO_NUMBER if x is not None or not none), *more)


CASES = [
    *whole("num_tasks", ValidationLossTrend, 1),
    *whole("interval", lambda x: ValidationLossTrend(3, x), 1),
    *number("momentum", lambda x: ValidationLossTrend(3, momentum=x), -0.1, 1.0, math.nan, True),
    *number("min_weight", lambda x: ValidationLossTrend(3, min_weight=x), -1, 1.5, math.nan),
    *number("max_weight", lambda x: ValidationLossTrend(3, max_weight=x), 0.5, math.nan, none=True),
    *whole("num_tasks", lambda x: DynamicWeightAverage(x, 3), 1),
    *whole("interval", lambda x: DynamicWeightAverage(3, x), 1),
    *number(
        "temperature",
        lambda x: DynamicWeightAverage(3, 2, temperature=x),
        *(0, -1, math.nan, math.inf),
    ),
    *whole("num_tasks", Uncertainty, 1),
    *whole("num_tasks", GeometricMean, 1),
    *whole("num_tasks", RandomWeights, 1),
    *whole("seed", lambda x: RandomWeights(3, seed=x), 0),
    *bad_values("seed", lambda x: RandomWeights(3, seed=x), 2**63),
    *bad_values("weights", Fixed, 3, None, "123", b"12", {1.0: 2.0}, {1.0, 2.0}, torch.ones(())),
    *bad_values("weights", Fixed, torch.ones(2, 2), np.ones((2, 2)), [], [0.0], [-1.0, 2.0]),
    *bad_values("weights", Fixed, [math.nan], [1.0, math.inf], [1e308, 1e308]),
    *bad_values("weights[1]", Fixed, [1.0, "2"], [1.0, None], [1.0, [2.0]], [1.0, 1j]),
    *bad_values("normalize", lambda x: Fixed([1.0], x), "max", 1, ["sum"], True, np.ones(2)),
    *bad_values("losses", lambda x: MF.weighted_sum(x, T), *NO_TENSOR),
    *bad_values("losses", lambda x: MF.weighted_sum(x, x), *NO_REAL[:2], T.long(), T[None], T[0]),
    *bad_values("weights", lambda x: MF.weighted_sum(T, x), *NO_TENSOR, *NO_REAL, torch.ones(4)),
    *bad_values(
        "normalize", lambda x: MF.weighted_sum(T, T, normalize=x), "max", 1, ["sum"], np.ones(2)
    ),
    *number("margin", MarginUpdater, 0.05, -1, math.nan, math.inf),
    *whole("window", lambda x: MarginUpdater(window=x), 2),
    *[
        case
        for case in whole("interval", lambda x: MarginUpdater(interval=x), 1)
        if case[2] is not None
    ],
    *whole("warmup", lambda x: MarginUpdater(warmup=x), 0),
    *number("min_margin", lambda x: MarginUpdater(min_margin=x), 0, -1, math.nan, 2.0 * math.inf),
    *whole("pairs", lambda x: MarginUpdater()(x), 0),
    *bad_values("distances", lambda x: MarginUpdater().observe(x, T), *NO_TENSOR, *NO_REAL),
    *bad_values("same", lambda x: MarginUpdater().observe(T, x), *NO_TENSOR, *NO_REAL),
    *bad_values("attributes_a", lambda x: MF.attribute_margin(x, T[None], 1, 1), *NO_TENSOR, T),
    *bad_values("attributes_n", lambda x: MF.attribute_margin(T[None], x, 1, 1), *NO_TENSOR, T),
    *number("base", lambda x: MF.attribute_margin(T[None], T[None], x, 1), math.nan, math.inf),
    *number("scale", lambda x: MF.attribute_margin(T[None], T[None], 1, x), math.nan, -math.inf),
    *bad_values("x", gather_embeddings, *NO_TENSOR, torch.ones(()), T.to_sparse()),
    *bad_values("even", lambda x: gather_embeddings(T, even=x), "no", None, 1, [True], T),
    *bad_values("group", lambda x: gather_embeddings(T, group=x), "world", 0, [0, 1], T),
    *bad_values("tasks", lambda x: Stage(x, 1), None, *NO_NAMES),
    *whole("epochs", lambda x: Stage(["a"], x), 1),
    *bad_values("tasks", lambda x: TaskStopping(x, threshold=1.0), *NO_NAMES),
    *whole("window", lambda x: TaskStopping(window=x, threshold=1.0), 3),
    *number("threshold", lambda x: TaskStopping(threshold=x), 0, -1, math.nan),
    *whole("patience", EarlyStopping, 1),
    *bad_values("metric", Best, None, 3, ["loss"], ("loss",)),
    *bad_values("mode", lambda x: Best(mode=x), "less", 1, ["min"], True),
    *number("min_change", lambda x: Best(min_change=x), -1, math.nan, math.inf),
]
for make in WEIGHTINGS.values():
    for method in ("forward", "combine", "advance", "observe"):

        def call(x, counts=None, *, make=make, method=method):
            return getattr(make(), method)(x, counts)

        CASES += bad_values("losses", call, *NO_TENSOR, *NO_LOSSES)
        CASES += bad_values("counts", lambda x, call=call: call(T, x), *NO_COUNTS)


def told(call, value):
    """Returns the error of a call, which must be raised before anything else happens."""
    with pytest.raises((TypeError, ValueError)) as error:
        call(value)
    return error.value


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
def test_an_argument_of_the_wrong_kind_is_named_in_one_line(name):
    cases = [(call, value) for argument, call, value in CASES if argument == name]
    assert len(cases) > 3
    for call, value in cases:
        error = told(call, value)
        message = str(error)
        kinds = " |".join(map(re.escape, [f"{name} must", f"{name.partition('[')[0]}[0] must"]))
        assert re.match(f"({kinds})", message), (value, message)
        assert "; got " in message and message.endswith("."), message
        assert "\n" not in message and "inf; got nan" not in message and len(message) < 200, message


def test_numbers_of_numpy_are_numbers():
    assert ValidationLossTrend(np.int64(3), np.int32(5), momentum=np.float32(0.5)).interval == 5
    assert Fixed(np.array([1.0, 3.0], np.float32)).weights.tolist() == [1, 3]
    assert Fixed(torch.tensor([1, 3])).weights.tolist() == [1, 3]
    assert MarginUpdater(np.float64(1.0), np.int64(8))(np.int64(2)).shape == (2,)
    assert mtlfast.weighting.RandomWeights(np.int64(2), seed=np.int64(1)).weights.shape == (2,)


def test_alike_weights_are_told_once():
    assert repr(Fixed([1.0] * 617)) == "Fixed(1 for each of 617 tasks)"
    assert repr(Fixed([1.0, 0.5])) == "Fixed(1, 0.5)"
