"""Means over groups, absent where nothing was measured, and a log that a crash cannot double."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.training.metrics import LOG_NAME, LogError, MetricLog, MetricSums, read_log

GROUPS = {"language": ("de", "en", "de"), "teacher": ("one", "", "two")}
"""Three sources: two of German, one of English without a teacher."""


def step_sums(**changes: list[float]) -> dict[str, np.ndarray]:
    sums = {"count": [2, 4, 6], "gold_loss": [4, 4, 18], "gold_hits": [1, 4, 0], **changes}
    return {name: jnp.asarray(value, jnp.float32) for name, value in sums.items()}


def test_means_are_over_positions_not_over_groups() -> None:
    sums = MetricSums(GROUPS)
    sums.add(step_sums())
    assert sums.means() == pytest.approx(
        {
            "gold_loss": 26 / 12,
            "masked_accuracy": 5 / 12,
            "gold_loss/language/de": 22 / 8,
            "masked_accuracy/language/de": 1 / 8,
            "gold_loss/language/en": 1.0,
            "masked_accuracy/language/en": 1.0,
            "gold_loss/teacher/one": 2.0,
            "masked_accuracy/teacher/one": 0.5,
            "gold_loss/teacher/two": 3.0,
            "masked_accuracy/teacher/two": 0.0,
        }
    )


def test_several_steps_count_by_their_positions_and_are_forgotten_once_read() -> None:
    sums = MetricSums({})
    sums.add(step_sums())
    sums.add(step_sums(count=[0, 0, 1], gold_loss=[0, 0, 10], gold_hits=[0, 0, 1]))
    assert sums.means() == pytest.approx({"gold_loss": 36 / 13, "masked_accuracy": 6 / 13})
    assert sums.means() == {}


def test_what_was_not_measured_is_absent() -> None:
    """Trap 12: a language without positions, predictions that the records lack: no number, not 0."""
    sums = MetricSums(GROUPS)
    sums.add(step_sums(count=[2, 0, 6], gold_loss=[4, 0, 18], gold_hits=[1, 0, 0]))
    found = sums.means()
    assert not [name for name in found if name.endswith("/en")]
    assert "teacher_loss" not in found
    assert "teacher_agreement" not in found
    assert "gradient_norm" not in found


def test_predictions_give_a_teacher_loss_and_an_agreement() -> None:
    sums = MetricSums({})
    sums.add(step_sums(teacher_loss=[2, 4, 0], teacher_hits=[0, 0, 3]))
    assert sums.means() == pytest.approx(
        {"gold_loss": 26 / 12, "masked_accuracy": 5 / 12, "teacher_loss": 0.5, "teacher_agreement": 0.25}
    )


def test_a_step_without_any_masked_position_has_no_means() -> None:
    sums = MetricSums(GROUPS)
    sums.add(step_sums(count=[0, 0, 0]))
    assert sums.means() == {}


def test_numbers_of_a_step_are_averaged_over_steps() -> None:
    sums = MetricSums({})
    for norm in (1.0, 4.0):
        sums.add({**step_sums(), "gradient_norm": jnp.float32(norm), "gold_weight": jnp.float32(0.5)})
    assert sums.means()["gradient_norm"] == pytest.approx(2.5)
    assert sums.means() == {}


def test_sums_of_many_steps_do_not_lose_small_ones() -> None:
    """Float64: 2**24 + 1 has no float32."""
    sums = MetricSums({})
    for count in (2.0**24, 1.0):
        sums.add({"count": jnp.array([count]), "gold_loss": jnp.array([count])})
    assert sums.means()["gold_loss"] == 1.0
    sums.add({"count": jnp.array([1.0]), "gold_loss": jnp.array([2.0**24])})
    sums.add({"count": jnp.array([0.0]), "gold_loss": jnp.array([1.0])})
    assert sums.means()["gold_loss"] == 2.0**24 + 1


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    log.write(1, {"gold_loss": 2.5})
    log.write(2, {"gold_loss": 1.25, "masked_accuracy": 0.5})
    log.close()
    assert read_log(tmp_path) == [
        {"step": 1, "gold_loss": 2.5},
        {"step": 2, "gold_loss": 1.25, "masked_accuracy": 0.5},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    with pytest.raises(
        ValueError, match=r"metrics.jsonl: step 7: field gold_loss: found -?(nan|inf), expected a finite"
    ):
        log.write(7, {"masked_accuracy": 0.5, "gold_loss": value})
    assert read_log(tmp_path) == []


def test_resuming_drops_the_steps_that_will_be_done_again(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    for step in (10, 20, 30):
        log.write(step, {"gold_loss": float(step)})
    log.close()
    resumed = MetricLog(tmp_path, resume_at=20)
    resumed.write(30, {"gold_loss": -1.0})
    resumed.close()
    assert [(row["step"], row["gold_loss"]) for row in read_log(tmp_path)] == [(10, 10.0), (20, 20.0), (30, -1.0)]


def test_a_half_written_last_line_is_left_out_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    path.write_text(json.dumps({"step": 10, "gold_loss": 1.0}) + '\n{"step": 20, "gold')
    assert [row["step"] for row in read_log(tmp_path)] == [10]
    log = MetricLog(tmp_path, resume_at=20)
    log.write(20, {"gold_loss": 2.0})
    log.close()
    assert [row["step"] for row in read_log(tmp_path)] == [10, 20]


def test_a_crash_while_resuming_leaves_the_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is replaced whole: killed before its new content is complete, the rows are still there."""
    log = MetricLog(tmp_path, resume_at=0)
    for step in (10, 20):
        log.write(step, {"gold_loss": 1.0})
    log.close()

    def killed(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mergedistill_jax.files.sync", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricLog(tmp_path, resume_at=10)
    assert [row["step"] for row in read_log(tmp_path)] == [10, 20]


def test_a_folder_without_a_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / "nowhere") == []


