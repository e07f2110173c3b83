from collections.abc import Iterable

import pytest
from test_manifest import make_identity
from test_schema import make_record

from mergedistill_jax.configs.worker import Worker
from mergedistill_jax.manifest import open_for_writing, read_manifest
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.corpus_hashes import Division, summarise
from mergedistill_jax.teachers.writer import write_missing_shards

TEXT = "abcdefg"
SUMMARY = summarise(TEXT, Division(documents=3, text_bytes=1 << 22))
IDENTITY = make_identity(documents=7, documents_per_shard=3, corpus_hash=SUMMARY.hash)


def write(folder, worker=None, text: Iterable[str] = TEXT, on_records=lambda _: None):
    """What was asked for, and what was reported."""
    asked, reported = [], []

    def records_of(documents):
        asked.append("".join(documents))
        on_records(asked[-1])
        return [make_record(seed=ord(document)) for document in documents]

    manifest = open_for_writing(folder, IDENTITY)
    write_missing_shards(manifest, text, SUMMARY, records_of, reported.append, worker or Worker())
    return asked, reported


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_missing_shards_are_made(tmp_path):
    asked, reported = write(tmp_path)
    assert asked == ["abc", "def", "g"]
    assert [entry.records for entry in reported] == [3, 3, 1]
    whole = bytes_of(tmp_path)
    assert write(tmp_path) == ([], [])
    assert bytes_of(tmp_path) == whole
    (tmp_path / "shard-00001.json").unlink()
    (tmp_path / "shard-00001.tfrecord").write_bytes(b"half")
    assert write(tmp_path)[0] == ["def"]
    assert bytes_of(tmp_path) == whole


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_workers_make_their_own_shards_and_together_the_bytes_of_one(tmp_path, order):
    write(tmp_path / "one")
    for index in order:
        assert write(tmp_path / "three", Worker(index=index, count=3))[0] == [["abc", "def", "g"][index]]
    assert bytes_of(tmp_path / "three") == bytes_of(tmp_path / "one")
    assert write(tmp_path / "more", Worker(index=4, count=5))[0] == []  # more workers than shards


def test_a_shard_that_another_worker_listed_meanwhile_is_left_alone(tmp_path):
    write(tmp_path / "one")
    asked, _ = write(tmp_path / "two", on_records=lambda text: write(tmp_path / "two") if text == "abc" else None)
    assert asked == ["abc"]
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_changed_text_stops_before_its_shard(tmp_path):
    with pytest.raises(RecordError, match=r"corpus letters:train: documents 3 to 5: field corpus_hash"):
        write(tmp_path, text="abcXefg")
    assert [entry.shard for entry in read_manifest(tmp_path).shards] == [0]


def test_a_failure_of_the_text_or_of_a_record_lists_nothing_of_its_shard(tmp_path):
    """The failure of a reader comes out as it is; it is no failure of the disk."""

    def torn():
        yield from "abcde"
        raise ValueError("text.xz: damaged")

    with pytest.raises(ValueError, match=r"^text\.xz: damaged"):
        write(tmp_path, text=torn())
    assert [entry.shard for entry in read_manifest(tmp_path).shards] == [0]

    def fail(_):
        raise OSError("the teacher")

    with pytest.raises(OSError, match=r"^the teacher"):
        write(tmp_path, on_records=fail)
    assert sorted(bytes_of(tmp_path)) == ["manifest.json", "shard-00000.json", "shard-00000.tfrecord"]


def test_only_what_dead_processes_left_is_cleared_away(tmp_path):
    write(tmp_path)
    (tmp_path / "shard-00002.json").unlink()
    (tmp_path / ".shard-00002.tfrecord.0123abcd.1.89abcdef.tmp").write_bytes(b"of another machine, now")
    write(tmp_path)
    assert [name for name in bytes_of(tmp_path) if name.startswith(".")] == [
        ".shard-00002.tfrecord.0123abcd.1.89abcdef.tmp"
    ]
