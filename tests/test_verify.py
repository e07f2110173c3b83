import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from conftest import TEXTS, make_teacher
from hub_cache import NEW, OLD, add_snapshot, use_cache

from mergedistill_jax import schema
from mergedistill_jax.corpus.masking import MaskingConfig
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE
from mergedistill_jax.predict import PredictConfig, predict
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.loading import model_hash
from mergedistill_jax.verify import VerifyConfig, gold_problem, verify
from tasks import corpora

K, SHARDS = 4, 4


@pytest.fixture(scope="module")
def written(tmp_path_factory, teachers):
    """A sound folder of four shards; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("verify") / "records"
    corpora.add_corpus("verify_text", lambda _: iter(TEXTS["en"]), ["train"])
    masking = MaskingConfig(rate=0.2, max_share=0.25)
    config = PredictConfig(
        output=str(folder),
        corpus="verify_text",
        split="train",
        language="en",
        teacher=str(teachers["en"]),
        k=K,
        max_length=32,
        draws=2,
        documents_per_shard=1,
        masking=masking,
    )
    predict(config)
    return folder


@pytest.fixture(scope="module")
def impostor(tmp_path_factory):
    """The same tokenizer and sizes, other weights."""
    return make_teacher(tmp_path_factory.mktemp("impostor") / "en", TEXTS["en"], seed=9)


@pytest.fixture
def folder(tmp_path, written):
    target = tmp_path / "records"
    target.mkdir()
    for path in written.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def refused(folder, named, teacher=None):
    """verify refuses in one line that names the folder, and writes no report."""
    with pytest.raises(ValueError, match=named) as error:
        verify(VerifyConfig(folder=str(folder), teacher=teacher and str(teacher)))
    assert "\n" not in str(error.value)
    assert not (folder / "verify.json").exists()
    return str(error.value)


def test_a_sound_folder_passes(folder, teachers, capsys):
    manifest = schema.read_manifest(folder)
    found = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"]), sample=100))
    assert (found["records"], found["shards"], found["hash"]) == (manifest.records, SHARDS, manifest.hash)
    replay = found["replay"]
    assert replay["positions"] == sum(entry.masked_positions for entry in manifest.shards)  # 100 is more than all
    assert replay["agreement"] == 1.0
    assert 0 < replay["largest_difference"] < 5e-3  # half precision, and nothing more
    masses = [
        1 - np.exp(record.top_log_probs.astype(np.float64)).sum(axis=1)
        for entry in manifest.shards
        for record in schema.read_records(folder, entry.shard, k=K, width=2)
    ]
    tenths = np.minimum((np.concatenate(masses).clip(0, 1) * 10).astype(int), 9)
    assert replay["missing_mass"] == np.bincount(tenths, minlength=10).tolist()
    assert json.loads((folder / "verify.json").read_text()) == found
    printed = capsys.readouterr()
    assert "100.00% same best token" in printed.out
    assert "next: mergedistill train" in printed.out
    assert f"{SHARDS}/{SHARDS} shard" in printed.err


def test_without_a_teacher_the_structure_is_checked_and_no_replay_is_reported(folder):
    found = verify(VerifyConfig(folder=str(folder)))
    assert "replay" not in found
    assert found["records"] == schema.read_manifest(folder).records


def test_a_sample_is_spread_over_every_shard(folder, teachers):
    replay = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"]), sample=1))["replay"]
    first = [next(iter(schema.read_records(folder, shard, k=K, width=2))) for shard in range(SHARDS)]
    assert replay["positions"] == sum(len(record.gold_ids) for record in first)


def flip(path, index):
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def swap(folder, one, other):
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **{k: v(content) if callable(v) else v for k, v in changes.items()}}))


TFRECORD, ENTRY = "shard-00001.tfrecord", "shard-00001.json"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: flip(f / TFRECORD, 0), rf"{TFRECORD}: field checksum"),
        (lambda f: flip(f / TFRECORD, 77), rf"{TFRECORD}: field checksum"),
        (lambda f: flip(f / TFRECORD, -1), rf"{TFRECORD}: field checksum"),
        (lambda f: (f / TFRECORD).unlink(), rf"{TFRECORD}: not found"),
        (lambda f: (f / ENTRY).unlink(), rf"{ENTRY}: found 3 finished shards, expected 4"),
        (lambda f: (f / TFRECORD).write_bytes((f / TFRECORD).read_bytes()[:-3]), rf"{TFRECORD}: field bytes"),
        (lambda f: (f / TFRECORD).write_bytes(b""), rf"{TFRECORD}: field bytes: found 0"),
        (lambda f: swap(f, TFRECORD, "shard-00002.tfrecord"), rf"{TFRECORD}: field (bytes|checksum)"),
        (lambda f: swap(f, ENTRY, "shard-00002.json"), rf"{ENTRY}: field shard: found 2"),
        (lambda f: edit(f / ENTRY, records=lambda e: e["records"] + 1), rf"{ENTRY}: field records"),
        (lambda f: edit(f / ENTRY, masked_positions=lambda e: e["masked_positions"] - 1), "field masked_positions"),
        (lambda f: edit(f / ENTRY, tokens=0), rf"{ENTRY}: field tokens: found 0"),
        (lambda f: edit(f / ENTRY, gold_nll_nats=lambda e: e["gold_nll_nats"] / 4), rf"{ENTRY}: field gold_nll_nats"),
        (
            lambda f: edit(f / ENTRY, gold_nll_nats=-1.0),
            rf"{ENTRY}: field gold_nll_nats: found -1.0, expected at least",
        ),
        (lambda f: edit(f / ENTRY, gold_nll_nats=float("nan")), rf"{ENTRY}: field gold_nll_nats: found nan"),
        (lambda f: edit(f / ENTRY, masked_words=0), rf"{ENTRY}: field masked_words: found 0, expected from"),
        (lambda f: edit(f / ENTRY, masked_words=10_000), rf"{ENTRY}: field masked_words: found 10000, expected from"),
        (lambda f: edit(f / ENTRY, checksum="00"), rf"{TFRECORD}: field checksum: found .*, expected 00"),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: not found"),
        (lambda f: edit(f / "manifest.json", schema_version=9), "field schema_version: found 9, expected 1"),
    ],
)
def test_damage_is_found_and_named(folder, damage, named):
    damage(folder)
    assert str(folder) in refused(folder, named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"k": K - 1}, "record labels: found"),
        ({"k": 0}, "record fields: found"),
        ({"vocabulary_size": 70_000}, "record"),  # three bytes an id
        ({"vocabulary_size": 30}, "expected below 30"),
        ({"documents": 40}, "found 4 finished shards, expected 40"),
        ({"documents": 3}, "field shard: found 3, expected the number in its name, below 3"),
        ({"max_length": 12}, "ids, expected at most 12"),
        ({"draws": 1}, "field draw: found 1, expected below 1"),
        ({"max_share": 0.04}, "field masked positions: found .*, expected 1 to 1"),
    ],
)
def test_a_manifest_that_does_not_fit_its_records_is_refused(folder, changes, named):
    edit(folder / "manifest.json", **changes)
    refused(folder, named)


@pytest.mark.parametrize("field", ["weights_hash", "vocabulary_hash", "tokenizer_hash"])
def test_a_manifest_that_does_not_fit_its_teacher_is_refused(folder, teachers, field):
    edit(folder / "manifest.json", **{field: "0" * 32})
    refused(folder, rf"manifest\.json: field {field}: found '0+', expected", teachers["en"])


def test_a_vocabulary_size_that_is_not_the_teachers_is_refused(folder, teachers):
    edit(folder / "manifest.json", vocabulary_size=lambda m: m["vocabulary_size"] + 1)
    refused(folder, "field vocabulary_size", teachers["en"])


def test_another_teachers_weights_are_refused(folder, teachers, impostor):
    refused(folder, r"manifest\.json: field weights_hash", impostor)
    refused(folder, r"manifest\.json: field weights_hash", teachers["es"])


def test_another_teachers_weights_are_found_by_replay_behind_a_forged_hash(folder, impostor):
    edit(folder / "manifest.json", weights_hash=model_hash(str(impostor)))
    refused(folder, "field log_probs: found a difference of .* nats", impostor)


def test_a_teacher_that_gives_no_numbers_is_not_agreement(tmp_path, folder, teachers):
    """NaN compares as neither larger nor smaller than any tolerance."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in teachers["en"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.numpy.load_file(broken / WEIGHTS_FILE)
    tensors["cls.predictions.bias"] = np.full_like(tensors["cls.predictions.bias"], np.nan)
    safetensors.numpy.save_file(tensors, broken / WEIGHTS_FILE, metadata={"format": "pt"})
    edit(folder / "manifest.json", weights_hash=model_hash(str(broken)))
    refused(folder, "field log_probs", broken)


