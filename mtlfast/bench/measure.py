"""Measuring: a clock that waits for the GPU, the copy bandwidth, others' load, peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median, quantiles, stdev
from typing import Any

import torch
from torch._C._autograd import DeviceType

__all__ = [
    "QUIET",
    "Others",
    "clock",
    "copy_bandwidth",
    "graphed",
    "keep_pages",
    "last_cache_bytes",
    "launches_and_syncs",
    "memory_bytes",
    "peak_extra_bytes",
    "plan",
    "rotate",
    "rounds_of",
    "statistics",
]

COPY_BYTES = {"cpu": 256_000_000, "cuda": 1 << 30}
QUIET = 0.5  # load by others up to which a run counts as undisturbed
Work = Callable[[], Any]


def clock() -> float:
    """Returns seconds, once the GPU has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_bandwidth(device: str, rounds: int = 15) -> float:
    """Returns bytes read plus bytes written per second by torch's copy_, the median of `rounds`."""
    source = torch.rand(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    seconds = rounds_of(lambda: target.copy_(source), rounds + 3, 1)
    return 2 * source.nbytes / median(seconds[3:])


def last_cache_bytes(device: str) -> int:
    """Returns the size of the cache that all cores share."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [int(size.read_text().strip().rstrip("K")) << 10 for size in caches]
    return max(sizes, default=32 << 20)


def memory_bytes(device: str) -> int:
    """Returns the size of the device's memory."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_pages() -> bool:
    """Makes glibc keep freed memory, so that no block is mapped afresh on every call."""
    trim_threshold, map_at_most = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(trim_threshold, 2**31 - 1) and mallopt(map_at_most, 0))


class Others:
    """How many cores other processes keep busy, measured over a stretch of time.

    The load average counts our own threads; where the system tells no busy time, it must
    do, less those threads.
    """

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float | None]:
        now = time.monotonic()
        try:
            ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except OSError:
            return now, None
        user, nice, system, _idle, _waiting, interrupt, soft, stolen = ticks
        busy = user + nice + system + interrupt + soft + stolen
        return now, busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])

    def load(self) -> float:
        """Returns the cores kept busy since the beginning of the stretch."""
        (then, before), (now, after) = self._start, self._read()
        if before is None or after is None or now == then:
            return max(os.getloadavg()[0] - torch.get_num_threads(), 0.0)
        return max(after - before, 0.0) / (now - then)


# Otherwise PyTorch 2.11 warns that the events of further cycles would not be kept.
_ONE_CYCLE: dict[str, Any] = {"acc_events": True}


def peak_extra_bytes(work: Work, device: str) -> int:
    """Returns the most memory that `work()` held at once beyond what was held before."""
    if device == "cuda":
        before = _held_on_gpu()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        # Before it reads the counter again: freed since, memory of others was no part of the peak.
        peak = torch.cuda.max_memory_allocated()
        return peak - min(before, _held_on_gpu())
    activity = torch.profiler.ProfilerActivity.CPU
    settings = {"profile_memory": True, **_ONE_CYCLE}
    with _silent(), torch.profiler.profile(activities=[activity], **settings) as profile:
        work()
    events = [e for e in _kineto(profile) if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events), default=0)


def _held_on_gpu() -> int:
    """Returns the bytes that tensors hold, those that nobody can reach any more left out.

    Cycles wait for the collector; and the thread of the last backward keeps its tensors until it
    has another one to do.
    """
    gc.collect()
    one = torch.ones((), device="cuda", requires_grad=True)
    torch.autograd.grad(one * 1, one)
    del one
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps standard error still: some builds of torch's profiler chat there, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _kineto(profile: torch.profiler.profile) -> list[Any]:
    """Returns the events of a finished profile, unsorted."""
    inner = profile.profiler
    return list(inner.kineto_results.events()) if inner is not None else []  # type: ignore[union-attr]


def launches_and_syncs(work: Work) -> dict[str, int]:
    """Returns what one call of `work` gives the GPU to do, and how often the host waits for it.

    Launches are kernels, copies and fills, as the profiler sees them on the device.
    """
    activity = torch.profiler.ProfilerActivity.CUDA
    clock()
    with _silent(), torch.profiler.profile(activities=[activity], **_ONE_CYCLE) as profile:
        work()
        torch.cuda.synchronize()
    on_device = [e for e in _kineto(profile) if e.device_type() == DeviceType.CUDA]
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    syncs = [w for w in warned if "synchronizing CUDA operation" in str(w.message)]
    return {"launches": len(on_device), "syncs": len(syncs)}


def rotate(steps: Sequence[Work]) -> Work:
    """Returns a callable that runs the next of `steps` on every call."""
    turn = itertools.cycle(steps).__next__
    return lambda: turn()()


def graphed(step: Work) -> Work:
    """Returns the replay of a CUDA graph of `step`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def plan(work: Work, steps: int, budget: float) -> tuple[int, int]:
    """Warms up and returns (rounds, iterations) that take about `budget` seconds.

    A round lasts a millisecond or more, so that the clock and the wait for the GPU don't show.
    """
    begin = clock()
    for _ in range(max(3, steps)):
        work()
        if time.perf_counter() - begin > budget:
            break
    calls = 1
    while True:
        seconds = calls * rounds_of(work, 1, calls)[0]
        if seconds > 1e-3:
            break
        calls *= 2
    return min(max(int(budget / seconds), 3 if seconds > budget else 5), 400), calls


def rounds_of(work: Work, rounds: int, iterations: int) -> list[float]:
    """Returns the seconds per call in each of the rounds, as pytest-benchmark's pedantic mode."""
    seconds = []
    for _ in range(rounds):
        start = clock()
        for _ in range(iterations):
            work()
        seconds.append((clock() - start) / iterations)
    return seconds


def statistics(seconds: Sequence[float]) -> dict[str, Any]:
    """Returns what describes the rounds, and the rounds themselves."""
    low, middle, high = quantiles(seconds, method="inclusive")
    return {
        "median": middle,
        "iqr": high - low,
        "q1": low,
        "q3": high,
        "min": min(seconds),
        "max": max(seconds),
        "mean": fmean(seconds),
        "stddev": stdev(seconds),
        "rounds": len(seconds),
        "seconds": list(seconds),
    }
