"""Matrix products of bfloat16 with sums in float32, as a CPU's compiler makes them fast.

A CPU with instructions for bfloat16 makes such a product up to eight times as fast as one of float32, but XLA uses them
only where every array lies row by row and the first is contracted over its last axis. Left alone, it takes a
transposition for a change of layout, which costs nothing, and then makes the product in float32. So the layouts are
fixed here, and what has to be transposed is.

A fixed layout is a wall to the partitioner of a program for several devices: it would gather the array. So this holds
only where the program around is one device's own, inside of `jax.shard_map` over all axes of a mesh; see `on_each`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def on_each(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function as the device's own program if the mesh has one device; else as it is."""
    if mesh.size > 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)


def is_one_devices() -> bool:
    """Whether the program that is being traced is one device's own, which no partitioner will cut."""
    mesh = jax.sharding.get_abstract_mesh()
    return bool(mesh.manual_axes) and all(size == 1 or axis in mesh.manual_axes for axis, size in mesh.shape.items())


def product(x: Float[Array, "_ _"], y: Float[Array, "_ _"], axes: tuple[int, int]) -> Float[Array, "_ _"]:
    """Contracts one axis of each of two matrices, which are read in their dtype; the result is in float32.

    Args:
        x: its other axis is the first of the result.
        y: of the same dtype; its other axis is the second.
        axes: to contract, of x and of y.
    """

    def plain(x: Array, y: Array) -> Array:
        dims = (((axes[0],), (axes[1],)), ((), ()))
        return jax.lax.dot_general(x, y, dims, preferred_element_type=jnp.float32)

    def by_rows(x: Array, y: Array) -> Array:
        first = _by_rows(x if axes[0] == 1 else x.T)
        dims = (((1,), (axes[1],)), ((), ()))
        return _by_rows(jax.lax.dot_general(first, _by_rows(y), dims, preferred_element_type=jnp.float32))

    def of_rounded(x: Array, y: Array) -> Array:
        return plain(rounded(x, x.dtype), rounded(y, y.dtype))

    if x.dtype == jnp.float32:
        return plain(x, y)
    if not is_narrow(x.dtype):
        return jax.lax.platform_dependent(x, y, cpu=of_rounded, default=plain)
    return jax.lax.platform_dependent(x, y, cpu=by_rows, default=plain)


def rounded(x: Float[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
    """The array in a dtype, with exactly the values that the dtype has.

    `astype` alone does not promise that: between a conversion to bfloat16 and a product that a backend makes in
    float32, XLA drops the rounding (xla_allow_excess_precision). Then two products of the same array differ by as much
    as 2^-9 of their terms where one of them was made in bfloat16. A ReducePrecision is never dropped.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return x.astype(dtype)
    bits = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x.astype(jnp.float32), bits.nexp, bits.nmant).astype(dtype)


def is_narrow(dtype: Any) -> bool:
    """Whether products of this dtype are made row by row, in the program that is being traced."""
    return dtype == jnp.bfloat16 and is_one_devices()


def _by_rows(x: Array) -> Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
