"""What kernel_counts.py knows of a kernel: what it computes, and under which name it was timed."""

import re
from dataclasses import dataclass
from functools import cached_property

import sass

SIZES = {"float": 4, "BFloat16": 2, "Half": 2}
PATHS = ("bytes", "floats", "weighted bytes", "weighted floats", "general")  # enum class Path
BCE, FOCAL, ASYMMETRIC = "BinaryCrossEntropyWithLogits", "SigmoidFocalLoss", "AsymmetricLoss"

# What the kernels of benches/results/nvidia-h200/kernels.json are, forward and backward.
TIMES = {
    "BCE 64M T=40": (f"{BCE} float bytes sided",) * 2,
    "BCE bf16 64M": (f"{BCE} BFloat16 bytes sided",) * 2,
    "BCE fp16 64M": (f"{BCE} Half bytes sided",) * 2,
    "BCE NaN 64M": (f"{BCE} float floats",) * 2,
    "mse NaN 64M": ("MseLoss float floats",) * 2,
    "BCE pos_weight 64M": (f"{BCE} float weighted bytes sided",) * 2,
    "sigmoid_focal_loss 64M": (f"{FOCAL} float bytes sided",) * 2,
    "sigmoid_focal_loss bf16 64M": (f"{FOCAL} BFloat16 bytes sided",) * 2,
    "sigmoid_focal_loss NaN 64M": (f"{FOCAL} float floats",) * 2,
    "asymmetric_loss 64M": (f"{ASYMMETRIC} float bytes sided",) * 2,
    "asymmetric_loss bf16 64M": (f"{ASYMMETRIC} BFloat16 bytes sided",) * 2,
    "triplet f32 262144x256": ("Squares float 3 unit x4",) * 2,
    "triplet bf16 262144x256": ("Squares BFloat16 3 unit x4", "Squares BFloat16 3 unit x2"),
    "contrastive 262144x256": ("Squares float 2 x4", "Squares float 2 x2"),
    "triplet_margin 262144x256": ("Squares float 3 x4",) * 2,
    "hierarchical 262144x256": ("Squares float 4 unit x4", "Squares float 4 unit x2"),
}


@dataclass
class Kernel:
    """A kernel, its registers and the like (`usage`, from sass.resources), and its code as a text.

    `size` and `label_size` are the bytes of an element and of its label; rows have no labels, and
    `plain` kernels load nothing else.
    """

    arch: str
    name: str
    usage: dict[str, int]
    text: str = ""
    family: str = ""
    passes: str = ""
    what: str = ""
    size: int = 0
    label_size: int = 0
    rows: int = 1
    plain: bool = True

    @property
    def label(self):
        return f"{self.what} {self.passes}" if self.family else self.name

    @cached_property
    def code(self):
        return sass.instructions(self.text)

    @cached_property
    def flow(self):
        return sass.Flow(self.code)

    def iteration(self, backward):
        """Returns the instructions of an iteration and the elements it is of.

        `backward` is the gradients' kernel of the same operands: of weighted ones a forward kernel
        has as many elements as that one stores.
        """
        if self.plain:
            code = self.flow.iteration()
            if self.passes == "backward":
                return code, sass.moved(code, "STG", 2) / self.size
            loaded = sass.moved(code, "LDG", 1 if self.label_size else 8)
            return code, loaded / (self.size + self.label_size)
        stores = [one for one in backward.flow.iteration() if one.name == "STG"]
        elements = sum(one.width for one in stores) // self.size
        width = max((one.width for one in stores), default=0) // self.size  # of a vector
        labels = elements * self.label_size if width * self.label_size >= 8 else 0
        return self.flow.iteration(elements * self.size + labels), elements

    @property
    def warps(self):
        """Returns how many a multiprocessor holds, by their registers, in blocks of eight."""
        each = 32 * -(-self.usage["REG"] // 8) * 8
        return min((1 << 16) // each, 64) // 8 * 8

    @property
    def local(self):
        """Returns how many of its instructions load or store local memory."""
        return sum(one.name in ("LDL", "STL") for one in self.code)

    @property
    def spills(self):
        """Returns whether it keeps registers in local memory, which has nothing else to hold."""
        return self.usage["STACK"] > 0

    @property
    def time_name(self):
        """Returns the name of its time, or None where it was not measured."""
        if not self.family:
            return None
        at = ("forward", "backward").index(self.passes)
        return next((name for name, of in TIMES.items() if of[at] == self.what), None)

    @property
    def usual(self):
        """Returns whether it is of those that most calls run."""
        if self.family == "pointwise":
            return "Half" not in self.what and ("floats" not in self.what or self.plain)
        return self.family == "rows" and "Half" not in self.what and self.what[-2:] in ("x2", "x4")


def of_library(arch, name, usage):
    """Returns a kernel of the native library by its name, without its code."""
    name = re.sub(r"^void |mtlfast::|\((?:mtlfast::)?Path\)", "", name)
    found = re.match(r"(pointwise|rows)_(forward|backward)_kernel<(.*)>\(", name)
    if not found:
        return Kernel(arch, name.split("(")[0], usage)
    family, passes, arguments = found.groups()
    if family == "pointwise":
        loss, dtype, path, *flags = arguments.split(", ")
        path = PATHS[int(path)]
        sided = "".join(" sided" for flag in flags if flag == "true")
        more = {"label_size": 4 if "floats" in path else 1, "plain": path in PATHS[:2]}
        more["what"] = f"{loss} {dtype} {path}{sided}"
    else:
        dtype, metric, held = arguments.split(", ", 2)
        rows, chunks, unit, *_ = re.findall(r"\w+", held.removeprefix("Held"))
        more = {"rows": max(int(rows), 1)}
        more["what"] = f"{metric} {dtype} {rows}{' unit' * (unit == 'true')} x{chunks}"
    more |= {"family": family, "passes": passes, "size": SIZES[dtype]}
    return Kernel(arch, name, usage, **more)
