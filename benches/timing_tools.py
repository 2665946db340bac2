"""Measuring: a clock that waits for the GPU, the copy bandwidth, others' load, peak memory."""

import ctypes
import itertools
import os
import time
from pathlib import Path
from statistics import median

import torch

COPY_BYTES = {"cpu": 256_000_000, "cuda": 1 << 30}
QUIET = 0.5  # load by others up to which a run counts as undisturbed


def chosen_device(config):
    """Returns the device that the options choose: the GPU where there is one."""
    return config.getoption("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def clock():
    """Returns seconds, once the GPU has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_bandwidth(device, rounds=15):
    """Returns bytes read plus bytes written per second by torch's copy_, the median of `rounds`."""
    source = torch.rand(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds + 3):
        start = clock()
        target.copy_(source)
        seconds.append(clock() - start)
    return 2 * source.nbytes / median(seconds[3:])


def last_cache_bytes(device):
    """Returns the size of the cache that all cores share."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [int(size.read_text().strip().rstrip("K")) << 10 for size in caches]
    return max(sizes, default=32 << 20)


def keep_pages():
    """Makes glibc keep freed memory, so that no block is mapped afresh on every call."""
    trim_threshold, map_at_most = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(trim_threshold, 2**31 - 1) and libc.mallopt(map_at_most, 0))


class Others:
    """How many cores other processes keep busy, measured over a stretch of time.

    The load average counts our own threads; where the system tells no busy time, it must do.
    """

    def __init__(self):
        self._start = self._read()

    @staticmethod
    def _read():
        now = time.monotonic()
        try:
            ticks = [int(t) for t in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except OSError:
            return now, None
        user, nice, system, _idle, _waiting, interrupt, soft, stolen = ticks
        busy = user + nice + system + interrupt + soft + stolen
        return now, busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])

    def load(self):
        """Returns the cores kept busy since the beginning of the stretch."""
        (then, before), (now, after) = self._start, self._read()
        if before is None or now == then:
            return os.getloadavg()[0]
        return max(after - before, 0.0) / (now - then)


def peak_extra_bytes(work, device):
    """Returns the most memory that `work()` held at once beyond what was held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
    activity = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events), default=0)


def rotate(steps):
    """Returns a callable that runs the next of `steps` on every call."""
    turn = itertools.cycle(steps).__next__
    return lambda: turn()()


def graphed(step):
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


def plan(work, steps, budget):
    """Warms up and returns (rounds, iterations) that take about `budget` seconds.

    A round lasts a millisecond or more, so that the clock and the wait for the GPU don't show.
    """
    begin = clock()
    for warm in range(1, max(3, steps) + 1):
        work()
        if warm > 2 and time.perf_counter() - begin > budget:
            break
    calls = 1
    while True:
        start = clock()
        for _ in range(calls):
            work()
        seconds = clock() - start
        if seconds > 1e-3:
            break
        calls *= 2
    return min(max(int(budget / seconds), 5), 400), calls
