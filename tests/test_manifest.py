import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import resource

import numpy as np
import pytest
import tensorflow as tf
from etils import epath
from test_schema import LAYOUT, assert_same, make_record

from mergedistill_jax import shards
from mergedistill_jax.configs.masking import REPLACEMENTS
from mergedistill_jax.configs.predict import DTYPES, PACKINGS
from mergedistill_jax.configs.sampling import TARGETS
from mergedistill_jax.manifest import (
    _NAMES,
    Identity,
    ShardEntry,
    add_shard,
    check_shard,
    open_for_writing,
    read_manifest,
    read_records,
    write_shard,
)
from mergedistill_jax.schema import RecordError
from mergedistill_jax.sealed import write_sealed


def make_identity(**changes):
    fields = {
        "teacher": "bert",
        "weights_hash": "a1",
        "vocabulary_hash": "b2",
        "tokenizer_hash": "c3",
        "vocabulary_size": 1000,
        "corpus": "letters:train",
        "language": "en",
        "corpus_hash": "d4",
        "documents": 20,
        "documents_per_shard": 10,
        "rate": 0.15,
        "max_share": 0.2,
        "draws": 2,
        "seed": 3,
        "max_length": 128,
        "k": 8,
    }
    return Identity(**{**fields, **changes})


def write_folder(folder, shards=2, **changes):
    manifest = open_for_writing(folder, make_identity(**changes))
    for shard in range(shards):
        write_shard(folder, shard, [make_record(seed=10 * shard + i) for i in range(3)], LAYOUT)
    return manifest


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_folder_reads_back_with_its_counts(tmp_path):
    write_folder(tmp_path)
    manifest = read_manifest(tmp_path).require_complete()
    assert manifest.identity == make_identity()
    assert manifest.records == 6
    assert [(e.shard, e.records, e.masked_positions, e.tokens) for e in manifest.shards] == [
        (0, 3, 9, 39),
        (1, 3, 9, 39),
    ]
    for entry in manifest.shards:
        check_shard(tmp_path, entry)
        for i, record in enumerate(read_records(tmp_path, entry.shard, LAYOUT)):
            assert_same(record, make_record(seed=10 * entry.shard + i))


def test_the_manifest_hash_is_of_identity_and_content(tmp_path):
    for name in ("one", "two"):
        write_folder(tmp_path / name)
    write_folder(tmp_path / "other_seed", seed=4)
    write_folder(tmp_path / "other_content")
    write_shard(tmp_path / "other_content", 1, [make_record(seed=99)], LAYOUT)
    hashes = {name: read_manifest(tmp_path / name).hash for name in ("one", "two", "other_seed", "other_content")}
    assert hashes["one"] == hashes["two"]
    assert len(set(hashes.values())) == 3


def test_an_unfinished_folder_is_refused_by_the_first_shard_that_is_missing(tmp_path):
    write_folder(tmp_path, shards=3, documents=35)
    (tmp_path / "shard-00001.json").unlink()
    with pytest.raises(RecordError, match=r"shard-00001\.json: found 2 finished shards, expected 4"):
        read_manifest(tmp_path).require_complete()


