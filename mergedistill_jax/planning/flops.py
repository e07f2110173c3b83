"""Floating-point operations: the useful ones, counted from sizes, and those of the compiled program."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from mergedistill_jax.planning.hlo import Executed, Instruction, Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the useful work depends on.

    Attributes:
        body: weights of the encoder's matrices, embeddings, biases and norms left out.
        transform: weights of the head's matrix.
        width: of the rows that are multiplied with the vocabulary.
        layers, hidden: of the encoder.
    """

    body: int
    transform: int
    width: int
    layers: int
    hidden: int
    vocabulary: int


def useful_flops(sizes: Sizes, *, sequences: float, length: int, masked: float, backward: bool = True) -> float:
    """What a model has to compute for a batch, as in Chowdhery et al. 2022 (PaLM, appendix B).

        body        2 x weights x tokens
        attention   4 x layers x sequences x length^2 x hidden    (scores and their sum, without a causal half)
        head        2 x (transform + vocabulary x width) x masked rows

    and twice as much again for the gradients, which makes 6 x weights x tokens of the first. Left out: norms,
    activations, softmax, embedding look-ups, the optimizer, anything computed twice, padding of the masked rows.

    Args:
        sizes: of the model.
        sequences: in the batch.
        length: tokens of each.
        masked: masked positions of the whole batch that are really there.
        backward: with the gradients.
    """
    body = 2.0 * sizes.body * sequences * length
    attention = 4.0 * sizes.layers * sequences * length**2 * sizes.hidden
    head = 2.0 * (sizes.transform + sizes.vocabulary * sizes.width) * masked
    return (3.0 if backward else 1.0) * (body + attention + head)


def matmul_flops(program: Program) -> float:
    """Operations of all matrix products that one run of a compiled program executes, on one device, loops unrolled.

    XLA's own `cost_analysis` counts a loop's body once. Kernels of Pallas count as they say of themselves.
    """
    flops = flops_of(program)
    return sum(executed.times * flops(executed) for executed in program.executed)


def flops_of(program: Program) -> Callable[[Executed], float]:
    """A function that counts the operations of the matrix products in one execution of an instruction."""
    inner = functools.cache(lambda name: _of_computation(program, name, inner))
    return lambda executed: _of(executed.instruction, program.computations[executed.computation], inner)


def _of_computation(program: Program, name: str, inner: "functools._lru_cache_wrapper[float]") -> float:
    scope = program.computations.get(name, {})
    return sum(_of(instruction, scope, inner) for instruction in scope.values())


def _of(
    instruction: Instruction, scope: Mapping[str, Instruction], inner: "functools._lru_cache_wrapper[float]"
) -> float:
    if instruction.opcode == "dot":
        return _dot(instruction, scope)
    if instruction.opcode == "convolution":
        return _convolution(instruction, scope)
    if instruction.opcode == "fusion":
        return sum(inner(called) for called in instruction.called)
    if instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.rest:
        return float(instruction.number("flops") or 0)
    return 0.0


def _dot(instruction: Instruction, scope: Mapping[str, Instruction]) -> float:
    """2 x elements of the result x size of what is summed over."""
    left = scope[instruction.operands[0]].arrays[0].sizes
    named = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    summed = [left[int(axis)] for axis in named[1].split(",") if axis] if named else []
    return 2.0 * instruction.arrays[0].elements * math.prod(summed)


def _convolution(instruction: Instruction, scope: Mapping[str, Instruction]) -> float:
    """The TPU's compiler writes every matrix product as a convolution, and the axes of a batch as spatial ones.

    2 x batch x features in x features out x, along each spatial axis, the pairs of window and position that meet.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if labels is None:
        return 0.0
    left, right = (scope[name].arrays[0].sizes for name in instruction.operands[:2])
    out = instruction.arrays[0].sizes
    flops = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    window = _window(instruction.rest)
    for axis in sorted(set(labels[1]) - set("bf")):
        index = int(axis)
        flops *= _meetings(
            positions=left[labels[1].index(axis)],
            size=right[labels[2].index(axis)],
            results=out[labels[3].index(axis)],
            stride=int(window["stride"][index]) if "stride" in window else 1,
            padding=int(window["pad"][index].split("_")[0]) if "pad" in window else 0,
            apart=int(window["lhs_dilate"][index]) if "lhs_dilate" in window else 1,
            dilation=int(window["rhs_dilate"][index]) if "rhs_dilate" in window else 1,
        )
    return flops


def _window(attributes: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    parts = (part.split("=") for part in found[1].split()) if found else ()
    return {name: values.split("x") for name, values in parts}


def _meetings(*, positions: int, size: int, results: int, stride: int, padding: int, apart: int, dilation: int) -> int:
    """How many (result, window element) pairs along an axis fall on a real element of the input, not on padding."""
    place = np.arange(results)[:, None] * stride + np.arange(size)[None] * dilation - padding
    inside = (place >= 0) & (place <= (positions - 1) * apart) & (place % apart == 0)
    return int(inside.sum())
