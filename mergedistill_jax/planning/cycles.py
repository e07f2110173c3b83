"""The compiler's own estimate of the cycles of a TPU program, by what the cycles are spent on.

XLA for TPU notes `estimated_cycles` at every operation that a core executes: its arithmetic, or its reading and writing
of HBM where that takes longer. Not in it are collectives, look-ups and additions into rows of a table, copies that run
beside the core (`copy-start`, `slice-start`), waiting for any of them, and kernels of Pallas.
"""

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mergedistill_jax.planning.collectives import KINDS
from mergedistill_jax.planning.flops import flops_of
from mergedistill_jax.planning.hlo import Instruction, Program, parse

CATEGORIES = (
    ("dropout", r"[Dd]ropout|keep_mask|_bernoulli|random_bits|threefry|rng_bit"),
    ("attention projections", r"attention/(query|key|value|qkv|output)\b"),
    ("attention matmuls", r"attention\b.*(->|dot_general|splash|flash)"),
    ("attention softmax", r"attention/|attend"),
    ("layer norm", r"norm\b"),
    ("mlp matmuls", r"/(wi|wo)(_\d+)?/.*dot_general"),
    ("mlp activation", r"/(wi|wo)(_\d+)?/|encoder/(layers|EncoderLayer)"),
    ("embedding", r"embeddings"),
    ("head transform", r"hidden_rows|/transform/"),
    ("vocabulary", r"(jvp|transpose)\("),
    ("gradients, summed", r"shard_map/(psum|reduce_scatter)"),
    ("parameters, gathered", r"/sharding_constraint$"),
    ("optimizer", r"."),
)
"""Patterns of an operation's `op_name`, first match first; what has no name is "copies and layout"."""

UNNAMED = "copies and layout"
_MATMULS = ("convolution", "dot")


class OperationCycles(NamedTuple):
    """The cycles of one operation.

    Attributes:
        cycles: of all its executions in one step.
        flops: of the matrix products in them.
        direction: "forward", "backward", "recomputed" (for the backward pass), or "update".
    """

    name: str
    op_name: str
    shape: str
    category: str
    direction: str
    times: int
    cycles: int
    flops: float


def category_of(op_name: str) -> str:
    """What an operation is for, by where the program's source made it."""
    return next((name for name, pattern in CATEGORIES if re.search(pattern, op_name)), UNNAMED)


def direction_of(op_name: str) -> str:
    """Which pass an operation belongs to."""
    if "rematted_computation" in op_name:
        return "recomputed"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "update"


def operations(program: Program) -> Iterator[OperationCycles]:
    """Every operation that has an estimate, loops unrolled, in the order of the program."""
    flops = flops_of(program)
    for executed in program.executed:
        instruction, times = executed.instruction, executed.times
        cycles = instruction.number("estimated_cycles")
        if cycles is None:
            continue
        op_name = _telling_name(program, instruction)
        yield OperationCycles(
            name=instruction.name,
            op_name=op_name,
            shape=instruction.shape,
            category=category_of(op_name),
            direction=direction_of(op_name) if op_name else "update",
            times=times,
            cycles=cycles * times,
            flops=flops(executed) * times,
        )


def _telling_name(program: Program, instruction: Instruction) -> str:
    """The op_name of the matrix product in a fusion, which is what it is for; else its own, else that of a part."""
    inner = list(program.inside(instruction))
    products = [each.op_name for each in inner if each.opcode in _MATMULS and each.op_name]
    named = [*products, instruction.op_name, *(each.op_name for each in reversed(inner))]
    return next((name for name in named if name), "")


def cycles_by_category(hlo_text: str) -> dict[str, int]:
    """Estimated cycles of one step by "category, direction", most first; the sum is the program's.

    Args:
        hlo_text: `compiled.as_text()` of a program for TPU; for another device nothing has an estimate.
    """
    sums: collections.Counter[str] = collections.Counter()
    for operation in operations(parse(hlo_text)):
        sums[f"{operation.category}, {operation.direction}"] += operation.cycles
    return dict(sums.most_common())


def moved_bytes(program: Program) -> tuple[int, int]:
    """Bytes that operations without an estimate read and write in one run: by the core itself, and beside it.

    A look-up moves its rows twice, an addition into rows of a table three times, a slice written into an array twice;
    anything else what it reads and what it gives. Collectives are counted elsewhere.
    """
    by_core = beside = 0
    for instruction, computation, times in program.executed:
        if instruction.opcode in ("copy-start", "slice-start"):
            beside += times * max((array.bytes for array in instruction.arrays[1:]), default=0)
        elif instruction.number("estimated_cycles") is None:
            by_core += times * _moved(program, instruction, program.computations[computation])
    return by_core, beside


_MOVING = ("fusion", "dynamic-update-slice", "reshape", "copy", "convert", "sort", "gather", "scatter", "transpose")


def _moved(program: Program, instruction: Instruction, scope: Mapping[str, Instruction]) -> int:
    if instruction.opcode not in _MOVING:
        return 0
    inner = {each.name: each for each in program.inside(instruction)} or {instruction.name: instruction}
    opcodes = {each.opcode for each in inner.values()}
    if opcodes & set(KINDS) or any(opcode.removesuffix("-start") in KINDS for opcode in opcodes):
        return 0
    for opcode, operand, passes in (("scatter", 2, 3), ("dynamic-update-slice", 1, 2)):
        rows = [each.operands[operand] for each in inner.values() if each.opcode == opcode]
        if rows:
            known = {**scope, **inner}
            return passes * sum(_size(known[name]) for name in rows if name in known)
    given = _size(instruction)
    if "gather" in opcodes:
        return 2 * given
    return given + sum(_size(scope[name]) for name in instruction.operands if name in scope)


def _size(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays)


def total_cycles(program: Program) -> int:
    """Estimated cycles of one step."""
    return sum(operation.cycles for operation in operations(program))
