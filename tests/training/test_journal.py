"""Speed by a clock that is wound by hand, and records that only what happened changes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mergedistill_jax.training.journal import Journal, Speed
from mergedistill_jax.training.metrics import read_log
from mergedistill_jax.training.token_counts import read_token_counts

BATCH = {
    "token_ids": np.array([[2, 5, 4, 3], [2, 3, 0, 0]], np.int32),
    "lengths": np.array([4, 2], np.int32),
    "gold_ids": np.array([[6, 0], [0, 0]], np.int32),
    "loss_weights": np.array([[1.0, 0.0], [0.0, 0.0]], np.float32),
}
ONCE = [0, 0, 2, 2, 1, 1, 1, 0]
SUMS = {"count": np.array([1.0]), "gold_loss": np.array([3.0])}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waits(clock: Clock, seconds: float) -> Iterator[str]:
    """A stream every item of which takes so long."""
    while True:
        clock.now += seconds
        yield "item"


def test_rates_and_waiting_worked_by_hand() -> None:
    """After the first step, four steps of 2 s, of which 0.5 s are waiting, and of 10 tokens."""
    clock = Clock()
    speed = Speed(clock)
    clock.now += 60
    speed.add(10)
    stream = waits(clock, 0.5)
    for _ in range(4):
        assert speed.next_of(stream) == "item"
        clock.now += 1.5
        speed.add(10)
    assert speed.numbers() == pytest.approx(
        {"steps_per_second": 0.5, "tokens_per_second": 5.0, "input_wait_share": 0.25}
    )


def test_what_was_not_measured_is_absent() -> None:
    """The first step compiles; and nothing is left of what was before an evaluation."""
    speed = Speed(Clock())
    assert speed.numbers() == {}
    speed.add(10)
    assert speed.numbers() == {}
    speed.add(10)
    assert speed.numbers()
    speed.restart()
    assert speed.numbers() == {}


def open_journal(folder: Path, start: int = 0, resumed: dict | None = None) -> Journal:
    return Journal(folder, {"language": ("en",)}, 8, steps=10, start=start, resumed=resumed)


def test_a_sitting_that_ends_between_two_logs_leaves_what_the_next_one_needs(tmp_path: Path) -> None:
    """Means over steps 1 to 3, of which the first sitting did two: (3 + 3 + 9) / 3, and counts of all three batches."""
    first = open_journal(tmp_path)
    for _ in range(2):
        first.add(BATCH, SUMS)
    kept = first.save(2)
    first.close()
    second = open_journal(tmp_path, 2, kept)
    second.add(BATCH, {"count": np.array([1.0]), "gold_loss": np.array([9.0])})
    second.log_means(3)
    second.save(3)
    second.close()
    assert read_log(tmp_path) == [{"step": 3, "gold_loss": 5.0, "gold_loss/language/en": 5.0}]
    np.testing.assert_array_equal(read_token_counts(tmp_path, 3), np.multiply(ONCE, 3))


def test_what_the_clock_decides_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for step in (1, 2):
        journal.add(BATCH, SUMS)
        journal.log_means(step)
    journal.close()
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]
    assert all(set(row) == {"step", "gold_loss", "gold_loss/language/en"} for row in read_log(tmp_path))
    (row,) = read_log(tmp_path, "speed.jsonl")
    assert row["step"] == 2
    assert set(row) == {"step", "steps_per_second", "tokens_per_second", "input_wait_share"}
    assert 0.0 <= row["input_wait_share"] <= 1.0


def test_a_log_that_lost_a_row_is_not_gone_on_with(tmp_path: Path) -> None:
    first = open_journal(tmp_path)
    for step in (1, 2):
        first.add(BATCH, SUMS)
        first.log_means(step)
    kept = first.save(2)
    first.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"^{path}: found 1 row up to step 2, expected 2 as at its checkpoint;"):
        open_journal(tmp_path, 2, kept)
