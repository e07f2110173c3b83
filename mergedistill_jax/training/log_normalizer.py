"""What a loss needs of the logits over a large vocabulary, in chunks: no array of [rows, vocabulary] exists.

    logits[n, v] = rows[n] . table[v] + bias[v]          log_normalizer[n] = log sum over v of exp logits[n, v]

Forward walks over the vocabulary with a running maximum and sum; backward walks again and makes each chunk's softmax
anew from the saved log-normaliser. The logits of single tokens, gold or a teacher's candidates, are dot products with
rows of the table. Both share one gradient of the table, which is as large as the table itself: chunks are written into
it, the single tokens' parts are added in place.

A chunk's logits are [v, n], the vocabulary first, so that a TPU reduces over it down the sublanes of its registers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from mergedistill_jax.products import product, rounded

LOWEST = -1e9
"""Finite logit of what is no column of the chunk."""

_ROWS = 8
"""Rows of ones that sum a chunk by a matrix product: the fewest that fill a register of a TPU."""


class VocabularyScores(NamedTuple):
    """Scores of n rows over a vocabulary.

    Attributes:
        log_normalizer: [n] log-sum-exp of the logits, in float32; never below a picked logit.
        best: [n] id of the largest logit, in int32; of equal ones the lowest id. It has no gradient.
        picked: [n, k] logits of single tokens, in float32.
    """

    log_normalizer: Any
    best: Any
    picked: Any


class _Cut(NamedTuple):
    """How the vocabulary is cut, and by what its logits are divided."""

    width: int
    shards: int = 1
    temperature: float = 1.0


def vocabulary_scores(
    rows: Float[Array, "n d"],
    table: Float[Array, "v d"],
    bias: Float[Array, " v"],
    ids: Int[Array, "n k"],
    *,
    chunk_size: int,
    shards: int = 1,
    temperature: float = 1.0,
) -> VocabularyScores:
    """Log-normalisers, the most probable tokens, and the logits of single tokens.

    Args:
        rows: in the dtype of the matrix products; sums are in float32 always.
        table: of the vocabulary, in any dtype: each chunk is converted to that of the rows as it is read, and the
            gradient comes in the table's own.
        bias: of the vocabulary.
        ids: tokens whose logits are wanted.
        chunk_size: tokens of the vocabulary at a time, over all shards together.
        shards: of the table's first axis over devices: a chunk takes the same columns of every shard, so that all
            devices work on each, and they exchange nothing until the end. Must divide v.
        temperature: all logits, the picked ones too, are divided by it.
    """
    if table.shape[0] % shards:
        raise ValueError(f"shards: found {shards}, expected a divisor of the vocabulary, {table.shape[0]}")
    width = max(1, min(chunk_size // shards, table.shape[0] // shards))
    found: Any = _scores(_Cut(width, shards, temperature), rows, table, bias, ids)
    return VocabularyScores(*found)


def log_normalizer(
    rows: Float[Array, "n d"], table: Float[Array, "v d"], bias: Float[Array, " v"], *, chunk_size: int
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Log-normalisers and the most probable token of each row, of equals the first: for predictions, no gradient."""
    return _walk(_Cut(max(1, min(chunk_size, len(table)))), rows, table, bias)


def token_logits(
    rows: Float[Array, "n d"], table: Float[Array, "v d"], bias: Float[Array, " v"], ids: Int[Array, "n k"]
) -> Float[Array, "n k"]:
    """Logits of single tokens, in float32."""
    rows, tokens = rounded(rows, rows.dtype), rounded(table[ids], rows.dtype)
    picked = jnp.einsum("nd,nkd->nk", rows, tokens, preferred_element_type=jnp.float32)
    return picked + bias[ids].astype(jnp.float32)


def _chunk(table: Array, bias: Array, index: Array, width: int, dtype: DTypeLike) -> tuple[Array, Array, Array, Array]:
    """Chunk number `index` of [shards, v / shards] columns: its table in `dtype`, its bias, validity and start.

    The last chunk begins early enough to be whole; columns that the one before it has are not valid.
    """
    size = table.shape[1]
    start = jnp.minimum(index * width, size - width)
    part = jax.lax.dynamic_slice_in_dim(table, start, width, axis=1)
    valid = start + jnp.arange(width) >= index * width
    return part.astype(dtype), jax.lax.dynamic_slice_in_dim(bias, start, width, axis=1), valid, start


def _logits(rows: Array, part: Array, bias: Array, valid: Array, temperature: float) -> Array:
    """[shards, width, n] in float32."""
    found = _over_shards(part, rows, (1, 1)) + bias[..., None]
    return jnp.where(valid[:, None], _cooled(found, temperature), LOWEST)


def _cooled(logits: Array, temperature: float) -> Array:
    return logits if temperature == 1.0 else logits / temperature


def _top_of_chunk(logits: Array) -> tuple[Array, Array]:
    """[shards, n] largest logits of [shards, width, n], and their columns; of equal ones the first.

    Two plain reductions: one of pairs, as jnp.argmax makes it, costs a TPU the same and a CPU far more.
    """
    top = jnp.max(logits, axis=1)
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    return top, jnp.min(jnp.where(logits == top[:, None], columns, logits.shape[1]), axis=1)


def _sum_over_chunk(shares: Array) -> Array:
    """[shards, n] of [shards, width, n] in float32. On a TPU as a product with ones, which hides behind the logits'."""

    def by_ones(shares: Array) -> Array:
        ones = jnp.ones((_ROWS, shares.shape[1]), jnp.float32)
        # HIGH keeps 16 bits and more of each share where a matrix unit would round to 8.
        return jnp.einsum("ow,swn->son", ones, shares, precision=jax.lax.Precision.HIGH)[:, 0]

    return jax.lax.platform_dependent(shares, tpu=by_ones, default=functools.partial(jnp.sum, axis=1))


