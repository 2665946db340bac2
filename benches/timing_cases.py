"""The table of what is timed: shapes, targets, dtypes, rivals, and the speed asked for.

The losses on embeddings stand in embedding_cases.py; a case of either kind has the same face.
"""

from dataclasses import dataclass, field

import rivals
import torch

import mtlfast.functional as MF
from mtlfast.ops import reference

BCE = "binary_cross_entropy_with_logits"
ALL = ("where", "index", "compile")
LARGE = 64 << 20  # elements from which a GPU is asked for its full bandwidth
MISSING = 0.3  # share of the labels that are missing
BOTH = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One row: an (N, T) problem, the rivals that solve it too, and the goals on the CPU.

    A goal is named after a rival (times faster, public call against public call, forward and
    backward), "op" or "call" (share of the copy bandwidth), or "us" (at most, public call).
    """

    rows: int
    tasks: int
    target: str = "int8"  # int8, with -1 missing; NaN, float32 with NaN missing; full, float32
    dtype: str = "float32"
    loss: str = BCE
    rivals: tuple[str, ...] = ("where",)
    goals: dict[str, float] = field(default_factory=dict, hash=False)
    quick: bool = False  # also timed under --quick
    gpu_only: bool = False

    family = "pointwise"
    levels = ("op", "call")
    passes = BOTH
    checked = True  # against the specification in float64

    def ours(self, x, y, **options):
        """Calls our public function; the mean over labelled elements, as all rivals have it."""
        return getattr(MF, self.loss)(x, y, reduction="mean", **options)

    def rival(self, who):
        """Returns a function of the inputs."""
        return rivals.POINTWISE[who]

    @property
    def name(self):
        name = f"{self.rows}x{self.tasks} {self.target} {self.dtype}"
        return name if self.loss == BCE else f"{self.loss} {name}"

    @property
    def elements(self):
        return self.rows * self.tasks

    @property
    def input_bytes(self):
        """Bytes of logits and targets, b_x + b_t per element."""
        return self.elements * (self._logit_bytes + (1 if self.target == "int8" else 4))

    @property
    def _logit_bytes(self):
        return getattr(torch, self.dtype).itemsize

    def bytes_moved(self, passes):
        """Bytes that must move: read the inputs, and for the backward read them again and write."""
        if passes == "forward":
            return self.input_bytes
        return 2 * self.input_bytes + self.elements * self._logit_bytes

    def peak_allowed(self):
        """Peak extra bytes of forward and backward: the gradient and a little more."""
        return self.elements * self._logit_bytes + (4 << 20) + 64 * self.tasks

    def goals_on(self, device):
        """Returns the goals that hold on `device`."""
        if device == "cpu":
            return self.goals
        goals = {"compile": 1.0} if "compile" in self.rivals else {}
        if self.elements >= LARGE:
            goals["op"] = 0.7 if self.dtype == "bfloat16" else 0.9
        return goals

    def inputs(self, device):
        """Returns fresh logits (N, T) that ask for a gradient, and targets (N, T)."""
        shape = (self.rows, self.tasks)
        random = torch.Generator(device).manual_seed(1)
        x = torch.randn(shape, generator=random, device=device) * 2
        missing = torch.rand(shape, generator=random, device=device) < MISSING
        if self.loss in reference.CLASSIFICATION:
            y = torch.randint(0, 2, shape, generator=random, device=device, dtype=torch.int8)
        else:
            y = torch.randn(shape, generator=random, device=device)
        if self.target == "int8":
            y = torch.where(missing, -1, y)
        else:
            y = y.float() if self.target == "full" else torch.where(missing, torch.nan, y.float())
        return x.to(getattr(torch, self.dtype)).requires_grad_(), y.contiguous()


CASES = [
    Case(
        *(65536, 40),
        rivals=ALL,
        goals={"where": 12, "index": 35, "compile": 8, "op": 0.85, "call": 0.7},
        quick=True,
    ),
    Case(8192, 1000, rivals=ALL, goals={"where": 12, "compile": 6, "op": 0.75, "call": 0.5}),
    Case(8192, 40, rivals=ALL, goals={"compile": 6}),
    Case(256, 40, rivals=ALL, goals={"where": 2, "index": 5, "compile": 2, "us": 50}, quick=True),
    Case(65536, 40, "NaN", rivals=ALL, goals={"compile": 3}),
    Case(LARGE // 40 + 1, 40, rivals=ALL, gpu_only=True),
    Case(LARGE // 40 + 1, 40, "NaN", rivals=("compile",), gpu_only=True),
    Case(LARGE // 40 + 1, 40, dtype="bfloat16", rivals=("where", "compile"), gpu_only=True),
    Case(8192, 1000, "NaN"),
    Case(65536, 40, "full", rivals=("F.bce",), goals={"F.bce": 3}, quick=True),
    Case(256, 40, "full", rivals=("F.bce",)),
    *(
        Case(rows, tasks, goals={"op": 0.6})
        for rows, tasks in ((2621440, 1), (524288, 5), (218453, 12), (26214, 100), (64, 40000))
    ),
    Case(65536, 40, dtype="bfloat16", goals={"op": 0.45}),
    Case(65536, 40, dtype="float16"),
    # Every other loss of the catalogue, beside its specification in plain PyTorch.
    *(
        Case(
            *(65536, 40),
            "int8" if loss in reference.CLASSIFICATION else "NaN",
            loss=loss,
            rivals=("reference",),
        )
        for loss in reference.POINTWISE
        if loss != BCE
    ),
]
