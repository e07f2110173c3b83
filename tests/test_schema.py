import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from mergedistill_jax import schema
from mergedistill_jax.schema import Identity, Record, RecordError, ShardEntry


def make_record(length=13, masked=3, k=8, largest=999, seed=0, draw=0):
    generator = np.random.default_rng(seed)
    positions = np.sort(generator.choice(length, masked, replace=False)).astype(np.int32)
    log_probs = -np.sort(generator.exponential(2.0, (masked, k)), axis=1)
    record = Record(
        text_id=generator.bytes(8),
        draw=draw,
        input_ids=generator.integers(0, largest + 1, length).astype(np.int32),
        masked_positions=positions,
        gold_ids=generator.integers(0, largest + 1, masked).astype(np.int32),
        top_ids=generator.integers(0, largest + 1, (masked, k)).astype(np.int32),
        top_log_probs=log_probs.astype(np.float16).astype(np.float32),
    )
    record.input_ids[-1] = largest  # the largest id stands in every field that can hold one
    if masked:
        record.gold_ids[-1] = largest
    if masked and k:
        record.top_ids[-1, -1] = largest
    return record


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


def assert_same(found, expected):
    for field in dataclasses.fields(Record):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


SHAPES = [(13, 3), (8, 1), (9, 9), (16, 0), (1, 0), (128, 19)]


@pytest.mark.parametrize("k", [0, 8])
@pytest.mark.parametrize(("width", "largest"), [(2, 65_535), (3, 65_536), (3, 131_072), (3, 2**24 - 1)])
def test_numpy_and_tensorflow_read_back_what_was_encoded(width, largest, k):
    parse = tf.function(lambda serialized: schema.parse_record(serialized, k=k, width=width))
    for seed, (length, masked) in enumerate(SHAPES):
        record = make_record(length, masked, k, largest, seed=seed, draw=65_535 - seed)
        serialized = schema.encode_record(record, width)
        assert_same(schema.decode_record(serialized, k=k, width=width), record)
        for name, value in parse(tf.constant(serialized)).items():
            np.testing.assert_array_equal(value.numpy(), getattr(record, name), err_msg=name)
            assert value.dtype == (tf.float32 if name == "top_log_probs" else tf.int32)


def test_the_width_follows_the_vocabulary_and_larger_ids_are_refused():
    assert [schema.id_bytes(size) for size in (1, 65_536, 65_537, 2**24)] == [2, 2, 3, 3]
    with pytest.raises(ValueError, match="16777217, expected at most 16777216"):
        schema.id_bytes(2**24 + 1)
    with pytest.raises(ValueError, match="found 65536, expected below 65536"):
        schema.encode_record(make_record(largest=65_536), 2)
    with pytest.raises(ValueError, match="found 16777216, expected below 16777216"):
        schema.encode_record(make_record(largest=2**24), 3)
    with pytest.raises(ValueError, match="expected below"):  # -1 must not come back as a valid id
        schema.pack_ids(np.array([-1], np.int32), 3)


