"""Numbers worked by hand, identities, and the published tables."""

import math

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score

from mergedistill_jax.evaluation.metrics import (
    entity_scores,
    masked_accuracy,
    most_frequent_baseline,
    pseudo_perplexity,
    relative_deviation,
    tagging_scores,
)

# Khanuja et al. 2021, teacher | student per language, and the RDT that the same tables print.
PUBLISHED = {
    "similar NER": ({"en": (89.5, 89.8), "de": (93.0, 93.9), "it": (94.5, 95.2), "es": (94.2, 94.7)}, 0.6),
    "similar UDPOS": ({"en": (96.6, 96.3), "de": (98.3, 98.3), "it": (98.6, 98.6), "es": (99.0, 98.9)}, -0.1),
    "similar QA F1": ({"en": (87.1, 89.8), "it": (73.5, 75.8), "es": (74.9, 76.5)}, 2.8),
    "similar QA EM": ({"en": (78.6, 82.1), "it": (61.6, 63.8), "es": (56.6, 58.4)}, 3.7),
    "dissimilar NER": (
        {"ar": (94.3, 93.7), "zh": (83.0, 82.6), "en": (89.5, 89.5), "fi": (94.4, 94.4), "tr": (95.2, 95.4)},
        -0.2,
    ),
    "dissimilar UDPOS": (
        {"ar": (96.3, 96.4), "zh": (96.9, 96.8), "en": (96.6, 96.3), "fi": (97.9, 95.5), "tr": (95.6, 92.9)},
        -1.1,
    ),
    "dissimilar QA F1": (
        {"ar": (83.1, 81.3), "zh": (81.8, 80.8), "en": (87.1, 88.6), "fi": (81.0, 77.7), "tr": (76.7, 76.2)},
        -1.3,
    ),
    "dissimilar QA EM": (
        {"ar": (68.6, 66.6), "zh": (81.8, 80.8), "en": (78.6, 80.7), "fi": (68.8, 65.9), "tr": (59.8, 59.1)},
        -1.4,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_rdt_reproduces_the_published_tables(name):
    scores, expected = PUBLISHED[name]
    teacher = {language: pair[0] for language, pair in scores.items()}
    student = {language: pair[1] for language, pair in scores.items()}
    # Half a unit of the printed digit, and what rounding of the printed scores can add.
    assert relative_deviation(teacher, student) == pytest.approx(expected, abs=0.06)


def test_rdt_of_similar_ner_rounds_to_the_printed_number():
    teacher = dict(zip(("en", "de", "it", "es"), (89.5, 93.0, 94.5, 94.2), strict=True))
    student = dict(zip(("en", "de", "it", "es"), (89.8, 93.9, 95.2, 94.7), strict=True))
    assert round(relative_deviation(teacher, student), 1) == 0.6


def test_rdt_by_hand_over_common_languages_only():
    # (0.9 - 1.0) / 1.0 = -10 %, (0.6 - 0.5) / 0.5 = +20 %; "de" and "fi" have no partner.
    assert relative_deviation({"en": 1.0, "it": 0.5, "de": 0.3}, {"en": 0.9, "it": 0.6, "fi": 0.1}) == pytest.approx(5)


def test_rdt_is_scale_free_and_zero_for_equals():
    teacher, student = {"en": 0.4, "de": 0.8}, {"en": 0.5, "de": 0.7}
    hundredfold = [{k: 100 * v for k, v in scores.items()} for scores in (teacher, student)]
    assert relative_deviation(*hundredfold) == pytest.approx(relative_deviation(teacher, student))
    assert relative_deviation(teacher, teacher) == 0


def test_rdt_is_absent_where_it_cannot_be_computed():
    assert relative_deviation({}, {}) is None
    assert relative_deviation({"en": 1.0}, {"de": 1.0}) is None
    assert relative_deviation({"en": 0.0, "de": 0.5}, {"en": 0.1, "de": 0.5}) is None


def test_pseudo_perplexity_of_a_uniform_guess_is_the_vocabulary_size():
    assert pseudo_perplexity(7 * math.log(1000), 7) == pytest.approx(1000)
    assert pseudo_perplexity(0.0, 3) == 1
    assert pseudo_perplexity(0.0, 0) is None


def test_masked_accuracy():
    assert masked_accuracy(3, 4) == 0.75
    assert masked_accuracy(0, 4) == 0
    assert masked_accuracy(0, 0) is None


def test_most_frequent_baseline_answers_with_the_training_favourite():
    # Id 2 is the most frequent in training and 2 of the 5 hidden ids; the favourite of evaluation, 1, does not count.
    assert most_frequent_baseline(np.array([1, 3, 9, 0]), np.array([1, 2, 1, 2, 1])) == pytest.approx(0.4)
    assert most_frequent_baseline(np.array([0, 5, 5]), np.array([1, 2])) == 0.5
    assert most_frequent_baseline(np.array([0, 0]), np.array([1])) is None
    assert most_frequent_baseline(np.array([0, 4]), np.array([], dtype=int)) is None


def test_tagging_scores_by_hand():
    gold = [["DET", "NOUN", "VERB"], ["NOUN", "NOUN"]]
    predicted = [["DET", "NOUN", "NOUN"], ["NOUN", "PROPN"]]
    scores = tagging_scores(gold, predicted)
    # DET F1 1; NOUN TP 2, FP 1, FN 1: 2/3; VERB 0; PROPN (only predicted) 0.
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.macro_f1 == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)


def test_micro_f1_of_single_label_tagging_is_the_accuracy_and_order_of_tags_does_not_matter():
    rng = np.random.default_rng(0)
    gold = [list(rng.choice(["A", "B", "C"], size=n)) for n in (5, 1, 30)]
    predicted = [list(rng.choice(["A", "B", "D"], size=n)) for n in (5, 1, 30)]
    scores = tagging_scores(gold, predicted)
    assert scores.micro_f1 == pytest.approx(scores.accuracy)
    assert tagging_scores(predicted, gold).macro_f1 == pytest.approx(scores.macro_f1)  # F1 is symmetric
    perfect = tagging_scores(gold, gold)
    assert (perfect.accuracy, perfect.micro_f1, perfect.macro_f1) == (1, 1, 1)


def test_tagging_scores_agree_with_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    gold, predicted = (list(rng.choice(list("ABCDE"), size=200, p=[0.5, 0.3, 0.1, 0.05, 0.05])) for _ in range(2))
    expected = sklearn_metrics.f1_score(gold, predicted, average="macro", zero_division=0)
    assert tagging_scores([gold], [predicted]).macro_f1 == pytest.approx(expected)


def test_entity_scores_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["B-LOC", "O"]]
    # Three entities each; only the person has the right type and both right ends.
    scores = entity_scores(gold, predicted)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_half_an_entity_is_no_entity():
    assert entity_scores([["B-PER", "I-PER", "I-PER"]], [["B-PER", "I-PER", "O"]]).f1 == 0


