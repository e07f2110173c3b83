"""SIGTERM, with which machines are taken back, and Ctrl-C: the run finishes its step, saves, and leaves.

A second Ctrl-C ends the process at once, as SIGKILL would: the newest checkpoint stands.

A job of several processes must leave after the same step on all of them, though the signal reaches them at different
times, or only one. So at every step each process says whether it was asked, the votes are summed on the devices, and
the sum is read two steps later, when it is there without waiting:

    step              10      11      12      13
    process 0 votes   no      yes     yes     yes
    process 1 votes   no      no      no      yes
    read                              no(10)  yes(11): both leave after 13
"""

import collections
import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from mergedistill_jax.training.distributed import votes_of_processes

EXIT_STATUS = 75
"""What a run that was told to leave exits with: EX_TEMPFAIL of sysexits.h, "try again". Not 0: a script would go on to
the next stage with a student that is half trained."""

_LAG = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(SystemExit):
    """The run was told to leave, has saved, and goes on when it is started again."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class StopRequest:
    """Listens for SIGTERM and SIGINT while it is open; outside the main thread, which alone may, it hears nothing.

    A signal that the process ignores, as SIGINT in a script's background jobs, stays ignored.
    """

    def __init__(self) -> None:
        self._asked = False
        self._votes: collections.deque[jax.Array] = collections.deque()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":  # noqa: PYI034 - beartype, method by method, knows no Self
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._ask) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            # None where the handler was not Python's: there is no way back to it but the default.
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # No print: the signal may have come in the middle of one.
            os.write(2, b"\ntrain: saves and leaves after this step; Ctrl-C again ends it now, without saving\n")

    def agreed(self) -> bool:
        """Whether to leave now, the same on all processes; every process calls it once a step."""
        if jax.process_count() == 1:
            return self._asked
        self._votes.append(votes_of_processes(self._asked))
        return len(self._votes) > _LAG and int(self._votes.popleft()) > 0
