import dataclasses
import hashlib

import pytest
from test_manifest import make_identity

from mergedistill_jax.manifest import open_for_writing
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.corpus_hashes import (
    CorpusSummary,
    known_summary,
    summarise,
    unchanged_shards,
    write_summary,
)


def by_hand(*documents):
    framed = b"".join(len(d.encode()).to_bytes(8, "little") + d.encode() for d in documents)
    return hashlib.blake2b(framed, digest_size=16).hexdigest()


def test_the_hash_of_a_corpus_is_of_its_documents_in_order_however_it_is_divided():
    documents = ["ab", "c", "déf", ""]
    for per_shard in (1, 2, 3, 4, 9):
        summary = summarise(iter(documents), per_shard)
        assert (summary.documents, summary.hash) == (4, by_hand(*documents))
        ends = [*range(per_shard, 4, per_shard), 4]
        assert summary.hashes == [by_hand(*documents[:end]) for end in ends]
    others = [["c", "ab"], ["a", "bc"], ["ab"], ["ab", "c", ""], []]
    assert len({by_hand("ab", "c"), *(summarise(other, 2).hash for other in others)}) == 6
    assert (summarise([], 3).documents, summarise([], 3).hash) == (0, by_hand())


def run(text, summary, wanted=lambda _: True):
    return list(unchanged_shards(text, summary, "letters:train", wanted))


def test_consecutive_documents_make_a_shard_and_unwanted_ones_are_only_read():
    for text, expected in (
        ("abcdefg", [(0, ["a", "b", "c"]), (1, ["d", "e", "f"]), (2, ["g"])]),
        ("abcdef", [(0, ["a", "b", "c"]), (1, ["d", "e", "f"])]),
        ("", []),
    ):
        summary = summarise(text, 3)
        assert run(text, summary) == expected
        assert run(text, summary, lambda shard: shard == 1) == [pair for pair in expected if pair[0] == 1]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("abcdefX", "documents 6 to 6: field corpus_hash: found"),
        ("abcXefg", "documents 3 to 5: field corpus_hash: found"),
        ("Xbcdefg", "documents 0 to 2: field corpus_hash: found"),
        ("abcdegf", "documents 3 to 5: field corpus_hash: found"),
        ("abcdef", "field documents: found 6, expected 7"),
        ("abcde", "field documents: found 5, expected 7"),
        ("abcdefgh", "field documents: found more than 7, expected 7"),
        ("", "field documents: found 0, expected 7"),
    ],
)
@pytest.mark.parametrize("only", [None, 0, 5])
def test_a_shard_comes_only_when_all_its_text_is_the_same(changed, told, only):
    """Whatever is wanted, also nothing at all, a change anywhere is refused."""
    summary = summarise("abcdefg", 3)
    came = []
    found = unchanged_shards(changed, summary, "letters:train", lambda s: only in (None, s))
    with pytest.raises(RecordError, match=rf"^corpus letters:train: {told}") as error:
        came.extend(found)
    assert "the text has changed" in str(error.value)
    assert "\n" not in str(error.value)
    assert came == run("abcdefg", summary, lambda s: only in (None, s))[: len(came)]


def test_no_more_than_one_shard_is_in_memory():
    """Documents are drawn from the corpus only as their shard is worked on."""
    drawn = []
    text = (drawn.append(i) or f"document {i}" for i in range(100))
    for shard, group in unchanged_shards(text, summarise((f"document {i}" for i in range(100)), 10), "x", bool):
        assert len(group) == 10
        assert len(drawn) == 10 * (shard + 1)


def test_a_summary_is_known_for_the_same_corpus_in_the_same_shards_alone(tmp_path):
    summary = summarise(["ab", "c", "d"], 2)
    identity = make_identity(corpus="x:train", documents=3, documents_per_shard=2, corpus_hash=summary.hash)
    assert known_summary(tmp_path / "nowhere", "x:train", 2) is None
    write_summary(tmp_path, summary)
    assert known_summary(tmp_path, "x:train", 2) is None  # no manifest says that it is the folder's
    open_for_writing(tmp_path, identity)
    assert known_summary(tmp_path, "x:train", 2) == summary
    assert known_summary(tmp_path, "x:heldout", 2) is None
    assert known_summary(tmp_path, "x:train", 3) is None
    written = (tmp_path / "corpus.json").read_bytes()
    write_summary(tmp_path, dataclasses.replace(summary, documents=9))
    assert (tmp_path / "corpus.json").read_bytes() == written


def test_a_damaged_or_foreign_summary_is_refused(tmp_path):
    summary = summarise(["ab", "c", "d"], 2)
    identity = make_identity(corpus="x:train", documents=3, documents_per_shard=2, corpus_hash=summary.hash)
    open_for_writing(tmp_path, identity)
    write_summary(tmp_path, summary)
    path = tmp_path / "corpus.json"
    text = path.read_text()
    first = summary.hashes[0]
    path.write_text(text.replace(first, ("0" if first[0] != "0" else "1") + first[1:]))
    with pytest.raises(RecordError, match=r"corpus\.json: field fields_checksum"):
        known_summary(tmp_path, "x:train", 2)
    path.unlink()
    write_summary(tmp_path, CorpusSummary(documents=3, documents_per_shard=2, hashes=[by_hand("z")] * 2))
    with pytest.raises(RecordError, match=r"corpus\.json: field hashes: found .* of 3 documents last, expected"):
        known_summary(tmp_path, "x:train", 2)
