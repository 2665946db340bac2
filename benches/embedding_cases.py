"""The timed cases of the losses on embeddings: rows side by side, and whole batches."""

from dataclasses import dataclass, field

import rivals
import torch
from timing_cases import BOTH

import mtlfast.functional as MF

ROWS = {
    "normalized_triplet_loss": ("anchor", "positive", "negative"),
    "contrastive_loss": ("x1", "x2"),
}


@dataclass(frozen=True)
class EmbeddingCase:
    """One row: N embeddings of width D, the rivals, and the goals on the CPU (timing_cases.py).

    For a loss on rows there are N rows of each kind; for an in-batch loss `per_class` of the N
    share a label. A goal "seconds" is a bound on the public call.
    """

    loss: str
    rows: int
    width: int
    options: tuple[tuple[str, object], ...] = ()
    per_class: int = 64
    rivals: tuple[str, ...] = ("eager",)
    goals: dict[str, float] = field(default_factory=dict, hash=False)
    quick: bool = False
    gpu_only: bool = False
    checked: bool = True
    passes: tuple[str, ...] = BOTH

    dtype = "float32"

    @property
    def family(self):
        return "rows" if self.loss in ROWS else "inbatch"

    @property
    def levels(self):
        return ("op", "call") if self.family == "rows" else ("call",)

    @property
    def what(self):
        """The loss and its form."""
        options = dict(self.options)
        form = options.get("mining", "" if options.get("squared", True) else "distances")
        return f"{self.loss} {form}".strip()

    @property
    def name(self):
        return f"{self.what} {self.rows}x{self.width}"

    @property
    def elements(self):
        """Elements of the embeddings."""
        return self.rows * self.width * len(ROWS.get(self.loss, ("embeddings",)))

    def bytes_moved(self, passes):
        """Bytes that must move: read the embeddings, for the backward read again and write."""
        return self.elements * 4 * (1 if passes == "forward" else 3)

    def peak_allowed(self):
        """Peak extra bytes: the gradients, and 4 MB; in-batch 32 MB of scratch, twice the rows."""
        gradient = self.elements * 4
        return gradient + (4 << 20) if self.family == "rows" else 3 * gradient + (32 << 20)

    def goals_on(self, device):
        """Returns the goals that hold on `device`."""
        if device == "cpu":
            return self.goals
        return {"compile": 1.0} if "compile" in self.rivals else {}

    def inputs(self, device):
        """Returns fresh embeddings that ask for a gradient, then what else the loss takes."""
        random = torch.Generator(device).manual_seed(1)

        def embeddings():
            shape = (self.rows, self.width)
            return torch.randn(shape, generator=random, device=device).requires_grad_()

        if self.family == "inbatch":
            labels = torch.arange(self.rows, device=device) // self.per_class
            order = torch.randperm(self.rows, generator=random, device=device)
            return embeddings(), labels[order]
        tensors = [embeddings() for _ in ROWS[self.loss]]
        if self.loss == "contrastive_loss":
            tensors.append(torch.rand(self.rows, generator=random, device=device) < 0.5)
        return tuple(tensors)

    def ours(self, *tensors, **options):
        """Calls our public function."""
        return getattr(MF, self.loss)(*tensors, **{**dict(self.options), **options})

    def rival(self, who):
        """Returns a function of the inputs, or the reason why it can't run."""
        return rivals.of_embeddings(who, self.what)


def batch(mining, rows, goals=None, **options):
    """Returns a case of batch_triplet_loss, D = 128."""
    return EmbeddingCase(
        "batch_triplet_loss", rows, 128, (("mining", mining),), goals=goals or {}, **options
    )


ALONE = {"rivals": (), "checked": False, "passes": BOTH[1:]}
EMBEDDING_CASES = [
    EmbeddingCase(
        *("normalized_triplet_loss", 4096, 256),
        options=(("squared", False),),
        goals={"eager": 13},
        quick=True,
    ),
    EmbeddingCase(
        *("normalized_triplet_loss", 4096, 256), rivals=("compile",), goals={"compile": 2.6}
    ),
    EmbeddingCase(
        *("normalized_triplet_loss", 32768, 256), rivals=("compile",), goals={"compile": 1.7}
    ),
    EmbeddingCase(
        *("contrastive_loss", 4096, 256), rivals=("eager", "compile"), goals={"compile": 1.6}
    ),
    batch("all", 512, {"pml": 180}, rivals=("pml",), quick=True),
    batch("hard", 512, {"pml": 5}, rivals=("pml",)),
    EmbeddingCase("batch_contrastive_loss", 512, 128, rivals=("pml",), goals={"pml": 3.5}),
    # How time and memory grow with N.
    *(batch("all", rows, **ALONE) for rows in (256, 1024, 2048)),
    batch("all", 4096, {"seconds": 0.7}, **ALONE),
    batch("all", 8192, **ALONE),
]
