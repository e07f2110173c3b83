"""Metric sums to named numbers, and their logs: TensorBoard through clu, and one JSON object a line."""

import collections
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clu import metric_writers
from etils import epath

from mergedistill_jax.counting import counted
from mergedistill_jax.files import sync, write_atomically

LOG_NAME = "metrics.jsonl"
SPEED_NAME = "speed.jsonl"

_LAG = 2
"""Steps whose sums are left on the device: the one under way, and the one before it."""


class MetricSums:
    """Adds metric sums of steps; `means` gives numbers over all positions since the last call.

    The newest steps' sums stay on the device for a while, so that adding them up makes no step wait.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], resumed: Mapping[str, Any] | None = None) -> None:
        """Takes for each kind of group ("language", "teacher") the group of every source, and what `saved` gave."""
        self._groups = groups
        self._new: collections.deque[Mapping[str, Any]] = collections.deque()
        self._steps = int(resumed["steps"]) if resumed else 0
        self._totals = {
            name: np.asarray(value, np.float64) for name, value in (resumed["totals"] if resumed else {}).items()
        }

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds one step's sums."""
        self._new.append(sums)
        if len(self._new) > _LAG:
            self._fold()

    def _fold(self) -> None:
        for name, value in self._new.popleft().items():
            self._totals[name] = self._totals.get(name, np.zeros(())) + np.asarray(value, np.float64)
        self._steps += 1

    def saved(self) -> dict[str, Any]:
        """The sums since the last means, as JSON that keeps every bit: a resumed run goes on adding to them."""
        while self._new:
            self._fold()
        return {"steps": self._steps, "totals": {name: total.tolist() for name, total in self._totals.items()}}

    def means(self) -> dict[str, float]:
        """Means over positions, overall and as `gold_loss/language/en`; only what was measured."""
        while self._new:
            self._fold()
        totals, count = self._totals, self._steps
        self._totals, self._steps = {}, 0
        found = {name: float(totals[name]) / count for name in ("gradient_norm", "gold_weight") if name in totals}
        found |= _means({name: value for name, value in totals.items() if value.ndim}, "")
        for kind, groups in self._groups.items():
            for group in sorted(set(groups) - {""}):
                here = np.array([one == group for one in groups])
                found |= _means({n: v[here] for n, v in totals.items() if v.ndim}, f"/{kind}/{group}")
        return found


NAMES = {
    "gold_loss": "gold_loss",
    "teacher_loss": "teacher_loss",
    "gold_hits": "masked_accuracy",
    "teacher_hits": "teacher_agreement",
}


def _means(sums: Mapping[str, np.ndarray], suffix: str) -> dict[str, float]:
    count = float(np.sum(sums["count"])) if "count" in sums else 0.0
    if not count:
        return {}
    return {f"{NAMES[name]}{suffix}": float(np.sum(value)) / count for name, value in sums.items() if name in NAMES}


class LogError(ValueError):
    """A log of a run that is damaged; the message is one line that names the file and the line."""


class MetricLog:
    """Writes numbers of a step to TensorBoard and to files of one JSON object a line in a run's folder.

    metrics.jsonl holds what the configuration decides: it is the same, byte for byte, however often the run was
    stopped. What the clock decides goes to speed.jsonl. After a crash the logs may hold steps that will be done again:
    `resume_at` drops them, so that each step stands once.
    """

    def __init__(self, folder: epath.PathLike, *, resume_at: int, rows: int = 0) -> None:
        """Opens the logs of a run.

        Args:
            folder: of the run.
            resume_at: the step of the checkpoint that the run goes on from.
            rows: that metrics.jsonl had when that checkpoint was saved. There may be more, of its evaluation.

        Raises:
            LogError: one of them is damaged, or rows are missing; both are left as they are.
        """
        self._folder = epath.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        logs = {
            name: [(line, row) for line, row in _lines(self._folder / name) if row["step"] <= resume_at]
            for name in (LOG_NAME, SPEED_NAME)
        }
        self.rows = len(logs[LOG_NAME])
        _require_rows(self._folder / LOG_NAME, self.rows, rows, resume_at)
        for name, lines in logs.items():
            path = self._folder / name
            kept = b"".join(line for line, _ in lines)
            if (path.read_bytes() if path.exists() else b"") != kept or (name == LOG_NAME and not path.exists()):
                write_atomically(path, kept)
        self._writer = metric_writers.SummaryWriter(str(self._folder / "tensorboard"))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs the numbers of a step; raises ValueError on a number that is not finite."""
        path = self._folder / LOG_NAME
        bad = sorted(name for name, value in numbers.items() if not math.isfinite(value))
        if bad:
            raise ValueError(f"{path}: step {step}: field {bad[0]}: found {numbers[bad[0]]}, expected a finite number")
        self._write(path, step, numbers)
        self.rows += 1

    def write_speed(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs what the clock decides."""
        self._write(self._folder / SPEED_NAME, step, numbers)

    def _write(self, path: epath.Path, step: int, numbers: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, dict(numbers))
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")

    def sync(self) -> None:
        """Brings the rows to disk: before a checkpoint is saved from which they will not be written again."""
        for name in (LOG_NAME, SPEED_NAME):
            if (self._folder / name).exists():
                sync(self._folder / name)

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        self._writer.close()


def read_log(folder: epath.PathLike, name: str = LOG_NAME) -> list[dict[str, Any]]:
    """Rows of a run's log, `step` and numbers by name, oldest first; a half-written last line is left out.

    Raises:
        LogError: any other line is no row, or rows are doubled or out of order.
    """
    return [row for _, row in _lines(epath.Path(folder) / name)]


def _lines(path: epath.Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line of a log, ending included, and its row."""
    if not path.exists():
        return []
    found: list[tuple[bytes, dict[str, Any]]] = []
    written: set[str] = set()
    before = 0
    # Not splitlines, which ends a line at a lone carriage return too.
    for number, line in enumerate(io.BytesIO(path.read_bytes()), start=1):
        row = _row_of(line)
        if row is None and not line.endswith(b"\n"):  # a kill, or a full disk, cut it short
            break
        if row is None:
            raise _damaged(path, number, f"found {line[:60]!r}, expected a JSON object of `step` and finite numbers")
        if row["step"] < before:
            raise _damaged(path, number, f"field step: found {row['step']}, expected at least {before} as before it")
        written = written if row["step"] == before else set()
        if again := sorted(written & row.keys() - {"step"}):
            raise _damaged(path, number, f"field {again[0]}: found step {row['step']} a second time, expected it once")
        written |= row.keys()
        before = row["step"]
        found.append((line if line.endswith(b"\n") else line + b"\n", row))
    return found


def _require_rows(path: epath.Path, found: int, expected: int, step: int) -> None:
    """Rows of finished steps are not written again: a log that has lost some is not gone on with unnoticed."""
    if found >= expected:
        return
    if path.exists():
        raise LogError(
            f"{path}: found {counted(found, 'row')} up to step {step:,}, expected {expected:,} as at its checkpoint;"
            " nothing was written to it: mend it, or move the file away"
        )
    print(f"mergedistill: {path}: not found; its rows up to step {step:,} are missing from now on", file=sys.stderr)


def _damaged(path: epath.Path, line: int, what: str) -> LogError:
    return LogError(f"{path}: line {line}: {what}; nothing was written to it: mend the line, or move the file away")


def _row_of(line: bytes) -> dict[str, Any] | None:
    """A row, or None where the line holds anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    return row if all(_is_number(value) for value in row.values()) else None


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
