"""Which teacher serves which language: the one with the least loss per hidden word, and how sure that is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mergedistill_jax.evaluation.hidden_words import NumberedText
from mergedistill_jax.evaluation.teacher_scores import WordScores

SETTLED = 2.0
"""Standard errors by which the best teacher must lead: by chance alone it would lead so far about once in 20 times."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference per word and its standard error, in nats; that is None where it cannot be told."""

    nats: float
    standard_error: float | None

    @property
    def settled(self) -> bool:
        """Whether the difference is larger than chance explains."""
        return self.standard_error is not None and self.nats > SETTLED * self.standard_error


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherScores:
    """What the table shows of one teacher in one language; shares from 0 to 1.

    Attributes:
        word_accuracy: words of which every piece is right.
        token_accuracy: pieces that are right.
        nats_per_word, nats_per_character: mean loss, see teacher_scores.py.
        pseudo_perplexity: exp(nats_per_character); of words it would be astronomical.
        top_mass: mean probability of the k best candidates.
        unknown_share: words with [UNK] in them.
        tokens_per_word: pieces.
        sequences_per_second: on this machine, now.
        behind: how much more it loses than the best; None for the best itself.
    """

    word_accuracy: float
    token_accuracy: float
    nats_per_word: float
    nats_per_character: float
    pseudo_perplexity: float
    top_mass: float
    unknown_share: float
    tokens_per_word: float
    sequences_per_second: float
    behind: Difference | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageChoice:
    """The candidates of one language.

    Attributes:
        words: compared.
        hidden: words that at least one candidate was asked for.
        documents: that hold a compared word.
        scores: by candidate, the best first.
        lead: of the best over the second; None where there is one candidate.
    """

    language: str
    words: int
    hidden: int
    documents: int
    scores: Mapping[str, TeacherScores]
    lead: Difference | None

    @property
    def best(self) -> str:
        """The recommended teacher."""
        return next(iter(self.scores))


def mean_difference(differences: Float[np.ndarray, " n"], documents: Int[np.ndarray, " n"]) -> Difference:
    """The mean of differences of words, with a standard error over documents, whose words are not independent.

    With d documents, their sums S_i over n_i words and the mean r = sum S_i / sum n_i, it is that of a ratio (Cochran,
    Sampling Techniques, 1977, section 6.4):

        se = sqrt( d / (d - 1) sum (S_i - r n_i)^2 ) / sum n_i
    """
    _, of_word = np.unique(documents, return_inverse=True)
    counts = np.bincount(of_word).astype(np.float64)
    sums = np.bincount(of_word, differences)
    mean = float(sums.sum() / counts.sum())
    if len(counts) < 2:
        return Difference(nats=mean, standard_error=None)
    spread = float(np.square(sums - mean * counts).sum())
    error = math.sqrt(len(counts) / (len(counts) - 1) * spread) / float(counts.sum())
    return Difference(nats=mean, standard_error=error)


def choose(
    language: str,
    text: NumberedText,
    compared: Int[np.ndarray, " n"],
    hidden: int,
    scores: Mapping[str, WordScores],
    speeds: Mapping[str, float],
) -> LanguageChoice:
    """Ranks the candidates of a language by their loss; of equal ones the first named is the better.

    Args:
        language: its code.
        text: what was compared on.
        compared: numbers of the compared words.
        hidden: words that were hidden.
        scores: of every candidate on the compared words.
        speeds: of every candidate, in sequences per second.
    """
    documents = text.document[compared]
    ranked = sorted(scores, key=lambda name: float(scores[name].loss_nats.sum()))
    best = scores[ranked[0]]
    characters = int(text.characters[compared].sum())
    behind = {name: mean_difference(scores[name].loss_nats - best.loss_nats, documents) for name in ranked[1:]}
    return LanguageChoice(
        language=language,
        words=len(compared),
        hidden=hidden,
        documents=len(np.unique(documents)),
        scores={name: _summary(scores[name], characters, speeds[name], behind.get(name)) for name in ranked},
        lead=behind[ranked[1]] if len(ranked) > 1 else None,
    )


def _summary(scores: WordScores, characters: int, speed: float, behind: Difference | None) -> TeacherScores:
    loss, words = float(scores.loss_nats.sum()), len(scores.loss_nats)
    return TeacherScores(
        word_accuracy=float(scores.right.mean()),
        token_accuracy=scores.tokens_right / scores.tokens,
        nats_per_word=loss / words,
        nats_per_character=loss / characters,
        pseudo_perplexity=math.exp(min(loss / characters, 700.0)),
        top_mass=scores.top_mass,
        unknown_share=float(scores.unknown.mean()),
        tokens_per_word=scores.tokens / words,
        sequences_per_second=speed,
        behind=behind,
    )


def settings_lines(choices: Sequence[LanguageChoice], paths: Mapping[str, str]) -> list[str]:
    """The lines of a gin file that unite the vocabularies of the recommended teachers.

    Where every language has a teacher of its own, a teacher is called after its language, as `vocab` expects it; else
    by its name, and its languages are told.
    """
    served: dict[str, list[str]] = {}
    for choice in choices:
        served.setdefault(choice.best, []).append(choice.language)
    if all(len(languages) == 1 for languages in served.values()):
        return [f"TEACHERS = { ({choice.language: paths[choice.best] for choice in choices})!r}"]
    return [
        f"TEACHERS = { ({name: paths[name] for name in served})!r}",
        f"vocab.UnionConfig.languages = { ({name: tuple(languages) for name, languages in served.items()})!r}",
    ]
