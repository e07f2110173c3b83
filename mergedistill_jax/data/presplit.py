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

    def words_of_characters(self, sentence: Sequence[str]) -> tuple[list[int], list[int]]:
        """The word of each character of the text: a space counts to the word behind it, and to the word before it."""
        behind: list[int] = []
        before = [self.words[0]] * self.leading
        for word in self.words:
            size = len(sentence[word].strip())
            behind += [word] * (size + (self.leading or word != self.words[0]))
            before += [word] * (size + (word != self.words[-1]))
        return behind, before

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
            first = [behind[min(start, len(behind) - 1)] for start, _ in spans]
            reached = [before[max(end - 1, 0)] for _, end in spans]
            crossed = {word for pair in zip(first, reached, strict=True) for word in range(pair[0] + 1, pair[1] + 1)}
            if crossed:
                divided += part.divided([word for word in part.words if word in crossed])
                continue
            for index, word in zip(ids, first, strict=True):
                pieces[part.row][word].append(index)
        parts = divided
    return [[word or [tokenizer.unk_id] for word in sentence] for sentence in pieces]
