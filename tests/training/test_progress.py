"""Progress lines, on a clock that the test turns."""

import pytest

from mergedistill_jax.training import progress as module
from mergedistill_jax.training.progress import Progress


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_line_names_count_rate_time_left_and_figures(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2000, "step", "train")
    clock.now += 20
    progress.update(250, loss=5.312345)
    assert capsys.readouterr().err == "train 250/2,000 step, 12.5 step/s, 2:20 left, loss 5.312\n"


def test_lines_come_at_most_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(100, "step", "train", every_s=5.0)
    for _ in range(20):
        clock.now += 1
        progress.update()
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_what_was_done_before_a_resume_does_not_count_towards_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(1000, "step", "train", start=900)
    clock.now += 10
    progress.update(50)
    assert capsys.readouterr().err == "train 950/1,000 step, 5.0 step/s, 0:10 left\n"


def test_the_last_line_says_how_long_it_took(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, "shard", "predict")
    clock.now += 3 * 3600 + 62
    progress.update(10)
    progress.close(tokens=5)
    assert capsys.readouterr().err.splitlines()[-1] == "predict 10/10 shard, 0.0 shard/s, took 3:01:02, tokens 5"


def test_nothing_done_yet_is_no_division_by_zero(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    Progress(0, "step", "train").close()
    progress = Progress(5, "step", "train")
    clock.now += 6
    progress.update(0)
    assert "unknown time left" in capsys.readouterr().err
