"""Makes bad calls of the native ops in forked processes: `python raw_op_calls.py SEED NUMBER`.

Good calls are what the public functions make of the cases. A bad one changes one argument, in all
ways that its type in the schema allows. Prints a line for each call that broke a rule.
"""

import json
import math
import os
import random
import re
import sys
import traceback

import torch
from batch_cases import LOSSES as BATCH_LOSSES
from batch_cases import batch_of
from cases import LOSSES, Case, Setting
from row_cases import ROW_LOSSES, RowCase, RowSetting
from torch.utils._python_dispatch import TorchDispatchMode

from mtlfast.ops import inbatch

CANARY, GUARD = 64, 0xA5  # bytes before and after each tensor
FACTORS = dict(
    mask="full", weight="full", pos_weight="task", sample_weight="row", task_weight="task"
)
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.float8_e4m3fn),
]
INTEGERS = (-1, 0, 1, 3, 6, 7, 2**31, 2**63 - 1, -(2**63), None, 0.5)
NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e308, 1e-308, 2.0**63)
# What torch says before an op is called at all, sometimes in several lines.
TORCH_SAYS = re.compile(
    r"Expected a value of type|Could not run|no tensor arguments|operator with Meta tensors"
    r"|a leaf Variable|ZeroTensors are immutable|Overflow when unpacking"
)


