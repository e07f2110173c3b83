"""SIGTERM, with which machines are taken back: the run finishes its step, saves, and leaves.

A job of several processes must leave after the same step on all of them, though the signal reaches them at different
times, or only one. So at every step each process says whether it was asked, the votes are summed on the devices, and
the sum is read two steps later, when it is there without waiting:

    step              10      11      12      13
    process 0 votes   no      yes     yes     yes
    process 1 votes   no      no      no      yes
    read                              no(10)  yes(11): both leave after 13
"""

import collections
import signal
import threading
from types import FrameType
from typing import Any

import jax

from mergedistill_jax.training.distributed import votes_of_processes

EXIT_STATUS = 75
"""What a stage that was asked to leave exits with: EX_TEMPFAIL of sysexits.h, "try again". Not 0: a script would go on
to the next stage with a student that is half trained."""

_LAG = 2


class Preempted(SystemExit):
    """The run was asked to leave, has saved, and goes on when it is started again."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class StopRequest:
    """Listens for SIGTERM while it is open; outside the main thread, which alone may listen, it hears nothing."""

    def __init__(self) -> None:
        self._asked = False
        self._votes: collections.deque[jax.Array] = collections.deque()
        self._before: Any = None

    def __enter__(self) -> "StopRequest":  # noqa: PYI034 - beartype, method by method, knows no Self
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            # None where the handler was not Python's: there is no way back to it but the default.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def agreed(self) -> bool:
        """Whether to leave now, the same on all processes; every process calls it once a step."""
        if jax.process_count() == 1:
            return self._asked
        self._votes.append(votes_of_processes(self._asked))
        return len(self._votes) > _LAG and int(self._votes.popleft()) > 0
