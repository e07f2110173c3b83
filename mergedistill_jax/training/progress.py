"""Progress of long work on standard error: how much, how fast, how much longer."""

import sys
import time
from typing import SupportsFloat, TextIO


class Progress:
    """Prints `label 300/2000 step, 12.5 step/s, 2:16 left, loss 5.31` at most every few seconds.

    Only what happened under this object counts towards the rate, so that a resumed run does not look fast.
    """

    def __init__(
        self, total: int, unit: str, label: str, *, start: int = 0, every_s: float = 5.0, stream: TextIO | None = None
    ) -> None:
        self._total, self._unit, self._label, self._every_s = total, unit, label, every_s
        self._start = self._done = start
        self._stream = stream or sys.stderr
        self._began = self._printed = time.monotonic()

    def update(self, count: int = 1, **figures: SupportsFloat) -> None:
        """Adds `count` finished units; `figures` are shown beside them."""
        self._done += count
        now = time.monotonic()
        if now - self._printed >= self._every_s:
            self._printed = now
            self._print(now, figures)

    def close(self, **figures: SupportsFloat) -> None:
        """Prints the last line, with the time taken."""
        self._print(time.monotonic(), figures, final=True)

    def _print(self, now: float, figures: dict[str, SupportsFloat], *, final: bool = False) -> None:
        seconds = max(now - self._began, 1e-9)
        rate = (self._done - self._start) / seconds
        left = (self._total - self._done) / rate if rate else float("inf")
        when = f"took {_clock(seconds)}" if final else f"{_clock(left)} left"
        shown = "".join(f", {name} {_shown(value)}" for name, value in figures.items())
        line = f"{self._label} {self._done:,}/{self._total:,} {self._unit}, {rate:,.1f} {self._unit}/s, {when}{shown}"
        print(line, file=self._stream, flush=True)


def _shown(value: SupportsFloat) -> str:
    """A count in full, anything else with four digits."""
    whole = isinstance(value, int) or 10_000 <= abs(float(value)) < float("inf")
    return f"{int(float(value)):,}" if whole else f"{float(value):.4g}"


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
