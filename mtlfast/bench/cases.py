"""The one table of cases, for ``mtlfast bench`` and ``benches/``, and what is chosen of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mtlfast.bench.case import PASSES, Case
from mtlfast.bench.embedding_cases import EMBEDDINGS
from mtlfast.bench.pointwise_cases import POINTWISE

__all__ = ["CASES", "DTYPES", "LOSSES", "chosen"]

# Every loss once before any loss twice: a time limit cuts the end.
CASES: list[Case] = sorted([*POINTWISE, *EMBEDDINGS], key=lambda case: not case.quick)
LOSSES = tuple(dict.fromkeys(case.loss for case in CASES))
MOST_ROWS = 8192
DTYPES = ("float32", "bfloat16", "float16", "float64")


def chosen(
    device: str,
    quick: bool = False,
    losses: Iterable[str] = (),
    shapes: Sequence[tuple[int, int]] = (),
    dtypes: Iterable[str] = (),
) -> list[Case]:
    """Returns the cases to run; what is not given chooses all.

    Args:
        device: "cpu" or "cuda".
        quick: only the cases marked so, of those that the other arguments choose.
        losses: names.
        shapes: run each form of each loss, as the table has it, at these shapes (N, T) or (N, D)
            instead of the table's. Embeddings have two dimensions at least; losses on a whole batch
            cost N^2, so more than MOST_ROWS rows need their name.
        dtypes: run the chosen cases in these instead of the table's.

    Example:
        >>> [case.name for case in chosen("cpu", losses=["l1_loss"], shapes=[(10000, 17)])]
        ['l1_loss 10000x17 float32 NaN targets']
    """
    named = set(losses)
    wanted = named or set(LOSSES)
    found = [case for case in CASES if case.loss in wanted]
    if shapes:
        forms: dict[tuple[str, str], Case] = {}
        for case in found:
            forms.setdefault((case.what, getattr(case, "target", "")), case)
        found = [
            replace(case, rows=n, width=t, quick=True, gpu_only=False, passes=PASSES)
            for case in forms.values()
            for n, t in shapes
            if (case.family == "pointwise" or t > 1)
            and (case.family != "inbatch" or n <= MOST_ROWS or case.loss in named)
        ]
    found = [case for case in found if device == "cuda" or not case.gpu_only]
    if quick:
        found = _few([case for case in found if case.quick])
    if names := list(dtypes):
        found = [replace(case, dtype=name) for name in names for case in found]
    return list({case.name: case for case in reversed(found)}.values())[::-1]


def _few(cases: list[Case]) -> list[Case]:
    """Returns the cases forward and backward only, compiled for the first of each family only.

    Compiling takes longer than timing: several seconds for a case.
    """
    first = {case.family: case for case in reversed(cases) if "compile" in case.rivals}
    return [
        replace(
            case,
            passes=PASSES[1:],
            rivals=tuple(
                who for who in case.rivals if who != "compile" or case is first[case.family]
            ),
        )
        for case in cases
    ]
