import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mergedistill_jax import files
from mergedistill_jax.files import exclusive, names_in, remove_left_behind, temporary_path, write_atomically


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


NAMES = ["plain", "a[b]", "a[b", "st*r", "what?", "a b", "#1", "100%", "-v", "[!x]", "{a}", "a\\b", "ä"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_folder_are_found_whatever_it_is_called(tmp_path, name):
    folder = tmp_path / name
    assert names_in(folder) == []
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    for file in ("shard-1.json", "shard-0.json", "shard-0.tfrecord", "ashard-0.json", ".shard-0.json"):
        (folder / file).touch()
    for found in (folder, tmp_path / "link"):
        assert names_in(found, "shard-", ".json") == ["shard-0.json", "shard-1.json"]
        assert names_in(found, end=".tfrecord") == ["shard-0.tfrecord"]
        assert len(names_in(found)) == 5
    assert names_in(folder / "shard-0.json") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_new_process_removes_what_a_killed_one_left_in_a_folder_that_it_writes_into(tmp_path, name):
    """Files and folders, of the same target and of others; not those of a process that lives."""
    folder = tmp_path / name
    folder.mkdir()
    code = (
        "import os, signal, sys; from mergedistill_jax.files import temporary_path\n"
        "temporary_path(sys.argv[1] + '/a.json').write_bytes(b'half')\n"
        "temporary_path(sys.argv[1] + '/b.json').write_bytes(b'half')\n"
        "temporary_path(sys.argv[1] + '/model').mkdir()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)  # noqa: S603 - this file's own program
    assert killed.returncode == -signal.SIGKILL
    living = temporary_path(tmp_path / "elsewhere" / "c.json").name.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    (folder / living).touch()
    assert len(list(folder.iterdir())) == 4
    write_atomically(folder / "a.json", b"whole")
    assert sorted(path.name for path in folder.iterdir()) == sorted([living, "a.json"])


def test_a_folder_of_many_files_is_looked_through_once(tmp_path, monkeypatch):
    """Not for every file that is written into it: a folder of records has tens of thousands."""
    looked = []
    found = files.remove_left_behind
    monkeypatch.setattr(files, "remove_left_behind", lambda folder: looked.append(folder) or found(folder))
    for number in range(5):
        write_atomically(tmp_path / f"{number}.json", b"")
    assert looked == [str(tmp_path)]


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
