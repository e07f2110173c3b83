"""The device mesh, and which mesh axis each logical axis of a parameter or batch lies on."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen import spmd
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Int

DATA, FSDP, MODEL = "data", "fsdp", "model"

BATCH_SPEC = P((DATA, FSDP))
"""A batch's rows lie over the data and the fsdp axis; what a parameter is divided by decides nothing about it."""

ACTIVATION_AXES: dict[str, Any] = {"batch_axes": (DATA, FSDP), "heads_axis": MODEL, "parameter_axes": (FSDP,)}
"""Where a model's activations lie: the fields of models/placement.py's Placement beside the mesh."""

LOGICAL_AXIS_RULES = (
    ("batch", (DATA, FSDP)),
    ("vocab", MODEL),
    ("mlp", MODEL),
    ("heads", MODEL),
    ("embed", FSDP),
    ("embed_out", None),
    ("kv", None),
    ("position", None),
    ("segment", None),
    ("norm", None),
    ("labels", None),
)


def make_mesh(model_parallelism: int = 1, devices: Sequence[Any] | None = None, *, fsdp_parallelism: int = 1) -> Mesh:
    """A [data, fsdp, model] mesh over all devices.

    Args:
        model_parallelism: devices that share the width and the vocabulary of one copy of the model.
        devices: all of the job by default.
        fsdp_parallelism: groups of devices over which parameters and optimizer state are divided, while each works on
            its own rows of the batch (Zhao et al. 2023).

    Raises:
        ValueError: the devices do not divide into groups of that size.
    """
    devices = jax.devices() if devices is None else devices
    for name, size in (
        ("model_parallelism", model_parallelism),
        ("model_parallelism * fsdp_parallelism", model_parallelism * fsdp_parallelism),
    ):
        if size < 1 or len(devices) % size:
            raise ValueError(f"{name}: found {size}, expected a divisor of {len(devices)} devices")
    return Mesh(np.array(devices).reshape(-1, fsdp_parallelism, model_parallelism), (DATA, FSDP, MODEL))


def shardings_of(tree: Any, mesh: Mesh) -> Any:
    """NamedSharding of every leaf of an abstract tree whose leaves carry logical axis names (flax Partitioned).

    An axis that does not divide by the mesh axis it would lie on is replicated: a union vocabulary has any size.
    """
    specs = spmd.logical_to_mesh_sharding(nn.get_partition_spec(tree), mesh, list(LOGICAL_AXIS_RULES))
    return jax.tree.map(lambda leaf, sharding: _divisible(leaf, sharding, mesh), nn.unbox(tree), specs)


def _divisible(leaf: Any, sharding: NamedSharding, mesh: Mesh) -> NamedSharding:
    axes = [
        axis if axis is not None and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
        for size, axis in zip(leaf.shape, (*sharding.spec, *[None] * len(leaf.shape)), strict=False)
    ]
    return NamedSharding(mesh, P(*axes))


def vocabulary_shards(vocabulary_size: int, mesh: Mesh) -> int:
    """Over how many devices the embedding table is divided: the model axis, or 1 where that does not divide it."""
    shards = mesh.shape[MODEL]
    return shards if vocabulary_size % shards == 0 else 1


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is divided: the data and the fsdp axis together."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def require_divisible(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError where a batch does not divide by the data and the fsdp axis."""
    if batch_size % batch_parts(mesh):
        expected = f"a multiple of the data axis times the fsdp axis, {batch_parts(mesh)}"
        raise ValueError(f"batch_size: found {batch_size}, expected {expected}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LocalRows:
    """Which rows of a batch lie on the devices of this process.

    Attributes:
        batch_size: rows of the whole batch.
        numbers: of the rows, ascending.
        counted: whether this process is the first that holds the row. Where the model axis reaches over processes some
            rows lie on several; what is counted by row and added up over processes takes these alone.
    """

    batch_size: int
    numbers: Int[np.ndarray, " r"]
    counted: Bool[np.ndarray, " r"]

    def to_count(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of arrays of these rows, those of the rows that are counted here."""
        if self.counted.all():
            return batch
        return {name: values[self.counted] for name, values in batch.items()}


def local_rows(batch_size: int, mesh: Mesh) -> LocalRows:
    """The rows that this process places.

    Raises:
        ValueError: the batch does not divide by the data and the fsdp axis.
    """
    require_divisible(batch_size, mesh)
    holders = np.full(batch_size, jax.process_count())
    here = np.zeros(batch_size, bool)
    for device, (rows,) in NamedSharding(mesh, BATCH_SPEC).devices_indices_map((batch_size,)).items():
        holders[rows] = np.minimum(holders[rows], device.process_index)
        here[rows] |= device.process_index == jax.process_index()
    numbers = np.flatnonzero(here)
    return LocalRows(batch_size=batch_size, numbers=numbers, counted=holders[numbers] == jax.process_index())


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh, rows: LocalRows | None = None) -> dict[str, jax.Array]:
    """A global batch laid over the data and fsdp axes; each process places its own rows.

    Args:
        batch: arrays of the rows that `rows` names; of all rows, the same on every process, where that is None.
        mesh: from make_mesh.
        rows: from local_rows.

    Raises:
        ValueError: the batch does not divide by the data and the fsdp axis.
    """
    size = len(next(iter(batch.values()))) if rows is None else rows.batch_size
    require_divisible(size, mesh)
    sharding = NamedSharding(mesh, BATCH_SPEC)

    def part(values: np.ndarray, index: Any) -> np.ndarray:
        if rows is None:
            return values[index]
        start, stop, _ = index[0].indices(size)
        first = int(np.searchsorted(rows.numbers, start))
        return values[first : first + stop - start]

    return {
        name: jax.make_array_from_callback((size, *values.shape[1:]), sharding, functools.partial(part, values))
        for name, values in batch.items()
    }
