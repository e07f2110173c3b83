"""A teacher over batches of masked sequences: its top-k log-probabilities at the masked positions."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.schema import Record

NO_TOKEN_LOGIT = -1e9
"""Logit of an output row that no token stands for: it enters neither the top-k nor the normalisation."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A loaded teacher: what to run and what it calls its tokens.

    Attributes:
        num_tokens: tokens of its tokenizer; output rows beyond them have no token.
    """

    config: ModelConfig
    params: Any
    num_tokens: int
    pad_id: int


def top_log_probs(
    logits: Float[Array, "*m v"], num_tokens: int, k: int
) -> tuple[Int[Array, "*m k"], Float[Array, "*m k"]]:
    """The k largest log-probabilities, best first, normalised over the rows that have a token.

    Keeping log-probabilities and not raw logits leaves the softmax over the k unchanged and makes the missing mass,
    one minus the sum of their probabilities, known to whoever reads them.
    """
    has_token = jnp.arange(logits.shape[-1]) < num_tokens
    logits = jnp.where(has_token, logits, NO_TOKEN_LOGIT)
    best, ids = jax.lax.top_k(logits, k)
    return ids, best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def gold_log_probs(logits: Float[Array, "*m v"], gold_ids: Int[Array, "*m"], num_tokens: int) -> Float[Array, "*m"]:
    """The log-probability of each gold id, normalised as in top_log_probs; below the k best it is exact too."""
    has_token = jnp.arange(logits.shape[-1]) < num_tokens
    logits = jnp.where(has_token, logits, NO_TOKEN_LOGIT)
    gold = jnp.take_along_axis(logits, gold_ids[..., None], axis=-1)[..., 0]
    return gold - jax.nn.logsumexp(logits, axis=-1)


@functools.partial(jax.jit, static_argnames=("config", "num_tokens", "k"))
def _predict(
    params: Any,
    token_ids: Array,
    lengths: Array,
    masked_positions: Array,
    gold_ids: Array,
    *,
    config: ModelConfig,
    num_tokens: int,
    k: int,
) -> tuple[Array, Array, Array]:
    attention_mask = jnp.arange(token_ids.shape[1]) < lengths[:, None]
    logits = masked_language_model(config).apply({"params": params}, token_ids, attention_mask, masked_positions)
    logits = jnp.asarray(logits)
    return *top_log_probs(logits, num_tokens, k), gold_log_probs(logits, gold_ids, num_tokens)


def pad_batch(
    records: Sequence[Record], batch_size: int, length: int, max_predictions: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded token_ids [b, l], lengths [b] and masked_positions [b, m]; missing rows hold one padding token."""
    token_ids = np.full((batch_size, length), pad_id, np.int32)
    lengths = np.ones(batch_size, np.int32)
    positions = np.zeros((batch_size, max_predictions), np.int32)
    for row, record in enumerate(records):
        token_ids[row, : len(record.input_ids)] = record.input_ids
        lengths[row] = len(record.input_ids)
        positions[row, : len(record.masked_positions)] = record.masked_positions
    return token_ids, lengths, positions


def predict_records(
    teacher: Teacher, records: Sequence[Record], *, k: int, batch_size: int, length: int, max_predictions: int
) -> Iterator[Record]:
    """The records with the teacher's top-k and gold log-probabilities at their masked positions, in order.

    One compiled shape for all batches.
    """
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        arrays = pad_batch(batch, batch_size, length, max_predictions, teacher.pad_id)
        gold_ids = np.zeros((batch_size, max_predictions), np.int32)
        for row, record in enumerate(batch):
            gold_ids[row, : len(record.gold_ids)] = record.gold_ids
        found = _predict(teacher.params, *arrays, gold_ids, config=teacher.config, num_tokens=teacher.num_tokens, k=k)
        ids, log_probs, gold = map(np.asarray, found)
        for row, record in enumerate(batch):
            count = len(record.masked_positions)
            yield dataclasses.replace(
                record,
                top_ids=ids[row, :count],
                top_log_probs=log_probs[row, :count],
                gold_log_probs=gold[row, :count],
            )
