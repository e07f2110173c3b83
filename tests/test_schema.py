import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mergedistill_jax import schema
from mergedistill_jax.manifest import check_shard, open_for_writing, read_manifest, read_records, write_shard
from mergedistill_jax.schema import Layout, Record, RecordError

LAYOUT = Layout(k=8, vocabulary_size=1000)


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


def assert_same(found, expected):
    for field in dataclasses.fields(Record):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name), err_msg=field.name)


SHAPES = [(13, 3), (8, 1), (9, 9), (16, 0), (1, 0), (17, 16), (128, 19)]
SIZES = [2, 1000, 65_536, 65_537, 131_072, 131_073, 250_002, 2**24]


@pytest.mark.parametrize("k", [0, 1, 8])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", schema.VERSIONS)
def test_numpy_and_tensorflow_read_back_what_was_encoded(version, size, k):
    layout = Layout(k=k, vocabulary_size=size, version=version)
    parse = tf.function(lambda serialized: schema.parse_record(serialized, layout))
    for seed, (length, masked) in enumerate(SHAPES):
        record = make_record(length, masked, k, size - 1, seed=seed, draw=65_535 - seed)
        serialized = schema.encode_record(record, layout)
        assert_same(schema.decode_record(serialized, layout), record)
        for name, value in parse(tf.constant(serialized)).items():
            np.testing.assert_array_equal(value.numpy(), getattr(record, name), err_msg=name)
            assert value.dtype == (tf.float32 if name == "top_log_probs" else tf.int32)


def test_every_id_of_eighteen_bits_comes_back():
    """All of them, so every bit in every place; the masked half of them as gold ids too."""
    layout = Layout(k=0, vocabulary_size=1 << 18)
    for part in np.arange(1 << 18, dtype=np.int32).reshape(8, -1):
        positions = np.arange(0, len(part), 2, dtype=np.int32)
        nothing = np.zeros((len(positions), 0))
        record = Record(
            text_id=b"12345678",
            draw=0,
            input_ids=part,
            masked_positions=positions,
            gold_ids=part[::-2].copy(),
            top_ids=nothing.astype(np.int32),
            top_log_probs=nothing.astype(np.float32),
        )
        assert_same(schema.decode_record(schema.encode_record(record, layout), layout), record)


def test_the_bits_of_an_id_follow_the_vocabulary_and_larger_ids_are_refused():
    assert [Layout(k=8, vocabulary_size=size).id_bits for size in SIZES] == [16, 16, 16, 17, 17, 18, 18, 24]
    assert [Layout(k=8, vocabulary_size=size, version=1).id_bits for size in SIZES] == [16] * 3 + [24] * 5
    with pytest.raises(ValueError, match="16777217, expected from 1 to 16777216"):
        Layout(k=8, vocabulary_size=2**24 + 1, version=1)
    with pytest.raises(ValueError, match="schema version: found 3, expected one of"):
        Layout(k=8, vocabulary_size=10, version=3)
    for version in schema.VERSIONS:
        for size in (65_536, 2**24):
            layout = Layout(k=8, vocabulary_size=size, version=version)
            with pytest.raises(ValueError, match=f"found {size}, expected from 0 and below {size}"):
                schema.encode_record(make_record(largest=size), layout)
        negative = dataclasses.replace(make_record(), gold_ids=np.array([5, -1, 7], np.int32))
        with pytest.raises(ValueError, match="found -1, expected from 0"):  # it must not come back as a valid id
            schema.encode_record(negative, Layout(k=8, vocabulary_size=1000, version=version))


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (make_record(length=65_536), r"found \(0, 65536, 3\), expected at most 65535"),
        (make_record(draw=65_536), r"found \(65536, 13, 3\), expected at most 65535"),
        (make_record(k=4), "found 4 candidates, expected k=8"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(record, named):
    with pytest.raises(ValueError, match=named):
        schema.encode_record(record, LAYOUT)


def test_equal_records_are_equal_bytes():
    record = make_record()
    assert schema.encode_record(record, LAYOUT) == schema.encode_record(dataclasses.replace(record), LAYOUT)


def test_the_bytes_are_what_they_were():
    """A golden, worked by hand from the description: 5 tokens, 1 masked, k = 2, 17 bits an id."""
    record = Record(
        text_id=b"textname",
        draw=258,
        input_ids=np.array([2, 65_536 + 7, 4, 9, 3], np.int32),
        masked_positions=np.array([2], np.int32),
        gold_ids=np.array([65_535], np.int32),
        top_ids=np.array([[65_536, 11]], np.int32),
        top_log_probs=np.array([[-0.5, -2.0]], np.float32),
    )
    words = [
        *(258, 5, 1),  # draw, l, m
        *(2, 7, 4, 9, 3),  # the input's low words
        *(65_535, 0, 11),  # gold, candidates
        *(0xB800, 0xC000),  # -0.5 and -2 in half precision
        0b00100,  # the third position is masked
        0b01000010,  # ids 1 (of the input) and 6 (the first candidate) have bit 16
    ]
    payload = b"textname" + b"".join(word.to_bytes(2, "little") for word in words)
    serialized = schema.encode_record(record, Layout(k=2, vocabulary_size=70_000))
    assert serialized.endswith(payload)
    assert len(serialized) == len(payload) + 13  # of protocol buffers, one byte more per length of 128 and more
    example = tf.train.Example.FromString(serialized)
    assert example.features.feature["r"].bytes_list.value == [payload]


def words_changed(changes):
    def change(features):
        words = np.frombuffer(features["r"].bytes_list.value[0], "<u2").copy()
        for index, value in changes.items():
            words[index] = value
        features["r"].bytes_list.value[0] = words.tobytes()

    return change


def cut_to(size):
    return lambda f: f["r"].bytes_list.value.__setitem__(0, f["r"].bytes_list.value[0][:size])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f.pop("r"), "record fields: found"),
        (lambda f: f["r"].bytes_list.ClearField("value"), "record fields: found"),
        (lambda f: f["s"].bytes_list.value.append(b""), "record fields: found"),
        (cut_to(12), "record: found 12 bytes, expected an even number from 14 on"),
        (cut_to(31), "record: found 31 bytes, expected an even number"),
        (cut_to(30), "record: found 15 words, expected 72"),
        (words_changed({5: 12}), "record: found 72 words, expected 71"),
        (words_changed({6: 4}), "record: found 72 words, expected 89"),
        (words_changed({71: 0}), "record mask: found 0 bits set, expected 3 among 13 tokens"),
        (words_changed({71: 0b1010000000000001}), "record mask: found 3 bits set, expected 3 among 13 tokens"),
    ],
)
def test_contradicting_fields_are_refused(change, named):
    example = tf.train.Example.FromString(schema.encode_record(make_record(masked=3), LAYOUT))
    change(example.features.feature)
    with pytest.raises(RecordError, match=named):
        schema.decode_record(example.SerializeToString(), LAYOUT)


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
def test_contradicting_fields_of_version_1_are_refused(change, named):
    layout = Layout(k=8, vocabulary_size=1000, version=1)
    example = tf.train.Example.FromString(schema.encode_record(make_record(masked=3), layout))
    change(example.features.feature)
    with pytest.raises(RecordError, match=named):
        schema.decode_record(example.SerializeToString(), layout)


