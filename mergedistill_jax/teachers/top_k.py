"""The k best tokens of many rows and their log-probabilities, without an array of [rows, vocabulary].

    logits[n, v] = rows[n] . table[v] + bias[v]

The vocabulary is taken chunk by chunk, with a running log-sum-exp and the k best so far of every row. Of a chunk not
every column is looked at twice: the k largest values lie in the k blocks of columns with the largest maxima, so the
maxima of all blocks are one pass over the chunk, and only the columns of k blocks are ordered:

    chunk     | 3 1 4 1 | 5 9 2 6 | 5 3 5 8 | 9 7 9 3 |      k = 2
    maxima          4         9         8         9      ->  blocks 1 and 3
    ordered             5 9 2 6                9 7 9 3   ->  9 (column 5), 9 (column 12)

Equal values are ordered as jax.lax.top_k orders them over the whole row, the lowest id first: of equal maxima it takes
the first block, the chosen blocks are put back into their order, and what was found before stands before what is new.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mergedistill_jax.training.log_normalizer import token_logits

NO_TOKEN_LOGIT = -1e9
"""Finite logit of what is no token: it enters neither the k best nor the normalisation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunks:
    """How the vocabulary is cut.

    Attributes:
        chunk_size: columns of which the logits exist at a time; a multiple of block_size.
        block_size: columns of which the maximum is taken first.
    """

    chunk_size: int = 4096
    block_size: int = 32

    def __post_init__(self) -> None:
        if self.block_size < 1 or self.chunk_size < 1 or self.chunk_size % self.block_size:
            raise ValueError(
                f"Chunks.chunk_size: found {self.chunk_size}, expected a multiple of block_size={self.block_size}"
            )


def default_chunks(platform: str) -> Chunks:
    """On a CPU a chunk that stays in its caches, elsewhere one that is worth a kernel's start.

    Args:
        platform: as jax.Device.platform tells it.
    """
    return Chunks() if platform == "cpu" else Chunks(chunk_size=16_384, block_size=64)


def projected_top_log_probs(
    rows: Float[Array, "n d"],
    table: Float[Array, "v d"],
    bias: Float[Array, " v"],
    gold_ids: Int[Array, " n"],
    *,
    num_tokens: int,
    k: int,
    chunks: Chunks,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"], Float[Array, " n"]]:
    """The k best ids of each row, best first, their log-probabilities in nats, and those of the gold ids.

    Args:
        rows: in the dtype of the matrix products; logits and sums are in float32 always.
        table: of the vocabulary, in the dtype of the rows.
        bias: of the vocabulary.
        gold_ids: below num_tokens.
        num_tokens: the first so many rows of the table have a token, the others are never looked at.
        k: at most num_tokens.
        chunks: how the vocabulary is cut.
    """
    bias = bias.astype(jnp.float32)
    normalizer, best, ids = _walk(rows, table, bias, num_tokens, k, chunks)
    log_probs = best - normalizer[:, None]
    # One number for one quantity: a gold id in the top k has its log-probability from there. Another's logit is a
    # product of its own, of operands that the compiler may round otherwise: it is at most that of the k-th best.
    apart = token_logits(rows, table, bias, gold_ids[:, None])[:, 0] - normalizer
    is_gold = ids == gold_ids[:, None]
    among = jnp.sum(jnp.where(is_gold, log_probs, 0.0), axis=1)
    gold = jnp.where(is_gold.any(axis=1), among, jnp.minimum(apart, log_probs[:, -1]))
    return ids, log_probs, jnp.minimum(gold, 0.0)


def _walk(
    rows: Array, table: Array, bias: Array, num_tokens: int, k: int, chunks: Chunks
) -> tuple[Array, Array, Array]:
    """Log-normalisers [n], the k best logits [n, k] and their ids [n, k]."""
    width = min(chunks.chunk_size, num_tokens)

    def step(carry: tuple[Array, Array, Array, Array], index: Array) -> tuple[tuple[Array, Array, Array, Array], None]:
        highest, total, best, ids = carry
        # The last chunk begins early enough to be whole; the columns that the one before it had are no tokens in it.
        start = jnp.minimum(index * width, num_tokens - width)
        part = jax.lax.dynamic_slice_in_dim(table, start, width)
        part_bias = jax.lax.dynamic_slice_in_dim(bias, start, width)
        part_bias = jnp.where(start + jnp.arange(width) >= index * width, part_bias, NO_TOKEN_LOGIT)
        products = jnp.einsum("nd,vd->nv", rows, part, preferred_element_type=jnp.float32)
        logits, columns, top = _candidates(products, part_bias, k, chunks.block_size)
        raised = jnp.maximum(highest, top)
        shares = jnp.sum(jnp.exp(products + part_bias - raised[:, None]), axis=-1)
        total = total * jnp.exp(highest - raised) + shares
        best, chosen = jax.lax.top_k(jnp.concatenate([best, logits], axis=1), k)
        ids = jnp.take_along_axis(jnp.concatenate([ids, start + columns], axis=1), chosen, axis=1)
        return (raised, total, best, ids), None

    count = len(rows)
    # Below NO_TOKEN_LOGIT, so that every column of the first chunk comes before it; finite, so that nothing is NaN.
    lowest = jnp.float32(2 * NO_TOKEN_LOGIT)
    first = (
        jnp.full(count, lowest),
        jnp.zeros(count, jnp.float32),
        jnp.full((count, k), lowest),
        jnp.zeros((count, k), jnp.int32),
    )
    (highest, total, best, ids), _ = jax.lax.scan(step, first, jnp.arange(-(-num_tokens // width)))
    return highest + jnp.log(total), best, ids


def _candidates(products: Array, bias: Array, k: int, block_size: int) -> tuple[Array, Array, Array]:
    """Columns of a chunk among which its k best are, in ascending order: logits [n, c], columns [n, c]; maxima [n].

    The bias is added where a value is used: a chunk of logits beside that of products would be written for nothing.
    """
    count, width = products.shape
    if width % block_size or 2 * k * block_size > width:  # few columns, or many candidates: all of them
        logits = products + bias
        best, columns = jax.lax.top_k(logits, min(k, width))
        return best, columns, best[:, 0]
    blocks = width // block_size
    maxima = jnp.max((products + bias).reshape(count, blocks, block_size), axis=-1)
    _, chosen = jax.lax.top_k(maxima, k)
    chosen = jnp.sort(chosen, axis=-1)
    flat = jnp.arange(count)[:, None] * blocks + chosen
    logits = products.reshape(count * blocks, block_size)[flat] + bias.reshape(blocks, block_size)[chosen]
    columns = chosen[..., None] * block_size + jnp.arange(block_size)
    return logits.reshape(count, -1), columns.reshape(count, -1), jnp.max(maxima, axis=-1)