def test_a_folder_without_a_masked_lm_head_is_refused(tmp_path, folder, teachers):
    headless = tmp_path / "headless"
    headless.mkdir()
    for path in teachers["en"].iterdir():
        (headless / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.numpy.load_file(headless / WEIGHTS_FILE)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}
    safetensors.numpy.save_file(kept, headless / WEIGHTS_FILE, metadata={"format": "pt"})
    edit(folder / "manifest.json", weights_hash=model_hash(str(headless)))
    refused(folder, "has no masked-LM head", headless)


def rewrite(folder, change):
    """A custom writer: shard 1 with its second record changed, and an entry that fits."""
    records = list(schema.read_records(folder, 1, k=K, width=2))
    fields = {
        f.name: np.copy(value) if isinstance(value := getattr(records[1], f.name), np.ndarray) else value
        for f in dataclasses.fields(records[1])
    }
    fields |= change(fields) or {}
    records[1] = schema.Record(**fields)
    schema.write_shard(folder, 1, records, 2)


def set_value(name, value, index=(0, 0)):
    def change(fields):
        fields[name][index] = value

    return change


def mask_more(fields):
    count = len(fields["input_ids"]) - 2
    return {
        "masked_positions": np.arange(1, count + 1, dtype=np.int32),
        "gold_ids": np.full(count, 7, np.int32),
        "top_ids": np.tile(np.arange(10, 10 + K, dtype=np.int32), (count, 1)),
        "top_log_probs": np.tile(-np.arange(2, 2 + K, dtype=np.float32), (count, 1)),
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_value("top_log_probs", np.nan), "field log_probs: found values that are not finite or not descending"),
        (set_value("top_log_probs", -np.inf, (0, -1)), "field log_probs: found values that are not finite"),
        (lambda f: {"top_log_probs": f["top_log_probs"][:, ::-1].copy()}, "not descending, expected best first"),
        (lambda f: {"top_log_probs": f["top_log_probs"] * 0}, r"found a mass of 4\.0000, expected at most 1"),
        (lambda f: {"top_ids": np.repeat(f["top_ids"][:, :1], K, axis=1)}, "field top: found a candidate twice"),
        (set_value("top_ids", 60_000), "field top: found id 60000, expected below"),
        (set_value("gold_ids", 60_000, 0), "field gold: found id 60000"),
        (set_value("input_ids", 60_000, 3), "field input: found id 60000"),
        (mask_more, "field masked positions: found .*, expected 1 to 8"),
        (lambda f: {n: f[n][:0] for n in ("masked_positions", "gold_ids", "top_ids", "top_log_probs")}, "found 0,"),
        (lambda f: {"input_ids": np.resize(f["input_ids"], 33)}, "field input: found 33 ids, expected at most 32"),
        (lambda _: {"draw": 2}, "field draw: found 2"),
    ],
)
def test_a_custom_writers_mistakes_are_found(folder, change, named):
    rewrite(folder, change)
    assert "shard-00001.tfrecord: record 1: " in refused(folder, named)


