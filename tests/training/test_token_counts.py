"""Counts of the tokens of a run's batches: worked by hand, kept for every checkpoint that may be resumed from."""

import numpy as np
import pytest

from mergedistill_jax.training.token_counts import TokenCounts, read_counts_file, read_token_counts, to_bytes

BATCH = {
    "token_ids": np.array([[2, 5, 4, 3], [2, 3, 0, 0]], np.int32),
    "lengths": np.array([4, 2], np.int32),
    "gold_ids": np.array([[6, 0], [0, 0]], np.int32),
    "loss_weights": np.array([[1.0, 0.0], [0.0, 0.0]], np.float32),
}
ONCE = [0, 0, 2, 2, 1, 1, 1, 0]
"""[CLS] and [SEP] twice, [MASK], a word, the hidden word: neither padding nor gold ids of weight 0."""


def test_counts_worked_by_hand(tmp_path):
    counts = TokenCounts(tmp_path, 8, resume_at=0)
    counts.add(BATCH)
    counts.save(1)
    np.testing.assert_array_equal(read_token_counts(tmp_path, 1), ONCE)
    counts.add(BATCH)
    counts.save(2)
    np.testing.assert_array_equal(read_token_counts(tmp_path, 2), np.multiply(ONCE, 2))
    np.testing.assert_array_equal(read_token_counts(tmp_path, 1), ONCE)


def test_what_resumes_goes_on_from_its_step(tmp_path):
    """A newer file, of a step whose checkpoint was never finished, is not what it goes on from."""
    first = TokenCounts(tmp_path, 8, resume_at=0)
    for step in (1, 2):
        first.add(BATCH)
        first.save(step)
    again = TokenCounts(tmp_path, 8, resume_at=1)
    again.add(BATCH)
    again.save(2)
    np.testing.assert_array_equal(read_token_counts(tmp_path, 2), np.multiply(ONCE, 2))


def test_the_newest_are_kept(tmp_path):
    """By number: 9 is older than 10."""
    (tmp_path / "other-1.bin").write_bytes(b"")
    counts = TokenCounts(tmp_path, 8, resume_at=0)
    for step in (8, 9, 10, 11):
        counts.save(step)
    assert {path.name for path in tmp_path.iterdir()} == {
        "other-1.bin", "token_counts-9.bin", "token_counts-10.bin", "token_counts-11.bin",
    }  # fmt: skip


def test_without_the_counts_of_its_step_nothing_is_known(tmp_path):
    counts = TokenCounts(tmp_path, 8, resume_at=5)
    assert not counts.known
    counts.add(BATCH)
    counts.save(6)
    assert not list(tmp_path.iterdir())
    assert read_token_counts(tmp_path, 6) is None


def test_the_file_holds_large_numbers(tmp_path):
    """A base-size run counts beyond 32 bits."""
    counts = np.array([0, 1, 2**40], np.int64)
    (tmp_path / "counts").write_bytes(to_bytes(counts))
    np.testing.assert_array_equal(read_counts_file(tmp_path / "counts"), counts)
    assert len(to_bytes(counts)) == 24


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "counts").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"counts: found 3 bytes, expected 8 for each token"):
        read_counts_file(tmp_path / "counts")
