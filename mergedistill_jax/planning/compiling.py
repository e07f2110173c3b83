"""One program compiled for a topology, and everything that can be read from it without running it."""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from mergedistill_jax.planning import collectives as links
from mergedistill_jax.planning.cycles import OperationCycles, moved_bytes, operations
from mergedistill_jax.planning.flops import matmul_flops
from mergedistill_jax.planning.hlo import Program, parse
from mergedistill_jax.planning.kept import Artifact, keep, key_of, read_kept
from mergedistill_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of HBM on one chip, as the compiler lays them out.

    Attributes:
        arguments: parameters, optimizer state and batch.
        outputs: of which `aliased` bytes take the place of arguments.
        temporaries: at their peak.
        code: of the program.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of one run of the program on one chip. An estimate: nothing was run.

    Attributes:
        core: the compiler's estimated cycles / clock.
        moves: bytes of operations without estimated cycles (scatter, gather, slices written in place) / HBM bandwidth.
        links: collectives that run by themselves / bandwidth of the links.
        hidden_links, hidden_moves: collectives and copies that run beside the core. They cost where they take longer
            than everything else.
    """

    core: float
    moves: float
    links: float
    hidden_links: float
    hidden_moves: float

    @property
    def total(self) -> float:
        """What a step takes."""
        return max(self.core + self.moves, self.hidden_moves, self.hidden_links) + self.links


class CategorySums(NamedTuple):
    """Estimated cycles of one category, and floating-point operations of its matrix products."""

    cycles: int
    flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one chip does in one run of the program.

    Attributes:
        cost_flops: `cost_analysis` of XLA, which counts the body of a loop once.
        matmul_flops: of all matrix products, loops unrolled.
        cycles: by the compiler's estimate; 0 where it gives none.
        categories: of those, by what they are for; with the operations of the matrix products among them.
        collectives: by kind, see collectives.totals.
        largest: the collectives that move most.
        estimate: None for CPU.
        unknown_loops: loops counted once because nothing tells how often they turn.
    """

    seconds_to_compile: float
    memory: Memory
    cost_flops: float
    matmul_flops: float
    cycles: int
    categories: dict[str, CategorySums]
    collectives: dict[str, dict[str, float]]
    largest: list[links.Collective]
    operations: list[OperationCycles]
    estimate: Estimate | None
    unknown_loops: tuple[str, ...]


class DoesNotFitError(ValueError):
    """The compiler found no way to place the program in the chip's memory; the message is its own, on one line.

    Attributes:
        needed: bytes that it would take, where the compiler says so.
    """

    def __init__(self, message: str, needed: int | None) -> None:
        """Keeps the number beside the message."""
        super().__init__(message)
        self.needed = needed


_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_for(
    lowered: Any, topology: Topology, *, folder: str | None = None, options: Mapping[str, str] | None = None
) -> Compiled:
    """Compiles and reads a program.

    Args:
        lowered: of a jitted function whose arguments lie on the topology's devices.
        topology: with its chip.
        folder: of kept programs: what stands there is not compiled again; None: nothing is kept.
        options: that the function was given for the compiler.

    Raises:
        DoesNotFitError: the program needs more memory than the chip has.
    """
    key = key_of(lowered, topology.name, options) if folder else ""
    artifact = read_kept(folder, key) if folder else None
    if artifact is None:
        artifact = _compile(lowered)
        if folder:
            keep(folder, key, artifact)
    if artifact.problem:
        raise DoesNotFitError(artifact.problem, artifact.needed)
    return read(artifact, topology)


def _compile(lowered: Any) -> Artifact:
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line, needed = _does_not_fit(str(error))
        took = time.monotonic() - began
        return Artifact(text="", memory={}, cost_flops=0.0, seconds=took, problem=line, needed=needed)
    took = time.monotonic() - began
    memory = compiled.memory_analysis()
    return Artifact(
        text=compiled.as_text(),
        memory={
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "aliased": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
        },
        cost_flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        seconds=took,
    )


def read(artifact: Artifact, topology: Topology) -> Compiled:
    """Everything that plan wants to know of a compiled program."""
    program = parse(artifact.text)
    found = links.collectives(program, len(topology.devices))
    listed = sorted(operations(program), key=lambda one: -one.cycles)
    cycles = sum(one.cycles for one in listed)
    categories: dict[str, CategorySums] = {}
    for one in listed:
        name = f"{one.category}, {one.direction}"
        cycles_so_far, flops_so_far = categories.get(name, CategorySums(0, 0.0))
        categories[name] = CategorySums(cycles_so_far + one.cycles, flops_so_far + one.flops)
    return Compiled(
        seconds_to_compile=artifact.seconds,
        memory=Memory(**artifact.memory),
        cost_flops=artifact.cost_flops,
        matmul_flops=matmul_flops(program),
        cycles=cycles,
        categories=dict(sorted(categories.items(), key=lambda item: -item[1].cycles)),
        collectives=links.totals(found),
        largest=links.largest(found, 10),
        operations=listed[:40],
        estimate=_estimate(program, topology, cycles, found),
        unknown_loops=program.unknown_loops,
    )


def _estimate(
    program: Program, topology: Topology, cycles: int, found: tuple[links.Collective, ...]
) -> Estimate | None:
    chip = topology.chip
    if chip is None:
        return None
    by_core, beside = moved_bytes(program)
    on_links = {True: 0.0, False: 0.0}
    for one in found:
        on_links[one.overlapped] += one.times * links.seconds(one, chip, topology.sizes, topology.coordinates)
    return Estimate(
        core=cycles / chip.clock,
        moves=by_core / chip.hbm_bandwidth,
        links=on_links[False],
        hidden_links=on_links[True],
        hidden_moves=beside / chip.hbm_bandwidth,
    )


def _does_not_fit(message: str) -> tuple[str, int | None]:
    """The first line of the compiler's message, and the bytes that it names."""
    line = message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    amount = re.search(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds", message)
    if not amount:
        return line, None
    number, unit = [part for part in amount.groups() if part]
    return line, int(float(number) * _UNITS[unit])
