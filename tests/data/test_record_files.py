"""Records by their number are those of the file in its order, and damage is found before a record is given."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_manifest import make_identity

from mergedistill_jax.data import record_files
from mergedistill_jax.data.record_files import RecordFiles, checked_in_background
from mergedistill_jax.manifest import ShardEntry as Entry
from mergedistill_jax.manifest import list_shard, open_for_writing, read_manifest
from mergedistill_jax.shards import file_checksum

COUNTS = [7, 0, 1, 12]
"""Records of each shard: one has none."""


def contents():
    """Records of very uneven sizes, one of them larger than a block that is read at a time, here 64 bytes."""
    generator = np.random.default_rng(0)
    return [[generator.bytes(int(size)) for size in generator.integers(0, 200, count)] for count in COUNTS]


def entry_of(folder, shard, records):
    path = folder / f"shard-{shard:05d}.tfrecord"
    return Entry(
        shard=shard,
        records=records,
        masked_positions=0,
        tokens=0,
        bytes=path.stat().st_size,
        checksum=file_checksum(path),
    )


@pytest.fixture
def folder(tmp_path):
    """A listed folder whose shards TensorFlow wrote."""
    folder = tmp_path / "records"
    open_for_writing(folder, make_identity(documents=len(COUNTS), documents_per_shard=1))
    for shard, records in enumerate(contents()):
        with tf.io.TFRecordWriter(str(folder / f"shard-{shard:05d}.tfrecord")) as writer:
            for record in records:
                writer.write(record)
        list_shard(folder, entry_of(folder, shard, len(records)))
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(record_files, "_BLOCK_BYTES", 64)


def test_any_record_by_its_number(folder):
    files = RecordFiles(read_manifest(folder))
    records = [record for shard in contents() for record in shard]
    assert (len(files), files.num_shards) == (20, 3)
    wanted = np.random.default_rng(1).integers(0, 20, 100)
    assert files.read(wanted) == [records[number] for number in wanted]
    assert files.read(np.zeros(0, np.int64)) == []


def test_more_shards_than_files_may_be_open(folder, monkeypatch):
    monkeypatch.setattr(record_files, "_OPEN", record_files._OpenFiles(1))
    files = RecordFiles(read_manifest(folder))
    before = open_files()
    found = files.read(np.array([0, 19, 7, 1]))
    shards = contents()
    assert found == [shards[0][0], shards[3][11], shards[2][0], shards[0][1]]
    assert open_files() <= before + 1


def test_a_file_that_is_dropped_between_its_lookup_and_the_read_is_still_its_own(folder, monkeypatch):
    """As by another thread that reads other shards, and may have one of them under the number of the file by then."""

    class Crowded(record_files._OpenFiles):
        def _file(self, shard):
            file = super()._file(shard)
            self._files.clear()
            return file

    files = RecordFiles(read_manifest(folder))
    monkeypatch.setattr(record_files, "_OPEN", Crowded(1))
    assert files.read(np.arange(7)) == contents()[0]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "flipped": (flipped, "field checksum: found"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-5]), "field checksum: found"),
    "garbage": (lambda path: path.write_bytes(b"\xff" * path.stat().st_size), "field checksum: found"),
    "empty": (lambda path: path.write_bytes(b""), "field checksum: found"),
    "gone": (lambda path: path.unlink(), "not found, expected"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_gives_nothing_while_others_do(folder, damage):
    path, manifest = folder / "shard-00003.tfrecord", read_manifest(folder)
    DAMAGE[damage][0](path)
    files = RecordFiles(manifest)
    assert files.read(np.array([3])) == [contents()[0][3]]
    for _ in range(2):  # it stays refused
        with pytest.raises(ValueError, match=f"{path}: {DAMAGE[damage][1]}") as error:
            files.read(np.array([0, 19]))
        assert "\n" not in str(error.value)


def test_an_entry_that_lists_another_number_of_records_is_refused(folder):
    list_shard(folder, entry_of(folder, 3, 11))
    with pytest.raises(ValueError, match=r"shard-00003.tfrecord: field records: found 12 of \d+ bytes, expected 11 of"):
        RecordFiles(read_manifest(folder)).read(np.array([18]))


def test_a_shard_that_ends_within_a_record_is_refused_though_it_is_listed_so(folder):
    path = folder / "shard-00003.tfrecord"
    path.write_bytes(path.read_bytes()[:-5])
    list_shard(folder, entry_of(folder, 3, 12))
    with pytest.raises(ValueError, match=r"shard-00003.tfrecord: field records: found 12 of \d+ bytes, expected 12 of"):
        RecordFiles(read_manifest(folder)).read(np.array([18]))


def test_a_length_beyond_all_bounds_is_refused(folder):
    path = folder / "shard-00003.tfrecord"
    path.write_bytes(struct.pack("<Q", 2**64 - 1) + path.read_bytes()[8:])
    list_shard(folder, entry_of(folder, 3, 12))
    with pytest.raises(ValueError, match=r"shard-00003.tfrecord: field records: found 1 of"):
        RecordFiles(read_manifest(folder)).read(np.array([18]))


def test_a_file_that_takes_the_place_of_a_checked_one_is_refused(folder, monkeypatch):
    files = RecordFiles(read_manifest(folder))
    files.read(np.array([19]))
    path = folder / "shard-00003.tfrecord"
    shutil.copy(path, folder / "other")
    (folder / "other").replace(path)
    monkeypatch.setattr(record_files, "_OPEN", record_files._OpenFiles(1))
    with pytest.raises(ValueError, match=f"{path}: found another file than a moment ago"):
        files.read(np.array([19]))


def test_all_shards_are_checked_while_work_goes_on(folder):
    """Damage is found though nobody asks for the shard's records."""
    flipped(folder / "shard-00003.tfrecord")
    healthy, damaged = RecordFiles(read_manifest(folder)), RecordFiles(read_manifest(folder))
    with checked_in_background([healthy, damaged]) as require_undamaged:
        with pytest.raises(ValueError, match=r"shard-00003.tfrecord: field checksum"):
            damaged.shard(2)
        with pytest.raises(ValueError, match=r"shard-00003.tfrecord: field checksum"):
            require_undamaged()
        for index in (0, 1):
            healthy.shard(index)


def test_a_shard_of_an_object_store_is_copied_once_and_checked(folder, tmp_path, monkeypatch):
    """TensorFlow's file system in memory stands for the store."""
    monkeypatch.setattr(record_files.tempfile, "tempdir", str(tmp_path))
    entry = read_manifest(folder).shards[3]
    remote, data = "ram://bucket/shard-00003.tfrecord", (folder / "shard-00003.tfrecord").read_bytes()

    def store(content):
        if tf.io.gfile.exists(remote):  # the file system in memory would append to it
            tf.io.gfile.remove(remote)
        with tf.io.gfile.GFile(remote, "wb") as file:
            file.write(content)

    with pytest.raises(ValueError, match=f"{remote}: not found, expected"):
        record_files._checked(remote, entry)
    store(data[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{remote}: field checksum: found"):
        record_files._checked(remote, entry)
    store(data)
    shard = record_files._checked(remote, entry)
    start, size = shard.span(11)
    assert record_files._OPEN.read(shard, start, size) == contents()[3][11]
    store(b"")  # nobody looks there again
    assert record_files._checked(remote, entry).span(11) == (start, size)
    (copies,) = tmp_path.glob("mergedistill-records-*")
    assert [path.name for path in copies.iterdir()] == [f"{entry.checksum}.tfrecord"]
