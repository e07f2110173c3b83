"""One program compiled for a topology, and everything that can be read from it without running it."""

import dataclasses
import re
import time
from typing import Any

from mergedistill_jax.planning import collectives as links
from mergedistill_jax.planning.cycles import OperationCycles, moved_bytes, operations
from mergedistill_jax.planning.flops import matmul_flops
from mergedistill_jax.planning.hlo import Program, parse
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one chip does in one run of the program.

    Attributes:
        cost_flops: `cost_analysis` of XLA, which counts the body of a loop once.
        matmul_flops: of all matrix products, loops unrolled.
        cycles: by the compiler's estimate; 0 where it gives none.
        categories: of those, by what they are for.
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
    categories: dict[str, int]
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


def compile_for(lowered: Any, topology: Topology) -> Compiled:
    """Compiles and reads a program.

    Args:
        lowered: of a jitted function whose arguments lie on the topology's devices.
        topology: with its chip.

    Raises:
        DoesNotFitError: the program needs more memory than the chip has.
    """
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise _does_not_fit(str(error)) from error
        raise
    took = time.monotonic() - began
    return read(compiled, topology, took)


def read(compiled: Any, topology: Topology, took: float = 0.0) -> Compiled:
    """Everything that plan wants to know of a compiled program."""
    program = parse(compiled.as_text())
    found = links.collectives(program, len(topology.devices))
    listed = sorted(operations(program), key=lambda one: -one.cycles)
    cycles = sum(one.cycles for one in listed)
    categories: dict[str, int] = {}
    for one in listed:
        name = f"{one.category}, {one.direction}"
        categories[name] = categories.get(name, 0) + one.cycles
    memory = compiled.memory_analysis()
    return Compiled(
        seconds_to_compile=took,
        memory=Memory(
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
        ),
        cost_flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        matmul_flops=matmul_flops(program),
        cycles=cycles,
        categories=dict(sorted(categories.items(), key=lambda item: -item[1])),
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


def _does_not_fit(message: str) -> DoesNotFitError:
    line = message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    amount = re.search(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds", message)
    if not amount:
        return DoesNotFitError(line, None)
    number, unit = [part for part in amount.groups() if part]
    return DoesNotFitError(line, int(float(number) * _UNITS[unit]))