@pytest.mark.parametrize(("k", "width"), [(8, 2), (0, 2), (8, 3)])
def test_plain_tensorflow_reads_the_layout_as_documented(tmp_path, k, width):
    """Nothing of schema.py on the reading side: the docstring alone."""
    record = make_record(21, 4, k, seed=5, draw=258)
    schema.write_shard(tmp_path, 0, [record], width)
    names = ["head", "input", "labels"] + ["log_probs"] * (k > 0)
    spec = {name: tf.io.FixedLenFeature((), tf.string) for name in names}
    (serialized,) = tf.data.TFRecordDataset(str(tmp_path / "shard-00000.tfrecord"))
    raw = {name: value.numpy() for name, value in tf.io.parse_single_example(serialized, spec).items()}
    assert set(tf.train.Example.FromString(serialized.numpy()).features.feature) == set(names)

    def ids(data):
        return [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]

    assert ids(raw["input"]) == record.input_ids.tolist()
    assert raw["head"][:8] == record.text_id
    assert raw["head"][8:10] == bytes([2, 1])  # 258, little-endian
    bits = [raw["head"][10 + i // 8] >> (i % 8) & 1 for i in range(21)]
    assert [i for i, bit in enumerate(bits) if bit] == record.masked_positions.tolist()
    rows = np.array(ids(raw["labels"])).reshape(4, 1 + k)
    np.testing.assert_array_equal(rows[:, 0], record.gold_ids)
    np.testing.assert_array_equal(rows[:, 1:], record.top_ids)
    if k:
        np.testing.assert_array_equal(
            np.frombuffer(raw["log_probs"], "<f2").reshape(4, k), record.top_log_probs.astype(np.float16)
        )


def test_equal_records_are_equal_bytes():
    record = make_record()
    assert schema.encode_record(record, 2) == schema.encode_record(dataclasses.replace(record), 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f.pop("labels"), "record fields"),
        (lambda f: f["labels"].bytes_list.ClearField("value"), "record fields"),
        (lambda f: f["log_probs"].bytes_list.value.__setitem__(0, b"\x00" * 6), "record log_probs: found 3"),
        (lambda f: f["labels"].bytes_list.value.__setitem__(0, b"\x00" * 6), "record labels: found 6 bytes"),
        (lambda f: f["input"].bytes_list.value.__setitem__(0, b"\x00" * 6), "record head"),
        (lambda f: f["input"].bytes_list.value.__setitem__(0, b"\x00" * 7), "record head and input"),
        (lambda f: f["head"].bytes_list.value.__setitem__(0, b"\x00" * 9), "record head and input"),
    ],
)
def test_contradicting_fields_are_refused(change, named):
    example = tf.train.Example.FromString(schema.encode_record(make_record(masked=3), 2))
    change(example.features.feature)
    with pytest.raises(RecordError, match=named):
        schema.decode_record(example.SerializeToString(), k=8, width=2)


def test_bytes_that_are_no_example_are_refused():
    with pytest.raises(RecordError, match=r"no tf\.train\.Example"):
        schema.decode_record(b"\xff\xff\xff", k=8, width=2)


@pytest.mark.parametrize(
    ("length", "width", "measured", "budget"),
    [
        (512, 2, 7.44, 8.0),  # DESIGN.md's budgets
        (512, 3, 9.79, 10.0),
        # 121 bytes of framing, head and mask bits weigh 0.9 bytes a token here: a little beyond the budgets.
        (128, 2, 8.10, 8.25),
        (128, 3, 10.46, 10.75),
    ],
)
def test_bytes_per_corpus_token(tmp_path, length, width, measured, budget):
    """Every byte on disk, manifest apart, over the tokens of text ([CLS] and [SEP] are not), 15 % of them masked."""
    corpus_tokens, masked, records = 0, 0, []
    for seed in range(200):
        masked_here = round(0.15 * (length - 2) * (seed + 1)) - masked  # 15 % over all, not rounded for each
        records.append(make_record(length, masked_here, seed=seed))
        corpus_tokens, masked = corpus_tokens + length - 2, masked + masked_here
    entry = schema.write_shard(tmp_path, 0, records, width)
    assert masked == entry.masked_positions == pytest.approx(0.15 * corpus_tokens, abs=1)
    assert (tmp_path / "shard-00000.tfrecord").stat().st_size == entry.bytes
    assert entry.bytes / corpus_tokens == pytest.approx(measured, abs=0.01)
    assert entry.bytes / corpus_tokens <= budget


def write_folder(folder, shards=2, **changes):
    manifest = schema.open_for_writing(folder, make_identity(**changes))
    for shard in range(shards):
        schema.write_shard(folder, shard, [make_record(seed=10 * shard + i) for i in range(3)], 2)
    return manifest


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_finished_folder_reads_back_with_its_counts(tmp_path):
    write_folder(tmp_path)
    manifest = schema.read_manifest(tmp_path).require_complete()
    assert manifest.identity == make_identity()
    assert manifest.records == 6
    assert [(e.shard, e.records, e.masked_positions, e.tokens) for e in manifest.shards] == [
        (0, 3, 9, 39),
        (1, 3, 9, 39),
    ]
    for entry in manifest.shards:
        schema.check_shard(tmp_path, entry)
        for i, record in enumerate(schema.read_records(tmp_path, entry.shard, k=8, width=2)):
            assert_same(record, make_record(seed=10 * entry.shard + i))


def test_the_manifest_hash_is_of_identity_and_content(tmp_path):
    for name in ("one", "two"):
        write_folder(tmp_path / name)
    write_folder(tmp_path / "other_seed", seed=4)
    write_folder(tmp_path / "other_content")
    schema.write_shard(tmp_path / "other_content", 1, [make_record(seed=99)], 2)
    hashes = {
        name: schema.read_manifest(tmp_path / name).hash for name in ("one", "two", "other_seed", "other_content")
    }
    assert hashes["one"] == hashes["two"]
    assert len(set(hashes.values())) == 3


