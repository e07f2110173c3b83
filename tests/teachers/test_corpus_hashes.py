import dataclasses
import hashlib
import itertools
import json

import pytest
from test_manifest import make_identity

from mergedistill_jax.manifest import open_for_writing
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.corpus_hashes import (
    Division,
    known_summary,
    summarise,
    unchanged_shards,
    write_summary,
)


def by_documents(count, text_bytes=1 << 21):
    return Division(documents=count, text_bytes=text_bytes)


def by_hand(*documents):
    framed = b"".join(len(d.encode()).to_bytes(8, "little") + d.encode() for d in documents)
    return hashlib.blake2b(framed, digest_size=16).hexdigest()


def test_the_hash_of_a_corpus_is_of_its_documents_in_order_however_it_is_divided():
    documents = ["ab", "c", "déf", ""]
    for per_shard in (1, 2, 3, 4, 9):
        summary = summarise(iter(documents), by_documents(per_shard))
        assert (summary.documents, summary.hash) == (4, by_hand(*documents))
        ends = [*range(per_shard, 4, per_shard), 4]
        assert summary.ends == ends
        assert summary.hashes == [by_hand(*documents[:end]) for end in ends]
        sizes = [len("".join(documents[:end]).encode()) for end in (0, *ends)]
        assert summary.bytes == [end - start for start, end in itertools.pairwise(sizes)]
    others = [["c", "ab"], ["a", "bc"], ["ab"], ["ab", "c", ""], []]
    assert len({by_hand("ab", "c"), *(summarise(other, by_documents(2)).hash for other in others)}) == 6
    assert (summarise([], by_documents(3)).documents, summarise([], by_documents(3)).hash) == (0, by_hand())


def run(text, summary, wanted=lambda _: True):
    return list(unchanged_shards(text, summary, "letters:train", wanted))


def test_consecutive_documents_make_a_shard_and_unwanted_ones_are_only_read():
    for text, expected in (
        ("abcdefg", [(0, ["a", "b", "c"]), (1, ["d", "e", "f"]), (2, ["g"])]),
        ("abcdef", [(0, ["a", "b", "c"]), (1, ["d", "e", "f"])]),
        ("", []),
    ):
        summary = summarise(text, by_documents(3))
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
    summary = summarise("abcdefg", by_documents(3))
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
    for shard, group in unchanged_shards(
        text, summarise((f"document {i}" for i in range(100)), by_documents(10)), "x", bool
    ):
        assert len(group) == 10
        assert len(drawn) == 10 * (shard + 1)


def test_a_summary_is_known_for_the_same_corpus_in_the_same_shards_alone(tmp_path):
    summary = summarise(["ab", "c", "d"], by_documents(2))
    identity = make_identity(corpus="x:train", documents=3, documents_per_shard=2, corpus_hash=summary.hash)
    assert known_summary(tmp_path / "nowhere", "x:train", by_documents(2)) is None
    write_summary(tmp_path, summary)
    assert known_summary(tmp_path, "x:train", by_documents(2)) is None  # no manifest says that it is the folder's
    open_for_writing(tmp_path, identity)
    assert known_summary(tmp_path, "x:train", by_documents(2)) == summary
    assert known_summary(tmp_path, "x:heldout", by_documents(2)) is None
    assert known_summary(tmp_path, "x:train", by_documents(3)) is None
    written = (tmp_path / "corpus.json").read_bytes()
    write_summary(tmp_path, dataclasses.replace(summary, ends=[2, 9]))
    assert (tmp_path / "corpus.json").read_bytes() == written


def test_a_damaged_or_foreign_summary_is_refused(tmp_path):
    summary = summarise(["ab", "c", "d"], by_documents(2))
    identity = make_identity(corpus="x:train", documents=3, documents_per_shard=2, corpus_hash=summary.hash)
    open_for_writing(tmp_path, identity)
    write_summary(tmp_path, summary)
    path = tmp_path / "corpus.json"
    text = path.read_text()
    first = summary.hashes[0]
    path.write_text(text.replace(first, ("0" if first[0] != "0" else "1") + first[1:]))
    with pytest.raises(RecordError, match=r"corpus\.json: field fields_checksum"):
        known_summary(tmp_path, "x:train", by_documents(2))
    path.unlink()
    write_summary(tmp_path, dataclasses.replace(summary, hashes=[by_hand("z")] * 2))
    with pytest.raises(
        RecordError, match=r"corpus\.json: fields hashes and ends: found .* of 3 documents in 2 shards, expected"
    ):
        known_summary(tmp_path, "x:train", by_documents(2))


