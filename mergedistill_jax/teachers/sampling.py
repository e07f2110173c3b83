"""Targets drawn from the teacher instead of its k best: few ids, yet right on average over the whole vocabulary.

Sparse Logit Sampling (Anshumann et al. 2025): at each masked position N ids are drawn from the teacher's distribution
p with replacement, and the target is q(v) = (times v was drawn) / N. Every q sums to 1, and its expectation is p: the
cross-entropy against q is the full one on average, where the k best alone, scaled to sum to 1, give each of them more
than the teacher does. (Their proposal p^t / Z is p itself here, t = 1, which needs no importance weights.)

Drawing inverts the cumulative distribution: with u uniform in [0, 1), the id is the number of tokens v with
p(0) + ... + p(v) <= u. The vocabulary is walked through in chunks twice, first for the log-normaliser, then for the
running sum; of [rows, vocabulary] nothing exists, and one random number a draw is enough.

    p           0.1   0.5   0.0   0.4
    running sum 0.1   0.6   0.6   1.0       u = 0.05, 0.30, 0.55, 0.70  ->  ids 0, 1, 1, 3  ->  q = 1/4, 1/2, 0, 1/4

The uniform numbers are a function of (seed, text id, draw, position) alone, so the batch does not matter. In a record
the slots hold the ids that were drawn, most often first, with log q; a slot that is left over repeats the first id with
NO_MASS.
"""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.sampling import Sampling
from mergedistill_jax.schema import NO_MASS, Record
from mergedistill_jax.teachers.top_k import NO_TOKEN_LOGIT
from mergedistill_jax.training.log_normalizer import log_normalizer, token_logits


def uniforms_of(record: Record, sampling: Sampling) -> Float[np.ndarray, "m n"]:
    """Numbers in [0, 1), one for each draw at each masked position."""
    tag = sampling.seed.to_bytes(8, "little", signed=True) + record.draw.to_bytes(8, "little")
    key = hashlib.blake2b(record.text_id, digest_size=16, salt=b"sample", person=tag).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    numbers = generator.random((len(record.input_ids), sampling.samples), dtype=np.float32)
    return numbers[record.masked_positions]


def padded_uniforms(records: Sequence[Record], sampling: Sampling, rows: int) -> Float[np.ndarray, "n samples"]:
    """Those of the masked positions of several records laid end to end, in `rows` rows."""
    uniforms = np.zeros((rows, sampling.samples), np.float32)
    start = 0
    for record in records:
        stop = start + len(record.masked_positions)
        uniforms[start:stop] = uniforms_of(record, sampling)
        start = stop
    return uniforms


def projected_samples(
    rows: Float[Array, "n d"],
    table: Float[Array, "v d"],
    bias: Float[Array, " v"],
    gold_ids: Int[Array, " n"],
    uniforms: Float[Array, "n s"],
    *,
    num_tokens: int,
    chunk_size: int,
) -> tuple[Int[Array, "n s"], Float[Array, "n s"], Float[Array, " n"]]:
    """The ids drawn for each row, in the order of the uniforms, their log-probabilities in nats, and the gold ids'.

    Args:
        rows: in the dtype of the matrix products; logits and sums are in float32 always.
        table: of the vocabulary, in the dtype of the rows.
        bias: of the vocabulary.
        gold_ids: below num_tokens.
        uniforms: in [0, 1).
        num_tokens: the first so many rows of the table have a token, the others are never drawn.
        chunk_size: columns of which the logits exist at a time.
    """
    table, bias = table[:num_tokens], bias[:num_tokens].astype(jnp.float32)
    normalizer, best = log_normalizer(rows, table, bias, chunk_size=chunk_size)
    width = min(chunk_size, num_tokens)

    def step(carry: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        below, drawn = carry
        # The last chunk begins early enough to be whole; the columns that the one before it had count for nothing.
        start = jnp.minimum(index * width, num_tokens - width)
        new = start + jnp.arange(width) >= index * width
        part = jax.lax.dynamic_slice_in_dim(table, start, width)
        part_bias = jnp.where(new, jax.lax.dynamic_slice_in_dim(bias, start, width), NO_TOKEN_LOGIT)
        logits = jnp.einsum("nd,vd->nv", rows, part, preferred_element_type=jnp.float32) + part_bias
        sums = below[:, None] + jnp.cumsum(jnp.exp(logits - normalizer[:, None]), axis=1)
        passed = (sums[:, None, :] <= uniforms[:, :, None]) & new
        return (sums[:, -1], drawn + jnp.sum(passed, axis=-1, dtype=jnp.int32)), None

    first = (jnp.zeros(len(rows), jnp.float32), jnp.zeros(uniforms.shape, jnp.int32))
    (_, ids), _ = jax.lax.scan(step, first, jnp.arange(-(-num_tokens // width)))
    # Rounding may leave the last sum a little below 1: what lies above it falls to the most probable token.
    ids = jnp.where(ids < num_tokens, ids, best[:, None])
    log_probs = token_logits(rows, table, bias, ids) - normalizer[:, None]
    gold = token_logits(rows, table, bias, gold_ids[:, None])[:, 0]
    # The gold logit is a sum in another order than the chunks': in the last digits it may exceed the normaliser.
    return ids, log_probs, jnp.minimum(gold - normalizer, 0.0)


def sampled_target(ids: Int[np.ndarray, "m s"], k: int) -> tuple[Int[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """Drawn ids to k slots: different ids, most often drawn first (then the lowest), and the log of their shares."""
    samples = ids.shape[1]
    same = ids[:, :, None] == ids[:, None, :]
    counts = same.sum(axis=2)
    repeats = np.tril(same, -1).any(axis=2)
    order = np.lexsort((ids, -counts, repeats), axis=1)
    top_ids = np.take_along_axis(ids, order, axis=1)
    log_shares = np.log(np.take_along_axis(counts, order, axis=1) / samples)
    unused = np.take_along_axis(repeats, order, axis=1)
    found_ids = np.repeat(top_ids[:, :1], k, axis=1)
    found_ids[:, :samples] = np.where(unused, top_ids[:, :1], top_ids)
    found = np.full((len(ids), k), NO_MASS, np.float32)
    found[:, :samples] = np.where(unused, NO_MASS, log_shares)
    return found_ids.astype(np.int32), found