def test_adjacent_entities_of_one_type_are_two():
    scores = entity_scores([["B-PER", "B-PER"]], [["B-PER", "I-PER"]])
    assert (scores.precision, scores.recall) == (0, 0)


def test_an_inside_tag_without_beginning_opens_an_entity_as_in_conlleval():
    gold, predicted = [["O", "B-LOC", "I-LOC"]], [["O", "I-LOC", "I-LOC"]]
    assert entity_scores(gold, predicted).f1 == 1
    assert entity_scores(gold, predicted).f1 == f1_score(gold, predicted)


def test_entity_scores_agree_with_seqeval_on_any_tags():
    rng = np.random.default_rng(2)
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold, predicted = ([list(rng.choice(tags, size=n)) for n in (3, 40, 1, 90)] for _ in range(2))
    expected = [f(gold, predicted) for f in (precision_score, recall_score, f1_score)]
    scores = entity_scores(gold, predicted)
    assert 0 < scores.f1 < 1
    assert [scores.precision, scores.recall, scores.f1] == pytest.approx(expected)


def test_entity_scores_without_entities():
    assert entity_scores([["O", "O"]], [["O", "B-PER"]]) is None
    nothing_found = entity_scores([["B-PER"]], [["O"]])
    assert (nothing_found.precision, nothing_found.recall, nothing_found.f1) == (0, 0, 0)


@pytest.mark.parametrize("scores", [tagging_scores, entity_scores])
def test_lengths_must_agree(scores):
    with pytest.raises(ValueError, match="predicted sentence 1: expected 2 tags as in gold, found 1"):
        scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="expected 1 sentences as in gold, found 0"):
        scores([["O"]], [])


def test_a_tag_of_another_scheme_is_refused():
    with pytest.raises(ValueError, match="predicted sentence 0: expected tags O, B-TYPE or I-TYPE, found 'E-PER'"):
        entity_scores([["B-PER", "I-PER"]], [["B-PER", "E-PER"]])
    assert tagging_scores([[]], [[]]) is None