def edited(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda text: text[: len(text) // 2], "found no JSON"),
        (lambda _: "[1, 2]", "missing or unknown"),
        (edited(schema_version=9), r"field schema_version: found 9, expected one of \(1, 2\)"),
        (edited(colour="red"), r"fields \['colour'\] missing or unknown"),
        (lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "rate"}), r"fields \['rate'\]"),
        (edited(k="8"), "field k: found '8', expected int"),
    ],
)
def test_a_bad_manifest_is_refused_by_file_and_field(tmp_path, edit, named):
    write_folder(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(RecordError, match=named) as error:
        read_manifest(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_manifest_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"manifest\.json: not found"):
        read_manifest(tmp_path)


def test_a_shard_is_not_listed_twice_under_another_number(tmp_path):
    write_folder(tmp_path)
    entry = (tmp_path / "shard-00000.json").read_bytes()
    (tmp_path / "shard-00002.json").write_bytes(entry)
    with pytest.raises(RecordError, match=r"shard-00002\.json: field shard: found 0"):
        read_manifest(tmp_path)
    (tmp_path / "shard-00002.json").write_bytes(entry.replace(b'"shard": 0', b'"shard": 2'))
    with pytest.raises(RecordError, match=r"field shard: found 2, expected the number in its name, below 2"):
        read_manifest(tmp_path)


def test_resuming_needs_the_same_identity_and_names_the_field(tmp_path):
    write_folder(tmp_path)
    before = bytes_of(tmp_path)
    assert len(open_for_writing(tmp_path, make_identity()).shards) == 2
    for field, value in {"k": 4, "weights_hash": "zz", "seed": 7, "rate": 0.1, "corpus_hash": "zz"}.items():
        with pytest.raises(RecordError, match=f"field {field}: found .*, expected {value!r}"):
            open_for_writing(tmp_path, make_identity(**{field: value}))
    assert bytes_of(tmp_path) == before


def test_shards_without_a_manifest_are_not_adopted(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RecordError, match="found shards but no manifest"):
        open_for_writing(tmp_path, make_identity())


def visible(folder):
    """What is left but temporary files, which go when their process is dead."""
    return {name: data for name, data in bytes_of(folder).items() if not name.startswith(".")}


class Killed(BaseException):
    pass


def patch_disk(patch, allowed_calls):
    """Every fsync and rename counts; the one after the allowed ones dies before it does anything."""
    calls = []

    def counted(function):
        def call(*arguments, **keywords):
            if len(calls) == allowed_calls:
                raise Killed
            calls.append(function)
            return function(*arguments, **keywords)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (tf.io.gfile, "rename")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
    return calls


def write_missing(folder):
    listed = {entry.shard for entry in read_manifest(folder).shards}
    for shard in sorted({0, 1} - listed):
        write_shard(folder, shard, [make_record(seed=10 * shard + i) for i in range(3)], LAYOUT)


def test_a_shard_is_listed_only_when_it_is_whole_wherever_the_kill_comes(tmp_path, monkeypatch):
    """Dies at the n-th of: sync, rename and sync of the folder, for a shard and for its entry; then runs again."""
    whole = tmp_path / "whole"
    open_for_writing(whole, make_identity())
    with monkeypatch.context() as patch:
        calls = patch_disk(patch, -1)
        write_missing(whole)
    assert len(calls) == 12  # or the loop below would not stop at each of them
    for step in range(12):
        torn = tmp_path / str(step)
        open_for_writing(torn, make_identity())
        with monkeypatch.context() as patch:
            patch_disk(patch, step)
            with pytest.raises(Killed):
                write_missing(torn)
        manifest = read_manifest(torn)
        assert [entry.shard for entry in manifest.shards] == [0] * (step >= 5) + [1] * (step >= 11)
        for entry in manifest.shards:
            check_shard(torn, entry)
        write_missing(torn)
        assert visible(torn) == bytes_of(whole)


def test_a_failure_while_records_are_made_lists_nothing(tmp_path):
    def failing():
        yield make_record()
        raise Killed

    open_for_writing(tmp_path, make_identity())
    with pytest.raises(Killed):
        write_shard(tmp_path, 0, failing(), LAYOUT)
    assert read_manifest(tmp_path).shards == ()
    assert not (tmp_path / "shard-00000.tfrecord").exists()


def flip(path, index):
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: flip(path, 0), "field checksum"),
        (lambda path: flip(path, path.stat().st_size // 2), "field checksum"),
        (lambda path: flip(path, path.stat().st_size - 1), "field checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "field bytes: found"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "field bytes: found"),
        (lambda path: path.unlink(), "not found, expected 3 records"),
    ],
)
def test_check_shard_finds_damage(tmp_path, damage, named):
    write_folder(tmp_path)
    entry = read_manifest(tmp_path).shards[1]
    path = tmp_path / "shard-00001.tfrecord"
    damage(path)
    with pytest.raises(RecordError, match=named) as error:
        check_shard(tmp_path, entry)
    assert str(path) in str(error.value)


def test_shards_and_predictions_are_counted_from_the_identity():
    assert [make_identity(documents=n).num_shards for n in (0, 1, 10, 11)] == [1, 1, 1, 2]
    assert make_identity(max_length=128, max_share=0.2).max_predictions == 25
    assert make_identity(vocabulary_size=65_537).layout.id_bits == 17


def with_gold(seed, words, log_probs):
    return dataclasses.replace(
        make_record(seed=seed), masked_words=words, gold_log_probs=np.array(log_probs, np.float32)
    )


def test_the_manifest_stands_on_disk_as_documented_by_its_dataclasses(tmp_path):
    open_for_writing(epath.Path(tmp_path), make_identity(bytes_per_shard=99, shards=3))
    write_shard(epath.Path(tmp_path), 0, [with_gold(0, 2, [-1.0, -2.0, -0.5])], LAYOUT)
    for name, cls in (("manifest.json", Identity), ("shard-00000.json", ShardEntry)):
        found = json.loads((tmp_path / name).read_text())
        assert set(found) == {field.name for field in dataclasses.fields(cls)} | {"fields_checksum"}
        # As docs/data_format.md says it, with nothing of manifest.py.
        lines = (tmp_path / name).read_text().splitlines(keepends=True)
        others = "".join(line for line in lines if '"fields_checksum"' not in line)
        assert hashlib.blake2b(others.encode(), digest_size=16).hexdigest() == found["fields_checksum"]


def test_an_entry_sums_the_gold_losses_and_the_words_and_the_records_keep_neither(tmp_path):
    open_for_writing(tmp_path, make_identity())
    told = [with_gold(0, 2, [-1.0, -2.0, -0.5]), with_gold(1, 3, [-0.25, -4.0, 0.0])]
    entry = write_shard(tmp_path, 0, told, LAYOUT)
    assert (entry.masked_words, entry.gold_nll_nats) == (5, 7.75)
    plain = write_shard(tmp_path, 1, [make_record(seed=0), make_record(seed=1)], LAYOUT)
    assert (plain.checksum, plain.bytes) == (entry.checksum, entry.bytes)
    assert read_manifest(tmp_path).shards == (entry, plain)


def test_what_is_not_known_of_every_record_is_absent(tmp_path):
    open_for_writing(tmp_path, make_identity())
    half = [with_gold(0, 2, [-1.0, -2.0, -0.5]), dataclasses.replace(make_record(seed=1), masked_words=3)]
    entry = write_shard(tmp_path, 0, half, LAYOUT)
    assert (entry.masked_words, entry.gold_nll_nats) == (5, None)
    assert "gold_nll_nats" not in json.loads((tmp_path / "shard-00000.json").read_text())
    nothing = write_shard(tmp_path, 1, [], LAYOUT)
    assert (nothing.masked_words, nothing.gold_nll_nats) == (0, 0.0)
    assert read_manifest(tmp_path).shards == (entry, nothing)


OLD_MANIFEST = """{
 "corpus": "letters:train", "corpus_hash": "d4", "documents": 20, "documents_per_shard": 10, "draws": 2, "k": 8,
 "language": "en", "log_prob_dtype": "float16", "max_length": 128, "max_share": 0.2, "rate": 0.15, "schema_version": 1,
 "seed": 3, "teacher": "bert", "tokenizer_hash": "c3", "vocabulary_hash": "b2", "vocabulary_size": 1000,
 "weights_hash": "a1", "whole_word": true
}
"""
"""As it was written before there were revisions and gold losses."""
OLD_ENTRY = '{"bytes": 7, "checksum": "0f", "masked_positions": 9, "records": 3, "shard": 0, "tokens": 39}'
OLD_HASH = "6ebe2500dd53d75e897722f03a2fe924"


def test_an_older_folder_stays_readable_and_keeps_its_hash(tmp_path):
    """Checkpoints and finished runs are recognised by the hash."""
    (tmp_path / "manifest.json").write_text(OLD_MANIFEST)
    (tmp_path / "shard-00000.json").write_text(OLD_ENTRY)
    manifest = read_manifest(tmp_path)
    assert manifest.identity == make_identity(revision="", schema_version=1)
    assert (manifest.shards[0].masked_words, manifest.shards[0].gold_nll_nats) == (None, None)
    assert manifest.hash == OLD_HASH
    assert open_for_writing(tmp_path, make_identity()) == manifest  # and it can be continued
    assert (tmp_path / "manifest.json").read_text() == OLD_MANIFEST


def test_another_revision_is_another_folder(tmp_path):
    write_folder(tmp_path, revision="abc")
    manifest = read_manifest(tmp_path)
    assert manifest.identity.revision == "abc"
    assert manifest.hash != dataclasses.replace(manifest, identity=make_identity()).hash
    with pytest.raises(RecordError, match=r"manifest\.json: field revision: found 'abc', expected 'def'"):
        open_for_writing(tmp_path, make_identity(revision="def", weights_hash="zz"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gold_nll_nats": "7"}, r"field gold_nll_nats: found '7', expected float"),
        ({"masked_words": 2.5}, r"field masked_words: found 2\.5, expected int"),
        ({"masked_words": None}, r"field masked_words: found None, expected int"),
    ],
)
def test_a_mistyped_added_field_is_refused(tmp_path, change, named):
    write_folder(tmp_path)
    path = tmp_path / "shard-00000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError, match=named):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "shard-00001.json"])
def test_any_altered_number_or_name_is_noticed(tmp_path, name):
    """Every digit and letter of the values in turn; what is left of it must be refused, and by the file's name."""
    write_folder(tmp_path)
    path = tmp_path / name
    text = path.read_text()
    places = [match.start(1) for match in re.finditer(r'": "?[^,"]*?([0-9a-z])(?=[^,"]*"?,?\n)', text)]
    assert len(places) > 6
    for place in places:
        other = "1" if text[place] != "1" else "2"
        path.write_text(text[:place] + other + text[place + 1 :])
        with pytest.raises(RecordError, match=name) as error:
            read_manifest(tmp_path)
        assert "\n" not in str(error.value)
    path.write_text(text)
    read_manifest(tmp_path)


def test_a_flipped_digit_of_a_count_names_the_file(tmp_path):
    write_folder(tmp_path)
    for name, field in (("manifest.json", "seed"), ("shard-00001.json", "records")):
        path = tmp_path / name
        text = path.read_text()
        path.write_text(text.replace(f'"{field}": 3', f'"{field}": 2'))
        assert path.read_text() != text
        with pytest.raises(RecordError, match=rf"{name}: field fields_checksum: .* one of them was altered"):
            read_manifest(tmp_path)
        path.write_text(text)


OTHER = {str: "other", int: 5, float: 0.25, bool: True}
"""Another value of a field by its type."""
OTHER_OF = {
    "rate": 0.1,
    "replacement": "mask",
    "packing": "document",
    "dtype": "bfloat16",
    "vocabulary_size": 999,
    "shards": 7,
    "whole_word": False,
}
"""And of those that take some values alone."""
FIXED = ("schema_version", "whole_word", "log_prob_dtype")
"""Fields that an identity of this program cannot have otherwise, but a file may."""


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Identity)])
def test_a_folder_of_any_other_identity_is_refused_by_the_field(tmp_path, field):
    """Also of fields that are yet to come: whatever decides the bytes must be compared."""
    write_folder(tmp_path)
    value = getattr(make_identity(), field)
    other = {field: OTHER_OF.get(field, OTHER[type(value)])}
    if field in ("targets", "samples"):
        other = {"targets": "sampled", "samples": 5}
        write_folder(tmp_path / "deep", **({} if field == "targets" else other | {"samples": 4}))
        with pytest.raises(RecordError, match=rf"manifest\.json: field {field}: found .*, expected"):
            open_for_writing(tmp_path / "deep", make_identity(**other))
        return
    if field in FIXED:
        edit = json.loads((tmp_path / "manifest.json").read_text()) | other
        (tmp_path / "manifest.json").write_text(json.dumps(edit))
        other = {}
    changed = dataclasses.replace(make_identity(), **other)
    with pytest.raises(RecordError, match=rf"manifest\.json: field {field}: found .*, expected"):
        open_for_writing(tmp_path, changed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"documents_per_shard": 0}, "documents_per_shard: found 0, expected from 1 to"),
        ({"documents_per_shard": -1}, "documents_per_shard: found -1"),
        ({"documents": -5}, "documents: found -5"),
        ({"documents": 10**400}, "documents: found 1000"),
        ({"bytes_per_shard": 0}, "bytes_per_shard: found 0"),
        ({"shards": 1}, "shards: found 1, expected from 2 to 20 documents"),
        ({"shards": 21}, "shards: found 21"),
        ({"max_length": 0}, "max_length: found 0, expected from 3 to 65535"),
        ({"max_length": 2}, "max_length: found 2"),
        ({"max_length": 10**9}, "max_length: found 1000000000"),
        ({"max_length": 4}, r"max_share: found 0\.2 of sequences of 4 tokens, expected at least one position"),
        ({"max_share": 0.0}, r"max_share: found 0\.0 at a rate of 0\.15"),
        ({"max_share": 10**9}, "max_share: found 1000000000 at"),
        ({"max_share": math.nan}, "max_share: found nan"),
        ({"rate": 0.0}, "max_share: found .* at a rate of 0"),
        ({"rate": math.inf}, "max_share: found .* at a rate of inf"),
        ({"max_count": -1}, "max_count: found -1"),
        ({"draws": 0}, "draws: found 0"),
        ({"draws": 65_537}, "draws: found 65537"),
        ({"seed": 1 << 63}, "seed: found"),
        ({"vocabulary_size": 0}, "vocabulary_size: found 0"),
        ({"vocabulary_size": 1 << 32}, "vocabulary_size: found"),
        ({"k": -1}, "k: found -1, expected from 0 to vocabulary_size=1000"),
        ({"k": 1001}, "k: found 1001"),
        ({"targets": "best"}, r"targets: found 'best', expected one of \('top', 'sampled'\)"),
        ({"targets": "sampled"}, "samples: found 0 of targets 'sampled', expected from 1 to 8"),
        ({"samples": 3}, "samples: found 3 of targets 'top', expected from 0 to 0"),
        ({"packing": "none"}, "packing: found 'none'"),
        ({"dtype": "int8"}, "dtype: found 'int8'"),
        ({"replacement": ""}, "replacement: found ''"),
        ({"whole_word": False}, "whole_word: found False, expected True"),
        ({"log_prob_dtype": "float32"}, "log_prob_dtype: found 'float32', expected 'float16'"),
    ],
)
def test_an_impossible_number_or_name_is_refused_by_the_field(tmp_path, change, told):
    """Whoever writes the file: its checksum is right."""
    fields = {"schema_version": 2, **dataclasses.asdict(make_identity()), **change}
    write_sealed(tmp_path / "manifest.json", fields)
    with pytest.raises(RecordError, match=rf"manifest\.json: field {told}") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"^field {told}"):
        make_identity(**change)


