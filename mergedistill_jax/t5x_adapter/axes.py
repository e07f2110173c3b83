"""Parameters with their logical axes, as T5X's partitioners want them, and where activations lie on T5X's mesh."""

from collections.abc import Callable
from typing import Any

import flax.core
import flax.linen as nn
import flax.traverse_util
from flax.linen import partitioning as flax_partitioning
from flax.linen import spmd

from mergedistill_jax.models.placement import Placement

MODEL = "model"
"""T5X's mesh axis over which a model is divided."""


def without_axis_rules() -> Any:
    """A context in which flax lays no parameter over the mesh.

    T5X sets its rules while it traces a model. Flax would apply them inside its modules, to kernels that it makes flat
    before it gives them the shape that their axes name. T5X lays parameters over the mesh itself, from outside.
    """
    return nn.logical_axis_rules(())


def initial_variables(init: Callable[[], Any], partitioner: Any) -> flax.core.FrozenDict:
    """Parameters, and the logical axes of each, as the two collections that T5X wants.

    An axis that does not divide by the mesh axis it would lie on gets no name: a union vocabulary has any size.

    Args:
        init: gives parameters whose leaves carry their logical axes (flax Partitioned).
        partitioner: of T5X, with its logical axis rules.
    """
    with without_axis_rules():
        flat: dict[Any, Any] = flax.traverse_util.flatten_dict(
            init(), is_leaf=lambda _, leaf: isinstance(leaf, nn.Partitioned)
        )
        params = {path: nn.unbox(box) for path, box in flat.items()}
    axes = {
        (*path[:-1], f"{path[-1]}_axes"): flax_partitioning.AxisMetadata(names=_divisible(box, partitioner))
        for path, box in flat.items()
    }
    unflatten = flax.traverse_util.unflatten_dict
    return flax.core.freeze({"params": unflatten(params), "params_axes": unflatten(axes)})


def _divisible(box: nn.Partitioned, partitioner: Any) -> tuple[str | None, ...]:
    spec = spmd.logical_to_mesh_axes(box.names, partitioner.logical_axis_rules)
    sizes = partitioner.mesh.shape
    return tuple(
        name if axis is None or size % sizes[axis] == 0 else None
        for name, axis, size in zip(box.names, spec or (None,) * len(box.names), box.value.shape, strict=True)
    )


def placement_of(partitioner: Any) -> Placement:
    """Activations on the mesh of T5X's partitioner: rows where its batches are, heads over the model axis."""
    batch = _mesh_axes("batch", partitioner)
    return Placement(
        mesh=partitioner.mesh,
        batch_axes=batch,
        heads_axis=MODEL,
        parameter_axes=tuple(axis for axis in _mesh_axes("embed", partitioner) if axis in batch),
    )


def _mesh_axes(name: str, partitioner: Any) -> tuple[str, ...]:
    (axes,) = spmd.logical_to_mesh_axes((name,), partitioner.logical_axis_rules) or (None,)
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def vocabulary_shards(vocab_size: int, mesh: Any) -> int:
    """Over how many devices T5X divides the embedding table: its model axis, or 1 where that does not divide it."""
    shards = mesh.shape[MODEL]
    return shards if vocab_size % shards == 0 else 1
