"""Segmentation drift: how often the student's own tokenizer cuts a word otherwise than the teacher it learned from.

    word         in the records   the student's own    same
    zurückkam    zurück ##kam     zurück ##kam         yes
    Tischdecke   Tisch ##decke    Tischd ##ecke        no: another teacher brought the piece Tischd

Greedy longest match depends on the whole vocabulary, so even a true union changes it.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from mergedistill_jax.vocabulary.id_map import UNK_ID


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The pieces of some texts in the student's ids.

    Attributes:
        ids: token ids, special tokens left out.
        word: the number of the word each piece belongs to, ascending, counted over all texts.
    """

    ids: Int[np.ndarray, " n"]
    word: Int[np.ndarray, " n"]

    def words(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(word, its ids) of every word that has pieces."""
        starts = np.flatnonzero(np.diff(self.word, prepend=self.word[:1] - 1))
        ids, words = self.ids.tolist(), self.word.tolist()
        for start, stop in itertools.pairwise([*starts.tolist(), len(ids)]):
            yield words[start], tuple(ids[start:stop])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift:
    """Counts over a sample of one language's text; shares are fractions of 1, None where nothing was counted.

    Attributes:
        words: words of the text that have pieces in either segmentation.
        drifted: those whose pieces differ.
        trained_pieces, own_pieces: pieces of the records' segmentation and of the student's own tokenizer.
        trained_unknown, own_unknown: of these, [UNK].
        new_pieces: pieces of the own segmentation whose token the records' segmentation of the sample never uses: the
            student meets them untrained, by this sample.
        covered: pieces of the teacher's segmentation that the student has as one token.
        teacher_pieces: pieces of the teacher's segmentation.
    """

    words: int
    drifted: int
    trained_pieces: int
    own_pieces: int
    trained_unknown: int
    own_unknown: int
    new_pieces: int
    covered: int
    teacher_pieces: int

    def shares(self) -> dict[str, float | None]:
        """What people compare."""
        return {
            "drift": _share(self.drifted, self.words),
            "trained_pieces_per_word": _share(self.trained_pieces, self.words),
            "own_pieces_per_word": _share(self.own_pieces, self.words),
            "trained_unknown": _share(self.trained_unknown, self.trained_pieces),
            "own_unknown": _share(self.own_unknown, self.own_pieces),
            "new_pieces": _share(self.new_pieces, self.own_pieces),
            "coverage": _share(self.covered, self.teacher_pieces),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def drift(trained: Segmentation, own: Segmentation, covered: Bool[np.ndarray, " n"]) -> Drift:
    """Compares two segmentations of the same texts word by word.

    Args:
        trained: the teacher's pieces as the student reads them in its records.
        own: the pieces of the student's own tokenizer.
        covered: for each piece of the teacher, whether the student has it as one token.
    """
    in_records, by_itself = dict(trained.words()), dict(own.words())
    words = in_records.keys() | by_itself.keys()
    return Drift(
        words=len(words),
        drifted=sum(in_records.get(word) != by_itself.get(word) for word in words),
        trained_pieces=len(trained.ids),
        own_pieces=len(own.ids),
        trained_unknown=int(np.count_nonzero(trained.ids == UNK_ID)),
        own_unknown=int(np.count_nonzero(own.ids == UNK_ID)),
        new_pieces=int(np.count_nonzero(~np.isin(own.ids, trained.ids))),
        covered=int(np.count_nonzero(covered)),
        teacher_pieces=len(covered),
    )