class Calls(TorchDispatchMode):
    """Keeps the native ops' calls, as they were before they changed anything."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is inbatch.forward:
            with self:
                return inbatch._forward(*args)
        if func.namespace == "mtlfast":
            self.kept.append((func, [own(a) for a in args]))
        return func(*args, **(kwargs or {}))


def memory_of(tensor):
    """Returns the bytes of a tensor's storage."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def own(value):
    """Returns a copy with memory of its own, between canaries, of the same strides."""
    if isinstance(value, list | tuple):
        return [own(v) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.device.type == "meta" or value.layout != torch.strided:
        return value.clone()
    held = memory_of(value)
    memory = torch.full((CANARY + len(held) + CANARY,), GUARD, dtype=torch.uint8)
    memory[CANARY : CANARY + len(held)] = held
    start = CANARY // value.element_size() + value.storage_offset()
    copy = torch.empty(0, dtype=value.dtype)
    return copy.set_(memory.untyped_storage(), start, value.shape, value.stride())


def good_calls():
    """Returns the native calls of every loss of every family, forward and backward."""
    torch.manual_seed(0)
    calls = Calls()
    with calls:
        for loss in LOSSES:
            case = Case(loss, 0, Setting("raw", (6, 4), torch.int8, 0.2, FACTORS))
            for dtype, reduction in ((torch.float32, "taskmean"), (torch.float16, "none")):
                case.gradients(case.inputs(dtype), reduction=reduction, backend="native")
        for loss, row in ROW_LOSSES.items():
            for variant in range(len(row.variants)):
                case = RowCase(loss, variant, RowSetting("raw", (6, 5)))
                dtype, reduction = [(torch.float32, "mean"), (torch.bfloat16, "none")][variant % 2]
                case.gradients(case.inputs(dtype), reduction=reduction, backend="native")
        for name in ("classes", "multi-hot", "reference set"):
            for loss in BATCH_LOSSES:
                batch_of(name).to(torch.float32).gradients(loss, backend="native")
    return calls.kept


def freed(tensor, size=0):
    tensor.untyped_storage().resize_(size)
    return tensor


def filled(tensor, value):
    full = torch.full(tensor.shape, value, dtype=torch.float64).to(tensor.dtype)
    return own(full) if tensor.is_floating_point() else tensor


# Each makes another tensor of a copy; None where there is nothing to change.
ANYWHERE = {
    **{str(d): lambda t, d=d: t.to(d) if d != t.dtype else None for d in DTYPES},
    **{
        f"all {v}": lambda t, v=v: filled(t, v)
        for v in (math.nan, math.inf, -math.inf, 3e38, -1.0, 0.0)
    },
    "flat": lambda t: t.reshape(-1),
    "one dimension more": lambda t: t.unsqueeze(0),
    "one number": lambda t: t.new_zeros(()),
    **{
        f"zeros {shape}": lambda t, shape=shape: t.new_zeros(shape)
        for shape in ((0,), (0, 0), (3, 0), (2**61, 0), (0, 2**40))
    },
    "2^50 expanded": lambda t: t.new_zeros(1).expand(2**50),
    "2^60 expanded": lambda t: t.new_zeros(1, 1).expand(2**40, 2**20),
    "transposed": lambda t: t.t() if t.dim() == 2 else None,
    "column by column": lambda t: t.t().contiguous().t() if t.dim() == 2 else None,
    "meta": lambda t: t.to("meta"),
    "wants a gradient": lambda t: t.requires_grad_(t.is_floating_point()),
    "conjugate": lambda t: t.to(torch.complex64).conj(),
    "zero tensor": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
}
IN_A_DIMENSION = {
    "empty": lambda t, d: t.narrow(d, 0, 0),
    "half": lambda t, d: t.narrow(d, 0, t.shape[d] // 2),
    "one more": lambda t, d: torch.cat([t, t.narrow(d, 0, min(1, t.shape[d]))], d),
    "expanded": lambda t, d: t.narrow(d, 0, min(1, t.shape[d])).expand(t.shape),
    "apart": lambda t, d: t.repeat_interleave(2, d)[(slice(None),) * d + (slice(None, None, 2),)],
}
REFUSED = {
    "freed": lambda t: freed(t) if t.numel() else None,
    "half freed": lambda t: freed(t, CANARY) if t.numel() else None,
    "sparse": lambda t: t.to_sparse(),
}


def bad_tensors(tensor):
    """Returns (name, change of a copy of the tensor, whether it must be refused), many times."""
    found = [(name, change, False) for name, change in ANYWHERE.items()]
    found += [(name, change, True) for name, change in REFUSED.items()]
    for d in range(tensor.dim()):
        for name, change in IN_A_DIMENSION.items():
            found.append((f"{name} in {d}", lambda t, c=change, d=d: c(t, d), False))
    return found


def bad_numbers(values):
    """Returns lists where one number is another, or there are more or fewer."""
    found = [[], [*values, 1.0], [0.5] * 100]
    for i in range(len(values)):
        found.append([*values[:i], *values[i + 1 :]])
        found += [[*values[:i], number, *values[i + 1 :]] for number in (*NUMBERS, 3.0)]
    return found


def bad_value(kind, value, optional, choose):
    """Returns (name, value, whether it must be refused) for an argument of that type."""
    if isinstance(value, torch.Tensor):
        name, change, refused = choose([("None", None, not optional), *bad_tensors(value)])
        return name, change(own(value)) if change else None, refused
    if kind == "List[Tensor]":
        i = choose(range(len(value)))
        name, changed, refused = bad_value("Tensor", value[i], False, choose)
        lists = {
            "empty": [],
            "forty": value * 20,
            "one less": [*value[:i], *value[i + 1 :]],
            **{turn: [*value[:i], changed, *value[i + 1 :]] for turn in range(9)},
        }
        which = choose(list(lists))
        return f"{which}, {i} {name}", lists[which], refused and isinstance(which, int)
    if kind == "int":
        number = choose(INTEGERS)
        return str(number), number, number in (-1, 2**31, 2**63 - 1, -(2**63))
    others = {
        "Optional[Tensor]": [torch.ones(s) for s in ((), (1,), (6,), (6, 4), (2**61, 0))],
        "List[int]": [[], [0, 0], [1, 0], [-1], [2], [40], [2**63 - 1], [0] * 100],
        "List[float]": bad_numbers(value) if kind == "List[float]" else [],
        "bool": [not value],
        "float": NUMBERS,
    }
    bad = choose(others[kind])
    return repr(bad), bad, False


def bad_calls(good, seed, turns):
    """Yields (name, op, arguments, whether the call must be refused) by turns, op after op."""
    by_op = {}
    for op, arguments in good:
        by_op.setdefault(op, []).append(arguments)
    for turn in turns:
        choose = random.Random(f"{seed} {turn}").choice
        op, calls = list(by_op.items())[turn % len(by_op)]
        arguments = [own(a) for a in choose(calls)]
        place = choose(range(len(arguments)))
        argument = op._schema.arguments[place]
        kind = str(argument.type)
        name, value, refused = bad_value(
            kind, arguments[place], kind.startswith("Optional"), choose
        )
        arguments[place] = value
        # Of this one the dtype alone counts.
        refused = refused and (op.__name__, argument.name) != ("inbatch_totals.default", "like")
        unchanged = value is None and name != "None"
        yield (
            f"{turn}: {op.__name__} {argument.name}: {name}",
            op,
            arguments,
            refused and not unchanged,
        )


def held_by(arguments):
    """Returns the tensors whose memory can be looked at, and copies of it."""
    flat = [t for a in arguments for t in (a if isinstance(a, list) else [a])]
    tensors = [t for t in flat if isinstance(t, torch.Tensor) and t.layout == torch.strided]
    tensors = [t for t in tensors if t.device.type == "cpu" and not t._is_zerotensor()]
    return [(t, memory_of(t).clone()) for t in tensors]


def edges(memory):
    return torch.cat([memory[:CANARY], memory[-CANARY:]])


def broken_rule(op, arguments, refused):
    """Makes the call, and returns which rule it broke, or None."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments]
    fixed = held_by([a for a, w in zip(arguments, written, strict=True) if not w])
    changed = held_by([a for a, w in zip(arguments, written, strict=True) if w])
    try:
        op(*arguments)
    except Exception as error:
        told = str(error)
        ours = told.startswith("mtlfast: ") and "\n" not in told
        if not ours and not TORCH_SAYS.search(told):
            return f"raised {type(error).__name__}: {told[:300]!r}"
    else:
        if refused:
            return "was not refused"
    if not all(torch.equal(memory_of(tensor), before) for tensor, before in fixed):
        return "changed what it only reads"
    for tensor, before in changed:
        if (edges(before) == GUARD).all() and (edges(memory_of(tensor)) != GUARD).any():
            return "wrote beyond an argument"
    return None


def run(good, seed, turns, report):
    """Makes the calls of these turns; tells `report` which one begins, and which broke a rule."""

    def tell(*what):
        os.write(report, (json.dumps(what) + "\n").encode())

    for name, *call in bad_calls(good, seed, turns):
        tell("begins", name)
        rule = broken_rule(*call)
        if rule:
            tell("broke", f"{name} {rule}")


def main(seed, number):
    torch.set_num_threads(1)  # a fork keeps no other thread
    good, made = good_calls(), 0
    while made < number:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                run(good, seed, range(made, number), write)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as lines:
            told = [json.loads(line) for line in lines]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        made += sum(what == "begins" for what, _ in told)
        for what, name in told:
            if what == "broke":
                print(name)
        if status:
            print(f"{told[-1][1] if told else 'nothing'} ended the process: {status}", flush=True)
        if not told:
            break
    print(f"{made} calls")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
