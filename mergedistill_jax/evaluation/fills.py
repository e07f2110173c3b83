"""Held-out sentences with one word masked, filled in by a teacher and its students side by side."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mergedistill_jax.corpus.masking import text_id
from mergedistill_jax.evaluation.content import Fill
from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.inference import Teacher, top_log_probs
from mergedistill_jax.vocabulary.canonical import canonical_tokens
from mergedistill_jax.vocabulary.id_map import IdMap, whole_map
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

SHORTEST, LONGEST = 6, 24
CANDIDATES = 3
SENTENCE_ENDS = frozenset(".?!。؟")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A model that fills gaps: its parameters, the map from the teacher's ids to its own, and its tokens."""

    config: ModelConfig
    params: Any
    id_map: IdMap
    tokens: tuple[str, ...]
    num_tokens: int


def teacher_reader(teacher: Teacher, tokenizer: TeacherTokenizer) -> Reader:
    """The teacher itself as a reader."""
    return Reader(
        config=teacher.config,
        params=teacher.params,
        id_map=whole_map(np.arange(teacher.num_tokens, dtype=np.int32)),
        tokens=readable_tokens(tokenizer),
        num_tokens=teacher.num_tokens,
    )


def readable_tokens(tokenizer: TeacherTokenizer) -> tuple[str, ...]:
    """A teacher's tokens in the one spelling in which a word's end can be seen, whatever its family."""
    return tuple("[UNK]" if token is None else token for token in canonical_tokens(tokenizer))


def sentences(records: Iterable[Record], tokenizer: TeacherTokenizer) -> Iterator[list[int]]:
    """Whole sentences of moderate length, unmasked again, in the teacher's ids."""
    ends = {index for index, token in enumerate(readable_tokens(tokenizer)) if token in SENTENCE_ENDS}
    special = set(tokenizer.special_ids)
    for record in records:
        ids = record.input_ids.copy()
        ids[record.masked_positions] = record.gold_ids
        sentence: list[int] | None = None  # the first one of a record may lack its beginning
        for index in ids.tolist():
            if index in special:
                sentence = None
                continue
            if sentence is not None:
                sentence.append(index)
            if index in ends:
                if sentence and SHORTEST <= len(sentence) <= LONGEST:
                    yield sentence
                sentence = []


def gap_of(sentence: list[int], names: Sequence[str]) -> int | None:
    """A position to hide: a word that is one piece, chosen by the sentence's content; None if there is none."""
    tokens = [names[index] for index in sentence] + ["."]
    words = [
        position
        for position in range(1, len(sentence))
        if tokens[position][0].isalpha() and not tokens[position + 1].startswith("##")
    ]
    if not words:
        return None
    chosen = int.from_bytes(text_id(" ".join(tokens)), "little")
    return words[chosen % len(words)]


def fill_examples(
    language: str,
    records: Iterable[Record],
    tokenizer: TeacherTokenizer,
    readers: Mapping[str, Reader],
    count: int,
) -> list[Fill]:
    """The first `count` sentences that have a gap, filled by "teacher", "student" and, if given, "student_gold"."""
    fills = []
    names = readable_tokens(tokenizer)
    for sentence in sentences(records, tokenizer):
        if len(fills) == count:
            break
        position = gap_of(sentence, names)
        if position is None:
            continue
        ids = np.array([tokenizer.cls_id, *sentence, tokenizer.sep_id], np.int32)
        ids[position + 1] = tokenizer.mask_id
        shown = [names[index] for index in ids[1:-1]]
        fills.append(
            Fill(
                language=language,
                text=_joined(shown),
                gold=names[sentence[position]],
                **{name: _best(reader, ids, position + 1) for name, reader in readers.items()},
            )
        )
    return fills


def _joined(tokens: list[str]) -> str:
    """Pieces as text: `##` pieces joined, no space before a closing mark or after an opening one."""
    text = " ".join(tokens).replace(" ##", "")
    for mark in ".,;:?!)»%،؟":
        text = text.replace(f" {mark}", mark)
    for mark in "(«¿¡":
        text = text.replace(f"{mark} ", mark)
    return text


def _best(reader: Reader, ids: np.ndarray, position: int) -> list[str]:
    """The most probable tokens at a position; the sentence is padded so that few shapes are compiled."""
    mapped, first = reader.id_map.expand(ids)
    length = LONGEST + 2
    while length < len(mapped):  # where a cut vocabulary spells words out
        length *= 2
    length = min(length, reader.config.max_length)
    mapped = mapped[:length]
    padded = np.zeros((1, length), np.int32)
    padded[0, : len(mapped)] = mapped
    mask = np.arange(length)[None, :] < len(mapped)
    where = np.array([[min(int(first[position]), length - 1)]], np.int32)
    logits = _logits(reader.params, padded, mask, where, config=reader.config)
    best, _ = top_log_probs(logits[0, 0], reader.num_tokens, CANDIDATES)
    return [reader.tokens[index] for index in np.asarray(best).tolist()]


@functools.partial(jax.jit, static_argnames="config")
def _logits(params: Any, token_ids: Array, attention_mask: Array, positions: Array, *, config: ModelConfig) -> Array:
    """Logits [1, 1, v] of one position of one sentence."""
    return jnp.asarray(masked_language_model(config).apply({"params": params}, token_ids, attention_mask, positions))