def test_an_unfinished_folder_is_refused_by_the_first_shard_that_is_missing(tmp_path):
    write_folder(tmp_path, shards=3, documents=35)
    (tmp_path / "shard-00001.json").unlink()
    with pytest.raises(RecordError, match=r"shard-00001\.json: found 2 finished shards, expected 4"):
        schema.read_manifest(tmp_path).require_complete()


def edited(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda text: text[: len(text) // 2], "found no JSON"),
        (lambda _: "[1, 2]", "missing or unknown"),
        (edited(schema_version=2), "field schema_version: found 2, expected 1"),
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
        schema.read_manifest(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_manifest_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"manifest\.json: not found"):
        schema.read_manifest(tmp_path)


def test_a_shard_is_not_listed_twice_under_another_number(tmp_path):
    write_folder(tmp_path)
    entry = (tmp_path / "shard-00000.json").read_bytes()
    (tmp_path / "shard-00002.json").write_bytes(entry)
    with pytest.raises(RecordError, match=r"shard-00002\.json: field shard: found 0"):
        schema.read_manifest(tmp_path)
    (tmp_path / "shard-00002.json").write_bytes(entry.replace(b'"shard": 0', b'"shard": 2'))
    with pytest.raises(RecordError, match=r"field shard: found 2, expected the number in its name, below 2"):
        schema.read_manifest(tmp_path)


def test_resuming_needs_the_same_identity_and_names_the_field(tmp_path):
    write_folder(tmp_path)
    before = bytes_of(tmp_path)
    assert len(schema.open_for_writing(tmp_path, make_identity()).shards) == 2
    for field, value in {"k": 4, "weights_hash": "zz", "seed": 7, "rate": 0.3, "corpus_hash": "zz"}.items():
        with pytest.raises(RecordError, match=f"field {field}: found .*, expected {value!r}"):
            schema.open_for_writing(tmp_path, make_identity(**{field: value}))
    assert bytes_of(tmp_path) == before


def test_shards_without_a_manifest_are_not_adopted(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RecordError, match="found shards but no manifest"):
        schema.open_for_writing(tmp_path, make_identity())


def test_what_a_kill_leaves_behind_is_not_listed_and_not_kept(tmp_path):
    """Temporary files of every kind, and a shard under its name but without its entry."""
    write_folder(tmp_path / "whole")
    torn = tmp_path / "torn"
    write_folder(torn, shards=1)
    for name in (".manifest.json.tmp", ".shard-00001.tfrecord.tmp", ".shard-00001.json.tmp", "shard-00001.tfrecord"):
        (torn / name).write_bytes(b"half a fi")
    assert [entry.shard for entry in schema.read_manifest(torn).shards] == [0]
    schema.open_for_writing(torn, make_identity())
    schema.write_shard(torn, 1, [make_record(seed=10 + i) for i in range(3)], 2)
    left, whole = bytes_of(torn), bytes_of(tmp_path / "whole")
    assert {name: left[name] for name in whole} == whole
    assert set(left) - set(whole) == {".manifest.json.tmp"}


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
    listed = {entry.shard for entry in schema.read_manifest(folder).shards}
    for shard in sorted({0, 1} - listed):
        schema.write_shard(folder, shard, [make_record(seed=10 * shard + i) for i in range(3)], 2)


def test_a_shard_is_listed_only_when_it_is_whole_wherever_the_kill_comes(tmp_path, monkeypatch):
    """Dies at the n-th of: fsync and rename of a shard, fsync and rename of its entry; then runs again."""
    whole = tmp_path / "whole"
    schema.open_for_writing(whole, make_identity())
    with monkeypatch.context() as patch:
        calls = patch_disk(patch, -1)
        write_missing(whole)
    assert len(calls) == 8  # or the loop below would not stop at each of them
    for step in range(8):
        torn = tmp_path / str(step)
        schema.open_for_writing(torn, make_identity())
        with monkeypatch.context() as patch:
            patch_disk(patch, step)
            with pytest.raises(Killed):
                write_missing(torn)
        manifest = schema.read_manifest(torn)
        assert [entry.shard for entry in manifest.shards] == [0] * (step >= 4)
        for entry in manifest.shards:
            schema.check_shard(torn, entry)
        write_missing(torn)
        assert bytes_of(torn) == bytes_of(whole)


def test_a_failure_while_records_are_made_lists_nothing(tmp_path):
    def failing():
        yield make_record()
        raise Killed

    schema.open_for_writing(tmp_path, make_identity())
    with pytest.raises(Killed):
        schema.write_shard(tmp_path, 0, failing(), 2)
    assert schema.read_manifest(tmp_path).shards == ()
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
    entry = schema.read_manifest(tmp_path).shards[1]
    path = tmp_path / "shard-00001.tfrecord"
    damage(path)
    with pytest.raises(RecordError, match=named) as error:
        schema.check_shard(tmp_path, entry)
    assert str(path) in str(error.value)


def test_shards_and_predictions_are_counted_from_the_identity():
    assert [make_identity(documents=n).num_shards for n in (0, 1, 10, 11)] == [1, 1, 1, 2]
    assert make_identity(max_length=128, max_share=0.2).max_predictions == 25
    assert make_identity(vocabulary_size=65_537).id_bytes == 3


def with_gold(seed, words, log_probs):
    return dataclasses.replace(
        make_record(seed=seed), masked_words=words, gold_log_probs=np.array(log_probs, np.float32)
    )


def test_the_manifest_stands_on_disk_as_documented_by_its_dataclasses(tmp_path):
    schema.open_for_writing(epath.Path(tmp_path), make_identity())
    schema.write_shard(epath.Path(tmp_path), 0, [with_gold(0, 2, [-1.0, -2.0, -0.5])], 2)
    assert set(json.loads((tmp_path / "manifest.json").read_text())) == {f.name for f in dataclasses.fields(Identity)}
    assert set(json.loads((tmp_path / "shard-00000.json").read_text())) == {
        f.name for f in dataclasses.fields(ShardEntry)
    }


def test_an_entry_sums_the_gold_losses_and_the_words_and_the_records_keep_neither(tmp_path):
    schema.open_for_writing(tmp_path, make_identity())
    told = [with_gold(0, 2, [-1.0, -2.0, -0.5]), with_gold(1, 3, [-0.25, -4.0, 0.0])]
    entry = schema.write_shard(tmp_path, 0, told, 2)
    assert (entry.masked_words, entry.gold_nll_nats) == (5, 7.75)
    plain = schema.write_shard(tmp_path, 1, [make_record(seed=0), make_record(seed=1)], 2)
    assert (plain.checksum, plain.bytes) == (entry.checksum, entry.bytes)
    assert schema.read_manifest(tmp_path).shards == (entry, plain)


def test_what_is_not_known_of_every_record_is_absent(tmp_path):
    schema.open_for_writing(tmp_path, make_identity())
    half = [with_gold(0, 2, [-1.0, -2.0, -0.5]), dataclasses.replace(make_record(seed=1), masked_words=3)]
    entry = schema.write_shard(tmp_path, 0, half, 2)
    assert (entry.masked_words, entry.gold_nll_nats) == (5, None)
    assert "gold_nll_nats" not in json.loads((tmp_path / "shard-00000.json").read_text())
    nothing = schema.write_shard(tmp_path, 1, [], 2)
    assert (nothing.masked_words, nothing.gold_nll_nats) == (0, 0.0)
    assert schema.read_manifest(tmp_path).shards == (entry, nothing)


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
    manifest = schema.read_manifest(tmp_path)
    assert manifest.identity == make_identity(revision="")
    assert (manifest.shards[0].masked_words, manifest.shards[0].gold_nll_nats) == (None, None)
    assert manifest.hash == OLD_HASH
    assert schema.open_for_writing(tmp_path, make_identity()) == manifest  # and it can be continued
    assert (tmp_path / "manifest.json").read_text() == OLD_MANIFEST


def test_another_revision_is_another_folder(tmp_path):
    write_folder(tmp_path, revision="abc")
    manifest = schema.read_manifest(tmp_path)
    assert manifest.identity.revision == "abc"
    assert manifest.hash != dataclasses.replace(manifest, identity=make_identity()).hash
    with pytest.raises(RecordError, match=r"manifest\.json: field revision: found 'abc', expected 'def'"):
        schema.open_for_writing(tmp_path, make_identity(revision="def", weights_hash="zz"))


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
        schema.read_manifest(tmp_path)
