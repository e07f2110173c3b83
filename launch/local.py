"""Several processes of one stage on this machine, each with CPU devices of its own: a pod to try things on.

    python -m launch.local --processes 2 --devices_per_process 4 -- train --gin_file=my.gin --gin.OUTPUT="'runs/my'"

Every line of output is led by the number of the process it comes from. The first process that fails ends the job: the
others get a few seconds to say what they have to say, then they are killed, for they would wait for it forever. SIGTERM
and Ctrl-C are passed on to all. The exit status is the first failing process's, 75 where the stage was told to leave
and saved, 130 where Ctrl-C ended one that saves nothing, or 0.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

VARIABLE = "MERGEDISTILL_DISTRIBUTED"
"""Read by mergedistill_jax/training/distributed.py."""

ASKED_TO_LEAVE, INTERRUPTED = 75, 130
GRACE_S = 5.0
_POLL_S = 0.05


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a stage on several processes; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m launch.local", description="One stage on several processes.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--devices_per_process", type=int, default=1, help="CPU devices, simulated (default 1)")
    parser.add_argument("stage", nargs="+", help="what follows `mergedistill`, after --")
    parsed = parser.parse_args(arguments)
    for name in ("processes", "devices_per_process"):
        if getattr(parsed, name) < 1:
            print(f"launch.local: --{name}: found {getattr(parsed, name)}, expected at least 1", file=sys.stderr)
            return 2
    command = [sys.executable, "-m", "mergedistill_jax", *parsed.stage]
    return run(command, processes=parsed.processes, devices_per_process=parsed.devices_per_process)


def run(command: Sequence[str], *, processes: int, devices_per_process: int = 1) -> int:
    """Runs a command in as many processes, which find each other through their environment.

    Args:
        command: program and arguments, the same for all.
        processes: how many.
        devices_per_process: CPU devices that each of them has.

    Returns:
        The job's exit status, see above.
    """
    address = f"localhost:{_free_port()}"
    settings = [environment(index, processes, address, devices_per_process) for index in range(processes)]
    jobs: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []
    with _signals_passed_on(jobs) as passed:
        for index, setting in enumerate(settings):
            shown = " ".join([f"{name}={shlex.quote(value)}" for name, value in setting.items()])
            print(f"[{index}] $ {shown} {shlex.join(command)}", flush=True)
            job = _start(command, setting)
            jobs.append(job)
            readers.append(threading.Thread(target=_forward, args=(job.stdout, index), daemon=True))
            readers[-1].start()
        status = _wait(jobs, passed)
    for reader in readers:
        reader.join(timeout=GRACE_S)
    return status


def environment(index: int, processes: int, address: str, devices: int) -> dict[str, str]:
    """What one process's environment has beside that of this program."""
    kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    return {
        VARIABLE: f"{index}/{processes}@{address}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"]),
        "PYTHONUNBUFFERED": "1",
    }


def _start(command: Sequence[str], setting: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603 - the user's own command
        command,
        env={**os.environ, **setting},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C goes to this program alone, which passes it on
    )


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return int(taken.getsockname()[1])


def _forward(lines: IO[str], index: int) -> None:
    for line in lines:
        print(f"[{index}] {line}", end="" if line.endswith("\n") else "\n", flush=True)


@contextlib.contextmanager
def _signals_passed_on(jobs: "list[subprocess.Popen[str]]") -> Iterator[list[int]]:
    """SIGTERM, SIGHUP and Ctrl-C go to all processes while this program waits for them; none of them outlives it.

    Gives the signals that came. Those that this program ignores, as under nohup, it goes on ignoring.
    """
    passed: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        passed.append(number)
        for job in jobs:
            if job.poll() is None:
                job.send_signal(number)

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for job in jobs:
            if job.poll() is None:
                job.kill()


def _wait(jobs: "Sequence[subprocess.Popen[str]]", passed: Sequence[int]) -> int:
    """Waits for all, or for the first that fails and a little longer; the job's exit status."""
    while True:
        statuses = [job.poll() for job in jobs]
        failed = [index for index, status in enumerate(statuses) if status not in (None, 0, ASKED_TO_LEAVE)]
        if failed:
            return _end(jobs, failed[0], passed)
        if None not in statuses:
            return ASKED_TO_LEAVE if ASKED_TO_LEAVE in statuses else 0
        time.sleep(_POLL_S)


def _end(jobs: "Sequence[subprocess.Popen[str]]", failed: int, passed: Sequence[int]) -> int:
    status = jobs[failed].wait()
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    deadline = time.monotonic() + GRACE_S
    for job in jobs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(timeout=max(deadline - time.monotonic(), 0.0))
    killed = [index for index, job in enumerate(jobs) if job.poll() is None]
    for index in killed:
        jobs[index].kill()
        jobs[index].wait()
    if signal.SIGINT in passed and status in (INTERRUPTED, -signal.SIGINT):
        print("launch.local: stopped by Ctrl-C; the same command goes on", file=sys.stderr, flush=True)
        return INTERRUPTED
    ended = f"; ended {', '.join(map(str, killed))} with it" if killed else ""
    print(f"launch.local: process {failed} failed first, with {how}{ended}", file=sys.stderr, flush=True)
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
