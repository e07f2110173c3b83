"""One owner of an output folder at a time: a second one is told, and no killed one stands in the way."""

import concurrent.futures
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from mergedistill_jax import locks
from mergedistill_jax.locks import FolderInUseError, owned

ROOT = Path(__file__).parents[1]
OWNER = """
import os, subprocess, sys, time
from mergedistill_jax.locks import owned

with owned(sys.argv[1], beside=sys.argv[2] == "beside"):
    if sys.argv[3] == "forks":
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, b"runs")
            time.sleep(600)
        os.read(read, 4)  # it runs, and has let go of what it inherited
        print(child, flush=True)
    if sys.argv[3] == "runs":
        print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    print("owns", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["inside", "beside"])
def place(request: pytest.FixtureRequest) -> str:
    return request.param


class Owner:
    """Another process that owns the folder, and the children it says it has."""

    def __init__(self, folder: Path, place: str, children: str = "none") -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, "-c", OWNER, str(folder), place, children],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout
        said = [self.process.stdout.readline().strip() for _ in range(1 + (children != "none"))]
        self.children = [int(line) for line in said if line != "owns"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_second_owner_is_told_who_the_first_is_and_killed_it_stands_in_nobodys_way(
    tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "run"
    owner = Owner(folder, place)
    with pytest.raises(FolderInUseError) as caught, owned(str(folder), beside=place == "beside"):
        pass
    message = rf"{folder}: found in use by process {owner.process.pid} on \S+ \(-c .*\), expected no other process"
    assert re.fullmatch(message, str(caught.value))
    owner.kill()
    with owned(str(folder), beside=place == "beside"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == (["run"] if place == "inside" else [])


@pytest.mark.parametrize("children", ["forks", "runs"])
def test_a_child_that_outlives_its_killed_parent_holds_no_lock(tmp_path: Path, place: str, children: str) -> None:
    owner = Owner(tmp_path, place, children)
    owner.kill()
    (child,) = owner.children
    try:
        os.kill(child, 0)
        with owned(str(tmp_path), beside=place == "beside"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_other_names_of_a_folder_are_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    owner = Owner(tmp_path / "run", "inside")
    for name in ("run", "./run/", "link", f"{tmp_path}/link/../run"):
        with pytest.raises(FolderInUseError, match=f"^{re.escape(name)}: found in use"), owned(name):
            pass
    owner.kill()


def test_a_lock_file_of_another_user_is_a_lock_all_the_same(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that several users write into the file itself may be read alone."""
    owner = Owner(tmp_path / "run", place)
    opened = os.open

    def denied(path: os.PathLike, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", denied)
    folder = str(tmp_path / "run")
    with pytest.raises(FolderInUseError), owned(folder, beside=place == "beside"):
        pass
    owner.kill()
    with owned(folder, beside=place == "beside"), pytest.raises(FolderInUseError):
        threaded(folder, beside=place == "beside")
    assert [path.name for path in tmp_path.rglob("*")] == (["run"] if place == "inside" else [])


def threaded(folder: str, *, beside: bool) -> None:
    """Owns a folder in another thread, where nothing is held yet."""

    def take() -> None:
        with owned(folder, beside=beside):
            pass

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(take).result()


def test_a_stage_within_a_stage_writes_into_its_folder_and_the_outer_one_still_owns_it(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        try:
            with owned(str(tmp_path)):
                pass
        except FolderInUseError:
            refused.append(1)

    with owned(str(tmp_path)):
        with owned(str(tmp_path)):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [1]
    assert not list(tmp_path.iterdir())


def test_what_was_written_stays_and_an_empty_new_folder_goes(tmp_path: Path) -> None:
    with owned(str(tmp_path / "a" / "b")):
        (tmp_path / "a" / "b" / "file").touch()
    with owned(str(tmp_path / "c" / "d")):
        pass
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"a", "a/b", "a/b/file"}


def test_where_no_lock_can_be_the_stage_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store; a file in the folder's place, of which the stage will complain; a drive without locks."""
    (tmp_path / "file").touch()

    def flock(*_: object) -> None:
        raise OSError(locks.errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    for output in ("gs://bucket/run", str(tmp_path / "file"), str(tmp_path / "run")):
        with owned(output), owned(output):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_file_that_tells_no_owner_is_a_lock_all_the_same(tmp_path: Path) -> None:
    """Its owner has not written it yet, or the disk was full."""
    owner = Owner(tmp_path, "inside")
    for text in ("", "[1]", '{"pid": 1}', '{"pid": 1, "host": "h", "command": 5}', "\0"):
        (tmp_path / locks.LOCK_NAME).write_text(text)
        with pytest.raises(FolderInUseError, match="found in use by another process, expected"), owned(str(tmp_path)):
            pass
    owner.kill()


def _own_again_and_again(folder: str, log: str, started: Barrier) -> None:
    """Each time alone: the file that it makes must not be there, and is its own. For six seconds from when all run."""
    started.wait()
    until = time.time() + 6
    while time.time() < until:
        try:
            with owned(folder):
                descriptor = os.open(f"{folder}/alone", os.O_CREAT | os.O_EXCL)
                os.close(descriptor)
                os.unlink(f"{folder}/alone")  # noqa: PTH108 - quick
                with open(log, "a") as file:  # noqa: PTH123 - quick
                    file.write(f"{os.getpid()}\n")
        except FolderInUseError:
            continue


@pytest.fixture
def racers(tmp_path: Path) -> Iterator[list[multiprocessing.Process]]:
    context = multiprocessing.get_context("spawn")
    arguments = (str(tmp_path / "run"), str(tmp_path / "log"), context.Barrier(3))
    processes: list[Any] = [context.Process(target=_own_again_and_again, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    yield processes
    for process in processes:
        process.kill()


@pytest.mark.slow
def test_the_lock_file_that_is_deleted_each_time_never_has_two_owners(
    tmp_path: Path, racers: list[multiprocessing.Process]
) -> None:
    for process in racers:
        process.join(timeout=120)
        assert process.exitcode == 0
    owners = (tmp_path / "log").read_text().split()
    assert len(owners) > 100
    assert len(set(owners)) > 1
    assert not list((tmp_path / "run").glob("*"))