@pytest.mark.parametrize("count", [{"documents": 10**12}, {"documents": 10**12, "shards": 10**12}])
def test_a_folder_of_very_many_shards_is_refused_at_once(tmp_path, count):
    """Neither memory nor time grows with what a manifest claims."""
    write_sealed(tmp_path / "manifest.json", dataclasses.asdict(make_identity(documents_per_shard=1, **count)))
    manifest = read_manifest(tmp_path)
    assert not manifest.complete
    with pytest.raises(RecordError, match=r"shard-00000\.json: found 0 finished shards, expected 1000000000000"):
        manifest.require_complete()


def test_what_the_bounds_of_shards_do_not_change_is_told_as_before(tmp_path):
    """Folders whose shards end by number of documents have the bytes and the hash that they always had."""
    write_folder(tmp_path)
    assert not {"bytes_per_shard", "shards"} & set(json.loads((tmp_path / "manifest.json").read_text()))
    write_folder(tmp_path / "bytes", bytes_per_shard=99)
    assert json.loads((tmp_path / "bytes/manifest.json").read_text())["bytes_per_shard"] == 99
    whole, other = read_manifest(tmp_path), read_manifest(tmp_path / "bytes")
    assert whole.hash != other.hash


def test_as_many_shards_as_the_manifest_tells_make_a_folder_complete(tmp_path):
    open_for_writing(tmp_path, make_identity(shards=7))
    for shard in range(5):
        write_shard(tmp_path, shard, [make_record(seed=shard)], LAYOUT)
    assert read_manifest(tmp_path).missing == (5, 6)
    write_shard(tmp_path, 6, [make_record()], LAYOUT)
    with pytest.raises(RecordError, match=r"shard-00005\.json: found 6 finished shards, expected 7"):
        read_manifest(tmp_path).require_complete()
    write_shard(tmp_path, 5, [make_record()], LAYOUT)
    assert read_manifest(tmp_path).require_complete().identity.num_shards == 7


