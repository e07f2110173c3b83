"""Where a model's activations lie on a mesh: the rows of a batch over some axes, the heads over another.

Parameters carry logical axis names and are laid out by whoever holds them; activations are held by nobody, and the
compiler's guess is wrong where parameters are divided over the same devices as the batch: it may move the activations
instead of the smaller parameters. A model that is given no placement leaves everything to the compiler.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mergedistill_jax.models.attention import attention, over_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Mesh axes of activations.

    Attributes:
        mesh: None: one device, or the compiler's choice.
        batch_axes: that the rows of a batch are divided over.
        heads_axis: that the heads, and the vocabulary, are divided over, where it divides them.
        parameter_axes: that parameters are divided over beyond that, to be gathered where they are used.
    """

    mesh: Mesh | AbstractMesh | None = None
    batch_axes: tuple[str, ...] = ()
    heads_axis: str | None = None
    parameter_axes: tuple[str, ...] = ()

    @property
    def here(self) -> "Placement":
        """The same without the axes over which the program around is one device's own: a batch is its rows alone."""
        around = jax.sharding.get_abstract_mesh()
        own = frozenset(around.manual_axes)
        if self.mesh is None or not own:
            return self
        return Placement(
            mesh=around,
            batch_axes=tuple(axis for axis in self.batch_axes if axis not in own),
            heads_axis=None if self.heads_axis in own else self.heads_axis,
            parameter_axes=tuple(axis for axis in self.parameter_axes if axis not in own),
        )

    def divides(self, batch: int) -> bool:
        """Whether the devices of the batch axes get equal numbers of rows."""
        return self.mesh is not None and batch % math.prod(self.mesh.shape[axis] for axis in self.batch_axes) == 0

    def rows(self, x: Float[Array, "b *d"]) -> Float[Array, "b *d"]:
        """The same array, its rows over the batch axes and whole otherwise."""
        here = self.here
        if here.mesh is None or not here.divides(len(x)):
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(here.mesh, P(here.batch_axes)))

    def table(self, table: Float[Array, "v d"], dtype: DTypeLike) -> Float[Array, "v d"]:
        """The embedding table as the loss reads it, chunk by chunk: gathered first, in `dtype`, where it is divided.

        Undivided it is given as it is, for each chunk is converted when it is read.
        """
        here = self.here
        if here.mesh is None or math.prod(here.mesh.shape[axis] for axis in here.parameter_axes) == 1:
            return table
        axis = here.heads_axis if here.heads_axis and len(table) % here.mesh.shape[here.heads_axis] == 0 else None
        return jax.lax.with_sharding_constraint(table.astype(dtype), NamedSharding(here.mesh, P(axis, None)))

    def attention(self, shape: Sequence[int]) -> Callable[..., Any]:
        """`attention.attention` for queries [b, q, h, e] of that shape, every device on its own rows and heads."""
        here = self.here
        if here.mesh is None or not here.divides(shape[0]):
            return attention
        heads_axis = here.heads_axis
        if heads_axis is not None and shape[2] % here.mesh.shape[heads_axis]:
            heads_axis = None
        return over_mesh(here.mesh, here.batch_axes, heads_axis, frozenset(getattr(here.mesh, "manual_axes", ())))


UNPLACED = Placement()
"""On one device, or as the compiler likes."""
