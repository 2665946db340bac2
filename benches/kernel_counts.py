"""Counts what the GPU kernels issue, and predicts their times. No GPU is needed.

    make kernel-counts                          # the usual kernels of the built library
    make kernel-counts ARGS="focal --all"       # all of those with this in their name
    make kernel-counts ARGS="--triton"          # Triton's, compiled as a call would
    make kernel-counts ARGS="--arch sm_80 --files build/*/csrc/cuda/pointwise_float.o"

A row counts, for an element, the main loop of a kernel on its usual path (sass.py); of weighted and
general kernels the one that meets no weight. The prediction is an H200's, for 64 M elements
(pointwise) or 262144 samples with rows of 256 (2, 3 or 4): what is longer, its bytes at 4.1 TB/s,
or issuing its instructions and the share of the bytes that so many warps do not hide. A pipe that
takes several cycles for an instruction counts instead where it is busy for longer than issue is.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import sass
from counted_kernels import of_library
from disassembly import Unusable, listed, texts

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = os.environ.get("MTLFAST_LIBRARY") or ROOT / "mtlfast/libmtlfast.so"
TIMES = ROOT / "benches/results/nvidia-h200/kernels.json"

# The model, fitted to those times: see NOTES.md.
ELEMENTS = 1 << 26
BYTES_PER_US = 4.1e6
ISSUE_US = 2.2  # of ELEMENTS, for an instruction: nine of ten cycles at 1.98 GHz
WAITING_WARPS = 10  # over the resident ones: what arithmetic leaves of the bytes' time
# Cycles for which a warp's instruction keeps its pipe from others.
CYCLES = {"imad": 2, "alu": 2, "mufu": 8, "fp64": 2}


def of_files(files, arch, wanted):
    """Returns the native kernels of object files or libraries, with the code of what `wanted` says
    so of, and of its gradients' kernels.
    """
    kernels = []
    for file in files:
        if not Path(file).exists():
            raise Unusable(
                f"{file} was wanted, and is not there: make install builds the library, where nvcc "
                "is with its CUDA part."
            )
        found = {one[:2]: of_library(one[0], *one[2:]) for one in listed(file, arch)}
        whats = {kernel.what for kernel in found.values() if wanted(kernel)}
        chosen = [
            name
            for (_, name), kernel in found.items()
            if wanted(kernel) or (kernel.passes == "backward" and kernel.what in whats)
        ]
        for key, text in texts(file, arch, chosen).items() if chosen else ():
            if key in found:
                found[key].text = text
        kernels += found.values()
    if not kernels:
        raise Unusable(
            f"code for {arch} was wanted, and {files[0]} has none: build it where nvcc is, with "
            f"TORCH_CUDA_ARCH_LIST={arch[3:-1]}.{arch[-1:]} and without MTLFAST_CUDA=0."
        )
    return kernels


def predict(kernel, issued, pipes, moved):
    """Returns the microseconds of the model, and what binds: bytes, issue or a pipe."""
    elements = ELEMENTS * kernel.rows
    busy = {"issue": issued} | {pipe: CYCLES.get(pipe, 1) * n for pipe, n in pipes.items()}
    bound = max(busy, key=busy.get)
    memory = elements * moved / BYTES_PER_US
    issue = elements / ELEMENTS * ISSUE_US * busy[bound]
    issue += min(WAITING_WARPS / kernel.warps, 1) * memory
    return max(memory, issue), "bytes" if memory >= issue else bound


def count(kernel, backward, times):
    """Returns the table's row of a kernel, as a dict."""
    row = {"kernel": kernel.label, "arch": kernel.arch, "registers": kernel.usage["REG"]}
    row |= {"stack": kernel.usage["STACK"], "local": kernel.local}
    if not kernel.family:
        return row
    code, elements = kernel.iteration(backward)
    if not elements:
        return row
    issued = len(code) / elements
    pipes = {pipe: n / elements for pipe, n in sass.pipes(code).items() if pipe}
    widths = Counter(f"{one.name} {one.width}" for one in code if one.name in sass.MOVES)
    moved = sum(sass.moved(code, name, 1 if kernel.label_size else 8) for name in ("LDG", "STG"))
    moved /= elements
    row |= {"issued": issued, "pipes": pipes, "accesses": dict(widths), "bytes": moved}
    if kernel.arch.startswith("sm_90"):
        row["predicted"], row["bound"] = predict(kernel, issued, pipes, moved)
        row["measured"] = times.get(kernel.time_name, {}).get(
            f"{kernel.family}_{kernel.passes}_kernel"
        )
    return row


def table(rows):
    """Returns the rows as a table in Markdown."""
    head = ["kernel", "registers", "stack", "local", "issued", "FMA", "ALU", "MUFU", "accesses"]
    lines = [[*head, "bytes", "predicted", "by", "measured"]]
    for row in rows:
        pipes = row.get("pipes") or {}
        counts = [row.get("issued"), *(pipes.get(name) for name in ("fma", "alu", "mufu"))]
        accesses = ", ".join(f"{n} {name}" for name, n in sorted(row.get("accesses", {}).items()))
        times = [f"{row[key]:.0f}" if row.get(key) else "" for key in ("predicted", "measured")]
        lines.append(
            [
                *(str(row[name]) for name in head[:4]),
                *("" if n is None else f"{n:.1f}" for n in counts),
                accesses,
                f"{row['bytes']:.1f}" if "bytes" in row else "",
                times[0],
                row.get("bound", ""),
                times[1],
            ]
        )
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments=None):
    """Prints the table, and the kernels that spill."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pattern", nargs="?", default="", help="a regular expression for names")
    parser.add_argument("--files", nargs="+", metavar="FILE", default=[LIBRARY])
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--all", action="store_true", help="not the usual ones alone")
    parser.add_argument("--json", action="store_true", help="every count, pipe by pipe")
    parser.add_argument("--triton", action="store_true", help="Triton's kernels instead")
    given = parser.parse_args(arguments)
    times = json.loads(TIMES.read_text())["kernels"]

    def wanted(kernel):
        named = re.search(given.pattern, kernel.label, re.IGNORECASE)
        return bool(named) and (given.all or kernel.usual)

    try:
        if given.triton:
            from triton_counts import compiled

            found, times = compiled(given.arch, wanted), {}
        else:
            found = of_files(given.files, given.arch, wanted)
    except Unusable as reason:
        sys.exit(f"kernel-counts: {reason}")
    backward = {kernel.what: kernel for kernel in found if kernel.passes == "backward"}
    rows = [
        count(kernel, backward.get(kernel.what), times)
        for kernel in sorted(filter(wanted, found), key=lambda one: (one.family, one.label))
    ]
    spilled = [kernel.label for kernel in found if kernel.spills]
    told = f"{len(spilled)} of {len(found)} kernels spill registers" + ": " * bool(spilled)
    print(json.dumps(rows, indent=2) if given.json else table(rows))
    print(told + "; ".join(spilled) + ".", file=sys.stderr if given.json else sys.stdout)


if __name__ == "__main__":
    main()
