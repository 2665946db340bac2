"""How the pointwise kernels walk an (N, T) matrix: what csrc/cuda/layout.cuh makes of its shape."""

import functools
import math
from typing import NamedTuple

from .launch import divide_up

THREADS = 256  # of a program: 32 to a step's super-row, on warps of 32 and of 64 alike
HEIGHT = THREADS // 32
_PROCESSORS = 132  # Hopper's multiprocessors
_MAX_TILES = 16  # more only where T asks
_MAX_FOLDED = 1 << 14  # slots that a program may have to fold onto tasks


class Plan(NamedTuple):
    """How an (N, T) matrix is walked; see pointwise_operands.py."""

    vector: int  # elements of a thread in a step: 16 bytes of logits
    batch: int  # steps that are loaded at once
    period: int  # rows side by side in a super-row
    width: int  # slots in a super-row
    rows: int  # super-rows; the last may be short
    tiles: int
    splits: int
    split_rows: int  # super-rows in a split
    total: int

    @property
    def programs(self) -> int:
        return self.tiles * self.splits

    @property
    def align(self) -> int:
        """Elements that are in a thread's 16 bytes of every super-row, or 1."""
        return self.vector if self.width % self.vector == 0 else 1

    @property
    def end(self) -> int:
        """The same of all elements."""
        return self.vector if self.total % self.vector == 0 else 1


def _clamp(number: int, least: int, most: int) -> int:
    return max(min(number, most), least)


@functools.lru_cache(maxsize=1024)
def plan(samples: int, tasks: int, itemsize: int, batch: int, resident: int, sums: bool) -> Plan:
    """Returns the walk for an (N, T) matrix of `itemsize` bytes: that of csrc/cuda/layout.cuh.

    `batch`: elements that a thread loads at once. `resident`: programs that fit a multiprocessor:
    they come in whole waves. `sums`: slots are summed onto tasks in the end, which is serial work
    where the period is not 1.
    """
    vector = 16 // itemsize
    batch //= vector
    total, tile = samples * tasks, 32 * vector
    aligned = vector // math.gcd(tasks, vector)
    # As many tiles as leave each warp a super-row: of small inputs there are few slots to fold.
    wanted = tile * _clamp(total // (tile * HEIGHT), 1, _MAX_TILES)
    first = aligned * divide_up(wanted, aligned * tasks)
    periods = [first, *range(first + aligned, 2 * wanted // tasks + 1, aligned)]
    # The share of the lanes beyond the super-row's end.
    period = min(periods, key=lambda k: divide_up(k * tasks, tile) * tile / (k * tasks))
    # Long rows that don't start aligned: reading them one by one costs less than folding them.
    if sums and period * tasks > _MAX_FOLDED:
        period = 1
    width = period * tasks
    rows, tiles = divide_up(total, width), divide_up(width, tile)
    # Half of them where one program adds up what the others found: each warp has a whole batch.
    blocks = _PROCESSORS * (3 if resident == 3 else 4) * (1 if sums else 2)
    least = HEIGHT * batch if sums else HEIGHT
    most = _clamp(divide_up(rows, least), 1, blocks // _MAX_TILES)
    each = divide_up(rows, _clamp(blocks // tiles, 1, most))
    step = HEIGHT if each < HEIGHT * batch else HEIGHT * batch
    split_rows = divide_up(each, step) * step
    splits = divide_up(rows, split_rows)
    return Plan(vector, batch, period, width, rows, tiles, splits, split_rows, total)
