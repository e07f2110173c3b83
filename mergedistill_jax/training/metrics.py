"""Metric sums to named numbers, and their logs: TensorBoard through clu, and one JSON object a line."""

import collections
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clu import metric_writers
from etils import epath

from mergedistill_jax.files import write_atomically

LOG_NAME = "metrics.jsonl"


class MetricSums:
    """Adds metric sums of steps; `means` gives numbers over all positions since the last call.

    Sums stay on the device until then, so that logging does not make every step wait.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Takes for each kind of group ("language", "teacher") the group of every source."""
        self._groups = groups
        self._steps: list[Mapping[str, Any]] = []

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds one step's sums."""
        self._steps.append(sums)

    def means(self) -> dict[str, float]:
        """Means over positions, overall and as `gold_loss/language/en`; only what was measured."""
        totals: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(()))
        for sums in self._steps:
            for name, value in sums.items():
                totals[name] = totals[name] + np.asarray(value, np.float64)
        count = len(self._steps)
        self._steps = []
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


class MetricLog:
    """Writes numbers of a step to TensorBoard and to metrics.jsonl in a run's folder.

    After a crash the log may hold steps that will be done again: `resume_at` drops them, so that each step stands once.
    """

    def __init__(self, folder: epath.PathLike, *, resume_at: int) -> None:
        self._path = epath.Path(folder) / LOG_NAME
        kept = [row for row in read_log(folder) if row["step"] <= resume_at]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._writer = metric_writers.SummaryWriter(str(epath.Path(folder) / "tensorboard"))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs the numbers of a step; raises ValueError on a number that is not finite."""
        bad = sorted(name for name, value in numbers.items() if not math.isfinite(value))
        if bad:
            raise ValueError(
                f"{self._path}: step {step}: field {bad[0]}: found {numbers[bad[0]]}, expected a finite number"
            )
        self._writer.write_scalars(step, dict(numbers))
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        self._writer.close()


def read_log(folder: epath.PathLike) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl, `step` and numbers by name, oldest first; a half-written last line is left out."""
    path = epath.Path(folder) / LOG_NAME
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