@pytest.mark.parametrize("version", schema.VERSIONS)
def test_bytes_that_are_no_example_are_refused(version):
    with pytest.raises(RecordError, match=r"no tf\.train\.Example"):
        schema.decode_record(b"\xff\xff\xff", Layout(k=8, vocabulary_size=10, version=version))


def test_the_other_version_is_refused():
    for version, other in ((1, 2), (2, 1)):
        serialized = schema.encode_record(make_record(), Layout(k=8, vocabulary_size=1000, version=version))
        with pytest.raises(RecordError, match="record fields: found"):
            schema.decode_record(serialized, Layout(k=8, vocabulary_size=1000, version=other))


def test_an_older_folder_is_continued_in_its_version(tmp_path, identity_of_version_1):
    """As a program of version 1 left it: one shard of two."""
    records = [make_record(seed=i) for i in range(3)]
    open_for_writing(tmp_path, identity_of_version_1)
    write_shard(tmp_path, 0, records, identity_of_version_1.layout)
    today = dataclasses.replace(identity_of_version_1, schema_version=schema.SCHEMA_VERSION)
    manifest = open_for_writing(tmp_path, today)
    assert manifest.identity == identity_of_version_1
    write_shard(tmp_path, 1, records, manifest.identity.layout)
    manifest = read_manifest(tmp_path).require_complete()
    first, second = manifest.shards
    assert (first.checksum, first.bytes) == (second.checksum, second.bytes)
    for entry in manifest.shards:
        check_shard(tmp_path, entry)
        for found, expected in zip(read_records(tmp_path, entry.shard, manifest.identity.layout), records, strict=True):
            assert_same(found, expected)


@pytest.fixture
def identity_of_version_1():
    from test_manifest import make_identity  # noqa: PLC0415 - it imports from here

    return make_identity(schema_version=1)


BUDGETS = [
    # l, tokens of the vocabulary, bytes measured, DESIGN.md's budget
    (128, 65_536, 7.64, 8.0),
    (512, 65_536, 7.33, 8.0),
    (128, 119_547, 7.94, 10.0),  # mBERT
    (512, 119_547, 7.62, 10.0),
    (128, 250_002, 8.25, 10.0),  # XLM-R
    (512, 250_002, 7.92, 10.0),
    (128, 1 << 20, 8.85, 10.0),
    (512, 1 << 20, 8.51, 10.0),
]


@pytest.mark.parametrize(("length", "size", "measured", "budget"), BUDGETS)
def test_bytes_per_corpus_token(tmp_path, length, size, measured, budget):
    """Every byte on disk, manifest apart, over the tokens of text ([CLS] and [SEP] are not), 15 % of them masked."""
    corpus_tokens, masked, records = 0, 0, []
    for seed in range(200):
        masked_here = round(0.15 * (length - 2) * (seed + 1)) - masked  # 15 % over all, not rounded for each
        records.append(make_record(length, masked_here, seed=seed))
        corpus_tokens, masked = corpus_tokens + length - 2, masked + masked_here
    entry = write_shard(tmp_path, 0, records, Layout(k=8, vocabulary_size=size))
    assert masked == entry.masked_positions == pytest.approx(0.15 * corpus_tokens, abs=1)
    assert (tmp_path / "shard-00000.tfrecord").stat().st_size == entry.bytes
    assert entry.bytes / corpus_tokens == pytest.approx(measured, abs=0.01)
    assert entry.bytes / corpus_tokens <= budget