def test_the_names_that_a_manifest_may_hold_are_those_that_the_stages_take():
    assert _NAMES["replacement"] == REPLACEMENTS
    assert _NAMES["packing"] == PACKINGS
    assert _NAMES["targets"] == TARGETS
    assert set(_NAMES["dtype"]) == set(DTYPES)


def some_records(shard):
    return [make_record(seed=10 * shard + i) for i in range(3)]


def test_what_is_listed_first_stands(tmp_path):
    """Another process listed the shard while this one was writing it, from a teacher on other hardware."""
    manifest = open_for_writing(tmp_path, make_identity())

    def overtaken():
        yield make_record(seed=77)
        write_shard(tmp_path, 0, some_records(0), LAYOUT)

    entry = add_shard(manifest, 0, overtaken())
    assert read_manifest(tmp_path).shards == (entry,)
    assert entry.records == 3
    check_shard(tmp_path, entry)
    assert sorted(bytes_of(tmp_path)) == ["manifest.json", "shard-00000.json", "shard-00000.tfrecord"]


def test_a_folder_that_became_another_gets_no_shard(tmp_path):
    """Where a folder has no lock, two processes may both find it empty."""
    manifest = open_for_writing(tmp_path, make_identity())
    (tmp_path / "manifest.json").unlink()
    open_for_writing(tmp_path, make_identity(seed=4))
    with pytest.raises(RecordError, match=r"manifest\.json: field seed: found 4, expected 3"):
        add_shard(manifest, 0, some_records(0))
    assert sorted(bytes_of(tmp_path)) == ["manifest.json"]


