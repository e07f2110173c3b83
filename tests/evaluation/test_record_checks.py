import numpy as np
import pytest
from test_manifest import make_identity

from mergedistill_jax.evaluation.record_checks import gold_problem, laid_out, missing_mass, record_problems
from mergedistill_jax.manifest import ShardEntry
from mergedistill_jax.schema import Record


def gold_record(gold, top, log_probs):
    """One masked position a row."""
    return Record(
        text_id=b"12345678",
        draw=0,
        input_ids=np.arange(9, dtype=np.int32),
        masked_positions=np.arange(1, len(gold) + 1, dtype=np.int32),
        gold_ids=np.array(gold, np.int32),
        top_ids=np.array(top, np.int32),
        top_log_probs=np.array(log_probs, np.float32),
    )


def gold_entry(nats, words=2):
    return ShardEntry(
        shard=0, records=1, masked_positions=2, tokens=9, bytes=1, checksum="", masked_words=words, gold_nll_nats=nats
    )


@pytest.mark.parametrize(
    ("gold", "nats", "sound"),
    [
        # Candidates 7 and 8 have losses 1 and 3 nats; the loss of any other is at least that of the last: 3.
        ([7, 8], 4.0, True),
        ([7, 8], 3.9, False),
        ([7, 5], 4.0, True),
        ([7, 5], 30.0, True),
        ([5, 5], 5.9, False),
        ([5, 5], float("inf"), False),
    ],
)
def test_the_least_that_a_gold_loss_can_be(gold, nats, sound):
    record = gold_record(gold, [[7, 8], [7, 8]], [[-1.0, -3.0], [-1.0, -3.0]])
    problem = gold_problem(laid_out([record]), gold_entry(nats))
    assert (problem is None) == sound


def test_records_laid_end_to_end_keep_their_places():
    first = gold_record([7, 8], [[7, 8], [7, 8]], [[-1.0, -3.0], [-1.0, -3.0]])
    second = gold_record([5], [[6, 5]], [[-0.5, -2.0]])
    rows = laid_out([first, second])
    assert rows.lengths.tolist() == [9, 9]
    assert rows.record_of_row.tolist() == [0, 0, 1]
    assert np.bincount(rows.record_of_token).tolist() == [9, 9]
    assert rows.shown_ids.tolist() == [1, 2, 1]  # the input counts up from 0
    assert rows.gold_ids.tolist() == [7, 8, 5]


def test_the_mass_that_is_missing():
    record = gold_record([7], [[7, 8]], [np.log([0.5, 0.25])])
    assert missing_mass(laid_out([record])) == pytest.approx([0.25])
    # Half precision may bring the sum above one: then nothing is missing.
    record = gold_record([7], [[7, 8]], [np.log([0.8, 0.2005])])
    assert missing_mass(laid_out([record])).tolist() == [0.0]


@pytest.mark.parametrize("k", [8, 300, 2981, 12_000, 50_000])
@pytest.mark.parametrize("excess", [0.0, 0.02])
def test_what_half_precision_adds_to_many_candidates_is_no_excess_of_mass(k, excess):
    """A teacher that knows nothing: -log k is rounded up or down in all candidates at once."""
    log_probs = np.full((2, k), np.log((1 + excess) / k)).astype(np.float16)
    record = gold_record([6, 7], np.tile(np.arange(k), (2, 1)), log_probs)
    identity = make_identity(vocabulary_size=k + 1, k=k, max_length=9, max_share=0.5)
    problems = record_problems(laid_out([record]), identity)
    assert bool(problems) == bool(excess)
    assert all("expected at most 1" in problem for problem in problems.values())
