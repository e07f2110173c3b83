"""The collectives of a compiled program: how many, how many bytes, and how long the links would take."""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mergedistill_jax.planning.hardware import Chip
from mergedistill_jax.planning.hlo import Executed, Instruction, Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_GROUPS = re.compile(r"replica_groups=(\{\{.*?\}\}|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?|mesh\[.*?\] ?\{.*?\})")
_COUNTED = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of the program.

    Attributes:
        bytes: of the whole array on one chip: what is summed, what is gathered, or what is sent, for one execution.
        times: executions in one run of the program.
        group: the devices that take part, as places in the mesh; those of the first group.
        overlapped: the compiler runs it beside other work.
        op_name: where the program's source made it.
    """

    kind: str
    bytes: int
    times: int
    group: tuple[int, ...]
    overlapped: bool
    op_name: str

    @property
    def wire_bytes(self) -> float:
        """What each chip sends in one execution, by the algorithm on a ring (Patarasu & Yuan 2009)."""
        count = len(self.group)
        share = (count - 1) / count if count else 0.0
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: Program, devices: int) -> tuple[Collective, ...]:
    """Every collective among more than one device; one that is spread over several fusions counts once.

    Args:
        program: parsed.
        devices: of the mesh.
    """
    found = []
    seen: set[tuple[str, str]] = set()
    for executed in program.executed:
        for instruction, kind, overlapped in _of(program, executed.instruction):
            channel = _CHANNEL.search(instruction.rest)
            key = (executed.computation, channel[1] if channel else instruction.name)
            if instruction is not executed.instruction:  # a part of an asynchronous collective
                if key in seen:
                    continue
                seen.add(key)
            group = group_of(instruction.rest, devices)
            if len(group) > 1 or kind == "collective-permute":
                found.append(_collective(executed, instruction, kind, group, overlapped=overlapped))
    return tuple(found)


def _of(program: Program, instruction: Instruction) -> Iterator[tuple[Instruction, str, bool]]:
    kind = instruction.opcode.removesuffix("-start")
    if kind in KINDS:
        yield instruction, kind, instruction.opcode.endswith("-start")
        return
    if instruction.opcode not in ("fusion", "async-start"):
        return
    # What the TPU's compiler calls all-reduce-scatter is an all-reduce of which each device keeps its part.
    scattered = any("all-reduce-scatter" in called for called in instruction.called)
    for inner in program.inside(instruction):
        kind = inner.opcode.removesuffix("-start")
        if kind in KINDS:
            yield inner, "reduce-scatter" if scattered else kind, not scattered


def _collective(
    executed: Executed, instruction: Instruction, kind: str, group: tuple[int, ...], *, overlapped: bool
) -> Collective:
    sizes = [array.bytes for array in instruction.arrays]
    tuple_of_both = instruction.opcode.endswith("-start") and kind != "all-reduce"
    size = max(sizes) if tuple_of_both else sum(sizes)
    if instruction.opcode.startswith("reduce-scatter"):
        size *= len(group)  # its result is a part of what is summed
    return Collective(
        kind=kind,
        bytes=size,
        times=executed.times,
        group=group,
        overlapped=overlapped,
        op_name=instruction.op_name or executed.instruction.op_name,
    )


def group_of(attributes: str, devices: int) -> tuple[int, ...]:
    """The first group of devices that a collective's attributes name; all where they name none.

    XLA writes them as `{{0,1},{2,3}}`, as `[2,2]<=[4]` or `[2,2]<=[2,2]T(1,0)` (rows of a transposed count), or as
    `mesh['a'=2,'b'=2] {'b'}` (an axis of a mesh).
    """
    match = _GROUPS.search(attributes)
    text = match[1] if match else ""
    if text.startswith("{{"):
        return tuple(_numbers(text[2 : text.index("}")]))
    if counted := _COUNTED.match(text):
        rows, sizes, order = map(_numbers, counted.groups(default=""))
        places = np.arange(math.prod(sizes)).reshape(sizes)
        return tuple((places.transpose(order) if order else places).reshape(rows)[0].tolist())
    if text.startswith("mesh"):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", text)}
        over = re.findall(r"'(\w+)'", text[text.index("{") :])
        places = np.arange(math.prod(axes.values())).reshape(list(axes.values()))
        first = places[tuple(slice(None) if name in over else 0 for name in axes)]
        return tuple(first.reshape(-1).tolist())
    return tuple(range(devices))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def seconds(one: Collective, chip: Chip, sizes: Sequence[int], coordinates: Mapping[int, tuple[int, ...]]) -> float:
    """How long the links need for one execution, if nothing else uses them.

    An all-reduce, all-gather or reduce-scatter sends over every link of the dimensions along which its group extends:
    two per chip where the dimension is a ring, one where it is a line, whose ends have no more. In an all-to-all each
    byte takes as many links as its way is long.

    Args:
        one: the collective.
        chip: of the slice.
        sizes: of the slice.
        coordinates: of each place in the mesh.
    """
    points = np.array([coordinates[place][: len(sizes)] for place in one.group if place in coordinates])
    extent = [size for size, along in zip(sizes, points.T, strict=False) if len(set(along.tolist())) > 1]
    links = sum(2 if size % chip.wrap == 0 else 1 for size in extent) or 1
    if one.kind == "collective-permute":
        return one.bytes / chip.link_bandwidth
    distance = _mean_distance(points, sizes, chip) if one.kind == "all-to-all" else 1.0
    return one.wire_bytes * distance / (links * chip.link_bandwidth)


def _mean_distance(points: np.ndarray, sizes: Sequence[int], chip: Chip) -> float:
    """Links from one chip of a group to another, on average."""
    apart = np.abs(points[:, None] - points[None])
    for dimension, size in enumerate(sizes):
        if size % chip.wrap == 0:
            apart[..., dimension] = np.minimum(apart[..., dimension], size - apart[..., dimension])
    count = len(points)
    return max(float(apart.sum()) / (count * (count - 1)), 1.0) if count > 1 else 1.0


def totals(found: Sequence[Collective]) -> dict[str, dict[str, float]]:
    """By kind: executions ("count") and bytes in one run of the program, and of those bytes the overlapped ones."""
    sums: dict[str, collections.Counter[str]] = {}
    for one in found:
        counter = sums.setdefault(one.kind, collections.Counter())
        counter.update(count=one.times, bytes=one.bytes * one.times)
        counter.update(overlapped_bytes=one.bytes * one.times if one.overlapped else 0)
    return {kind: dict(sums[kind]) for kind in KINDS if kind in sums}


def largest(found: Sequence[Collective], limit: int) -> list[Collective]:
    """Those that move most bytes in one run; equal ones from the same place in the source are one line, added up."""

    def same(one: Collective) -> tuple[str, str, bool]:
        return one.kind, re.sub(r"layers_\d+", "layers_N", one.op_name), one.overlapped

    merged = []
    for (kind, op_name, overlapped), group in itertools.groupby(sorted(found, key=same), key=same):
        alike = list(group)
        total = sum(one.bytes * one.times for one in alike)
        first = alike[0]
        merged.append(
            Collective(kind=kind, bytes=total, times=1, group=first.group, overlapped=overlapped, op_name=op_name)
        )
    return sorted(merged, key=lambda one: -one.bytes)[:limit]