def _over_shards(x: Array, y: Array, axes: tuple[int, int]) -> Array:
    """`product` of every shard of x [shards, ...] and of y, or of the same shard of y."""
    if len(x) == 1:
        return product(x[0], y.reshape(y.shape[-2:]), axes)[None]
    is_matrix = y.ndim == 2
    return jax.vmap(functools.partial(product, axes=axes), (0, None if is_matrix else 0))(x, y)


def _folded(table: Array, bias: Array, shards: int) -> tuple[Array, Array]:
    return table.reshape(shards, -1, table.shape[1]), bias.reshape(shards, -1).astype(jnp.float32)


def _walk(cut: _Cut, rows: Array, table: Array, bias: Array) -> tuple[Array, Array]:
    """Log-normalisers [n] and the ids of the largest logits [n]."""
    rows = rounded(rows, rows.dtype)
    folded, folded_bias = _folded(table, bias, cut.shards)
    size, shape = folded.shape[1], (cut.shards, len(rows))

    def step(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array], None]:
        highest, total, best = carry
        part, part_bias, valid, start = _chunk(folded, folded_bias, index, cut.width, rows.dtype)
        logits = _logits(rows, part, part_bias, valid, cut.temperature)
        top, here = _top_of_chunk(logits)
        raised = jnp.maximum(highest, top)
        shares = jnp.exp(logits - raised[:, None, :])
        total = total * jnp.exp(highest - raised) + _sum_over_chunk(shares)
        return (raised, total, jnp.where(top > highest, start + here, best)), None

    # Below LOWEST, so that the first chunk always wins; finite, so that no difference is NaN.
    first = (jnp.full(shape, 2 * LOWEST, jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32))
    (highest, total, best), _ = jax.lax.scan(step, first, jnp.arange(-(-size // cut.width)))
    top = jnp.max(highest, axis=0)
    ids = best + size * jnp.arange(cut.shards, dtype=jnp.int32)[:, None]
    best = jnp.min(jnp.where(highest == top, ids, len(table)), axis=0)
    return top + jnp.log(jnp.sum(total * jnp.exp(highest - top), axis=0)), best


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(cut: _Cut, rows: Array, table: Array, bias: Array, ids: Array) -> tuple[Array, Array, Array]:
    return _forward(cut, rows, table, bias, ids)[0]


def _forward(cut: _Cut, rows: Array, table: Array, bias: Array, ids: Array) -> tuple[tuple[Array, Array, Array], tuple]:
    lse, best = _walk(cut, rows, table, bias)
    picked = _cooled(token_logits(rows, table, bias, ids), cut.temperature)
    # The picked logits are sums in another order than the chunks': where one token has all the mass, its own may come
    # out above the normaliser in the last digits. No sum of exponentials is below one of them. The gradient stays that
    # of the sum.
    bound = jnp.max(picked, axis=1, initial=2 * LOWEST)
    return (jnp.maximum(lse, bound), best, picked), (rows, table, bias, ids, lse)


def _backward(cut: _Cut, saved: tuple, cotangents: tuple) -> tuple[Array, Array, Array, None]:
    """The gradient of a log-sum-exp is the softmax: made again chunk by chunk."""
    rows, table, bias, ids, lse = saved
    gradient, _, of_picked = cotangents
    gradient, of_picked = _cooled(gradient, cut.temperature), _cooled(of_picked, cut.temperature)
    rows = rounded(rows, rows.dtype)
    folded, folded_bias = _folded(table, bias, cut.shards)
    chunks = -(-folded.shape[1] // cut.width)

    def step(carry: tuple[Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array], None]:
        of_rows, of_table, of_bias = carry
        part, part_bias, valid, start = _chunk(folded, folded_bias, index, cut.width, rows.dtype)
        share = jnp.exp(_logits(rows, part, part_bias, valid, cut.temperature) - lse) * gradient
        narrow = share.astype(rows.dtype)
        of_rows += _over_shards(narrow, part, (0, 0))
        of_part = _over_shards(narrow, rows, (1, 0))
        of_table = jax.lax.dynamic_update_slice_in_dim(of_table, of_part.astype(table.dtype), start, axis=1)
        of_bias = jax.lax.dynamic_update_slice_in_dim(of_bias, jnp.sum(share, axis=2), start, axis=1)
        return (of_rows, of_table, of_bias), None

    # From the last chunk to the first: where the last reaches back into the one before it, its zeros are written over.
    room = (
        jnp.zeros((cut.shards, *rows.shape), jnp.float32),
        jax.lax.empty(folded.shape, table.dtype),
        jax.lax.empty(folded_bias.shape, jnp.float32),
    )
    (of_rows, of_table, of_bias), _ = jax.lax.scan(step, room, jnp.arange(chunks), reverse=True)
    picked = of_picked.astype(rows.dtype)
    of_rows = jnp.sum(of_rows, axis=0) + jnp.einsum(
        "nk,nkd->nd", picked, table[ids].astype(rows.dtype), preferred_element_type=jnp.float32
    )
    of_tokens = (picked[..., None] * rows[:, None, :]).astype(table.dtype)
    return (
        of_rows.astype(rows.dtype),
        of_table.reshape(table.shape).at[ids].add(of_tokens),
        of_bias.reshape(bias.shape).at[ids].add(of_picked).astype(bias.dtype),
        None,
    )


_scores.defvjp(_forward, _backward)
