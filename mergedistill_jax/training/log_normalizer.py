"""The log-sum-exp over a large vocabulary, in chunks: no array of [rows, vocabulary] exists, forward or backward.

    logits[n, v] = rows[n] . table[v] + bias[v]          log_normalizer[n] = log sum over v of exp logits[n, v]

Forward walks over the vocabulary with a running maximum and sum; backward walks again and makes each chunk's softmax
anew from the saved log-normaliser. Losses need nothing else that is as wide as the vocabulary: the logits of single
tokens, gold or a teacher's candidates, are dot products with rows of the table (see losses.py).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LOWEST = -1e9
"""Finite logit of what is no column of the chunk."""


def log_normalizer(
    rows: Float[Array, "n d"],
    table: Float[Array, "v d"],
    bias: Float[Array, " v"],
    *,
    chunk_size: int,
    shards: int = 1,
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Log-normalisers in float32, and the best token of each row, which has no gradient.

    Args:
        rows: in the dtype of the matrix products; sums are in float32 always.
        table: of the vocabulary, in the dtype of the rows.
        bias: of the vocabulary.
        chunk_size: columns at a time, over all shards together.
        shards: of the table's first axis over devices: a chunk takes the same columns of every shard, so that all
            devices work on each. Must divide v.
    """
    if table.shape[0] % shards:
        raise ValueError(f"shards: found {shards}, expected a divisor of the vocabulary, {table.shape[0]}")
    width = max(1, min(chunk_size // shards, table.shape[0] // shards))
    if width * shards == table.shape[0]:  # one chunk: nothing is saved by making the softmax twice
        logits = jnp.einsum("nd,vd->nv", rows, table, preferred_element_type=jnp.float32) + bias.astype(jnp.float32)
        return jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return _log_normalizer(width, shards, rows, table, bias)


def _chunk(table: Array, bias: Array, index: Array, width: int) -> tuple[Array, Array, Array, Array]:
    """Chunk number `index` of [shards, v / shards] columns: its table, bias, validity and start.

    The last chunk begins early enough to be whole; columns that the one before it had are not valid.
    """
    size = table.shape[1]
    start = jnp.minimum(index * width, size - width)
    part = jax.lax.dynamic_slice_in_dim(table, start, width, axis=1)
    valid = start + jnp.arange(width) >= index * width
    return part, jax.lax.dynamic_slice_in_dim(bias, start, width, axis=1), valid, start


def _logits(rows: Array, part: Array, bias: Array, valid: Array) -> Array:
    """[n, shards, width] in float32."""
    found = jnp.einsum("nd,swd->nsw", rows, part, preferred_element_type=jnp.float32) + bias
    return jnp.where(valid, found, LOWEST)


def _folded(table: Array, bias: Array, shards: int) -> tuple[Array, Array]:
    return table.reshape(shards, -1, table.shape[1]), bias.reshape(shards, -1).astype(jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _log_normalizer(width: int, shards: int, rows: Array, table: Array, bias: Array) -> tuple[Array, Array]:
    folded, folded_bias = _folded(table, bias, shards)
    size = folded.shape[1]

    def step(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array], None]:
        highest, total, best = carry
        part, part_bias, valid, start = _chunk(folded, folded_bias, index, width)
        logits = _logits(rows, part, part_bias, valid).reshape(len(rows), -1)
        here = jnp.argmax(logits, axis=-1)
        top = jnp.max(logits, axis=-1)
        shard, column = here // width, here % width
        best = jnp.where(top > highest, shard * size + start + column, best)
        raised = jnp.maximum(highest, top)
        total = total * jnp.exp(highest - raised) + jnp.sum(jnp.exp(logits - raised[:, None]), axis=-1)
        return (raised, total, best), None

    count = len(rows)
    # Below LOWEST, so that the first chunk always wins; finite, so that no difference is NaN.
    first = (jnp.full(count, 2 * LOWEST, jnp.float32), jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32))
    (highest, total, best), _ = jax.lax.scan(step, first, jnp.arange(-(-size // width)))
    return highest + jnp.log(total), best


def _forward(width: int, shards: int, rows: Array, table: Array, bias: Array) -> tuple[tuple[Array, Array], tuple]:
    found: Any = _log_normalizer(width, shards, rows, table, bias)
    return found, (rows, table, bias, found[0])


def _backward(width: int, shards: int, saved: tuple, cotangents: tuple[Array, Any]) -> tuple[Array, Array, Array]:
    """The gradient of a log-sum-exp is the softmax: made again chunk by chunk."""
    rows, table, bias, lse = saved
    gradient, _ = cotangents
    folded, folded_bias = _folded(table, bias, shards)

    def step(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array], None]:
        of_rows, of_table, of_bias = carry
        part, part_bias, valid, start = _chunk(folded, folded_bias, index, width)
        share = jnp.exp(_logits(rows, part, part_bias, valid) - lse[:, None, None]) * gradient[:, None, None]
        narrow = share.astype(rows.dtype)
        of_rows += jnp.einsum("nsw,swd->nd", narrow, part, preferred_element_type=jnp.float32)
        of_part = jnp.einsum("nsw,nd->swd", narrow, rows, preferred_element_type=jnp.float32)
        of_table = _add(of_table, of_part, start)
        of_bias = _add(of_bias, jnp.sum(share, axis=0), start)
        return (of_rows, of_table, of_bias), None

    zeros = (jnp.zeros(rows.shape, jnp.float32), jnp.zeros(folded.shape, jnp.float32), jnp.zeros_like(folded_bias))
    chunks = jnp.arange(-(-folded.shape[1] // width))
    (of_rows, of_table, of_bias), _ = jax.lax.scan(step, zeros, chunks)
    return (
        of_rows.astype(rows.dtype),
        of_table.reshape(table.shape).astype(table.dtype),
        of_bias.reshape(bias.shape).astype(bias.dtype),
    )


def _add(total: Array, part: Array, start: Array) -> Array:
    """Adds a chunk in place."""
    width = part.shape[1]
    before = jax.lax.dynamic_slice_in_dim(total, start, width, axis=1)
    return jax.lax.dynamic_update_slice_in_dim(total, before + part, start, axis=1)


_log_normalizer.defvjp(_forward, _backward)


def token_logits(
    rows: Float[Array, "n d"], table: Float[Array, "v d"], bias: Float[Array, " v"], ids: Int[Array, "n k"]
) -> Float[Array, "n k"]:
    """Logits of single tokens, in float32."""
    picked = jnp.einsum("nd,nkd->nk", rows, table[ids], preferred_element_type=jnp.float32)
    return picked + bias[ids].astype(jnp.float32)
