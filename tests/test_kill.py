"""Writers that are killed in the middle of anything, and run again: the bytes are those of an undisturbed run."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killable_writer import SHARDS

from mergedistill_jax.manifest import check_shard, read_manifest

TESTS = Path(__file__).parent


class Nursery:
    """The warm process that forks the writers."""

    def __init__(self, folder):
        self.folder = folder
        self._started = 0
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            "XLA_FLAGS": "",
            "KILLABLE_COMPILED": str(folder / "compiled"),
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own
            [sys.executable, str(TESTS / "killable_writer.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._orders, self._answers = self._process.stdin, self._process.stdout
        assert self._answers.readline() == "ready\n"

    def _ask(self, **order):
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        return int(self._answers.readline())

    def start(self, **settings):
        self._started += 1
        progress, log = (self.folder / f"{self._started}.{kind}" for kind in ("progress", "log"))
        progress.write_bytes(bytes(8))
        order = {"progress": str(progress), "log": str(log), **settings}
        return Writer(nursery=self, pid=self._ask(start=order), progress=progress, log=log)

    def wait(self, pid):
        return self._ask(wait=pid)

    def close(self):
        self._orders.close()
        self._process.wait()


@dataclasses.dataclass
class Writer:
    nursery: Nursery
    pid: int
    progress: Path
    log: Path

    @property
    def moment(self):
        return int.from_bytes(self.progress.read_bytes(), "little")

    @property
    def over(self):
        """Whether the process has ended; its number stays taken until somebody asks for its status."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    def end(self):
        """Its exit status."""
        status = self.nursery.wait(self.pid)
        assert status in {0, -signal.SIGKILL}, self.log.read_text()
        return status


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def undisturbed(nursery, folder, settings):
    """Its bytes, and how many moments it had."""
    writer = nursery.start(output=str(folder), **settings)
    assert writer.end() == 0
    assert len(read_manifest(folder).require_complete().shards) == SHARDS
    return bytes_of(folder), writer.moment


def assert_nothing_wrong_is_listed(folder, whole):
    if not (folder / "manifest.json").exists():  # killed before it began
        return
    for entry in read_manifest(folder).shards:
        check_shard(folder, entry)
    listed = {path.name: path.read_bytes() for path in folder.glob("[!.]*.json")}
    assert listed.items() <= whole.items()


def killed_once(nursery, folder, settings, generator, moments):
    """Starts a writer and kills it at a random one of its moments; False where it was done before that."""
    writer = nursery.start(output=str(folder), **settings)
    moment = generator.randrange(1, moments)
    while writer.moment < moment and not writer.over:
        time.sleep(0.0002)
    os.kill(writer.pid, signal.SIGKILL)
    return writer.end() != 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("gold labels", 20), ("teacher", 4)])
def test_a_writer_killed_at_random_moments_ends_like_one_that_was_not(nursery, tmp_path, teachers, kind, kills):
    settings = {"teacher" if kind == "teacher" else "tokenizer": str(teachers["en"])}
    whole, moments = undisturbed(nursery, tmp_path / "undisturbed", settings)
    assert moments > 4 * SHARDS
    generator = random.Random(kind)
    folders, killed = 0, 0
    while killed < kills:
        folder = tmp_path / f"killed{folders}"
        while killed < kills and killed_once(nursery, folder, settings, generator, moments):
            killed += 1
            assert_nothing_wrong_is_listed(folder, whole)
        assert nursery.start(output=str(folder), **settings).end() == 0
        assert bytes_of(folder) == whole  # and no temporary file is left
        folders += 1


def run_to_the_end(nursery, folder, whole, settings, workers, generator, last_moment, kills):
    """Three writers at once, each killed at a random moment and started again until it gets to its end; the kills."""
    running, target, killed = {}, {}, 0

    def start(i):
        running[i] = nursery.start(output=str(folder), worker=workers[i], **settings)
        target[i] = generator.randrange(1, last_moment) if killed < kills else None

    for i in range(len(workers)):
        start(i)
    while running:
        time.sleep(0.0005)
        for i, writer in list(running.items()):
            if target[i] is not None and writer.moment >= target[i]:
                os.kill(writer.pid, signal.SIGKILL)
            elif not writer.over:
                continue
            if running.pop(i).end() != 0:
                killed += 1
                assert_nothing_wrong_is_listed(folder, whole)
                start(i)
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("workers", [["0/3", "1/3", "2/3"], [None, None, None]], ids=["shared", "all do all"])
def test_three_writers_of_one_folder_killed_independently_end_like_one(nursery, tmp_path, teachers, workers):
    settings = {"tokenizer": str(teachers["en"])}
    whole, moments = undisturbed(nursery, tmp_path / "undisturbed", settings)
    generator = random.Random(str(workers))
    killed, folders = 0, 0
    while killed < 20:
        folder = tmp_path / f"killed{folders}"
        killed += run_to_the_end(nursery, folder, whole, settings, workers, generator, moments // 3, 20 - killed)
        assert read_manifest(folder).complete
        # What the last kill left behind is cleared away by whoever comes next.
        assert nursery.start(output=str(folder), **settings).end() == 0
        assert bytes_of(folder) == whole
        folders += 1
