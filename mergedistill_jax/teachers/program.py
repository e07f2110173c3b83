"""What a device runs for a batch: encoder, masked rows, their k best tokens. On several devices, for a batch each."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.teachers.buckets import shapes_for
from mergedistill_jax.teachers.sampling import projected_samples
from mergedistill_jax.teachers.top_k import Chunks, default_chunks, projected_top_log_probs

_STATIC = ("config", "num_tokens", "k", "dtype", "chunks")


def local_mesh() -> Mesh:
    """The devices of this process."""
    return Mesh(np.array(jax.local_devices()), ("data",))


def on_every_device(params: Any) -> Any:
    """Parameters put on every device of this process."""
    return jax.device_put(params, NamedSharding(local_mesh(), P()))


def run_batches(
    params: Any, arrays: Sequence[np.ndarray], *, config: ModelConfig, num_tokens: int, k: int, dtype: str
) -> tuple[Array, ...]:
    """Starts one batch on every device of this process, and does not wait for them.

    Args:
        params: from on_every_device.
        arrays: those of buckets.BatchArrays, in its order, with a leading axis over the devices; and the uniforms
            [n, s] where ids are drawn.
        config: of the teacher.
        num_tokens: of its tokenizer.
        k: predictions for each masked position.
        dtype: one of DTYPES.

    Returns:
        For every device ids [n, k] (drawn ones: [n, s]), their log-probabilities and those of the gold ids [n], on the
        way to the host.
    """
    mesh = local_mesh()
    chunks = default_chunks(mesh.devices.flat[0].platform)
    static: dict[str, Any] = {"config": config, "num_tokens": num_tokens, "k": k, "dtype": dtype, "chunks": chunks}
    placed = jax.device_put(tuple(arrays), NamedSharding(mesh, P("data")))
    found = _predict(params, *placed, mesh=mesh, **static)
    for array in found:
        array.copy_to_host_async()
    return found


def _batch_program(
    params: Any,
    token_ids: Array,
    lengths: Array,
    masked_positions: Array,
    row_index: Array,
    gold_ids: Array,
    *uniforms: Array,
    config: ModelConfig,
    num_tokens: int,
    k: int,
    dtype: str,
    chunks: Chunks,
) -> tuple[Array, Array, Array]:
    """One batch on one device; of the padded masked positions [b, m] only row_index is projected on the vocabulary.

    With uniforms [n, s] ids are drawn by them, see sampling.py; else they are the k best.
    """
    model = masked_language_model(config, jnp.dtype(dtype))
    attention_mask = jnp.arange(token_ids.shape[1]) < lengths[:, None]
    # Accelerators multiply float32 in fewer bits unless they are told not to.
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        found: Any = model.apply({"params": params}, token_ids, attention_mask, masked_positions, method="projection")
        rows, table, bias = found
        rows, table = rows.reshape(-1, rows.shape[-1])[row_index], table.astype(rows.dtype)
        if uniforms:
            return projected_samples(
                rows, table, bias, gold_ids, *uniforms, num_tokens=num_tokens, chunk_size=chunks.chunk_size
            )
        return projected_top_log_probs(rows, table, bias, gold_ids, num_tokens=num_tokens, k=k, chunks=chunks)


@functools.partial(jax.jit, static_argnames=(*_STATIC, "mesh"))
def _predict(params: Any, *arrays: Array, mesh: Mesh, **static: Any) -> tuple[Array, ...]:
    """Every device runs what one alone would run, on a batch of the same shape: how many there are changes no bit."""

    def on_one(params: Any, *arrays: Array) -> tuple[Array, ...]:
        return tuple(found[None] for found in _batch_program(params, *(array[0] for array in arrays), **static))

    specs = (P(), *(P("data") for _ in arrays))
    return jax.shard_map(on_one, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False)(params, *arrays)


def lower_predictions(
    config: ModelConfig,
    params: Any,
    *,
    batch_size: int,
    length: int,
    max_predictions: int,
    k: int,
    rows: int | None = None,
    dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Any:
    """The program for a batch of full sequences, lowered and not compiled, from shapes alone: for `plan`.

    Args:
        config: of the teacher.
        params: its parameters, or their shapes with their shardings.
        batch_size: sequences of full length.
        length: of a sequence, in tokens.
        max_predictions: most masked positions of a sequence.
        k: predictions for each masked position.
        rows: masked positions of a batch; None: as many as there can be.
        dtype: one of DTYPES.
        mesh: of one device; None: the first of this machine's.
    """
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",)) if mesh is None else mesh
    whole = NamedSharding(mesh, P())

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), jnp.int32, sharding=whole)

    shape = shapes_for(batch_size=batch_size, length=length, max_predictions=max_predictions, rows=rows)[-1]
    arrays = (
        integers(shape.sequences, shape.length),
        integers(shape.sequences),
        integers(shape.sequences, shape.predictions),
        integers(shape.rows),
        integers(shape.rows),
    )
    chunks = default_chunks(mesh.devices.flat[0].platform)
    static: dict[str, Any] = {"config": config, "num_tokens": config.vocab_size, "k": k, "dtype": dtype}
    return _predict.lower(params, *arrays, mesh=mesh, chunks=chunks, **static)
