"""Scores of a model on masked words: accuracy, loss, agreement with the teacher; and the most frequent token's."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mergedistill_jax.data.batches import RecordMixture, evaluation_batches
from mergedistill_jax.data.student_rows import ToStudent
from mergedistill_jax.evaluation.metrics import masked_accuracy, most_frequent_baseline, pseudo_perplexity
from mergedistill_jax.manifest import Manifest, read_records
from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.record_rows import rows_of
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.buckets import pad_batch
from mergedistill_jax.teachers.inference import NO_TOKEN_LOGIT, Teacher
from mergedistill_jax.vocabulary.id_map import IdMap

_RECORDS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedWordScores:
    """Sums over masked positions of one language.

    Attributes:
        count: positions that are scored.
        correct: of which the best token is the gold one.
        nll_nats: loss of the gold tokens.
        agreed: of which the best token is the teacher's; None: nobody compared.
        positions: all that the records have, scored or not; None: nobody counted.
    """

    count: int
    correct: int
    nll_nats: float
    agreed: int | None = None
    positions: int | None = None

    def metrics(self) -> dict[str, float]:
        """What could be measured, by name."""
        found = {
            "masked_accuracy": masked_accuracy(self.correct, self.count),
            "pseudo_perplexity": pseudo_perplexity(self.nll_nats, self.count),
            "teacher_agreement": None if self.agreed is None else masked_accuracy(self.agreed, self.count),
            "scored_share": self.count / self.positions if self.positions and self.count < self.positions else None,
        }
        return {name: value for name, value in found.items() if value is not None}


@functools.partial(jax.jit, static_argnames=("config", "num_tokens"))
def _hits_and_loss(
    params: Any,
    token_ids: Array,
    lengths: Array,
    positions: Array,
    gold_ids: Array,
    *,
    config: ModelConfig,
    num_tokens: int,
) -> tuple[Array, Array]:
    """Best token [b, m] and loss of the gold token [b, m] in nats."""
    attention_mask = jnp.arange(token_ids.shape[1]) < lengths[:, None]
    logits = jnp.asarray(masked_language_model(config).apply({"params": params}, token_ids, attention_mask, positions))
    logits = jnp.where(jnp.arange(logits.shape[-1]) < num_tokens, logits, NO_TOKEN_LOGIT)
    gold = jnp.take_along_axis(logits, gold_ids[..., None], axis=-1)[..., 0]
    return jnp.argmax(logits, axis=-1), jax.nn.logsumexp(logits, axis=-1) - gold


def all_records(manifest: Manifest) -> Iterator[Record]:
    """Every record of a folder, in order."""
    identity = manifest.identity
    for entry in manifest.shards:
        yield from read_records(manifest.folder, entry.shard, identity.layout)


def score_teacher(
    teacher: Teacher, manifest: Manifest, batch_size: int, id_map: IdMap | None = None
) -> MaskedWordScores:
    """Scores a teacher on a folder of records in its own ids.

    Args:
        teacher: who made the records.
        manifest: of their folder.
        batch_size: in sequences.
        id_map: into a student's vocabulary; only positions that the student reads through it count. None: all.
    """
    identity = manifest.identity
    params = jax.device_put(teacher.params)
    records = all_records(manifest)
    count = correct = positions = 0
    loss = 0.0
    while batch := list(itertools.islice(records, batch_size)):
        arrays = pad_batch(batch, batch_size, identity.max_length, identity.max_predictions, teacher.pad_id)
        kept = kept_positions(batch, id_map, identity.max_length)
        gold, weights = _gold(batch, kept, batch_size, identity.max_predictions)
        best, losses = _hits_and_loss(params, *arrays, gold, config=teacher.config, num_tokens=teacher.num_tokens)
        positions += sum(map(len, kept))
        count += int(weights.sum())
        correct += int(((np.asarray(best) == gold) & weights).sum())
        loss += float(np.asarray(losses, np.float64)[weights].sum())
    return MaskedWordScores(count=count, correct=correct, nll_nats=loss, positions=positions)


def kept_positions(records: Sequence[Record], id_map: IdMap | None, max_length: int) -> list[Bool[np.ndarray, " m"]]:
    """Which masked positions of each record a student reads through an id map, at most max_length tokens; None: all."""
    counts = [len(record.gold_ids) for record in records]
    if id_map is None:
        return [np.ones(count, bool) for count in counts]
    kept = ToStudent(id_map, max_length).kept(rows_of(records))
    return np.split(kept, np.cumsum(counts)[:-1])


def _gold(
    records: Sequence[Record], kept: Sequence[np.ndarray], batch_size: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    gold = np.zeros((batch_size, rows), np.int32)
    weights = np.zeros((batch_size, rows), bool)
    for row, (record, scored) in enumerate(zip(records, kept, strict=True)):
        gold[row, : len(scored)] = record.gold_ids
        weights[row, : len(scored)] = scored
    return gold, weights


def score_student(
    config: ModelConfig, params: Any, mixture: RecordMixture, batch_size: int
) -> dict[str, MaskedWordScores]:
    """Scores a student on the same masked words, read through its id maps, by language."""
    params = jax.device_put(params)
    totals: dict[str, np.ndarray] = {language: np.zeros(4) for language in mixture.languages}
    languages = np.array(mixture.languages)
    for batch in evaluation_batches(mixture, batch_size):
        best, losses = _hits_and_loss(
            params,
            batch["token_ids"],
            batch["lengths"],
            batch["masked_positions"],
            batch["gold_ids"],
            config=config,
            num_tokens=config.vocab_size,
        )
        weights = batch["loss_weights"] > 0
        best = np.asarray(best)
        values = (
            weights,
            (best == batch["gold_ids"]) & weights,
            np.where(weights, np.asarray(losses, np.float64), 0.0),
            (best == batch["teacher_ids"][..., 0]) & weights if mixture.k else np.zeros_like(weights),
        )
        rows = np.stack([value.sum(axis=1) for value in values], axis=1)
        for language in totals:
            totals[language] += rows[languages[batch["source"]] == language].sum(axis=0)
    return {
        language: MaskedWordScores(
            count=int(count), correct=int(correct), nll_nats=loss, agreed=int(agreed) if mixture.k else None
        )
        for language, (count, correct, loss, agreed) in totals.items()
    }


def unseen_shares(mixture: RecordMixture, token_counts: Int[np.ndarray, " v"], batch_size: int) -> dict[str, float]:
    """By language the share of the held-out input tokens whose id never stood in the student's training batches."""
    totals: dict[str, np.ndarray] = {language: np.zeros(2) for language in mixture.languages}
    languages = np.array(mixture.languages)
    unseen = token_counts == 0
    for number, batch in enumerate(evaluation_batches(mixture, batch_size)):
        inside = np.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
        # Rows that fill up the last batch are none; a record of which a cut left no position to predict is one.
        inside &= (number * batch_size + np.arange(len(inside)) < mixture.records)[:, None]
        rows = np.stack([(unseen[batch["token_ids"]] & inside).sum(axis=1), inside.sum(axis=1)], axis=1)
        for language in totals:
            totals[language] += rows[languages[batch["source"]] == language].sum(axis=0)
    return {language: float(found / count) for language, (found, count) in totals.items() if count}


def score_baseline(train: Manifest, heldout: Manifest, id_map: IdMap | None = None) -> dict[str, float]:
    """Accuracy of always answering the token that is masked most often in training records.

    With an id map on the positions alone that its student reads, as of `score_teacher`.
    """
    size = heldout.identity.vocabulary_size
    counts, gold_counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for record in all_records(train):
        counts += np.bincount(record.gold_ids, minlength=size)
    records = all_records(heldout)
    while batch := list(itertools.islice(records, _RECORDS_AT_ONCE)):
        kept = kept_positions(batch, id_map, heldout.identity.max_length)
        for record, scored in zip(batch, kept, strict=True):
            gold_counts += np.bincount(record.gold_ids[scored], minlength=size)
    gold = np.repeat(np.arange(size), gold_counts)
    accuracy = most_frequent_baseline(counts, gold)
    return {} if accuracy is None else {"masked_accuracy": accuracy}


def merge_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """{model: {language: metrics}} to {language: {model: metrics}}."""
    merged: dict[str, dict[str, dict[str, float]]] = {}
    for model, by_language in scores.items():
        for language, metrics in by_language.items():
            merged.setdefault(language, {})[model] = dict(metrics)
    return merged
