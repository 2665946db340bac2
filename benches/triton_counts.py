"""Triton's kernels for kernel_counts.py: what public calls launch, compiled by the JIT for a GPU.

The driver is a stub (tests/triton_jit.py), so no GPU is needed, and what is compiled is what a call
on one would run.
"""

import sys
import tempfile
from pathlib import Path

import torch
from counted_kernels import Kernel
from disassembly import ROOT, Unusable, listed, texts

import mtlfast.functional as MF

DTYPES = {"float": torch.float32, "BFloat16": torch.bfloat16}
SAMPLES, TASKS, WIDTH = 8192, 40, 256
PASSES = ("forward", "backward")


def pointwise(loss, dtype, labels):
    logits = torch.zeros(SAMPLES, TASKS, dtype=dtype, requires_grad=True)
    target = torch.zeros(SAMPLES, TASKS, dtype=labels)
    getattr(MF, loss)(logits, target, backend="triton", reduction="mean").backward()


def rows(loss, dtype, count):
    tensors = [torch.zeros(SAMPLES, WIDTH, dtype=dtype, requires_grad=True) for _ in range(count)]
    more = {2: [torch.ones(SAMPLES, dtype=torch.bool)], 4: [[0.3, 0.2]]}.get(count, [])
    if count == 4:
        tensors = [tensors[0], tensors[1:]]
    getattr(MF, loss)(*tensors, *more, backend="triton").backward()


# Public name, bytes of a label, rows.
POINTWISE = (
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
    "asymmetric_loss",
    "mse_loss",
)
ROWS = {"normalized_triplet_loss": 3, "triplet_margin_loss": 3, "contrastive_loss": 2}
ROWS |= {"hierarchical_triplet_loss": 4}


def calls():
    """Yields what is known of the kernels of a call, and the call."""
    for name, dtype in DTYPES.items():
        known = {"size": dtype.itemsize}
        for loss in POINTWISE:
            labels = torch.float32 if loss == "mse_loss" else torch.int8
            told = {"family": "pointwise", "what": f"{loss} {name}", "label_size": labels.itemsize}
            yield known | told, lambda a=loss, b=dtype, c=labels: pointwise(a, b, c)
        for loss, count in ROWS.items():
            told = {"family": "rows", "what": f"{loss} {name}", "rows": count}
            yield known | told, lambda a=loss, b=dtype, c=count: rows(a, b, c)


def compiled(arch, wanted):
    """Returns the kernels of the calls that launch a wanted one, assembled for an architecture."""
    sys.path.append(str(ROOT / "tests"))
    try:
        import triton_jit
    except ImportError as error:
        raise Unusable(f"triton and pytest were wanted, and {error.name} is not here.") from None
    targets = {name: target for name, target in triton_jit.TARGETS.items() if name[:3] == "sm_"}
    if arch not in targets:
        raise Unusable(f"--arch was wanted as one of {', '.join(targets)} for Triton; got {arch}.")
    made = []

    class Kept(triton_jit.Compiler):
        """Compiles every kernel to the end, and keeps it."""

        def __call__(self, source, *more, **options):
            made.append((source.fn.__name__, super().__call__(source, *more, **options)))
            return made[-1][1]

    triton_jit.without_gpu(targets[arch], Kept(assemble=1))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        for known, call in calls():
            of_call = [Kernel(arch, "", {}, passes=passes, **known) for passes in PASSES]
            if not any(map(wanted, of_call)):
                continue
            made.clear()
            call()
            for name, binary in made:
                file.write_bytes(binary.asm["cubin"])
                passes = name.removesuffix("_kernel")
                more = known | {"passes": passes} if passes in PASSES else {}
                ((_, _, _, usage),), ((key, text),) = listed(file), texts(file).items()
                found.append(Kernel(key[0], f"{known['what']} {passes}", usage, text, **more))
    return found
