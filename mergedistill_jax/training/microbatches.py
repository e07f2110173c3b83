"""Sums of gradients over the microbatches of a step, and when they cross the chips.

    reduce "step"           a chip adds up its own rows' gradients, and the chips add up theirs once, after the loop
    reduce "microbatch"     every microbatch's gradient is summed over the chips, into the part that a chip keeps

The first moves the bytes of one gradient, whatever the number of microbatches. For that a chip holds a gradient as
large as what it reads: where the fsdp axis divides the parameters, both are made whole for the step, in float32, which
is 2 x 0.7 GB for a BERT-base with a vocabulary of 120,000. The second needs no whole copy, and moves parameters and
gradients with each microbatch: for models that do not fit otherwise. Over a data axis alone nothing is divided, and
the first costs no memory.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from mergedistill_jax.products import on_each
from mergedistill_jax.training.partitioning import BATCH_SPEC, DATA, FSDP, batch_parts

ROW_NUMBERS = "row_numbers"
"""Of a batch that is cut: each row's place in the whole batch, by which its dropout is drawn."""

_AXES = (DATA, FSDP)

Gradient = Callable[[Any, Mapping[str, Array], Array, Array], Any]
"""(parameters, batch, shares, key) -> two sums over the batch's rows: a gradient like the parameters, and others.

A part of a batch has ROW_NUMBERS too."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where the parameters lie: `shardings` is a tree of NamedSharding like theirs."""

    mesh: Mesh
    shardings: Any


def over_microbatches(
    gradient: Gradient, num_microbatches: int, layout: Layout | None = None, reduce: str = "step"
) -> Gradient:
    """A gradient over the whole batch, computed for one microbatch after the other.

    Args:
        gradient: of some rows.
        num_microbatches: 1: no loop; and where the fsdp axis divides the parameters the gradient as it is, for the
            compiler gathers them layer by layer.
        layout: of the parameters; None: on one device, or as the compiler likes.
        reduce: one of REDUCE; "step" needs rows of every microbatch on every chip, and is "microbatch" where a batch
            is too small for that.
    """
    if num_microbatches == 1 and (layout is None or layout.mesh.shape[FSDP] > 1):
        return gradient

    def looped(params: Any, batch: Mapping[str, Array], shares: Array, key: Array) -> Any:
        if num_microbatches == 1:
            return gradient(params, batch, shares, key)
        return _loop(gradient, params, batch, shares, key, num_microbatches)

    def numbered(params: Any, batch: Mapping[str, Array], shares: Array, key: Array) -> Any:
        size = len(next(iter(batch.values())))
        parts = num_microbatches * (1 if layout is None else batch_parts(layout.mesh))
        summed = looped
        if layout is not None and reduce == "step" and size % parts == 0:
            summed = _reduced_once(looped, layout)
        if parts > 1:
            batch = {**batch, ROW_NUMBERS: jnp.arange(size)}
        return summed(params, batch, shares, key)

    return numbered


def _loop(
    gradient: Gradient, params: Any, batch: Mapping[str, Array], shares: Array, key: Array, num_microbatches: int
) -> Any:
    # Interleaved rows, so that every device keeps rows of every microbatch.
    split = {
        name: jnp.moveaxis(rows.reshape(-1, num_microbatches, *rows.shape[1:]), 1, 0) for name, rows in batch.items()
    }

    def add(total: Any, part: Mapping[str, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, part, shares, key)), None

    first = jax.tree.map(lambda rows: rows[0], split)
    shapes = jax.eval_shape(gradient, params, first, shares, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, split)[0]


def _reduced_once(looped: Gradient, layout: Layout) -> Gradient:
    """The loop as each chip's own program over the data and fsdp axes; the model axis stays the compiler's."""
    mesh = layout.mesh
    if batch_parts(mesh) == 1:
        return on_each(looped, mesh)
    divided = jax.tree.map(lambda sharding: sharding.spec, layout.shardings)
    whole = jax.tree.map(lambda spec: P(*(None if axis == FSDP else axis for axis in spec)), divided)

    def local(params: Any, batch: Mapping[str, Array], shares: Array, key: Array) -> Any:
        gradients, sums = looped(params, batch, shares, key)
        return jax.tree.map(lambda leaf: leaf[None], gradients), jax.lax.psum(sums, _AXES)

    by_chip = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), BATCH_SPEC, P(), P()),
        out_specs=(BATCH_SPEC, P()),
        axis_names=set(_AXES),
        check_vma=False,
    )
    # Over all axes: the compiler would make whole over the model axis what is reduced over others inside of `local`.
    reduced = jax.shard_map(
        lambda gradients: jax.tree.map(lambda leaf, spec: _sum(leaf[0], spec), gradients, divided),
        mesh=mesh,
        in_specs=(jax.tree.map(lambda spec: P(*BATCH_SPEC, *spec), whole),),
        out_specs=divided,
        check_vma=False,
    )

    def once(params: Any, batch: Mapping[str, Array], shares: Array, key: Array) -> Any:
        gathered = jax.lax.with_sharding_constraint(params, jax.tree.map(lambda spec: NamedSharding(mesh, spec), whole))
        gradients, sums = by_chip(gathered, batch, shares, key)
        return reduced(gradients), sums

    return once


def _sum(leaf: Array, spec: P) -> Array:
    """One chip's part of the sum over all chips, of an array that lies as `spec` says."""
    if FSDP in spec:
        leaf = jax.lax.psum_scatter(leaf, FSDP, scatter_dimension=spec.index(FSDP), tiled=True)
        return jax.lax.psum(leaf, DATA)
    return jax.lax.psum(leaf, _AXES)
