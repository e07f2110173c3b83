"""Sub-words of words that are given already split, as the running text has them.

    words     the      small      dog
    text      the small dog                 one space between words, none before the first
    pieces    the      Ġsmall     Ġdog      byte-level BPE
              ▁the     ▁small     ▁dog      SentencePiece that sets a space before a text
              the      small      dog       WordPiece

The text is cut as a whole, and each piece belongs to the word of its first character; a space, to the word behind it.
A piece that reaches into the next word (of a vocabulary with pieces such as `of▁the`) could be of no single word: there
the text is divided before that word, and its parts are cut separately.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Words of one sentence that are cut together.

    Attributes:
        row: number of the sentence.
        words: their numbers in it, ascending; none of them is blank.
        leading: whether the text begins with the space before the first of them.
    """

    row: int
    words: Sequence[int]
    leading: bool

    def text(self, sentence: Sequence[str]) -> str:
        return " " * self.leading + " ".join(sentence[word].strip() for word in self.words)

    def words_of_characters(self, sentence: Sequence[str]) -> tuple[Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
        """The word of each character of the text: a space counts to the word behind it, and to the word before it."""
        sizes = np.array([len(sentence[word].strip()) for word in self.words])
        spaces = np.ones(len(sizes), np.int64)
        spaces[0] = self.leading
        before = np.append(spaces[1:], 0)
        before[0] += self.leading
        return np.repeat(self.words, sizes + spaces), np.repeat(self.words, sizes + before)

    def divided(self, before: Sequence[int]) -> Iterator["_Part"]:
        """The same words in parts, each of `before` the first of its part."""
        edges = [0, *(self.words.index(word) for word in before), len(self.words)]
        for start, stop in itertools.pairwise(edges):
            yield _Part(row=self.row, words=self.words[start:stop], leading=self.leading or start > 0)


def word_pieces(sentences: Sequence[Sequence[str]], tokenizer: TeacherTokenizer) -> list[list[list[int]]]:
    """The tokenizer's ids of each word of each sentence; a word that has none, such as white space, is one [UNK]."""
    pieces: list[list[list[int]]] = [[[] for _ in sentence] for sentence in sentences]
    visible = [[index for index, word in enumerate(sentence) if word.strip()] for sentence in sentences]
    parts = [_Part(row=row, words=words, leading=False) for row, words in enumerate(visible) if words]
    while parts:
        encoded = tokenizer.encode_spans([part.text(sentences[part.row]) for part in parts])
        divided: list[_Part] = []
        for part, (ids, spans) in zip(parts, encoded, strict=True):
            behind, before = part.words_of_characters(sentences[part.row])
            starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
            first = behind[np.minimum(starts, len(behind) - 1)]
            last = before[np.maximum(ends - 1, 0)]
            crossed = first < last
            if crossed.any():
                inside = [(first[crossed] < word) & (word <= last[crossed]) for word in part.words]
                divided += part.divided([word for word, found in zip(part.words, inside, strict=True) if found.any()])
                continue
            for index, word in zip(ids, first.tolist(), strict=True):
                pieces[part.row][word].append(index)
        parts = divided
    return [[word or [tokenizer.unk_id] for word in sentence] for sentence in pieces]
