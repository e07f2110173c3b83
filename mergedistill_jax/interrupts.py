"""Ctrl-C, wherever a stage has no better answer to it: one line that says how to go on, and exit status 130."""

import os
import signal
import sys
from collections.abc import Callable

EXIT_STATUS = 130
"""128 + SIGINT, as of a program that the signal ended. A training run that saves first exits with 75."""


def interruptible(function: Callable[[], int]) -> int:
    """Calls a function; gives its exit status, or EXIT_STATUS after one line on standard error where Ctrl-C ended it.

    A further Ctrl-C ends the process at once, although background threads are still at work.
    """
    try:
        return function()
    except KeyboardInterrupt:
        if os.environ.get("MERGEDISTILL_TRACEBACK"):
            raise
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("\nmergedistill: stopped by Ctrl-C; the same command goes on from what is finished", file=sys.stderr)
        return EXIT_STATUS
