"""The pieces of the texts of a shard, laid end to end, and the word each belongs to."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from mergedistill_jax.corpus.masking import text_id
from mergedistill_jax.corpus.words import word_of_characters
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

SEPARATOR = -1
"""The text of a [SEP] between documents."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """The pieces of many texts laid end to end.

    Attributes:
        ids: token ids.
        text: index of the text each piece belongs to; SEPARATOR for a [SEP] between documents.
        word: index of its word within the text.
        text_ids: the id of every text.
        num_words: words of every text.
    """

    ids: Int[np.ndarray, " n"]
    text: Int[np.ndarray, " n"]
    word: Int[np.ndarray, " n"]
    text_ids: Sequence[bytes]
    num_words: Sequence[int]

    def may_cut(self) -> Bool[np.ndarray, " cuts"]:
        """Where a sequence may end: before each piece that begins a word, and behind the last."""
        return np.append(first_of_words(self.text, self.word), True)


def first_of_words(text: Int[np.ndarray, " n"], word: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which pieces of a row are the first of their word in it."""
    starts = np.ones(len(text), bool)
    starts[1:] = (text[1:] != text[:-1]) | (word[1:] != word[:-1])
    return starts


def tokenise(documents: Sequence[str], tokenizer: TeacherTokenizer) -> Pieces:
    """Pieces of all texts (lines) of the documents, a [SEP] between documents."""
    texts = [text for document in documents for text in document.split("\n")]
    encoded = tokenizer.encode_batch(texts)
    ids, text_index, words, num_words = [], [], [], []
    index = 0
    for document in documents:
        if index:
            ids.append([tokenizer.sep_id])
            text_index.append([SEPARATOR])
            words.append([0])
        for text in document.split("\n"):
            of_character = word_of_characters(text)
            token_ids, starts = encoded[index]
            ids.append(token_ids)
            text_index.append(np.full(len(token_ids), index, np.int32))
            words.append(_word_of_pieces(of_character, starts))
            num_words.append(int(of_character.max(initial=-1)) + 1)
            index += 1
    return Pieces(
        ids=_join(ids),
        text=_join(text_index),
        word=_join(words),
        text_ids=[text_id(text) for text in texts],
        num_words=num_words,
    )


def _join(parts: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts]) if parts else np.zeros(0, np.int32)


def _word_of_pieces(of_character: Int[np.ndarray, " c"], starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The word of the first character of each piece; a piece that begins with a space belongs to the word after it."""
    if not len(of_character):
        return np.zeros(len(starts), np.int32)
    # next_word[c]: the word at or after character c.
    reversed_words = np.where(of_character < 0, np.iinfo(np.int32).max, of_character)[::-1]
    next_word = np.minimum.accumulate(reversed_words)[::-1]
    last = max(int(of_character.max()), 0)
    return np.minimum(next_word[np.minimum(starts, len(of_character) - 1)], last).astype(np.int32)
