import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from mergedistill_jax import files
from mergedistill_jax.files import exclusive, remove_left_behind, temporary_path, write_atomically


def test_a_file_takes_its_place_whole(tmp_path):
    path = tmp_path / "a.json"
    for data in (b"one", b"another"):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_named_and_the_old_file_stands(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "anything")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.json'$"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_no_two_writers_share_a_temporary_name(tmp_path):
    names = {temporary_path(tmp_path / "a.json").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".a.json.") and f".{os.getpid()}." in name for name in names)


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_dead_processes_left_behind_goes_and_nothing_else_does(tmp_path):
    mine = temporary_path(tmp_path / "shard-00000.tfrecord").name
    dead = mine.replace(f".{os.getpid()}.", f".{dead_process()}.")
    someone = mine.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    elsewhere, gone = (mine.replace(files._machine(), digits) for digits in ("0123abcd", "4567abcd"))
    older, oldest = ".shard-00001.tfrecord.tmp", ".manifest.json.tmp"
    others = ["shard-00000.tfrecord", ".hidden", "a.tmp", mine, someone, elsewhere, older]
    for name in (*others, dead, gone, oldest):
        (tmp_path / name).write_bytes(b"half a fi")
    day_ago = time.time() - files.STALE_S - 60
    for name in (gone, oldest, mine, someone, "shard-00000.tfrecord"):
        os.utime(tmp_path / name, (day_ago, day_ago))
    assert remove_left_behind(tmp_path) == sorted([dead, gone, oldest])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    """Two holders would both read the same number before either writes the next."""
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count():
        for _ in range(20):
            with exclusive(tmp_path):
                number = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "80"


def test_a_folder_of_an_object_store_has_no_lock():
    with exclusive("gs://nowhere/folder"):
        pass
