"""Reads the machine code of GPU kernels (SASS): their main loops, and what an iteration issues.

cuobjdump prints it, with no GPU at hand. The main loop of a kernel is the one that moves most by
vector accesses of global memory, loops inside it left out; without such a loop, it is the kernel
from start to end. Of its branches the path is taken that stores and loads most by vectors, then
calls least, then is shortest: whole batches of aligned data, labels as they should be.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P[T\d]+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}

# What the pipes of a sub-core execute on sm_80 and sm_90. FP32 sums and products go to either half
# of the FMA pipe, integer products, and the moves that are made of them, to one of them.
PIPES = {
    "fma": "FFMA FMUL FADD HFMA2 HADD2 HMUL2",
    "imad": "IMAD IDP",
    "alu": "LOP3 ISETP IADD3 SEL FSEL FSETP FSET FMNMX PRMT SHF LEA VIADD VIMNMX VIADDMNMX MOV "
    "IABS PLOP3 P2R R2P I2FP F2FP FCHK HSETP2 HSET2 HMNMX2",
    "mufu": "MUFU I2F F2I F2F FRND FLO POPC",
    "lsu": "LDG STG LDS STS LDL STL LD ST LDSM SHFL",
    "fp64": "DADD DMUL DFMA DSETP",
}
MOVES = ("LDG", "STG", "LDL", "STL")
PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}


@dataclass(frozen=True)
class Instruction:
    """One instruction; `guard` is the predicate that it runs under, or None."""

    address: int
    guard: str | None
    opcode: str
    operands: str

    @property
    def name(self):
        return self.opcode.split(".")[0]

    @property
    def pipe(self):
        """Returns the pipe that executes it; "" where that is none of those that may be full."""
        return PIPE_OF.get(self.name, "")

    @property
    def width(self):
        """Returns the bytes that each thread loads or stores."""
        return next((BYTES[part] for part in self.opcode.split(".")[1:] if part in BYTES), 4)

    @property
    def target(self):
        """Returns the address that a branch goes to, or None."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands) if self.name == "BRA" else None
        return None if found is None else int(found[1], 16)

    @property
    def leaves(self):
        """Returns whether what follows is reached by a branch alone."""
        if self.guard is not None:
            return False
        if self.name == "BRA":  # a condition may also stand before the target
            return self.operands.startswith("0x") and "DIV" not in self.opcode
        return self.name in ("EXIT", "RET", "BRX", "JMX", "KILL")


def functions(text):
    """Yields (architecture, mangled name, text) of what cuobjdump --dump-sass prints."""
    architecture = ""
    for part in re.split(r"^(?=\s*(?:code for|Function :) )", text, flags=re.MULTILINE):
        heading, _, body = part.strip().partition("\n")
        if heading.startswith("code for"):
            architecture = heading.split()[-1]
        elif heading.startswith("Function :"):
            yield architecture, heading.split()[-1], body


def instructions(text):
    """Returns the instructions of a function's text."""
    found = (LINE.match(line) for line in text.splitlines() if ";" in line)
    return [Instruction(int(one[1], 16), *one.group(2, 3, 4)) for one in found if one]


def resources(text):
    """Yields (architecture, mangled name, {"REG": 64, "STACK": 0, ...}) of its resource usage."""
    pattern = r"^arch = (\w+)|^ *Function (\S+):\n(.*)$"
    architecture = ""
    for found, name, usage in re.findall(pattern, text, flags=re.MULTILINE):
        architecture = found or architecture
        if name:
            pairs = (pair.rsplit(":", 1) for pair in usage.split())
            yield architecture, name, {key: int(value) for key, value in pairs}


def moved(code, name, least=1):
    """Returns the bytes that each thread moves by such instructions at least so wide."""
    return sum(one.width for one in code if one.name == name and one.width >= least)


