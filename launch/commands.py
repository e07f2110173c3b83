"""Programs of the cloud, run from here: each command printed as it could be typed, tried again where that may help."""

import dataclasses
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

LONGEST_PAUSE_S = 300.0

_PASSING = re.compile(
    r"\b(429|500|502|503|504)\b|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|internal error|temporarily|try again|timed? ?out"
    r"|connection (was )?(reset|refused|closed|aborted)|broken pipe|return(ed)? code \[?255\b|exit status 255\b",
    re.IGNORECASE,
)
"""Messages of gcloud, ssh and xpk about what may be gone a minute later. A quota or a permission is not among them."""


class CommandError(ValueError):
    """A command that failed, on one line; `message` is all that it said on standard error."""

    def __init__(self, command: Sequence[str], status: int, message: str) -> None:
        """Args: the command, its exit status, its standard error."""
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        named = [line for line in lines if "ERROR" in line] or lines[-1:]
        shown = " ".join(named)[:500] or "no message"
        super().__init__(f"{command[0]}: found exit status {status} ({shown}), expected 0, of: {shlex.join(command)}")
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs commands, or only prints them.

    Attributes:
        dry_run: print them and run nothing.
        attempts: how often one is tried that fails for a passing reason.
        pause_s: before the second attempt; twice as long before each further one, up to five minutes.
    """

    dry_run: bool = False
    attempts: int = 5
    pause_s: float = 30.0

    def run(self, command: Sequence[str], *, text: str | None = None, show: bool = True) -> str:
        """Runs a command to its end.

        Args:
            command: program and arguments; no shell reads them.
            text: its standard input.
            show: whether to print its standard output too, line by line as it comes.

        Returns:
            Its standard output; nothing in a dry run.

        Raises:
            CommandError: it failed, the last time it was tried.
        """
        self.announce(command, text)
        if self.dry_run:
            return ""
        for attempt in range(1, self.attempts + 1):
            status, output, message = _run(command, text, show=show)
            if not status:
                return output
            if attempt == self.attempts or not (status == 255 or _PASSING.search(message)):
                raise CommandError(command, status, message)
            pause_s = min(self.pause_s * 2 ** (attempt - 1), LONGEST_PAUSE_S)
            print(f"# attempt {attempt} of {self.attempts} failed, next in {pause_s:g} s", flush=True)
            time.sleep(pause_s)
        raise AssertionError  # the last attempt returns or raises

    def follow(self, command: Sequence[str]) -> int:
        """Runs a command whose output is for the reader alone, until it or the reader ends it; its exit status."""
        self.announce(command)
        if self.dry_run:
            return 0
        try:
            return subprocess.run(command, check=False).returncode  # noqa: S603 - made of checked parts, no shell
        except KeyboardInterrupt:
            return 0
        except FileNotFoundError as error:
            raise _missing(command) from error

    def announce(self, command: Sequence[str], text: str | None = None) -> None:
        """Prints a command as a shell would take it."""
        before = "" if text is None else f"printf %s {shlex.quote(text)} | "
        print(f"$ {before}{shlex.join(command)}", flush=True)

    def wait(self, seconds: float) -> None:
        """Sleeps, but not in a dry run."""
        if not self.dry_run:
            time.sleep(seconds)


def _run(command: Sequence[str], text: str | None, *, show: bool) -> tuple[int, str, str]:
    try:
        job = subprocess.Popen(  # noqa: S603 - made of checked parts, no shell
            command,
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise _missing(command) from error
    output: list[str] = []
    message: list[str] = []
    with job:
        readers = [
            threading.Thread(target=_forward, args=(job.stdout, output, sys.stdout if show else None)),
            threading.Thread(target=_forward, args=(job.stderr, message, sys.stderr)),
        ]
        for reader in readers:
            reader.start()
        if job.stdin is not None:
            try:
                job.stdin.write(text or "")
                job.stdin.close()
            except BrokenPipeError:
                pass  # the program ended first; its exit status says why
        for reader in readers:
            reader.join()
    return job.returncode, "".join(output), "".join(message)


def _forward(lines: IO[str], kept: list[str], shown: IO[str] | None) -> None:
    for line in lines:
        kept.append(line)
        if shown is not None:
            print(line, end="", file=shown, flush=True)


def _missing(command: Sequence[str]) -> ValueError:
    return ValueError(f"{command[0]}: found no such program on PATH, expected it installed and logged in")
