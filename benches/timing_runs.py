"""What is timed of a case, and by whom."""

from dataclasses import dataclass

from embedding_cases import EMBEDDING_CASES
from timing_cases import CASES

ALL_CASES = [*CASES, *EMBEDDING_CASES]


@dataclass(frozen=True)
class Run:
    """What is timed of a case: who, how deep (op, call, graph), and which passes."""

    who: str
    level: str
    passes: str

    @property
    def name(self):
        return f"{self.who} {self.level} {self.passes}"


def runs(case, device):
    """Returns the runs of a case: our ops, our public call, and every rival's call."""
    runs = [Run("mtlfast", "op", passes) for passes in case.passes if "op" in case.levels]
    people = ("mtlfast", *case.rivals)
    runs += [Run(who, "call", passes) for who in people for passes in case.passes]
    if device == "cuda" and "compile" in case.rivals:
        runs += [Run(who, "graph", case.passes[-1]) for who in ("mtlfast", "compile")]
    return runs