class Flow:
    """Where the control of a kernel goes: basic blocks by the number of their first instruction."""

    def __init__(self, code):
        places = {one.address: i for i, one in enumerate(code)}
        starts = {0} | {i + 1 for i, one in enumerate(code) if one.leaves or one.name == "BRA"}
        starts |= {places[one.target] for one in code if one.target in places}
        ends = sorted(starts | {len(code)})
        self.blocks = {a: code[a:b] for a, b in pairwise(ends)}
        self.next = {}
        for start, block in self.blocks.items():
            follow = [] if block[-1].leaves else [start + len(block)]
            follow += [places[block[-1].target]] if block[-1].target in places else []
            self.next[start] = [place for place in follow if place in self.blocks]
        self.back, self.order = self._walk()

    def _walk(self):
        """Returns the edges from a loop's end to its head, and the blocks, each before the next."""
        back, order, on_path, seen = set(), [], {0}, {0}
        stack = [(0, iter(self.next[0]))]
        while stack:
            start, follow = stack[-1]
            for place in follow:
                if place in on_path:
                    back.add((start, place))
                elif place not in seen:
                    seen.add(place)
                    on_path.add(place)
                    stack.append((place, iter(self.next[place])))
                    break
            else:
                on_path.discard(start)
                order.append(start)
                stack.pop()
        return back, order[::-1]

    @cached_property
    def loops(self):
        """Each loop's blocks by its head: those that reach its end without passing the head."""
        before = {place: [] for place in self.blocks}
        for start in self.order:
            for place in self.next[start]:
                before[place].append(start)
        found = {}
        for end, head in self.back:
            body, todo = found.setdefault(head, {head}), [end]
            while todo:
                place = todo.pop()
                if place not in body:
                    body.add(place)
                    todo += before[place]
        return found

    def own(self, body):
        """Returns the instructions of a loop that are in no loop inside it."""
        inner = set().union(*(other for other in self.loops.values() if other < body))
        return [one for place in body - inner for one in self.blocks[place]]

    @cached_property
    def main(self):
        """The blocks of the main loop, and its head: None where there is no loop."""

        def weight(item):
            head, body = item
            own = self.own(body)
            return moved(own, "LDG", 8) + moved(own, "STG", 8), head is not None, -len(body)

        return max([*self.loops.items(), (None, set(self.order))], key=weight)

    def paths(self):
        """Returns the shortest path through the main loop for each (stored, loaded) by vectors.

        A loop inside it is gone through once. Of two paths the one with fewer calls is shorter.
        """
        head, body = self.main
        if head is None:
            ends = {place for place in body if not self.next[place]}
            head = 0
        else:
            ends = {end for end, to in self.back if to == head}
        best, found = {head: {(0, 0): (0, 0, ())}}, {}
        for place in self.order:
            block = self.blocks[place]
            calls = sum(one.name == "CALL" for one in block)
            for (stored, loaded), (called, length, path) in best.get(place, {}).items():
                key = stored + moved(block, "STG", 8), loaded + moved(block, "LDG", 8)
                way = called + calls, length + len(block), (*path, place)
                if place in ends:
                    found[key] = min(found.get(key, way), way)
                for follow in self.next[place]:
                    if follow in body and (place, follow) not in self.back:
                        known = best.setdefault(follow, {})
                        known[key] = min(known.get(key, way), way)
        return {
            key: [one for p in path for one in self.blocks[p]] for key, (*_, path) in found.items()
        }

    def iteration(self, least=None):
        """Returns the instructions of an iteration; where `least` is given, of one that loads no
        more than that by vectors, if it can.
        """
        paths = self.paths()
        if not paths:
            return []
        stored = max(stored for stored, _ in paths)
        loads = sorted(loaded for one, loaded in paths if one == stored)
        enough = [loaded for loaded in loads if least is not None and loaded >= least]
        return paths[stored, enough[0] if enough else loads[-1]]


def pipes(code):
    """Returns how many instructions each pipe executes."""
    return Counter(one.pipe for one in code)
