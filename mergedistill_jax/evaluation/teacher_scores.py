"""How well one teacher knows hidden words, in units that do not depend on its tokens: whole words, and nats per word.

A word w of c characters that the tokenizer cuts into pieces g_1 ... g_n costs

    loss(w) = - sum_i log p(g_i)                      where the pieces spell it
    loss(w) = - sum_i log p(g_i) + c log A            where one of them is [UNK]

p is the teacher's distribution over its whole vocabulary, with all pieces of the word hidden. [UNK] says that something
stands there and not what: the word has still to be spelled, which costs log A for each of its characters where nothing
is known about them, A being the number of different characters in the text. Without that charge a teacher that can
write a language only as [UNK] would be the best at it. Such a word also counts as wrong.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mergedistill_jax.evaluation.hidden_words import HiddenSequences, NumberedText
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.inference import Teacher, predict_records


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordScores:
    """One teacher on the compared words of a text, in their order.

    Attributes:
        loss_nats: of every word, as above.
        right: whether the teacher's best token is right at every piece, and none is [UNK].
        unknown: whether a piece is [UNK].
        tokens, tokens_right: pieces of all the words, and how many of them are right.
        top_mass: mean probability of the k best candidates of a piece.
    """

    loss_nats: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    unknown: Bool[np.ndarray, " n"]
    tokens: int
    tokens_right: int
    top_mass: float


def predict_hidden(
    teacher: Teacher, hidden: HiddenSequences, *, k: int, batch_size: int, max_length: int
) -> list[Record]:
    """The sequences with the teacher's predictions."""
    return list(_predicted(teacher, hidden.records, k, batch_size, max_length))


def sequences_per_second(
    teacher: Teacher, hidden: HiddenSequences, *, k: int, batch_size: int, max_length: int, batches: int = 4
) -> float:
    """Measured here and now on the first sequences, after they have been through once for whatever is compiled."""
    records = hidden.records[: batches * batch_size]
    for _ in _predicted(teacher, records, k, batch_size, max_length):
        pass
    began = time.monotonic()
    count = sum(1 for _ in _predicted(teacher, records, k, batch_size, max_length))
    return count / max(time.monotonic() - began, 1e-9)


def _predicted(
    teacher: Teacher, records: Sequence[Record], k: int, batch_size: int, max_length: int
) -> Iterator[Record]:
    most = max(len(record.masked_positions) for record in records)
    return predict_records(
        teacher, records, k=k, batch_size=batch_size, length=max_length, max_predictions=-(-most // 8) * 8
    )


def score_words(
    predicted: Sequence[Record],
    hidden: HiddenSequences,
    text: NumberedText,
    compared: Int[np.ndarray, " n"],
    unk_id: int,
) -> WordScores:
    """Adds the predictions of pieces up to scores of words.

    Args:
        predicted: `hidden.records` with predictions.
        hidden: what was asked.
        text: the text.
        compared: ascending numbers of the words that count.
        unk_id: the teacher's [UNK].
    """
    words = np.concatenate(hidden.words)
    kept = np.isin(words, compared)
    row = np.searchsorted(compared, words[kept])
    gold = np.concatenate([record.gold_ids for record in predicted])[kept]
    best = np.concatenate([record.top_ids[:, 0] for record in predicted])[kept]
    gold_log_probs = np.concatenate([_gold_log_probs(record) for record in predicted])[kept].astype(np.float64)
    mass = np.exp(np.concatenate([record.top_log_probs for record in predicted])[kept].astype(np.float64)).sum(axis=1)
    count = len(compared)
    unknown = np.bincount(row, gold == unk_id, count) > 0
    wrong = np.bincount(row, (gold != best) | (gold == unk_id), count) > 0
    spelling = np.where(unknown, text.characters[compared] * math.log(max(text.alphabet, 2)), 0.0)
    return WordScores(
        loss_nats=np.bincount(row, -gold_log_probs, count) + spelling,
        right=~wrong,
        unknown=unknown,
        tokens=len(gold),
        tokens_right=int(((gold == best) & (gold != unk_id)).sum()),
        top_mass=float(mass.mean()),
    )


def _gold_log_probs(record: Record) -> Float[np.ndarray, " m"]:
    assert record.gold_log_probs is not None  # noqa: S101 - predict_records gives them
    return np.asarray(record.gold_log_probs)