def other_ids(fields):
    """Candidates that are none of the teacher's, with the teacher's numbers."""
    best = set(fields["top_ids"].reshape(-1).tolist())
    others = [i for i in range(5, 60) if i not in best][:K]
    return {"top_ids": np.tile(np.array(others, np.int32), (len(fields["top_ids"]), 1))}


@pytest.mark.parametrize(
    "change",
    [
        lambda f: {"top_log_probs": f["top_log_probs"] - np.float32(0.1)},
        lambda f: {"top_ids": f["top_ids"][:, ::-1].copy()},
        other_ids,
        set_value("input_ids", 7, 1),  # the input is not what the teacher saw
    ],
)
def test_sound_looking_predictions_that_are_not_the_teachers_are_found_by_replay(folder, teachers, change):
    rewrite(folder, change)
    verify(VerifyConfig(folder=str(folder)))
    (folder / "verify.json").unlink()
    refused(folder, "field log_probs: found a difference", teachers["en"])


def test_candidates_of_nearly_equal_probability_may_swap_places(folder, teachers):
    """What another machine's rounding does: two neighbours a hair apart change their order."""
    records = list(schema.read_records(folder, 1, k=K, width=2))
    gaps = [np.diff(record.top_log_probs, axis=1) for record in records]
    number = int(np.argmax([gap.max() for gap in gaps]))
    row, rank = np.unravel_index(np.argmax(gaps[number]), gaps[number].shape)
    if gaps[number].max() < -0.015:
        pytest.skip("no two candidates of this shard are close enough")
    record = records[number]
    top_ids = record.top_ids.copy()
    top_ids[row, [rank, rank + 1]] = top_ids[row, [rank + 1, rank]]
    records[number] = dataclasses.replace(record, top_ids=top_ids)
    schema.write_shard(folder, 1, records, 2)
    verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"])))


