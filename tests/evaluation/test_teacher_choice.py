import dataclasses
import math

import numpy as np
import pytest

from mergedistill_jax.evaluation.hidden_words import HiddenSequences, number_words
from mergedistill_jax.evaluation.teacher_choice import choose, mean_difference, settings_lines
from mergedistill_jax.evaluation.teacher_scores import WordScores, score_words
from mergedistill_jax.evaluation.teacher_table import recommendation, table_text
from mergedistill_jax.schema import Record

UNK = 1


def predicted(gold, best, gold_probs, top_probs):
    """A record as the teacher gives it back, one masked position an entry."""
    count = len(gold)
    return Record(
        text_id=b"12345678",
        draw=0,
        input_ids=np.zeros(count + 2, np.int32),
        masked_positions=np.arange(1, count + 1, dtype=np.int32),
        gold_ids=np.array(gold, np.int32),
        top_ids=np.array(best, np.int32)[:, None],
        top_log_probs=np.log(np.array(top_probs, np.float32))[:, None],
        gold_log_probs=np.log(np.array(gold_probs, np.float32)),
    )


def test_pieces_are_added_up_to_words():
    """Four words, the second not compared; the third in two pieces of which one is wrong; the fourth is unknown."""
    text = number_words(["aa b cccc dd"])
    record = predicted(
        [10, 11, 12, 13, UNK], [10, 11, 12, 19, UNK], [0.5, 0.9, 0.25, 0.1, 0.8], [0.5, 0.9, 0.3, 0.4, 0.8]
    )
    hidden = HiddenSequences(
        records=[record], words=[np.array([0, 1, 2, 2, 3])], comparable=np.array([True, False, True, True])
    )
    scores = score_words([record], hidden, text, np.array([0, 2, 3]), UNK)
    assert text.alphabet == 4
    charge = 2 * math.log(4)  # two characters of four kinds
    assert scores.loss_nats == pytest.approx([-math.log(0.5), -math.log(0.025), -math.log(0.8) + charge])
    assert scores.right.tolist() == [True, False, False]  # the unknown one too, although [UNK] was foreseen
    assert scores.unknown.tolist() == [False, False, True]
    assert (scores.tokens, scores.tokens_right) == (4, 2)
    assert scores.top_mass == pytest.approx((0.5 + 0.3 + 0.4 + 0.8) / 4)


def test_a_standard_error_of_single_words_is_that_of_a_mean():
    differences = np.random.default_rng(0).normal(1.0, 2.0, 50)
    found = mean_difference(differences, np.arange(50))
    assert found.nats == pytest.approx(differences.mean())
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / math.sqrt(50))


def test_a_standard_error_worked_by_hand():
    """Documents of 2, 1 and 1 words with sums 2, 3 and -1: mean 1, rests 0, 2 and -2; sqrt(3/2 * 8) / 4."""
    found = mean_difference(np.array([0.5, 1.5, 3.0, -1.0]), np.array([7, 7, 2, 9]))
    assert found.nats == pytest.approx(1.0)
    assert found.standard_error == pytest.approx(math.sqrt(12) / 4)


def test_words_of_one_document_are_not_independent():
    """The same word over and over tells no more than once; one document alone tells nothing of chance."""
    once, often = (mean_difference(np.tile([1.0, 3.0], n), np.tile([0, 1], n)) for n in (1, 100))
    assert once.standard_error == pytest.approx(often.standard_error)
    assert mean_difference(np.ones(5), np.zeros(5, int)).standard_error is None


