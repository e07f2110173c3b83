"""What is measured: masked-token scores, tagging scores, and the deviation of a student from its teachers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from seqeval.metrics.sequence_labeling import get_entities


def relative_deviation(teacher: Mapping[str, float], student: Mapping[str, float]) -> float | None:
    """RDT, the mean relative deviation of a student from its teachers, in percent (Khanuja et al. 2021, tables).

    100/n * sum((P_S - P_T) / P_T) over the n languages that both have: positive where the student is better, as in
    every table of the paper. The formula printed in its slides, sum((P_T - P_S) / P_T), has the opposite sign.

    Returns None, to be left out and never shown as 0, when no language has both scores or a teacher scores 0
    (the deviation from 0 is undefined, and dropping only that language would flatter or wrong the student).
    """
    languages = [language for language in teacher if language in student]
    if not languages or any(teacher[language] == 0 for language in languages):
        return None
    deviations = [(student[language] - teacher[language]) / teacher[language] for language in languages]
    return 100 * math.fsum(deviations) / len(deviations)


def pseudo_perplexity(total_nll_nats: float, count: int) -> float | None:
    """The exponential of the mean negative log-likelihood of hidden tokens (Salazar et al. 2020); None without any.

    Args:
        total_nll_nats: sum of the negative log-likelihoods in nats over all masked positions.
        count: how many masked positions that sum holds.
    """
    return math.exp(total_nll_nats / count) if count else None


def masked_accuracy(correct: int, count: int) -> float | None:
    """Fraction of masked positions whose most probable token is the hidden one; None without positions."""
    return correct / count if count else None


def most_frequent_baseline(train_counts: Int[np.ndarray, " v"], eval_gold_ids: Int[np.ndarray, " m"]) -> float | None:
    """Masked accuracy of always answering the most frequent hidden token of the training text.

    Args:
        train_counts: how often each id was hidden in the training text. Of equally frequent ids the lowest answers.
        eval_gold_ids: the hidden ids of the evaluation text.

    Returns:
        The fraction of correct answers; None if either text has no hidden token.
    """
    if not eval_gold_ids.size or not train_counts.any():
        return None
    return float(np.mean(eval_gold_ids == np.argmax(train_counts)))


@dataclass(frozen=True, kw_only=True)
class TaggingScores:
    """Scores of single-label tagging, fractions from 0 to 1. Every token has one tag, so micro F1 is the accuracy."""

    accuracy: float
    micro_f1: float
    macro_f1: float


def tagging_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> TaggingScores | None:
    """Accuracy, micro F1 and macro F1 of part-of-speech tags, one list of tag names per sentence.

    Macro F1 averages over the tags that occur in gold or prediction: a tag that is only predicted counts as 0, a tag of
    the tag set that occurs in neither does not count. None if there is no token.

    Raises:
        ValueError: a sentence has other numbers of gold and predicted tags.
    """
    _check_lengths(gold, predicted)
    pairs = [pair for tags in zip(gold, predicted, strict=True) for pair in zip(*tags, strict=True)]
    if not pairs:
        return None
    tags = sorted({tag for pair in pairs for tag in pair})
    true_positives = {tag: sum(1 for g, p in pairs if g == p == tag) for tag in tags}
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is simply the uses of the tag in gold plus those in prediction.
    uses = {tag: sum((g == tag) + (p == tag) for g, p in pairs) for tag in tags}
    return TaggingScores(
        accuracy=sum(g == p for g, p in pairs) / len(pairs),
        micro_f1=2 * sum(true_positives.values()) / sum(uses.values()),
        macro_f1=math.fsum(2 * true_positives[tag] / uses[tag] for tag in tags) / len(tags),
    )


@dataclass(frozen=True, kw_only=True)
class EntityScores:
    """Micro-averaged scores of whole entities, fractions from 0 to 1."""

    precision: float
    recall: float
    f1: float


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores | None:
    """Entity-level precision, recall and F1 of IOB2 tags: an entity counts if its type and both its ends are right.

    seqeval's default mode, that is conlleval's reading: an I-X that follows no X opens an entity. The numbers of
    XTREME and of the paper are computed so; seqeval's strict mode would discard these entities and score lower.
    None if gold has no entity (F1 is then undefined). Precision is 0 if nothing was predicted.

    Raises:
        ValueError: a sentence has other numbers of gold and predicted tags, or a tag is not O, B-TYPE or I-TYPE.
    """
    _check_lengths(gold, predicted)
    for name, sentences in (("gold", gold), ("predicted", predicted)):
        for index, tags in enumerate(sentences):
            bad = [tag for tag in tags if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:])]
            if bad:
                raise ValueError(f"{name} sentence {index}: expected tags O, B-TYPE or I-TYPE, found {bad[0]!r}")
    if all(tag == "O" for tags in gold for tag in tags):
        return None
    # (type, first, last) of every entity; get_entities joins the sentences with an O between them.
    gold_entities = set(get_entities([list(tags) for tags in gold]))
    predicted_entities = set(get_entities([list(tags) for tags in predicted]))
    correct = len(gold_entities & predicted_entities)
    return EntityScores(
        precision=correct / len(predicted_entities) if predicted_entities else 0.0,
        recall=correct / len(gold_entities),
        f1=2 * correct / (len(gold_entities) + len(predicted_entities)),
    )


def _check_lengths(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"predicted: expected {len(gold)} sentences as in gold, found {len(predicted)}")
    for index, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        if len(gold_tags) != len(predicted_tags):
            raise ValueError(
                f"predicted sentence {index}: expected {len(gold_tags)} tags as in gold, found {len(predicted_tags)}"
            )
