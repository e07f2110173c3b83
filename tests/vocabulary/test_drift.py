"""Segmentation drift: counted by hand, and found where a true union changes how its own tokenizer cuts."""

import numpy as np
import pytest
from made_tokenizers import bert

from mergedistill_jax.corpus.packing import tokenise
from mergedistill_jax.vocabulary.drift import Drift, Segmentation, drift
from mergedistill_jax.vocabulary.id_map import DROPPED, UNK_ID, whole_map
from mergedistill_jax.vocabulary.union import unite


def segmentation(*words):
    """From the pieces of each word, in order."""
    ids = np.array([piece for word in words for piece in word], np.int32)
    numbers = np.repeat(np.arange(len(words)), [len(word) for word in words]).astype(np.int32)
    return Segmentation(ids=ids, word=numbers)


def test_words_are_read_back():
    made = segmentation([7], [], [8, 9], [7])
    assert list(made.words()) == [(0, (7,)), (2, (8, 9)), (3, (7,))]
    assert list(segmentation().words()) == []


def test_counts_worked_by_hand():
    #                      same   cut otherwise        [UNK] for one only   a word that one of them drops
    trained = segmentation([10], [11, 12], [13, 14, 15], [16], [17])
    own = segmentation([10], [11, 18], [13, 14, 15], [UNK_ID], [])
    covered = np.array([True] * 7 + [False])
    found = drift(trained, own, covered)
    assert found == Drift(
        words=5,
        drifted=3,
        trained_pieces=8,
        own_pieces=7,
        trained_unknown=0,
        own_unknown=1,
        new_pieces=2,  # 18, and [UNK]
        covered=7,
        teacher_pieces=8,
    )
    assert found.shares() == {
        "drift": 3 / 5,
        "trained_pieces_per_word": 8 / 5,
        "own_pieces_per_word": 7 / 5,
        "trained_unknown": 0.0,
        "own_unknown": 1 / 7,
        "new_pieces": 2 / 7,
        "coverage": 7 / 8,
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_segmentation_does_not_drift_from_itself(seed):
    generator = np.random.default_rng(seed)
    words = [generator.integers(5, 50, generator.integers(1, 4)).tolist() for _ in range(60)]
    one, same = segmentation(*words), segmentation(*words)
    found = drift(one, same, np.ones(len(one.ids), bool))
    assert (found.drifted, found.new_pieces, found.words) == (0, 0, 60)
    assert found.trained_pieces == found.own_pieces
    assert found.shares()["coverage"] == 1.0


def test_one_word_more_or_less_does_not_shift_the_others():
    """Words are compared by their number, so that a dropped one leaves the rest in step."""
    whole = segmentation([5], [6], [7], [8])
    without = Segmentation(ids=whole.ids[[0, 2, 3]], word=whole.word[[0, 2, 3]])
    found = drift(whole, without, np.ones(4, bool))
    assert (found.words, found.drifted) == (4, 1)


def test_nothing_counted_is_no_share():
    none = segmentation()
    assert set(drift(none, none, np.zeros(0, bool)).shares().values()) == {None}


def segmented(text, tokenizer, id_map):
    pieces = tokenise([text], tokenizer)
    ids, _ = id_map.expand(pieces.ids)
    return Segmentation(ids=ids, word=pieces.word), id_map.labels[pieces.ids] != DROPPED


@pytest.mark.parametrize(
    ("other", "own_pieces", "drifted"),
    [
        ("haus", ["Tisch", "##decke"], 0),  # a piece that changes nothing here
        ("Tischd", ["Tischd", "##ecke"], 1),  # a longer match, from a vocabulary of other words
        ("##deck", ["Tisch", "##decke"], 0),  # a shorter one
    ],
)
def test_another_teachers_piece_changes_the_greedy_cut_of_a_true_union(other, own_pieces, drifted):
    teacher = bert("Tisch", "##decke", "##ecke")
    union = unite({"de": teacher, "other": bert(other)})
    student = bert(*union.tokens[5:])
    maps = {"de": whole_map(union.id_maps["de"]), "own": whole_map(np.arange(len(union.tokens), dtype=np.int32))}
    trained, covered = segmented("Tisch Tischdecke", teacher, maps["de"])
    own, _ = segmented("Tisch Tischdecke", student, maps["own"])
    assert [union.tokens[i] for i in trained.ids] == ["Tisch", "Tisch", "##decke"]
    assert [union.tokens[i] for i in own.ids] == ["Tisch", *own_pieces]
    found = drift(trained, own, covered)
    assert (found.words, found.drifted) == (2, drifted)
    assert found.shares()["coverage"] == 1.0  # every piece of the teacher is there: drift is not loss
    assert found.new_pieces == 2 * drifted