def shards_of(documents, division):
    """The shards' documents, and the summary, whose numbers are compared with them."""
    summary = summarise(documents, division)
    found = run(documents, summary)
    assert [shard for shard, _ in found] == list(range(summary.shards))
    groups = [group for _, group in found]
    assert summary.ends == list(itertools.accumulate(map(len, groups)))
    assert summary.bytes == [sum(len(document.encode()) for document in group) for group in groups]
    assert summary.hash == by_hand(*documents)  # however they are divided
    return groups


@pytest.mark.parametrize(
    ("documents", "text_bytes", "expected"),
    [
        (["aaa", "b", "cccc"], 8, [["aaa", "b", "cccc"]]),
        (["aaa", "b", "ccccc"], 8, [["aaa", "b"], ["ccccc"]]),
        (["aaa", "b", "cccc", "dd"], 20, [["aaa", "b", "cccc"], ["dd"]]),  # the bound on documents
        (["жж", "ж"], 5, [["жж"], ["ж"]]),  # bytes, not characters
        (["", "", "aaa", "", "b"], 3, [["", "", "aaa"], ["", "b"]]),
        (["a", "b"], 1, [["a"], ["b"]]),
    ],
)
def test_a_shard_is_bounded_by_the_bytes_of_its_text_too(documents, text_bytes, expected):
    assert shards_of(documents, by_documents(3, text_bytes)) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("aaaaa\nbbbb", [["y", "aaaaa"], ["bbbb", "z"]]),
        ("aaaa\nbbb\ncc\ndd", [["y"], ["aaaa\nbbb"], ["cc\ndd", "z"]]),
        ("a" * 20 + "\nbb", [["y"], ["a" * 20], ["bb", "z"]]),  # a paragraph is never divided
        ("a" * 20, [["y"], ["a" * 20], ["z"]]),
        ("aaaa\n\n\n\nbbbb", [["y", "aaaa\n\n\n"], ["bbbb", "z"]]),
        ("жжжж\nии", [["y"], ["жжжж"], ["ии", "z"]]),
    ],
)
def test_a_document_that_is_longer_than_a_shard_is_divided_between_paragraphs(document, expected):
    assert shards_of(["y", document, "z"], by_documents(3, 8)) == expected


def test_shards_within_both_bounds_are_those_of_the_documents_alone():
    documents = [f"document {i}" for i in range(95)]
    assert summarise(documents, by_documents(10)).hashes == summarise(documents, by_documents(10, 130)).hashes
    assert summarise(documents, by_documents(10, 100)).shards > 10


def test_a_changed_text_is_found_where_bytes_end_the_shards():
    summary = summarise(["aaaa", "bb\ncc\ndd", "e"], by_documents(10, 5))
    assert summary.ends == [1, 2, 4]
    for changed, told in (
        (["aaaa", "bb\ncX\ndd", "e"], "documents 1 to 1: field corpus_hash"),
        (["aaaa", "bb\ncc\nddd", "e"], "documents 1 to 1: field corpus_hash"),
        (["aaaa", "bb\ncc\nXd", "e"], "documents 2 to 3: field corpus_hash"),
        (["aaaa", "bb\ncc\ndd"], "field documents: found 3, expected 4"),
    ):
        with pytest.raises(RecordError, match=told):
            run(changed, summary)


def test_a_summary_without_all_its_numbers_is_refused(tmp_path):
    summary = summarise(["ab", "c", "d"], by_documents(2))
    open_for_writing(tmp_path, make_identity(corpus="x:train", documents=3, documents_per_shard=2))
    fields = dataclasses.asdict(summary)
    for changed, told in (
        ({"ends": [3]}, r"corpus\.json: fields ends, bytes, hashes: found \(1, 2, 2\) values"),
        ({"bytes": None}, r"corpus\.json: field bytes: found None"),
    ):
        (tmp_path / "corpus.json").write_text(json.dumps(fields | changed))
        with pytest.raises(RecordError, match=told):
            known_summary(tmp_path, "x:train", by_documents(2))