def test_sums_that_were_saved_through_json_give_the_means_of_an_undisturbed_run_bit_for_bit() -> None:
    """Numbers without a finite binary fraction, added in the same order."""
    steps = [step_sums(gold_loss=[0.1 * n, 0.7, 1 / 3]) | {"gradient_norm": jnp.float32(n / 7)} for n in range(9)]
    whole, before = MetricSums(GROUPS), MetricSums(GROUPS)
    for sums in steps:
        whole.add(sums)
    for sums in steps[:4]:
        before.add(sums)
    after = MetricSums(GROUPS, json.loads(json.dumps(before.saved())))
    for sums in steps[4:]:
        after.add(sums)
    assert after.means() == whole.means()
    assert after.saved() == {"steps": 0, "totals": {}}


def test_saving_does_not_disturb_the_means() -> None:
    sums = MetricSums(GROUPS)
    sums.add(step_sums())
    saved = sums.saved()
    assert saved["steps"] == 1
    assert sums.saved() == saved
    assert sums.means() == MetricSums(GROUPS, saved).means() != {}


def test_resuming_drops_speeds_that_will_be_measured_again(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    assert not (tmp_path / "speed.jsonl").exists()
    for step in (10, 20):
        log.write_speed(step, {"steps_per_second": float(step)})
    log.close()
    resumed = MetricLog(tmp_path, resume_at=10)
    resumed.write_speed(20, {"steps_per_second": 1.0})
    resumed.close()
    assert [row["steps_per_second"] for row in read_log(tmp_path, "speed.jsonl")] == [10.0, 1.0]


ROWS = [{"step": step, "gold_loss": step / 3} for step in (10, 20, 30, 40)]
DAMAGED = {
    "first byte": (b'["step": 20, "gold_loss": 1.0}', "expected a JSON object"),
    "not UTF-8": (b'{"step": 20, "gold_\xff\xfe": 1.0}', "expected a JSON object"),
    "cut, with its end": (b'{"step": 20, "gold', "expected a JSON object"),
    "two rows in one": (b'{"step": 20, "gold_loss": 1.0}{"step": 20}', "expected a JSON object"),
    "a number": (b"5", "expected a JSON object"),
    "null": (b"null", "expected a JSON object"),
    "blank": (b"", "expected a JSON object"),
    "zeros": (bytes(40), "expected a JSON object"),
    "deep": (b"[" * 100_000, "expected a JSON object"),
    "no step": (b'{"gold_loss": 1.0}', "expected a JSON object"),
    "a step of text": (b'{"step": "20", "gold_loss": 1.0}', "expected a JSON object"),
    "a step that is true": (b'{"step": true, "gold_loss": 1.0}', "expected a JSON object"),
    "half a step": (b'{"step": 20.5, "gold_loss": 1.0}', "expected a JSON object"),
    "NaN": (b'{"step": 20, "gold_loss": NaN}', "expected a JSON object"),
    "too large": (b'{"step": 20, "gold_loss": 1e999}', "expected a JSON object"),
    "an integer too large": (b'{"step": 20, "gold_loss": 1%s}' % (b"0" * 400), "expected a JSON object"),
    "a carriage return inside": (b'{"st\rep": 20, "gold_loss": 1.0}', "expected a JSON object"),
    "a value of text": (b'{"step": 20, "gold_loss": "1.0"}', "expected a JSON object"),
    "doubled": (b'{"step": 10, "gold_loss": 1.0}', "field gold_loss: found step 10 a second time, expected it once"),
    "out of order": (b'{"step": 5, "gold_loss": 1.0}', "field step: found 5, expected at least 10 as before it"),
}


@pytest.mark.parametrize("name", [LOG_NAME, "speed.jsonl"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_line_is_named_and_the_file_is_not_touched(tmp_path: Path, kind: str, name: str) -> None:
    line, message = DAMAGED[kind]
    lines = [json.dumps(row).encode() for row in ROWS]
    lines[1] = line
    path = tmp_path / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(LogError, match=rf"^{path}: line 2: .*{message}") as caught:
        read_log(tmp_path, name)
    assert "\n" not in str(caught.value)
    for resume_at in (0, 20, 40):
        with pytest.raises(LogError, match=f"{path}: line 2"):
            MetricLog(tmp_path, resume_at=resume_at)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {name: before}


@pytest.mark.parametrize("kept", range(5))
def test_an_unfinished_last_line_is_cut_wherever_it_ends_and_no_other_row_is_lost(tmp_path: Path, kept: int) -> None:
    whole = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    path = tmp_path / LOG_NAME
    for end in range(ends[kept], ends[kept + 1] if kept < 4 else len(whole) + 1):
        path.write_bytes(whole[:end])
        complete = kept + (kept < 4 and end == ends[kept + 1] - 1)  # the line's end alone is missing
        MetricLog(tmp_path, resume_at=100).close()
        assert read_log(tmp_path) == ROWS[:complete]
        assert path.read_bytes() == whole[: ends[complete]]


LOST = {
    "the last row cut short": lambda lines: [*lines[:-1], lines[-1][:-9]],
    "the last row": lambda lines: lines[:-1],
    "a row in the middle": lambda lines: [*lines[:1], *lines[2:]],
    "all rows": lambda _: [],
}


@pytest.mark.parametrize("kind", LOST)
def test_rows_that_a_checkpoint_knows_and_the_log_has_lost_are_missed(tmp_path: Path, kind: str) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    for row in ROWS:
        log.write(row["step"], {"gold_loss": row["gold_loss"]})
    log.close()
    path = tmp_path / LOG_NAME
    MetricLog(tmp_path, resume_at=40, rows=log.rows).close()
    path.write_bytes(b"".join(LOST[kind](path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    found = 0 if kind == "all rows" else 3
    with pytest.raises(LogError, match=rf"^{path}: found {found} rows up to step 40, expected 4 as at its checkpoint;"):
        MetricLog(tmp_path, resume_at=40, rows=log.rows)
    assert path.read_bytes() == before


def test_a_log_that_was_moved_away_is_begun_again_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = MetricLog(tmp_path, resume_at=40, rows=4)
    assert capsys.readouterr().err.startswith(f"mergedistill: {tmp_path / LOG_NAME}: not found; its rows up to step 40")
    log.write(50, {"gold_loss": 1.0})
    assert log.rows == 1
    log.close()


def test_a_log_that_needs_no_change_is_not_written_again(tmp_path: Path) -> None:
    """Nor are its lines spelled another way."""
    path = tmp_path / LOG_NAME
    path.write_bytes(b'{"gold_loss":  1.50, "step":10}\n{"step": 20, "gold_loss": 1e0}\n')
    before = path.stat()
    MetricLog(tmp_path, resume_at=20).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    MetricLog(tmp_path, resume_at=10).close()
    assert path.read_bytes() == b'{"gold_loss":  1.50, "step":10}\n'


def test_an_evaluation_of_a_step_stands_beside_its_row(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, resume_at=0)
    log.write(10, {"gold_loss": 1.0})
    log.write(10, {"heldout/gold_loss": 1.0})
    log.close()
    assert [set(row) for row in read_log(tmp_path)] == [{"step", "gold_loss"}, {"step", "heldout/gold_loss"}]