def fail_at(patch, number):
    """From its n-th call on, every use of the disk finds it full."""
    calls = []

    def counted(function, error):
        def call(*arguments, **keywords):
            calls.append(function)
            if len(calls) > number >= 0:
                raise error
            return function(*arguments, **keywords)

        return call

    full = OSError(errno.ENOSPC, "No space left on device")
    full_in_tensorflow = tf.errors.ResourceExhaustedError(None, None, "/x/.y.tmp; No space left on device")
    for owner, name in ((os, "fsync"), (os, "replace"), (type(epath.Path()), "write_bytes")):
        patch.setattr(owner, name, counted(getattr(owner, name), full))
    for name in ("write", "close"):
        owner = tf.io.TFRecordWriter
        patch.setattr(owner, name, counted(getattr(owner, name), full_in_tensorflow))
    return calls


def test_a_full_disk_is_named_and_nothing_is_listed(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    manifest = open_for_writing(whole, make_identity())
    with monkeypatch.context() as patch:
        calls = fail_at(patch, -1)
        add_shard(manifest, 0, some_records(0))
    assert len(calls) == 3 + 1 + 6 + 1  # records, close, syncs and renames, the entry
    for number in range(len(calls) - 1):  # the last call syncs the name of an entry that stands already
        folder = tmp_path / str(number)
        manifest = open_for_writing(folder, make_identity())
        with monkeypatch.context() as patch:
            fail_at(patch, number)
            with pytest.raises(RecordError, match=r"shard-00000\.tfrecord: found 'No space left on device'") as error:
                add_shard(manifest, 0, some_records(0))
        assert "\n" not in str(error.value)
        assert read_manifest(folder).shards == ()
        assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
        add_shard(manifest, 0, some_records(0))
        assert bytes_of(folder) == bytes_of(whole)


@contextlib.contextmanager
def largest_file(size):
    """The system refuses to let any file grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_system_cuts_off_is_named_and_not_listed(tmp_path):
    """The real failure, of a write, and of the last one as the file is closed."""
    manifest = open_for_writing(tmp_path, make_identity())
    for count, limit in ((1000, 100_000), (50, 4_000)):
        with largest_file(limit), pytest.raises(RecordError, match=r"00000\.tfrecord: found 'File too large'"):
            add_shard(manifest, 0, [make_record(seed=i, length=100) for i in range(count)])
        assert sorted(bytes_of(tmp_path)) == ["manifest.json"]
    add_shard(manifest, 0, some_records(0))
    assert len(read_manifest(tmp_path).shards) == 1


def test_a_writer_that_loses_bytes_without_a_word_is_noticed(tmp_path, monkeypatch):
    manifest = open_for_writing(tmp_path, make_identity())
    write = tf.io.TFRecordWriter.write
    with monkeypatch.context() as patch:
        patch.setattr(tf.io.TFRecordWriter, "write", lambda writer, data: write(writer, data[:-1]))
        with pytest.raises(RecordError, match=r"field bytes: found \d+ after it was written, expected"):
            add_shard(manifest, 0, some_records(0))
    assert sorted(bytes_of(tmp_path)) == ["manifest.json"]


def test_shards_are_read_once_in_a_process_and_again_when_they_changed(tmp_path, monkeypatch):
    write_folder(tmp_path)
    manifest = read_manifest(tmp_path)
    read = []
    checksum = shards.file_checksum
    monkeypatch.setattr(shards, "file_checksum", lambda path: read.append(path.name) or checksum(path))
    manifest.require_undamaged()
    manifest.require_undamaged()
    names = ["shard-00000.tfrecord", "shard-00001.tfrecord"]
    assert sorted(read) == sorted(2 * names)  # too young for a change to show in its times
    monkeypatch.setattr(shards, "SETTLED_NS", -1)
    for expected in (names, [], []):
        read.clear()
        manifest.require_undamaged()
        assert sorted(read) == expected
    path = tmp_path / names[1]
    times = path.stat()
    flip(path, 5)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the time of the change of its times stays true
    with pytest.raises(RecordError, match=r"shard-00001\.tfrecord: field checksum"):
        manifest.require_undamaged()
    assert read == names[1:]
    flip(path, 5)
    manifest.require_undamaged()
    path.write_bytes(b"")
    with pytest.raises(RecordError, match=r"shard-00001\.tfrecord: field bytes: found 0"):
        manifest.require_undamaged()


def test_shards_that_are_missing_are_told(tmp_path):
    write_folder(tmp_path, documents=45)
    manifest = read_manifest(tmp_path)
    assert (manifest.missing, manifest.complete) == ((2, 3, 4), False)
    write_folder(tmp_path / "whole")
    assert (read_manifest(tmp_path / "whole").missing, read_manifest(tmp_path / "whole").complete) == ((), True)