def test_the_standard_error_is_that_of_many_samples():
    """Documents of unlike lengths, whose words lean the same way: means of new samples scatter as it says."""
    rng = np.random.default_rng(1)

    def sample():
        sizes = rng.integers(1, 30, 60)
        leanings = np.repeat(rng.normal(0.2, 1.0, 60), sizes)
        return mean_difference(leanings + rng.normal(0, 1, sizes.sum()), np.repeat(np.arange(60), sizes))

    found = [sample() for _ in range(400)]
    scatter = np.std([one.nats for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(scatter, rel=0.1)


def scores_of(losses):
    count = len(losses)
    return WordScores(
        loss_nats=np.array(losses, np.float64),
        right=np.zeros(count, bool),
        unknown=np.zeros(count, bool),
        tokens=count,
        tokens_right=0,
        top_mass=0.5,
    )


def choice_of(losses, speeds=None, language="sw"):
    text = number_words(["aa bb", "cc dd", "ee ff"])
    scores = {name: scores_of(one) for name, one in losses.items()}
    return choose(language, text, np.arange(6), 6, scores, speeds or dict.fromkeys(losses, 1.0))


GOOD, BAD = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8], [3.0, 3.2, 2.9, 3.1, 3.0, 3.0]


def test_the_least_loss_is_recommended_in_any_order():
    for names in (("good", "bad"), ("bad", "good")):
        choice = choice_of({name: {"good": GOOD, "bad": BAD}[name] for name in names})
        assert choice.best == "good"
        assert choice.scores["good"].behind is None
        assert choice.scores["bad"].behind == choice.lead
        assert choice.lead.nats == pytest.approx((sum(BAD) - sum(GOOD)) / 6)
        assert choice.lead.settled
        assert recommendation(choice).startswith("sw: good leads bad by 2.033 +- ")
        assert recommendation(choice).endswith("standard errors): settled")
    scores = choice.scores["good"]
    assert scores.nats_per_word == pytest.approx(1.0)
    assert scores.nats_per_character == pytest.approx(0.5)
    assert scores.pseudo_perplexity == pytest.approx(math.exp(0.5))


def test_a_lead_within_chance_is_not_settled():
    noisy = [GOOD[0] + 3, GOOD[1], GOOD[2] - 2, GOOD[3], GOOD[4] + 0.5, GOOD[5] - 1]
    choice = choice_of({"a": GOOD, "b": noisy}, {"a": 5.0, "b": 9.0})
    assert choice.lead.nats < 2 * choice.lead.standard_error
    assert recommendation(choice).endswith("not settled; give more documents, or take b, the faster one")


def test_the_same_teacher_twice_is_a_draw():
    choice = choice_of({"a": GOOD, "b": GOOD})
    assert (choice.best, choice.lead.nats, choice.lead.settled) == ("a", 0.0, False)
    assert "the same in every document" in recommendation(choice)
    assert recommendation(choice_of({"a": GOOD})) == "sw: a, the only candidate"


def test_one_document_settles_nothing():
    text = number_words(["aa bb cc dd ee ff"])
    scores = {"good": scores_of(GOOD), "bad": scores_of(BAD)}
    choice = choose("sw", text, np.arange(6), 6, scores, {"good": 1.0, "bad": 1.0})
    assert "not settled, one document tells no standard error" in recommendation(choice)


def test_the_lines_for_a_gin_file():
    a, b = (choice_of({name: GOOD}, language=language) for name, language in (("x", "sw"), ("y", "rw")))
    paths = {"x": "models/x", "y": "some/y"}
    assert settings_lines([a, b], paths) == ["TEACHERS = {'sw': 'models/x', 'rw': 'some/y'}"]
    both = [a, choice_of({"x": GOOD}, language="rw")]
    assert settings_lines(both, paths) == [
        "TEACHERS = {'x': 'models/x'}",
        "vocab.UnionConfig.languages = {'x': ('sw', 'rw')}",
    ]


def test_the_table_shows_what_was_measured():
    choice = choice_of({"good": GOOD, "bad": BAD}, {"good": 12.4, "bad": 1234.0})
    text = table_text([choice], {"good": "g", "bad": "b"}, {"bad": "a note"}, k=8, device="1 x abacus")
    assert "sw: 6 hidden words of 3 documents" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("good ", "bad "))]
    assert rows[0] == ["good", "0.0", "0.0", "1.00", "1.65", "50.0", "0.0", "1.00", "12", "best"]
    assert rows[1][-4:-2] == ["1,234", "2.033"]
    assert "here: 1 x abacus" in text
    assert "note: bad: a note" in text
    few = dataclasses.replace(choice, hidden=60)
    assert "only 10% of those hidden" in table_text([few], {"good": "g", "bad": "b"}, {}, k=8, device="")
