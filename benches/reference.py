"""The systems' figures on real data: every recipe with its settings and seeds.

    make reference DATA=folder        # all; or ARGS="driving tcdcn" for some

Each run is the program's own (``mtlfast train ...``) on one thread, two at a time, and keeps its
report in runs/reference. The README's figures are from the table that comes out: means over
seeds, beside what was reported and the bound that the figure is held to.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mtlfast import recipes


@dataclass(frozen=True)
class Study:
    """One recipe in one setting, over seeds.

    Attributes:
        recipe: its name.
        data: folder below the data's root; None where the recipe brings its own.
        options: of the command line.
        seeds: how many, from 0.
        bounds: figure -> what it is held to, as ">= 0.755".
    """

    recipe: str
    data: str | None
    options: tuple[str, ...] = ()
    seeds: int = 3
    bounds: tuple[tuple[str, str], ...] = ()

    @property
    def name(self):
        return " ".join([self.recipe, *self.options])


LAMBDAS = [("deepid2", "orl_faces", ("--lambda", x), 5) for x in ("0", "0.05", "inf")]
TRIPLETS = [
    ("labelstructures", "omniglot", ("--variant", *v.split()), 3)
    for v in ("softmax", "triplet", "triplet --squared", "hierarchical", "hierarchical --squared")
]
DRAWN = [
    (name, None, ("--variant", variant), seeds)
    for name, variants, seeds in (
        ("transfer", ("scratch", "head", "finetune"), 5),
        ("textcnn", ("main", "staged"), 5),
        ("auxheads", ("off", "on"), 3),
        ("rpn", ("paper", "py-faster-rcnn"), 1),
    )
    for variant in variants
]
STUDIES = [
    Study("driving", "tox21", ("--split", "index"), 3, (("validation auroc", ">= 0.755"),)),
    Study("driving", "tox21", ("--split", "random"), 3, (("validation auroc", ">= 0.785"),)),
    Study("jointvsseparate", "tox21", (), 1),
    Study("jointvsseparate", "tox21", ("--width", "50"), 1),
    Study(
        "slicelabels",
        "mulan_emotions",
        ("--variant", "sum"),
        5,
        (("Hamming loss", "<= 0.21"), ("micro-F1", ">= 0.66")),
    ),
    Study(
        "slicelabels",
        "mulan_emotions",
        ("--variant", "sum", "--hidden", "0.5"),
        5,
        (("Hamming loss", "<= 0.225"), ("micro-F1", ">= 0.64")),
    ),
    Study("tcdcn", "mtfl", ("--variant", "joint"), 3, (("landmark error", "<= 0.15"),)),
    Study("tcdcn", "mtfl", ("--variant", "landmarks"), 3),
    Study("attributes", "celeba", ("--weighting", "fixed"), 3, (("auroc", ">= 0.67"),)),
    Study("attributes", "celeba", ("--weighting", "validation-loss-trend"), 3),
    Study("attributes", "celeba", ("--momentum", "0.9"), 3),
    Study("attributes", "celeba", ("--min-weight", "0.5", "--max-weight", "2"), 3),
    *(Study(*one) for one in (*LAMBDAS, *TRIPLETS, *DRAWN)),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", help="only these (default: all)")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data's folders")
    parser.add_argument("--output", type=Path, default=Path("runs/reference"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    options = parser.parse_args()
    known = sorted({study.recipe for study in STUDIES})
    if strange := set(options.recipes) - set(known):
        parser.error(f"recipes must be of {', '.join(known)}; got {', '.join(sorted(strange))}")
    chosen = [s for s in STUDIES if not options.recipes or s.recipe in options.recipes]
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        pending = [
            [pool.submit(figures_of, study, options, seed) for seed in range(study.seeds)]
            for study in chosen
        ]
        lines = [
            "| system | data | command: `mtlfast train` ... | reported | measured | seeds |",
            "|---|---|---|---|---|--:|",
        ]
        print(*lines, sep="\n", flush=True)
        for study, runs in zip(chosen, pending, strict=True):
            try:
                lines.append(row(study, [run.result() for run in runs]))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            print(lines[-1], flush=True)
    print(f"\n{(time.perf_counter() - start) / 60:.0f} minutes")
    (options.output / "reference.md").write_text("\n".join(lines) + "\n")


def row(study, figures):
    """Returns a study's line of the table, from the figures of each seed."""
    bounds = dict(study.bounds)
    measured = []
    for name in dict.fromkeys(name for one in figures for name in one):
        values = [one[name] for one in figures if name in one]
        mean, bound = fmean(values), bounds.get(name)
        held = "" if bound is None else f" ({bound}: {'yes' if holds(mean, bound) else 'NO'})"
        part = "" if len(values) == len(figures) else f" (in {len(values)})"
        measured.append(f"{name} {mean:.3f}{held}{part}")
    module = recipes.recipe(study.recipe)
    shown = [
        recipes.RECIPES[study.recipe],
        study.data or "its own",
        f"`{study.name}`",
        module.CLAIM,
    ]
    return f"| {' | '.join([*shown, ', '.join(measured), str(study.seeds)])} |"


def figures_of(study, options, seed):
    """Runs one seed in a process of its own, and returns its figures."""
    folder = options.output / f"{study.name.replace(' ', '_').replace('--', '')}_{seed}"
    command = [sys.executable, "-m", "mtlfast", "train", study.recipe, *study.options]
    command += ["--seed", str(seed), "--output", str(folder), "--overwrite"]
    command += ["--data", str(options.data / study.data)] if study.data else []
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{ran.stderr}")
    return json.loads((folder / "report.json").read_text())["figures"]


def holds(value, bound):
    sign, limit = bound.split()
    return value >= float(limit) if sign == ">=" else value <= float(limit)


if __name__ == "__main__":
    main()
