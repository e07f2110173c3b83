import pytest
from test_schema import make_identity, make_record

from mergedistill_jax import schema
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.writer import shards_of, summarise, write_missing_shards


def test_consecutive_documents_make_a_shard():
    assert list(shards_of("abcdefg", 3)) == [(0, ["a", "b", "c"]), (1, ["d", "e", "f"]), (2, ["g"])]
    assert list(shards_of("abcdef", 3)) == [(0, ["a", "b", "c"]), (1, ["d", "e", "f"])]
    assert list(shards_of("", 3)) == []


def test_the_corpus_hash_is_of_the_documents_in_order():
    first = summarise(["ab", "c"])
    assert first.documents == 2
    assert first == summarise(iter(["ab", "c"]))
    others = [["c", "ab"], ["a", "bc"], ["ab"], ["ab", "c", ""], []]
    assert len({first.hash, *(summarise(documents).hash for documents in others)}) == 6
    assert summarise([]).documents == 0


def test_only_missing_shards_are_made_and_listed_ones_are_checked(tmp_path):
    identity = make_identity(documents=7, documents_per_shard=3)
    asked, reported = [], []

    def records_of(documents):
        asked.append("".join(documents))
        return [make_record(seed=ord(document)) for document in documents]

    def run():
        asked.clear()
        manifest = schema.open_for_writing(tmp_path, identity)
        write_missing_shards(manifest, "abcdefg", records_of, reported.append)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    whole = run()
    assert asked == ["abc", "def", "g"]
    assert [entry.records for entry in reported] == [3, 3, 1]
    assert run() == whole
    assert asked == []
    (tmp_path / "shard-00001.json").unlink()
    (tmp_path / "shard-00001.tfrecord").write_bytes(b"half")
    assert run() == whole
    assert asked == ["def"]
    (tmp_path / "shard-00002.tfrecord").write_bytes(b"other")
    with pytest.raises(RecordError, match=r"shard-00002\.tfrecord: field bytes: found 5"):
        run()
