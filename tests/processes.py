"""Training in processes of its own, one or two, that can be killed; imports are paid once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from training import data, full_run, network, state, tasks, trainer

from mtlfast import cli
from mtlfast.train import Samples, Stage, TaskDatasets, checkpoint
from mtlfast.train.report import pictures
from mtlfast.weighting import (
    DynamicWeightAverage,
    GeometricMean,
    RandomWeights,
    Uncertainty,
    ValidationLossTrend,
)

CONTEXT = multiprocessing.get_context("forkserver")
# What the first step of an optimizer and the digits import takes longer than most runs here.
PRELOADED = ["mtlfast.train", "mtlfast.recipes", "torchmetrics", "torch._dynamo"]
PRELOADED += ["sklearn.datasets", "matplotlib.backends.backend_agg"]
CONTEXT.set_forkserver_preload(PRELOADED)


def launch(function, *arguments, processes=1):
    """Starts ``function(*arguments)`` in each of so many new processes, which form one group."""
    store = Path(tempfile.mkdtemp()) / "store"
    started = [
        CONTEXT.Process(target=_enter, args=(function, arguments, rank, processes, str(store)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def finish(started, seconds=60):
    """Waits for processes, and returns their exit codes."""
    try:
        for process in started:
            process.join(seconds)
        return [process.exitcode for process in started]
    finally:
        for process in started:
            process.kill()


def told_by_two(function, folder, *arguments):
    """Returns the lines that ``function(tell, *arguments)`` tells in each of two processes.

    Where it fails, its traceback comes last.
    """
    codes = finish(launch(_tell, folder, function, *arguments, processes=2))
    lines = [(folder / str(rank)).read_text().splitlines() for rank in range(2)]
    return lines if codes == [0, 0] else [[*found, f"exit codes {codes}"] for found in lines]


def _tell(folder, function, *arguments):
    with (folder / str(dist.get_rank())).open("w") as file:
        try:
            function(lambda line: print(line, file=file, flush=True), *arguments)
        except BaseException:
            traceback.print_exc(file=file)
            raise


def _enter(function, arguments, rank, processes, store):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if processes > 1:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        group |= {"LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": 1}
        os.environ.update({name: str(value) for name, value in group.items()})
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=30),
        )
    function(*arguments)
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


# How a case trains: always in float64, without BatchNorm and dropout, on labels of which many are
# missing, in steps of 8 of 37 rows, the last one of 5.


def double(samples):
    return Samples(samples.inputs.double(), samples.targets)


def per_task(sampling):
    """One data set of each task, of 37 and 11 rows."""
    kind, flags = double(data(37)), double(data(11, seed=1))
    kind.targets = {"kind": kind.targets["kind"]}
    flags.targets = {"flags": flags.targets["flags"]}
    return lambda: TaskDatasets({"kind": kind, "a": flags}, sampling)


def trend():
    return {"weighting": ValidationLossTrend(3, interval=2).double()}


CASES = {
    "plain": {},
    "accumulating": {"accumulate": 3},
    "clipped": {"clip": 0.1},
    "by rows": {"learned": lambda: tasks(normalizer="rows", weight=0.5)},
    "by a constant": {"learned": lambda: tasks(normalizer=7.0), "accumulate": 2},
    "trend": {"options": trend, "accumulate": 2},
    "dynamic": {"options": lambda: {"weighting": DynamicWeightAverage(3, 2).double()}},
    "random": {"options": lambda: {"weighting": RandomWeights(3).double()}, "accumulate": 2},
    "uncertainty": {"options": lambda: {"weighting": Uncertainty(3).double()}},
    "geometric": {"options": lambda: {"weighting": GeometricMean(3).double()}},
    "staged": {"options": lambda: {"stages": [Stage(["kind"], 1), Stage(["a", "b"], 1)]}},
    "proportional": {"dataset": per_task("proportional")},
    "in turn": {"dataset": per_task("round_robin")},
    "cycling": {"dataset": per_task("max_size_cycle"), "accumulate": 2},
}


def train(name):
    """Runs a case and returns tensors and numbers that tell all of its outcome."""
    case = dict(CASES[name])
    options = {key: case[key] for key in ("accumulate", "clip") if key in case}
    options |= case.get("options", dict)()
    model = network(norm=False).double()
    weighting = options.get("weighting")
    learning = list(weighting.parameters()) if weighting is not None else []
    optimizer = torch.optim.AdamW([*model.parameters(), *learning], lr=0.01)
    run = trainer(model, case.get("learned", tasks)(), lambda *_, **__: optimizer, **options)
    samples = case.get("dataset", lambda: double(data()))()
    weights = {"weight_data": double(data(20, seed=1)), "weight_batch_size": 3}
    weights = weights if run.weighting.observes else {}
    validation = double(data(9, seed=2))
    history = run.fit(samples, 2, 8, validation=validation, **weights)
    return {
        **{f"model.{key}": value for key, value in state(model).items()},
        **{f"weighting.{key}": value for key, value in state(run.weighting).items()},
        **{f"output.{key}": value for key, value in run.predict(validation).items()},
        "history": [
            [row[key] or 0 for key in ("weight", "train_loss", "train_labels", "validation_loss")]
            for row in history
        ],
    }


def train_all(folder):
    """Runs every case and saves its outcome."""
    for name in CASES:
        outcome = train(name)
        if not dist.is_initialized() or dist.get_rank() == 0:
            checkpoint.save(Path(folder) / f"{name}.safetensors", outcome)


def train_long(output, resume, pause=0.0, stop=None):
    """Runs 48 steps with all that has a memory.

    A pause before each step leaves time to kill; before step ``stop`` the process kills itself.
    """
    run = full_run(output, checkpoint_every=2)
    usual = run._step

    def step(batches):
        if run.run.step == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        usual(batches)

    run._step = step
    options = {"validation": data(9, seed=2), "weight_data": data(20, seed=1)}
    run.fit(data(44), 12, 12, **options, resume=resume, pictures=False)


def refuse_to_go_on(output, told, fault):
    """Goes on from a checkpoint that the second process alone cannot take; writes what is said."""
    run, options = full_run(output), {"weight_data": data(20, seed=1), "pictures": False}
    warnings.simplefilter("ignore")
    run.fit(data(44), 1, 12, **options)
    again, rank = full_run(output), dist.get_rank()
    if rank == 1 and fault == "reading":
        checkpoint.load = _refuse
    if rank == 1 and fault == "restoring":
        again.model.load_state_dict = _refuse
    try:
        again.fit(data(44), 2, 12, **options, resume=True)
    except ValueError as error:
        (Path(told) / str(rank)).write_text(str(error))


def _refuse(path, *_):
    raise checkpoint.Damaged(Path("mine"), "it is not for me")


def train_from_the_command_line(*arguments):
    """Runs the program, which draws no pictures, and exits as it does."""
    torch.set_num_threads(1)
    pictures.draw = lambda *_, **__: None
    if code := cli.main(["train", "digits", *arguments]):
        os._exit(code)
