"""csrc/math.h as the CPU and as the GPU compute it (mtlfast._numerics)."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from native_numerics import CORNERS, numerics

ULP = 2.0**-23
FULL = "MTLFAST_ACCURACY" in os.environ


class Function(NamedTuple):
    """A function of math.h: where it is used, its exact value, and its relative errors."""

    exact: Callable[[np.ndarray, np.ndarray], np.ndarray]
    low: float
    high: float
    float_error: float  # as the CPU computes in float32
    gpu_error: float  # as the GPU does; where it is `growing`, x log2(e) is rounded as a float
    wide_error: float | None = None  # of Wide: losses in float32 that the CPU evaluates in double
    double_error: float | None = 1e-15
    second: tuple[float, ...] = (0.0,)
    growing: bool = False


def exp(x: np.ndarray) -> np.ndarray:
    return np.exp(x)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))


LEAST = float(np.finfo(np.float32).tiny)
FUNCTIONS = {
    "exp_nonpositive": Function(lambda x, _: exp(x), -87, 0, 1e-7, 4e-7, 4e-9, growing=True),
    "exp_rounded": Function(lambda x, _: exp(x), -87, 0, 1e-7, 1e-7, 4e-9),
    "exp_compensated": Function(lambda x, _: exp(x), -87, 0, 1e-7, 5e-7, 4e-9),
    "log1p_unit": Function(lambda x, _: np.log1p(x), 0, 1, 3.8e-7, 3.8e-7, 6e-9),
    "log1p_short": Function(lambda x, _: np.log1p(x), 0, 1, 1.5e-6, 1.5e-6, 6e-9),
    "log_positive": Function(lambda x, _: np.log(x), LEAST, 3e38, 1.5e-7, 2e-7, 2e-9),
    "pow_whole": Function(
        lambda x, g: x**g, 1e-4, 1, 5e-7, 5e-7, second=tuple(range(8)), double_error=2e-15
    ),
    "pow_unit": Function(
        lambda x, g: x**g, 1e-4, 1, 3e-5, 2e-6, 2e-7, 3e-14, second=(0, 0.5, 1, 2, 2.5, 3, 4, 7.25)
    ),
    "divide": Function(lambda x, y: x / y, -1, 1, 1e-7, 3e-7, second=(0.3, 1.7, 3.0)),
    "abs": Function(lambda x, _: np.abs(x), -3e38, 3e38, 0, 0, 0, 0),
    "positive": Function(lambda x, _: np.maximum(x, LEAST), -3e38, 3e38, 0, 0, None, 0),
    "bounded": Function(lambda x, _: np.clip(x, -1e30, 1e30), -3e38, 3e38, 3e-8, 3e-8, 3e-8, 3e-8),
    "sigmoid_plus": Function(lambda x, _: sigmoid(x), -85, 85, 3e-7, 9e-7, 6e-9, growing=True),
    "sigmoid_minus": Function(lambda x, _: sigmoid(-x), -85, 85, 3e-7, 9e-7, 6e-9, growing=True),
    "softplus_plus": Function(lambda x, _: softplus(x), -85, 85, 4e-7, 9e-7, 9e-9, growing=True),
    "softplus_minus": Function(lambda x, _: softplus(-x), -85, 85, 4e-7, 9e-7, 9e-9, growing=True),
}
# Of two arguments that belong together: tests of their own.
TOGETHER = {"log_hit", "plus_beyond"}

each_function = pytest.mark.parametrize("name", FUNCTIONS)


def halves() -> np.ndarray:
    """Every number of float16."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def floats(count: int) -> Iterator[np.ndarray]:
    """Yields `count` floats in chunks, one out of each of as many equal parts of all of them."""
    generator = np.random.default_rng(0)
    step, chunk = 2**32 // count, min(count, 2**20)
    for start in range(0, count, chunk):
        bits = (np.arange(start, start + chunk, dtype=np.uint64) * step).astype(np.uint32)
        bits += generator.integers(0, step, chunk, dtype=np.uint32)
        yield bits.view(np.float32)