def test_gold_labels_alone_have_nothing_to_replay(tmp_path, teachers):
    corpora.add_corpus("verify_text", lambda _: iter(TEXTS["en"]), ["train"])
    config = PredictConfig(
        output=str(tmp_path / "gold"), corpus="verify_text", split="train", language="en", tokenizer=str(teachers["en"])
    )
    predict(config)
    assert verify(VerifyConfig(folder=str(tmp_path / "gold")))["records"] > 0
    (tmp_path / "gold/verify.json").unlink()
    refused(tmp_path / "gold", "field k: found 0, expected predictions to replay", teachers["en"])


def test_a_folder_without_records_is_not_sound(folder):
    for shard in range(SHARDS):
        schema.write_shard(folder, shard, [], 2)
    refused(folder, "found 0 records, expected at least one")


@pytest.mark.parametrize("field", ["sample", "batch_size"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ValueError, match=rf"VerifyConfig\.{field}: found 0, expected at least 1"):
        VerifyConfig(folder="x", **{field: 0})


def test_refusals_are_record_errors(folder):
    """What a caller may catch."""
    (folder / TFRECORD).unlink()
    with pytest.raises(RecordError):
        verify(VerifyConfig(folder=str(folder)))


def gold_record(gold, top, log_probs):
    """One masked position a row."""
    return schema.Record(
        text_id=b"12345678",
        draw=0,
        input_ids=np.arange(9, dtype=np.int32),
        masked_positions=np.arange(1, len(gold) + 1, dtype=np.int32),
        gold_ids=np.array(gold, np.int32),
        top_ids=np.array(top, np.int32),
        top_log_probs=np.array(log_probs, np.float32),
    )


def gold_entry(nats, words=2):
    return schema.ShardEntry(
        shard=0, records=1, masked_positions=2, tokens=9, bytes=1, checksum="", masked_words=words, gold_nll_nats=nats
    )


@pytest.mark.parametrize(
    ("gold", "nats", "sound"),
    [
        # Candidates 7 and 8 have losses 1 and 3 nats; the loss of any other is at least that of the last: 3.
        ([7, 8], 4.0, True),
        ([7, 8], 3.9, False),
        ([7, 5], 4.0, True),
        ([7, 5], 30.0, True),
        ([5, 5], 5.9, False),
        ([5, 5], float("inf"), False),
    ],
)
def test_the_least_that_a_gold_loss_can_be(gold, nats, sound):
    record = gold_record(gold, [[7, 8], [7, 8]], [[-1.0, -3.0], [-1.0, -3.0]])
    problem = gold_problem([record], gold_entry(nats))
    assert (problem is None) == sound


def test_a_folder_from_before_gold_losses_is_sound(folder):
    for shard in range(SHARDS):
        path = folder / f"shard-0000{shard}.json"
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in fields.items() if k not in ("gold_nll_nats", "masked_words")}))
    assert verify(VerifyConfig(folder=str(folder)))["records"] > 0


def test_another_revision_of_the_hub_is_refused_by_name(folder, teachers, tmp_path, monkeypatch):
    """Although the weights are those of the folder."""
    add_snapshot(use_cache(tmp_path / "cache", monkeypatch), "some/bert", teachers["en"], NEW, "main")
    assert verify(VerifyConfig(folder=str(folder), teacher="some/bert"))["replay"]  # of a folder no revision is known
    edit(folder / "manifest.json", revision=OLD)
    (folder / "verify.json").unlink()
    refused(folder, rf"manifest\.json: field revision: found '{OLD}', expected '{NEW}'", "some/bert")
    edit(folder / "manifest.json", revision=NEW)
    assert verify(VerifyConfig(folder=str(folder), teacher="some/bert"))["replay"]
