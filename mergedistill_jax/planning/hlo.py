"""The text of a compiled program: its instructions, and how often each of them is executed.

XLA counts the body of a loop once in its own analyses. Here a loop counts as often as it turns.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\]")
_BITS = re.compile(r"[a-z]+(\d+)")


class Array(NamedTuple):
    """Element type and sizes of one array, as `bf16[32,512]`."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.sizes:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """Without the padding of a tiled layout; token and opaque types have none."""
        if self.dtype == "pred":
            return self.elements
        bits = _BITS.match(self.dtype)
        return self.elements * int(bits[1]) // 8 if bits else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Attributes:
        operands: names of the instructions it reads.
        rest: everything after the opening parenthesis of its operands.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """Where the program's source made it, such as `jit(step_fn)/jvp(Model)/layers_0/wi/dot_general`, or ''."""
        found = _OP_NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What it gives: one array, or those of a tuple."""
        return arrays_in(self.shape)

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it names."""
        branches = _BRANCHES.search(self.rest)
        listed = _OPERAND.findall(branches[1]) if branches else []
        return (*_CALLED.findall(self.rest), *listed)

    def number(self, key: str) -> int | None:
        """An integer that the compiler notes under a name in its backend_config."""
        found = re.search(rf'"{key}":"?(\d+)', self.rest)
        return int(found[1]) if found else None


class Executed(NamedTuple):
    """An instruction of the program, the computation it stands in, and how often one run executes it."""

    instruction: Instruction
    computation: str
    times: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A compiled program.

    Attributes:
        computations: instructions by name, in the order of the text, by the name of the computation.
        entry: the computation that is the program.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    @functools.cached_property
    def executed(self) -> tuple[Executed, ...]:
        """Every instruction that is scheduled by itself; what is fused or applied stands inside of another one.

        All branches of a conditional are taken, and a loop whose turns are not known is taken once.
        """
        return tuple(self._executed(self.entry, 1))

    @functools.cached_property
    def unknown_loops(self) -> tuple[str, ...]:
        """Names of the loops that are counted once because the text does not tell how often they turn."""
        loops = (each for each in self.executed if each.instruction.opcode == "while")
        return tuple(each.instruction.name for each in loops if self.trips(each.instruction, each.computation) is None)

    def _executed(self, computation: str, times: int) -> Iterator[Executed]:
        for instruction in self.computations[computation].values():
            yield Executed(instruction, computation, times)
            turns = times
            if instruction.opcode == "while":
                turns = times * (self.trips(instruction, computation) or 1)
            elif instruction.opcode not in ("call", "conditional"):
                continue
            for called in instruction.called:
                if called in self.computations:
                    yield from self._executed(called, turns)

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions that a fusion is made of, or that run beside the core, those of fusions in them too."""
        for called in instruction.called if instruction.opcode in ("fusion", "custom-call", "async-start") else ():
            for inner in self.computations.get(called, {}).values():
                yield inner
                yield from self.inside(inner)

    def trips(self, loop: Instruction, computation: str) -> int | None:
        """How often a loop turns: as the compiler notes it, or else from its condition, `counter < constant`.

        The counter goes up by one, as in every loop that JAX makes.
        """
        noted = _TRIPS.search(loop.rest)
        if noted:
            return int(noted[1])
        named = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        condition = self.computations.get(named[1], {}) if named else {}
        root = next((each for each in condition.values() if each.is_root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return None
        start, stop = (self._at_start(condition, name, loop, computation) for name in root.operands[:2])
        return None if stop is None else stop - (start or 0)

    def _at_start(self, condition: Mapping[str, Instruction], name: str, loop: Instruction, outer: str) -> int | None:
        """The value of an integer in a condition when the loop begins, where it is a constant."""
        value = condition.get(name)
        if value is not None and value.opcode == "get-tuple-element":
            given = self.computations[outer].get(loop.operands[0])
            found = re.search(r"index=(\d+)", value.rest)
            if given is None or given.opcode != "tuple" or found is None:
                return None
            value = self.computations[outer].get(given.operands[int(found[1])])
            while value is not None and value.opcode in ("copy", "bitcast") and value.operands:
                value = self.computations[outer].get(value.operands[0])
        if value is None or value.opcode != "constant":
            return None
        constant = re.match(r"(-?\d+)\)", value.rest)
        return int(constant[1]) if constant else None


def arrays_in(text: str) -> tuple[Array, ...]:
    """All arrays that a piece of text names."""
    found = _ARRAY.findall(text)
    return tuple(Array(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in found)


def parse(text: str) -> Program:
    """Reads what `compiled.as_text()` gives.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif header := (_HEADER.match(line.rstrip()) if line and not line[0].isspace() else None):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (instruction := _instruction(line.strip())):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("compiled program: found no entry computation, expected the text of an HLO module")
    return Program(computations=computations, entry=entry)


def _instruction(line: str) -> Instruction | None:
    name = _NAME.match(line)
    opcode = _OPCODE.search(line, name.end() - 1) if name else None
    if not name or not opcode:
        return None
    rest = line[opcode.end() :]
    return Instruction(
        name=name[2],
        shape=line[name.end() : opcode.start()],
        opcode=opcode[1],
        operands=tuple(_OPERAND.findall(rest.partition("), ")[0])),
        rest=rest,
        is_root=bool(name[1]),
    )