def errors_of(name: str, x: np.ndarray, path: str, turn: int | None = None) -> float:
    """Returns the largest error of a function in units of what is allowed.

    With all second arguments and corners, or with those whose turn it is.
    """
    function = FUNCTIONS[name]
    x = x[(x >= function.low) & (x <= function.high)]
    worst = 0.0
    seconds, corners = function.second, CORNERS
    if turn is not None:
        seconds, corners = [seconds[turn % len(seconds)]], [corners[turn % len(corners)]]
    for second in seconds:
        dtype = np.float64 if path in ("double", "wide") else np.float32
        given = x.astype(dtype)
        other = np.full_like(given, second)
        with np.errstate(under="ignore"):
            truth = function.exact(given.astype(np.float64), other.astype(np.float64))
        for corner in corners if path == "gpu" else [None]:
            if corner is not None:
                numerics.gpu.set_errors(*corner)
            evaluate = {
                "float": numerics.cpu.evaluate,
                "double": numerics.cpu.evaluate,
                "wide": numerics.cpu.evaluate_wide,
                "gpu": numerics.gpu.evaluate,
            }[path]
            allowed = getattr(function, f"{path}_error")
            if function.growing and path == "gpu":
                allowed = allowed + 0.62 * ULP * np.abs(given)
            error = np.abs(evaluate(name, given, other).astype(np.float64) - truth)
            bad = error / (allowed * np.abs(truth) + LEAST)
            assert not np.isnan(bad).any(), (name, path, given[np.isnan(bad)][:3])
            worst = max(worst, float(bad.max(initial=0)))
    return worst


def paths_of(name: str) -> list[str]:
    function = FUNCTIONS[name]
    return [
        p for p in ("float", "double", "wide", "gpu") if getattr(function, f"{p}_error") is not None
    ]


def test_every_function_has_its_bounds():
    assert set(numerics.functions) == set(FUNCTIONS) | TOGETHER


@each_function
def test_functions_are_right_at_every_half(name):
    for path in paths_of(name):
        assert errors_of(name, halves(), path) <= 1, path


@each_function
def test_functions_are_right_at_floats_of_every_size(name):
    for path in paths_of(name):
        for x in floats(2**16):
            assert errors_of(name, x, path) <= 1, path


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="minutes; make accuracy runs it")
@each_function
def test_functions_are_right_at_one_float_in_64(name):
    for turn, x in enumerate(floats(2**26)):
        for path in paths_of(name):
            assert errors_of(name, x, path, turn) <= 1, path


@pytest.mark.parametrize("path, bound", [("cpu", 2e-7), ("gpu", 6e-7)])
def test_log_of_a_hit_has_the_digits_of_a_small_miss(path, bound):
    """1 - miss, rounded to a float, has none of them."""
    miss = np.geomspace(1e-30, 0.999, 100_000).astype(np.float32)
    truth = np.log1p(-miss.astype(np.float64))
    hit = (1 - miss.astype(np.float64)).astype(np.float32)
    for corner in CORNERS:
        numerics.gpu.set_errors(*corner)
        got = getattr(numerics, path).evaluate("log_hit", hit, miss).astype(np.float64)
        assert (np.abs(got - truth) <= bound * np.abs(truth)).all()


@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2, 0.6])
def test_what_a_sigmoid_is_beyond_a_clip_keeps_its_digits_near_the_edge(clip):
    x = np.linspace(-60, 60, 100_001).astype(np.float32)
    c = np.float32(clip)
    truth = sigmoid(x.astype(np.float64)) - np.float64(c)
    edge = -np.inf if clip == 0 else np.log(np.float64(c) / (1 - np.float64(c)))
    x, truth = x[np.abs(x - edge) > 0.1], truth[np.abs(x - edge) > 0.1]
    for corner in CORNERS:
        numerics.gpu.set_errors(*corner)
        got = numerics.gpu.evaluate("plus_beyond", x, np.full_like(x, c)).astype(np.float64)
        assert (np.abs(got - truth) <= 1.8e-6 * np.abs(truth) + LEAST).all()
