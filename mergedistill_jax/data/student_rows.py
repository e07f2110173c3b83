"""Decoded records into the student's ids and a batch's fixed shapes, many at once.

The same as records.to_student_ids and the feature converter make of them one by one in TensorFlow, in NumPy: see there
for what becomes of ids that the student lacks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB
from mergedistill_jax.record_rows import RecordRows, ranges
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StudentRows:
    """Records laid end to end, in the student's ids; fields as in RecordRows.

    A position that the student cannot learn from is left out, so counts may be lower than the record's.
    """

    lengths: Int[np.ndarray, " r"]
    counts: Int[np.ndarray, " r"]
    token_ids: Int[np.ndarray, " n"]
    masked_positions: Int[np.ndarray, " m"]
    gold_ids: Int[np.ndarray, " m"]
    teacher_ids: Int[np.ndarray, "m k"]
    teacher_log_probs: Float[np.ndarray, "m k"]


class ToStudent:
    """Maps the records of one folder."""

    def __init__(self, id_map: IdMap, max_length: int) -> None:
        """Takes the teacher's map, and the length at which a sequence that grew is cut."""
        self._map, self._max_length = id_map, max_length
        self._one_to_one, self._injective = id_map.one_to_one, id_map.injective

    def __call__(self, rows: RecordRows) -> StudentRows:
        """The records in the student's ids."""
        labels = self._map.labels
        gold_ids, top_ids = labels[rows.gold_ids], labels[rows.top_ids]
        log_probs = np.where(top_ids == DROPPED, np.float32(IMPOSSIBLE_LOG_PROB), rows.top_log_probs)
        if not self._injective:
            _merge(top_ids, log_probs)
        token_ids, lengths, positions = self._expanded(rows)
        kept = self._learnable(gold_ids, top_ids, positions)
        record = np.repeat(np.arange(len(rows.counts)), rows.counts)
        return StudentRows(
            lengths=lengths,
            counts=np.bincount(record[kept], minlength=len(rows.counts)),
            token_ids=token_ids,
            masked_positions=positions[kept],
            gold_ids=gold_ids[kept],
            teacher_ids=np.maximum(top_ids[kept], 0),
            teacher_log_probs=log_probs[kept],
        )

    def kept(self, rows: RecordRows) -> Bool[np.ndarray, " m"]:
        """Which masked positions of the records are among the student's."""
        labels = self._map.labels
        return self._learnable(labels[rows.gold_ids], labels[rows.top_ids], self._expanded(rows)[2])

    def _learnable(
        self, gold_ids: Int[np.ndarray, " m"], top_ids: Int[np.ndarray, "m k"], positions: Int[np.ndarray, " m"]
    ) -> Bool[np.ndarray, " m"]:
        kept = (gold_ids != DROPPED) & (positions < self._max_length - 1)
        return kept & (top_ids != DROPPED).any(axis=1) if top_ids.shape[1] else kept

    def _expanded(self, rows: RecordRows) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " r"], Int[np.ndarray, " m"]]:
        """The student's inputs, at most max_length per record with the last one kept; lengths; the masked positions."""
        if self._one_to_one:
            return self._map.ids[rows.input_ids], rows.lengths, rows.masked_positions
        starts = np.cumsum(rows.lengths) - rows.lengths
        masked = np.repeat(starts, rows.counts) + rows.masked_positions
        single = np.zeros(len(rows.input_ids), bool)
        single[masked] = True
        token_ids, first = self._map.expand(rows.input_ids, single)
        ends = np.append(first, len(token_ids))[starts + rows.lengths]
        begins = np.concatenate([np.zeros(1, ends.dtype), ends])[:-1]
        positions = (first[masked] - np.repeat(begins, rows.counts)).astype(np.int32)
        lengths = np.minimum(ends - begins, self._max_length)
        places = ranges(begins, lengths)
        full = lengths > 0
        places[np.cumsum(lengths)[full] - 1] = ends[full] - 1  # of a sequence that is cut off, [SEP] stays
        return token_ids[places], lengths, positions


def _merge(top_ids: Int[np.ndarray, "m k"], log_probs: Float[np.ndarray, "m k"]) -> None:
    """Gives, in place, the mass of candidates that are one token to the first of them."""
    ordered = np.sort(top_ids, axis=1)
    twins = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != DROPPED)).any(axis=1)
    ids, values = top_ids[twins], log_probs[twins]
    same = ids[:, :, None] == ids[:, None, :]
    candidates = np.where(same, values[:, None, :], np.float32(IMPOSSIBLE_LOG_PROB))
    largest = candidates.max(axis=-1, initial=IMPOSSIBLE_LOG_PROB)
    total = largest + np.log(np.exp(candidates - largest[..., None]).sum(axis=-1))
    repeated = (same & np.tri(ids.shape[1], k=-1, dtype=bool)).any(axis=-1)
    log_probs[twins] = np.where(repeated | (ids == DROPPED), np.float32(IMPOSSIBLE_LOG_PROB), total)


def empty_batch(size: int, *, length: int, predictions: int, k: int) -> Batch:
    """Rows of padding; [PAD] is id 0 in every student vocabulary. See DistillationFeatureConverter for the fields."""
    return {
        "token_ids": np.zeros((size, length), np.int32),
        "lengths": np.zeros(size, np.int32),
        "masked_positions": np.zeros((size, predictions), np.int32),
        "gold_ids": np.zeros((size, predictions), np.int32),
        "loss_weights": np.zeros((size, predictions), np.float32),
        "teacher_ids": np.zeros((size, predictions, k), np.int32),
        "teacher_log_probs": np.full((size, predictions, k), IMPOSSIBLE_LOG_PROB, np.float32),
        "source": np.zeros(size, np.int32),
    }


def fill_rows(batch: Mapping[str, Any], places: Int[np.ndarray, " r"], rows: StudentRows, source: int) -> None:
    """Writes records of a source into rows of an empty batch."""
    k = batch["teacher_ids"].shape[2]
    tokens = _cells(places, rows.lengths)
    batch["token_ids"][tokens] = rows.token_ids
    batch["lengths"][places] = rows.lengths
    batch["source"][places] = source
    predictions = _cells(places, rows.counts)
    batch["masked_positions"][predictions] = rows.masked_positions
    batch["gold_ids"][predictions] = rows.gold_ids
    batch["loss_weights"][predictions] = 1.0
    batch["teacher_ids"][predictions] = rows.teacher_ids[:, :k]
    batch["teacher_log_probs"][predictions] = rows.teacher_log_probs[:, :k]


def _cells(
    places: Int[np.ndarray, " r"], counts: Int[np.ndarray, " r"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Row and column of the first `count` cells of each row."""
    return np.repeat(places, counts), ranges(np.zeros_like(counts), counts)
