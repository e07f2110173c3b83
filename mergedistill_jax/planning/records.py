"""How many bytes of records a corpus becomes, before any of them is written."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mergedistill_jax.configs.recipe import StudentRecipe
from mergedistill_jax.schema import Layout, Record, encode_record

_FRAMING = 16
"""Bytes that a TFRecord file adds to a record: its length and two checksums."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordBytes:
    """The records of one teacher for one language.

    Attributes:
        tokens: of the corpus, in the teacher's tokens; each is read once per draw.
        bytes: on disk, all draws.
    """

    language: str
    teacher: str
    tokens: float
    draws: int
    bytes: float


def bytes_per_token(vocabulary_size: int, *, k: int, length: int, rate: float) -> float:
    """Bytes of a full sequence's record, framing included, per token.

    Written by the same code that `predict` writes with, on made-up ids.

    Args:
        vocabulary_size: the teacher's; ids beyond 65,536 take more than two bytes.
        k: predictions per masked position.
        length: tokens of the sequence.
        rate: share of them that is masked.
    """
    masked = max(round(length * rate), 1)
    record = Record(
        text_id=bytes(8),
        draw=0,
        input_ids=np.full(length, vocabulary_size - 1, np.int32),
        masked_positions=np.arange(masked, dtype=np.int32),
        gold_ids=np.zeros(masked, np.int32),
        top_ids=np.zeros((masked, k), np.int32),
        top_log_probs=np.zeros((masked, k), np.float32),
    )
    encoded = encode_record(record, Layout(k=k, vocabulary_size=vocabulary_size))
    return (len(encoded) + _FRAMING) / length


def record_bytes(
    student: StudentRecipe,
    corpus_tokens: Mapping[str, float],
    per_token: float,
    *,
    draws: int,
) -> list[RecordBytes]:
    """Of every teacher and each of its languages whose corpus is known; a language of two teachers counts twice."""
    return [
        RecordBytes(
            language=language,
            teacher=teacher.name,
            tokens=corpus_tokens[language],
            draws=draws,
            bytes=corpus_tokens[language] * draws * per_token,
        )
        for teacher in student.teachers
        for language in teacher.languages
        if language in corpus_tokens
    ]
