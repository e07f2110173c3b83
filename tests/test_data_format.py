"""docs/data_format.md is enough to read a folder: nothing of the package but what writes is used here.

The readers below follow the document's tables, with json and plain TensorFlow operations.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import TEXTS
from test_manifest import make_identity
from test_schema import make_record

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.manifest import open_for_writing, write_shard
from mergedistill_jax.predict import predict
from tasks import corpora

DOCUMENT = (Path(__file__).parents[1] / "docs/data_format.md").read_text()
NO_MASS = -65504.0
MASKING = MaskingConfig(rate=0.25, cover=True, replacement="mask", max_count=6)


def read_folder(folder):
    """Every record of a finished folder as a dict, by the document alone."""
    manifest = json.loads((folder / "manifest.json").read_text())
    read = {1: read_version_1, 2: read_version_2}[manifest["schema_version"]]
    shards = math.ceil(manifest["documents"] / manifest["documents_per_shard"])
    for shard in range(shards):
        entry = json.loads((folder / f"shard-{shard:05d}.json").read_text())
        serialized = list(tf.data.TFRecordDataset(str(folder / f"shard-{shard:05d}.tfrecord")))
        assert len(serialized) == entry["records"]
        for one in serialized:
            yield read(one, manifest["k"], manifest["vocabulary_size"])


def read_version_2(serialized, k, vocabulary_size):
    data = tf.io.parse_single_example(serialized, {"r": tf.io.FixedLenFeature((), tf.string)})["r"]
    words = tf.io.decode_raw(data, tf.uint16).numpy().astype(int)
    length, count = words[5], words[6]
    number = length + count * (1 + k)
    planes = max(0, (vocabulary_size - 1).bit_length() - 16)
    starts = np.cumsum([7, number, count * k, math.ceil(length / 16), planes * math.ceil(number / 16)])
    assert starts[-1] == len(words)

    def bit(first, index):
        return words[first + index // 16] >> (index % 16) & 1

    ids = words[7 : starts[1]].copy()
    for plane in range(planes):
        first = starts[3] + plane * math.ceil(number / 16)
        ids += [bit(first, index) << (16 + plane) for index in range(number)]
    labels = ids[length:].reshape(count, 1 + k)
    return {
        "text_id": data.numpy()[:8],
        "draw": words[4],
        "input_ids": ids[:length],
        "masked_positions": [index for index in range(length) if bit(starts[2], index)],
        "gold_ids": labels[:, 0],
        "top_ids": labels[:, 1:],
        "top_log_probs": tf.io.decode_raw(data, tf.float16).numpy()[starts[1] : starts[2]].reshape(count, k),
    }


def read_version_1(serialized, k, vocabulary_size):
    width = 2 if vocabulary_size <= 65_536 else 3
    names = ["head", "input", "labels"] + ["log_probs"] * (k > 0)
    spec = {name: tf.io.FixedLenFeature((), tf.string) for name in names}
    raw = {name: value.numpy() for name, value in tf.io.parse_single_example(serialized, spec).items()}

    def ids(data):
        return np.array([int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)])

    labels = ids(raw["labels"]).reshape(-1, 1 + k)
    length = len(raw["input"]) // width
    return {
        "text_id": raw["head"][:8],
        "draw": int.from_bytes(raw["head"][8:10], "little"),
        "input_ids": ids(raw["input"]),
        "masked_positions": [i for i in range(length) if raw["head"][10 + i // 8] >> (i % 8) & 1],
        "gold_ids": labels[:, 0],
        "top_ids": labels[:, 1:],
        "top_log_probs": np.frombuffer(raw.get("log_probs", b""), "<f2").reshape(len(labels), k),
    }


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("k", [0, 8])
@pytest.mark.parametrize("size", [65_536, 65_537, 250_002])
def test_a_folder_is_read_by_the_document_alone(tmp_path, version, k, size):
    identity = make_identity(schema_version=version, vocabulary_size=size, k=k, documents=2, documents_per_shard=1)
    open_for_writing(tmp_path, identity)
    shapes = [(21, 4), (16, 1), (128, 19), (17, 17), (3, 1)]
    records = [make_record(length, masked, k, size - 1, seed, 258) for seed, (length, masked) in enumerate(shapes)]
    write_shard(tmp_path, 0, records[:2], identity.layout)
    write_shard(tmp_path, 1, records[2:], identity.layout)
    found = list(read_folder(tmp_path))
    assert len(found) == len(records)
    for one, record in zip(found, records, strict=True):
        for name, value in one.items():
            np.testing.assert_array_equal(value, getattr(record, name), err_msg=name)


def test_the_example_of_the_document_is_a_record():
    block = DOCUMENT.split("### A record by hand")[1].split("### Version 1")[0]
    rows = re.findall(r"^    ((?:[0-9a-f]{2} +)+)", block, re.MULTILINE)
    payload = bytes.fromhex("".join(rows))
    example = tf.train.Example()
    example.features.feature["r"].bytes_list.value.append(payload)
    found = read_version_2(tf.constant(example.SerializeToString()), 2, 70_000)
    assert (found["text_id"], found["draw"], found["masked_positions"]) == (b"textname", 258, [2])
    assert found["input_ids"].tolist() == [2, 65_543, 4, 9, 3]
    assert (found["gold_ids"].tolist(), found["top_ids"].tolist()) == ([65_535], [[65_536, 11]])
    assert found["top_log_probs"].tolist() == [[-0.5, -2.0]]


def test_every_field_of_the_manifest_and_of_entries_is_documented(tmp_path):
    identity = make_identity(documents=1)
    open_for_writing(tmp_path, identity)
    write_shard(tmp_path, 0, [make_record()], identity.layout)
    for name in ("manifest.json", "shard-00000.json"):
        for field in json.loads((tmp_path / name).read_text()):
            assert f"`{field}`" in DOCUMENT, field


@pytest.mark.parametrize("targets", ["top", "sampled"])
def test_what_predict_writes_keeps_what_the_document_promises(tmp_path, teachers, targets):
    """With every option that the manifest can tell, over a folder that a teacher made."""
    corpora.add_corpus("format_text", lambda _: iter(TEXTS["en"]), ["train"])
    config = PredictConfig(
        output=str(tmp_path / "records"),
        corpus="format_text",
        split="train",
        language="en",
        teacher=str(teachers["en"]),
        k=4,
        targets=targets,
        max_length=32,
        draws=4,
        packing="best_fit",
        masking=MASKING,
        batch_size=4,
        documents_per_shard=2,
    )
    predict(config)
    manifest = json.loads((tmp_path / "records/manifest.json").read_text())
    told = ("targets", "samples", "packing", "cover", "replacement", "max_count", "k", "draws")
    samples = 4 if targets == "sampled" else 0
    assert [manifest[field] for field in told] == [targets, samples, "best_fit", True, "mask", 6, 4, 4]
    most = min(math.floor(manifest["max_length"] * manifest["max_share"]), manifest["max_count"])
    found = list(read_folder(tmp_path / "records"))
    assert {record["draw"] for record in found} == {0, 1, 2, 3}
    for record in found:
        log_probs = record["top_log_probs"].astype(np.float64)
        assert 1 <= len(record["masked_positions"]) <= most == 6
        assert len(record["input_ids"]) <= 32
        assert (np.diff(log_probs, axis=1) <= 0).all()
        mass = np.exp(log_probs).sum(axis=1)
        if targets == "top":
            assert ((mass > 0) & (mass < 1 + 2e-3)).all()
            continue
        np.testing.assert_allclose(mass, 1.0, atol=2e-3)
        empty = log_probs == NO_MASS
        first = np.broadcast_to(record["top_ids"][:, :1], empty.shape)
        np.testing.assert_array_equal(record["top_ids"][empty], first[empty])
        assert all(len(set(row[~gone])) == (~gone).sum() for row, gone in zip(record["top_ids"], empty, strict=True))
