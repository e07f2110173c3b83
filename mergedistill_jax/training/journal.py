"""What a run tells while it goes on: its logs, its counts of tokens, its speed, and the line on the screen.

Every process of a job keeps one, for the numbers of all of them are added up; the leading process alone writes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mergedistill_jax.training.distributed import leads, max_over_processes, sum_over_processes
from mergedistill_jax.training.metrics import MetricLog, MetricSums
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.training.token_counts import TokenCounts

_SHOWN = ("gold_loss", "teacher_loss", "masked_accuracy")


class Speed:
    """Rates since the last `restart`: of steps, of tokens that are no padding, and the share of time spent waiting.

    The first step of a sitting is left out, for most of it is compilation.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._warm = False
        self.restart()

    def restart(self) -> None:
        """Forgets what was measured, so that an evaluation or a save counts as neither work nor waiting."""
        self._began = self._clock()
        self._steps, self._tokens, self._waited_s = 0, 0, 0.0

    def next_of(self, stream: Iterator[Any]) -> Any:
        """The next item of a stream; the time until it is there counts as waiting."""
        began = self._clock()
        item = next(stream)
        self._waited_s += self._clock() - began
        return item

    def add(self, tokens: int) -> None:
        """Counts a step of so many tokens."""
        if not self._warm:
            self._warm = True
            self.restart()
            return
        self._steps += 1
        self._tokens += tokens

    def numbers(self) -> dict[str, float]:
        """The rates, over all processes; nothing where no step was measured. Every process calls it."""
        if not self._steps:
            return {}
        seconds = max(self._clock() - self._began, 1e-9)
        # The slowest input is the one that all wait for, and a step ends for all processes together.
        slowest = max_over_processes(np.array([self._waited_s, seconds], np.float32))
        tokens = sum_over_processes(np.array([self._tokens], np.int64))
        return {
            "steps_per_second": self._steps / float(slowest[1]),
            "tokens_per_second": int(tokens[0]) / float(slowest[1]),
            "input_wait_share": float(slowest[0] / slowest[1]),
        }


class Journal:
    """The records of one sitting of a run."""

    def __init__(
        self,
        folder: epath.PathLike,
        groups: Mapping[str, Sequence[str]],
        vocabulary_size: int,
        *,
        steps: int,
        start: int,
        resumed: Mapping[str, Any] | None,
    ) -> None:
        """Opens the records of a run.

        Args:
            folder: of the run.
            groups: see MetricSums.
            vocabulary_size: of the student.
            steps: of the whole run.
            start: steps done before this sitting.
            resumed: what `save` gave for the checkpoint that this sitting goes on from; None: nothing was kept.
        """
        rows = int(resumed.get("rows", 0)) if resumed else 0
        self._log = MetricLog(folder, resume_at=start, rows=rows) if leads() else None
        self._counts = TokenCounts(folder, vocabulary_size, resume_at=start)
        self._sums = MetricSums(groups, resumed)
        self._progress = Progress(steps, "step", "train", start=start) if leads() else None
        self._numbers: dict[str, float] = {}
        self.speed = Speed()

    def add(self, batch: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
        """Adds a step: the rows that this process counts, and the metric sums of the whole batch."""
        self._sums.add(sums)
        self._counts.add(batch)
        self.speed.add(int(np.sum(batch["lengths"])))
        if self._progress:
            self._progress.update(1, **self._shown())

    def log_means(self, step: int) -> None:
        """Logs the means since the last time, and the speed."""
        self._numbers = self._sums.means()
        self.write(step, self._numbers)
        speed = self.speed.numbers()
        if self._log and speed:
            self._log.write_speed(step, speed)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs numbers of a step."""
        if self._log:
            self._log.write(step, numbers)

    def save(self, step: int) -> dict[str, Any]:
        """Keeps counts and logs of a step, before its checkpoint; gives what the checkpoint must hold, as JSON."""
        if self._log:
            self._log.sync()
        self._counts.save(step)
        return self._sums.saved() | ({"rows": self._log.rows} if self._log else {})

    def close(self) -> None:
        """Flushes the logs."""
        if self._progress:
            self._progress.close(**self._shown())
        if self._log:
            self._log.close()

    def _shown(self) -> dict[str, float]:
        return {name: self._numbers[name] for name in _SHOWN if name in self._numbers}
