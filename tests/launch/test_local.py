"""Processes of one job on this machine: their output, their end, and the first failure as everybody's."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch.local import VARIABLE, environment, main, run

ROOT = Path(__file__).parents[2]
PROCESS = "import os, signal, sys, time; process = int(os.environ['MERGEDISTILL_DISTRIBUTED'].split('/')[0]); "


def run_python(program: str, processes: int = 2) -> int:
    return run([sys.executable, "-u", "-c", PROCESS + program], processes=processes)


def lines_of(output: str, process: int) -> list[str]:
    return [line.removeprefix(f"[{process}] ") for line in output.splitlines() if line.startswith(f"[{process}] ")]


def test_every_process_is_told_its_number_and_where_the_first_listens(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_python(f"print(os.environ[{VARIABLE!r}]); print('aside', file=sys.stderr)", processes=3) == 0
    output = capfd.readouterr().out
    addresses = set()
    for process in range(3):
        command, *said = lines_of(output, process)
        said.remove("aside")
        found = re.fullmatch(r"(\d)/3@(localhost:\d+)", said[0])
        assert found
        assert int(found[1]) == process
        addresses.add(found[2])
        assert command.startswith(f"$ {VARIABLE}={process}/3@{found[2]} ")
    assert len(addresses) == 1


def test_the_command_that_is_printed_runs_as_it_stands(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_python("print(sys.argv, os.environ['XLA_FLAGS'])", processes=1) == 0
    command, said = lines_of(capfd.readouterr().out, 0)
    shell = subprocess.run(command.removeprefix("$ "), shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - our own
    assert shell.stdout.strip() == said


def test_devices_replace_what_the_environment_says_of_them_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1 --xla_force_host_platform_device_count=8")
    flags = environment(0, 2, "localhost:1", 4)["XLA_FLAGS"].split()
    assert flags == ["--xla_one=1", "--xla_force_host_platform_device_count=4"]


def test_a_failing_process_ends_the_job_with_its_message_and_status(capfd: pytest.CaptureFixture[str]) -> None:
    """The other one would sleep for an hour: PEERS.md trap 15."""
    assert run_python("process == 1 and sys.exit('no room left') or time.sleep(3600)") == 1
    output, error = capfd.readouterr()
    assert "no room left" in lines_of(output, 1)
    assert "process 1 failed first, with exit status 1; ended 0 with it" in error


def test_a_killed_process_ends_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_python("process == 0 and os.kill(os.getpid(), signal.SIGKILL) or time.sleep(3600)") == 128 + 9
    assert "process 0 failed first, with signal SIGKILL; ended 1 with it" in capfd.readouterr().err


def test_processes_that_leave_because_they_were_asked_are_no_failure(capfd: pytest.CaptureFixture[str]) -> None:
    """The second one is still saving when the first has left."""
    assert run_python("time.sleep(process); print('saved'); sys.exit(75)") == 75
    output, error = capfd.readouterr()
    assert "saved" in lines_of(output, 1)
    assert not error


LISTENS = """
def leave(*_):
    print("asked", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
print("listens", flush=True)
time.sleep(3600)
"""


def test_sigterm_is_passed_on_to_all(tmp_path: Path) -> None:
    program = tmp_path / "listens.py"
    program.write_text(PROCESS + LISTENS)
    launcher = (
        f"import sys; from launch.local import run; sys.exit(run([sys.executable, {str(program)!r}], processes=2))"
    )
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-u", "-c", launcher], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout
        said: list[str] = []
        while sum("listens" in line and "$" not in line for line in said) < 2:
            said.append(job.stdout.readline())
        job.send_signal(signal.SIGTERM)
        rest = job.stdout.read()
        assert job.wait() == 75
    assert sorted(rest.split("\n")[:2]) == ["[0] asked", "[1] asked"]


def test_no_process_outlives_the_launcher(tmp_path: Path) -> None:
    """An error in the launcher itself: here, its second command cannot be started."""
    pids = tmp_path / "pids"
    program = PROCESS + f"open({str(pids)!r}, 'a').write(str(os.getpid()) + chr(10)); time.sleep(3600)"
    started: list[Sequence[str]] = []
    real = subprocess.Popen

    def popen(command: Sequence[str], **settings: object) -> object:
        if started:
            deadline = time.monotonic() + 60
            while not pids.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise OSError("no more processes")
        started.append(command)
        return real(command, **settings)  # pyright: ignore[reportCallIssue, reportArgumentType]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        with pytest.raises(OSError, match="no more processes"):
            run([sys.executable, "-c", program], processes=2)
    pid = int(pids.read_text())
    ended = threading.Event()
    for _ in range(500):
        try:
            found, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended.set()
        else:
            if found:
                ended.set()
        if ended.is_set():
            break
        time.sleep(0.01)
    assert ended.is_set()


@pytest.mark.parametrize(("flag", "value"), [("processes", "0"), ("devices_per_process", "-1")])
def test_impossible_numbers_are_refused_by_name(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main([f"--{flag}={value}", "--", "train"]) == 2
    assert f"--{flag}: found {value}, expected at least 1" in capsys.readouterr().err
