import bz2
import dataclasses
import gzip
import itertools
import json
import lzma
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from conftest import TEXTS, make_teacher
from hub_cache import NEW, OLD, add_snapshot, use_cache
from scipy.special import log_softmax

from mergedistill_jax import cli
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.splits import Split
from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.manifest import BYTES_PER_SHARD, read_manifest, read_records
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE
from mergedistill_jax.predict import predict
from mergedistill_jax.schema import Layout, RecordError
from mergedistill_jax.sealed import write_sealed
from mergedistill_jax.teachers import sharing, token_progress
from mergedistill_jax.teachers.buckets import pad_batch
from mergedistill_jax.verify import verify
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks import corpora

MASKING = MaskingConfig(rate=0.2, max_share=0.25)
LAYOUT = Layout(k=4, vocabulary_size=1000)


def documents_of_split(split):
    return iter(TEXTS["en"][: None if split == "train" else 3])


@pytest.fixture(scope="module", autouse=True)
def corpus():
    corpora.add_corpus("predict_text", documents_of_split, ["train", "part"])
    corpora.add_corpus("predict_nothing", lambda _: iter([]), ["train"])


def config_of(output, teacher, **changes):
    settings = {"corpus": "predict_text", "split": "train", "language": "en", "max_length": 32, "k": 4}
    settings |= {"documents_per_shard": 1, "batch_size": 4, "masking": MASKING, "draws": 2}
    settings |= {"teacher": str(teacher)} if teacher else {}
    return PredictConfig(output=str(output), **settings | changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory, teachers):
    """An undisturbed run; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "records"
    predict(config_of(folder, teachers["en"]))
    return folder


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def copy_of(folder, target):
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_manifest_says_what_was_done(written, teachers):
    manifest = read_manifest(written).require_complete()
    identity, tokenizer = manifest.identity, load_tokenizer(teachers["en"])
    assert (identity.teacher, identity.language, identity.corpus) == ("en", "en", "predict_text:train")
    assert identity.vocabulary_hash == tokenizer.vocabulary_hash
    assert identity.tokenizer_hash == tokenizer.tokenizer_hash
    assert identity.vocabulary_size == len(tokenizer.tokens)
    assert (identity.documents, identity.num_shards, identity.k, identity.draws) == (4, 4, 4, 2)
    assert (identity.rate, identity.max_share, identity.seed) == (0.2, 0.25, 0)
    for entry in manifest.shards:
        records = list(read_records(written, entry.shard, LAYOUT))
        assert len(records) == entry.records > 0
        assert {record.draw for record in records} <= {0, 1}
        assert sum(len(record.input_ids) for record in records) == entry.tokens
    assert sorted(bytes_of(written)) == sorted(
        ["manifest.json", "corpus.json", *(f"shard-0000{i}.{kind}" for i in range(4) for kind in ("json", "tfrecord"))]
    )


def test_a_rerun_touches_nothing_and_another_run_gives_the_same_bytes(tmp_path, written, teachers):
    folder = copy_of(written, tmp_path / "copy")
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    predict(config_of(folder, teachers["en"]))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    predict(config_of(tmp_path / "again", teachers["en"]))
    assert bytes_of(tmp_path / "again") == bytes_of(written)


@pytest.mark.parametrize("left", ["both", "file", "half a file", "none"])
def test_a_run_resumes_at_the_shard_that_is_missing(tmp_path, written, teachers, left):
    folder = copy_of(written, tmp_path / "copy")
    (folder / "shard-00002.json").unlink()
    if left == "half a file":
        (folder / "shard-00002.tfrecord").write_bytes(b"half")
    if left == "none":
        (folder / "shard-00002.tfrecord").unlink()
    if left == "both":
        for name in ("shard-00001.json", "shard-00003.json", "shard-00003.tfrecord"):
            (folder / name).unlink()
    predict(config_of(folder, teachers["en"]))
    assert bytes_of(folder) == bytes_of(written)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Teachers of the same name: with other weights, and with another vocabulary."""
    roots = [tmp_path_factory.mktemp(name) for name in ("weights", "vocabulary")]
    texts = [TEXTS["en"], TEXTS["en"][:2]]
    made = [make_teacher(root / "en", text, seed=9) for root, text in zip(roots, texts, strict=True)]
    return dict(zip(("weights", "vocabulary"), made, strict=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"teacher": "weights"}, "weights_hash"),
        ({"teacher": "vocabulary"}, "weights_hash"),
        ({"name": "somebody"}, "teacher"),
        ({"k": 3}, "k"),
        ({"split": "part"}, "corpus"),
        ({"language": "de"}, "language"),
        ({"max_length": 24}, "max_length"),
        ({"draws": 3}, "draws"),
        ({"documents_per_shard": 2}, "documents_per_shard"),
        ({"bytes_per_shard": 4_000_000}, "bytes_per_shard"),
        ({"masking": MaskingConfig(rate=0.2, max_share=0.25, seed=1)}, "seed"),
        ({"masking": MaskingConfig(rate=0.1, max_share=0.25)}, "rate"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_a_folder_of_something_else_is_refused_by_the_field(tmp_path, written, teachers, others, changes, field):
    folder = copy_of(written, tmp_path / "copy")
    changed = dataclasses.replace(config_of(folder, teachers["en"]), **changes)
    if "teacher" in changes:
        changed = dataclasses.replace(changed, teacher=str(others[changes["teacher"]]))
    with pytest.raises(RecordError, match=rf"manifest\.json: field {field}: found .*, expected") as error:
        predict(changed)
    assert "\n" not in str(error.value)
    assert bytes_of(folder) == bytes_of(written)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda texts: [*texts[:3], "Another end."], r"documents 3 to 3: field corpus_hash: found .*, expected"),
        (lambda texts: ["X" + texts[0], *texts[1:]], r"documents 0 to 0: field corpus_hash: found .*, expected"),
        (lambda texts: texts[:3], "field documents: found 3, expected 4"),
        (lambda texts: [*texts, "One more."], "field documents: found more than 4, expected 4"),
    ],
)
@pytest.mark.parametrize("how", ["finished", "unfinished", "of an older program"])
def test_another_text_of_the_same_name_is_refused(tmp_path, written, teachers, changed, told, how):
    """Also where nothing is left to be written, and where the folder says nothing of its text but one hash."""
    folder = copy_of(written, tmp_path / "copy")
    if how == "unfinished":
        (folder / "shard-00000.json").unlink()
    if how == "of an older program":
        (folder / "corpus.json").unlink()
        told = r"manifest\.json: field (corpus_hash|documents): found"
    before = bytes_of(folder)
    corpora.add_corpus("predict_text", lambda _: iter(changed(TEXTS["en"])), ["train"])
    try:
        with pytest.raises(RecordError, match=told) as error:
            predict(config_of(folder, teachers["en"]))
    finally:
        corpora.add_corpus("predict_text", documents_of_split, ["train", "part"])
    assert "\n" not in str(error.value)
    # A shard whose own text is unchanged may have been written before the change was met, and is right.
    assert before.items() <= bytes_of(folder).items() <= bytes_of(written).items()


def test_a_folder_of_an_older_program_is_continued(tmp_path, written, teachers):
    """One that kept no hashes of its text, and no checksums of its own files."""
    folder = copy_of(written, tmp_path / "copy")
    for name in ("corpus.json", "shard-00001.json", "shard-00001.tfrecord"):
        (folder / name).unlink()
    for path in folder.glob("*.json"):
        fields = json.loads(path.read_text())
        del fields["fields_checksum"]
        path.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    before = bytes_of(folder)
    manifest = predict(config_of(folder, teachers["en"]))
    assert manifest.hash == read_manifest(written).hash
    assert before.items() <= bytes_of(folder).items()
    names = ("corpus.json", "shard-00001.json", "shard-00001.tfrecord")
    assert {name: bytes_of(folder)[name] for name in names} == {name: bytes_of(written)[name] for name in names}


def test_another_tokenizer_with_the_same_vocabulary_is_refused(tmp_path, teachers):
    """Gold labels alone, where no weights could tell the two apart: one lowercases."""
    folders = {}
    for lowercase in (False, True):
        folders[lowercase] = tmp_path / str(lowercase)
        folders[lowercase].mkdir()
        tokens = load_tokenizer(teachers["en"]).tokens
        (folders[lowercase] / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
        (folders[lowercase] / "tokenizer_config.json").write_text(f'{{"do_lower_case": {str(lowercase).lower()}}}')
    manifest = predict(config_of(tmp_path / "records", None, tokenizer=str(folders[False])))
    assert (manifest.identity.k, manifest.identity.teacher, manifest.identity.weights_hash) == (0, "", "")
    with pytest.raises(RecordError, match="field tokenizer_hash"):
        predict(config_of(tmp_path / "records", None, tokenizer=str(folders[True])))


def test_gold_records_are_the_teachers_without_predictions(tmp_path, written, teachers):
    predict(config_of(tmp_path / "gold", None, tokenizer=str(teachers["en"])))
    for shard in range(4):
        gold = read_records(tmp_path / "gold", shard, dataclasses.replace(LAYOUT, k=0))
        full = read_records(written, shard, LAYOUT)
        for one, other in zip(gold, full, strict=True):
            assert (one.text_id, one.draw) == (other.text_id, other.draw)
            for field in ("input_ids", "masked_positions", "gold_ids"):
                np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
            assert one.top_ids.shape == (len(one.gold_ids), 0)


def full_log_probs(folder, records):
    """[b, m, v] of the whole distribution in float64, padded, from logits that no code under test has reduced."""
    config, params = load_masked_lm(folder)
    arrays = pad_batch(records, len(records), 32, 8, load_tokenizer(folder).pad_id)
    params, (token_ids, lengths, positions) = jax.tree.map(jnp.asarray, (params, arrays))
    attention_mask = jnp.arange(32) < lengths[:, None]
    logits = MaskedLanguageModel(config).apply({"params": params}, token_ids, attention_mask, positions)
    return log_softmax(np.asarray(logits, np.float64)[..., : len(load_tokenizer(folder).tokens)], axis=-1)


def test_an_entry_tells_the_gold_loss_of_the_full_logits_and_the_words(written, teachers):
    """Many gold tokens are not among the stored four, so that these could not tell it."""
    tokenizer = load_tokenizer(teachers["en"])
    entries = read_manifest(written).shards
    shards = [list(read_records(written, entry.shard, LAYOUT)) for entry in entries]
    log_probs = iter(full_log_probs(teachers["en"], [record for records in shards for record in records]))
    missed = 0
    for entry, records in zip(entries, shards, strict=True):
        loss = 0.0
        for record, rows in zip(records, log_probs, strict=False):
            loss -= sum(rows[i, gold] for i, gold in enumerate(record.gold_ids))
            missed += (record.top_ids != record.gold_ids[:, None]).all(axis=1).sum()
        assert entry.gold_nll_nats == pytest.approx(loss, rel=1e-5)
        # A piece that continues a word continues a masked one: whole words are masked.
        first = [not tokenizer.tokens[i].startswith("##") for record in records for i in record.gold_ids]
        assert entry.masked_words == sum(first)
        assert 0 < entry.masked_words < entry.masked_positions
    assert missed > 20


def test_gold_labels_alone_have_words_and_no_loss(tmp_path, written, teachers):
    gold = predict(config_of(tmp_path / "gold", None, tokenizer=str(teachers["en"])))
    assert [entry.gold_nll_nats for entry in gold.shards] == [None] * 4
    assert [e.masked_words for e in gold.shards] == [e.masked_words for e in read_manifest(written).shards]


def test_a_name_of_the_hub_is_pinned_to_its_commit(tmp_path, written, teachers, monkeypatch, capsys):
    cache = use_cache(tmp_path / "cache", monkeypatch)
    add_snapshot(cache, "some/en", teachers["en"], OLD, "v1")
    add_snapshot(cache, "some/en", teachers["en"], NEW, "main")  # the weights are the same, as where a README changed
    manifest = predict(config_of(tmp_path / "records", "some/en"))
    identity = read_manifest(written).identity
    assert manifest.identity == dataclasses.replace(identity, revision=NEW)
    assert f"predict: some/en@{NEW} on predict_text:train" in capsys.readouterr().out
    before = bytes_of(tmp_path / "records")
    assert {name: data for name, data in before.items() if name != "manifest.json"} == {
        name: data for name, data in bytes_of(written).items() if name != "manifest.json"
    }
    with pytest.raises(RecordError, match=rf"field revision: found '{NEW}', expected '{OLD}'"):
        predict(config_of(tmp_path / "records", "some/en@v1"))
    predict(config_of(tmp_path / "records", f"some/en@{NEW}"))
    assert bytes_of(tmp_path / "records") == before


def test_a_tokenizer_is_taken_from_the_hub_too(tmp_path, teachers, monkeypatch):
    cache = use_cache(tmp_path / "cache", monkeypatch)
    add_snapshot(cache, "some/en", teachers["en"], NEW, "main", without="*.safetensors")
    manifest = predict(config_of(tmp_path / "gold", None, tokenizer="some/en"))
    assert manifest.identity.tokenizer_hash == load_tokenizer(teachers["en"]).tokenizer_hash


def test_a_damaged_finished_shard_is_refused_and_left_alone(tmp_path, written, teachers):
    folder = copy_of(written, tmp_path / "copy")
    (folder / "shard-00001.tfrecord").write_bytes(b"other")
    (folder / "shard-00003.json").unlink()
    with pytest.raises(RecordError, match=r"shard-00001\.tfrecord: field bytes: found 5"):
        predict(config_of(folder, teachers["en"]))
    assert (folder / "shard-00001.tfrecord").read_bytes() == b"other"


def headless(folder, target):
    """The folder without its masked-LM head, as AutoModel would save it."""
    copy_of(folder, target)
    tensors = safetensors.numpy.load_file(target / WEIGHTS_FILE)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}
    assert 0 < len(kept) < len(tensors)
    safetensors.numpy.save_file(kept, target / WEIGHTS_FILE, metadata={"format": "pt"})
    return target


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, teachers):
    output = tmp_path / "out"
    cases = [
        (config_of(output, headless(teachers["en"], tmp_path / "headless")), "has no masked-LM head"),
        (config_of(output, teachers["en"], corpus="predict_nothing"), "split train: found 0 documents"),
        (config_of(output, teachers["en"], split="test"), r"split: found 'test', expected one of \['part', 'train'\]"),
        (config_of(output, teachers["en"], corpus="no_such"), "found 'no_such', expected a registered task"),
        (config_of(output, teachers["en"], max_length=64), "expected at least max_length=64"),
        (config_of(output, teachers["en"], k=10_000), "k: found 10000, expected at most"),
        (config_of(output, tmp_path / "nowhere"), "nowhere: not found, expected a folder, or a name of the hub"),
        (config_of(output, "runs/nothing"), "^runs/nothing: not found"),
        (config_of(output, "some/bert-base@v2"), "^some/bert-base: revision v2: not found on the hub or in its cache"),
    ]
    for config, named in cases:
        with pytest.raises(ValueError, match=named) as error:
            predict(config)
        assert "\n" not in str(error.value)
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, r"PredictConfig\.teacher: found None"),
        ({"teacher": "a", "tokenizer": "b"}, r"PredictConfig\.tokenizer: found 'b' beside a teacher"),
        ({"teacher": "a", "k": 0}, r"PredictConfig\.k: found 0"),
        ({"teacher": "a", "draws": 0}, r"PredictConfig\.draws: found 0"),
        ({"teacher": "a", "bytes_per_shard": 0}, r"PredictConfig\.bytes_per_shard: found 0"),
        ({"teacher": "a", "max_length": 3}, r"PredictConfig\.max_length: found 3 with MaskingConfig\.max_share=0\.2"),
        ({"teacher": "a", "documents_per_shard": 0}, r"PredictConfig\.documents_per_shard: found 0"),
        ({"teacher": "a", "batch_size": -1}, r"PredictConfig\.batch_size: found -1"),
        ({"teacher": "a", "max_length": 2}, r"PredictConfig\.max_length: found 2, expected at least 3"),
        ({"teacher": "a", "dtype": "float16"}, r"dtype: found 'float16', expected one of float32, bfloat16"),
        ({"teacher": "a", "worker": "2/2"}, r"worker: found '2/2', expected INDEX/COUNT"),
    ],
)
def test_impossible_settings_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        PredictConfig(output="x", corpus="y", split="z", language="en", **changes)


def test_it_says_what_it_does_and_what_comes_next(tmp_path, teachers, capsys):
    manifest = predict(config_of(tmp_path / "records", teachers["en"]))
    printed = capsys.readouterr()
    size = sum(entry.bytes for entry in manifest.shards)
    tokens = sum(entry.tokens for entry in manifest.shards)
    assert f"{teachers['en']} on predict_text:train (4 documents) -> {tmp_path / 'records'}" in printed.out
    assert f"{tmp_path / 'records'} holds {manifest.records} records, {tokens} tokens" in printed.out
    assert f"{size / tokens:.2f} bytes a token" in printed.out
    assert f"sequences {tokens / (32 * manifest.records):.1%} full" in printed.out
    assert "next: mergedistill verify" in printed.out
    assert "worker" not in printed.out
    assert re.fullmatch(rf"predict {tokens:,} tokens, [\d,]+ tokens/s, took \d:\d\d\n", printed.err)


def test_workers_share_a_folder_and_say_what_the_others_owe(tmp_path, written, teachers, capsys):
    folder = tmp_path / "shared"
    first = predict(config_of(folder, teachers["en"], worker="1/3"))
    assert [entry.shard for entry in first.shards] == [1]
    printed = capsys.readouterr()
    assert "(worker 1/3)" in printed.out
    assert (
        "predict: worker 1/3 is done; 3 of 4 shards are missing:"
        " 2 of worker 0/3 (first shard-00000.json), 1 of worker 2/3 (first shard-00002.json)"
    ) in printed.out
    assert "next:" not in printed.out
    assert re.search(r"^predict worker 1/3 [\d,]+ tokens, .* took \d:\d\d$", printed.err, re.MULTILINE)
    with pytest.raises(RecordError, match=r"shard-00000\.json: found 1 finished shards, expected 4"):
        first.require_complete()
    assert not predict(config_of(folder, teachers["en"], worker="2/3")).complete
    assert predict(config_of(folder, teachers["en"], worker="0/3")).complete
    assert "next: mergedistill verify" in capsys.readouterr().out
    assert bytes_of(folder) == bytes_of(written)


def test_one_process_completes_what_workers_left(tmp_path, written, teachers):
    folder = tmp_path / "shared"
    predict(config_of(folder, teachers["en"], worker="1/2"))
    assert predict(config_of(folder, teachers["en"])).complete
    assert bytes_of(folder) == bytes_of(written)


def test_a_worker_checks_its_own_shards_alone(tmp_path, written, teachers):
    """A damaged shard of another worker's does not stop this one: it stops that one, and whoever reads it."""
    folder = copy_of(written, tmp_path / "copy")
    (folder / "shard-00001.tfrecord").write_bytes(b"other")
    assert predict(config_of(folder, teachers["en"], worker="0/2")).complete
    for worker in ("1/2", None):
        with pytest.raises(RecordError, match=r"shard-00001\.tfrecord: field bytes"):
            predict(config_of(folder, teachers["en"], worker=worker))


def test_a_job_of_processes_returns_when_the_folder_is_complete(tmp_path, written, teachers, monkeypatch):
    """The other process of the job writes its shards while this one waits."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    folder = tmp_path / "shared"

    def other(_seconds):
        predict(config_of(folder, teachers["en"], worker="1/2"))

    monkeypatch.setattr(sharing.time, "sleep", other)
    assert predict(config_of(folder, teachers["en"])).complete
    assert bytes_of(folder) == bytes_of(written)


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.bz2", ".txt.xz"])
def test_corrupt_text_is_named_and_nothing_wrong_is_listed(tmp_path, teachers, ending):
    """In the first pass over the text, when nothing is written yet, and in a later one, when the folder is begun."""
    packers = {".txt": bytes, ".txt.gz": gzip.compress, ".txt.bz2": bz2.compress, ".txt.xz": lzma.compress}
    text = "\n\n".join(f"The {word} boat left the harbour again." for word in ("old", "small", "red", "new")).encode()
    whole = packers[ending](text)
    damaged = whole.replace(b"red", b"r\xffd") if ending == ".txt" else whole[: len(whole) // 2]
    path, folder = tmp_path / f"text{ending}", tmp_path / "records"
    config = config_of(folder, None, tokenizer=str(teachers["en"]), corpus="predict_file", split="all")
    path.write_bytes(damaged)
    corpora.add_files("predict_file", [str(path)], "plain", {"all": Split()})
    with pytest.raises(ValueError, match=rf"text{ending}: ") as error:
        predict(config)
    assert "\n" not in str(error.value)
    assert not folder.exists()
    path.write_bytes(whole)
    undisturbed = predict(dataclasses.replace(config, output=str(tmp_path / "undisturbed")))
    predict(dataclasses.replace(config, worker="1/4"))
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"text{ending}: "):
        predict(config)
    for entry in read_manifest(folder).shards:
        assert entry == undisturbed.shards[entry.shard]
    path.write_bytes(whole)
    predict(config)
    assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed")


def test_a_stage_counts_as_done_when_the_last_worker_is(tmp_path, teachers, capsys):
    """Or a pipeline would skip it, and then find the folder unfinished."""
    folder = tmp_path / "records"
    settings = {"OUTPUT": str(folder), "CORPUS": "predict_text", "SPLIT": "train", "LANGUAGE": "en"}
    settings |= {"TOKENIZER": str(teachers["en"]), "DRAWS": 1, "MASKING_RATE": 0.2, "MAX_LENGTH": 32}
    bindings = [f"{name} = {value!r}" for name, value in settings.items()]
    bindings.append("predict.PredictConfig.documents_per_shard = 1")

    def run(worker):
        return cli.run_stage("predict", ["gin/runs/mask.gin"], [*bindings, f"WORKER = {worker!r}"], reuse=True)

    assert not run("1/2").complete
    assert not list(folder.glob("stage_*"))
    assert run("0/2").complete
    assert run("0/2") is None  # done before
    assert run(None).complete
    assert run(None) is None
    assert "--gin.WORKER='1/2'" in capsys.readouterr().out


LONG = [
    "\n".join(TEXTS["en"] * 3),
    TEXTS["en"][0],
    "\n".join(TEXTS["en"]),
    TEXTS["en"][1].replace("\n", " ") * 9,
    TEXTS["en"][2],
]
"""Documents that are longer than the shards below, one of them in a single paragraph."""


@pytest.fixture
def in_bytes():
    """Settings under which bytes, and not documents, end the shards."""
    corpora.add_corpus("predict_long", lambda _: iter(LONG), ["train"])
    return {"corpus": "predict_long", "documents_per_shard": 100, "bytes_per_shard": 500, "draws": 2}


def test_shards_that_bytes_end_hold_the_whole_text_and_are_the_same_for_any_number_of_workers(
    tmp_path, teachers, in_bytes
):
    manifest = predict(config_of(tmp_path / "one", teachers["en"], **in_bytes))
    assert manifest.identity.shards == manifest.identity.num_shards == len(manifest.shards) > 5
    summary = json.loads((tmp_path / "one/corpus.json").read_text())
    longest = max(len(text.encode()) for document in LONG for text in document.split("\n"))
    assert sorted(summary["bytes"])[-2] <= 250 < longest == max(summary["bytes"])
    assert sum(summary["bytes"]) > 0.98 * sum(len(document.encode()) for document in LONG)
    for index in (2, 0, 1):
        predict(config_of(tmp_path / "three", teachers["en"], **in_bytes, worker=f"{index}/3"))
    assert bytes_of(tmp_path / "three") == bytes_of(tmp_path / "one")
    for name in ("shard-00001", "shard-00004"):
        (tmp_path / "three" / f"{name}.json").unlink()
    predict(config_of(tmp_path / "three", teachers["en"], **in_bytes))
    assert bytes_of(tmp_path / "three") == bytes_of(tmp_path / "one")
    corpus = lambda language: "predict_long"  # noqa: ARG005, E731 - what a gin file gives
    settings = {"folder": str(tmp_path / "one"), "teacher": str(teachers["en"]), "corpus": corpus}
    (report,) = verify(VerifyConfig(**settings, remasked_shards=99))
    assert (report.sound, report.remasked_shards) == (True, len(manifest.shards))


def test_the_same_words_are_hidden_however_the_text_is_divided(tmp_path, teachers, in_bytes):
    """Teachers of one language are comparable shard by shard because the division does not ask the tokenizer."""
    masking = MaskingConfig(rate=0.2, max_share=1.0)
    words = [
        sum(entry.masked_words or 0 for entry in predict(config_of(tmp_path / name, teachers["en"], **settings)).shards)
        for name, settings in {
            "bytes": {**in_bytes, "masking": masking},
            "whole": {**in_bytes, "masking": masking, "bytes_per_shard": 1 << 22},
        }.items()
    ]
    assert words[0] == words[1] > 50


def test_as_many_shards_with_other_documents_are_another_division(tmp_path, teachers, in_bytes):
    """Two documents a shard and 160 bytes a shard both make two shards of three documents: 2 + 1, and 1 + 2."""
    corpora.add_corpus("predict_long", lambda _: iter(TEXTS["en"][i] for i in (0, 2, 3)), ["train"])
    changes = in_bytes | {"documents_per_shard": 2, "draws": 1}
    told = {
        bound: predict(config_of(tmp_path / str(bound), teachers["en"], **changes | {"bytes_per_shard": bound}))
        for bound in (160, 1 << 22)
    }
    ends = [json.loads((tmp_path / str(bound) / "corpus.json").read_text())["ends"] for bound in told]
    assert ends == [[1, 3], [2, 3]]
    assert [manifest.identity.shards for manifest in told.values()] == [2, 0]


def test_other_text_bounds_are_another_folder(tmp_path, teachers, in_bytes):
    predict(config_of(tmp_path, teachers["en"], **in_bytes))
    before = bytes_of(tmp_path)
    with pytest.raises(RecordError, match=r"manifest\.json: field bytes_per_shard: found 500, expected 600"):
        predict(config_of(tmp_path, teachers["en"], **in_bytes | {"bytes_per_shard": 600}))
    assert bytes_of(tmp_path) == before


def test_a_summary_of_an_older_program_is_refused_by_name(tmp_path, written, teachers):
    """It had no bytes: where its shards end would be a guess."""
    folder = copy_of(written, tmp_path / "copy")
    fields = {
        "documents": 4,
        "documents_per_shard": 1,
        "hashes": json.loads((folder / "corpus.json").read_text())["hashes"],
    }
    write_sealed(folder / "corpus.json", fields)
    with pytest.raises(RecordError, match=r"corpus\.json: fields \['bytes', 'documents', 'ends'.* missing or unknown"):
        predict(config_of(folder, teachers["en"]))


@pytest.mark.parametrize("teacher", [True, False])
def test_progress_is_told_in_tokens_within_a_shard(tmp_path, teachers, monkeypatch, capsys, teacher):
    """One shard alone; the clock goes on a minute whenever it is looked at."""
    corpora.add_corpus("predict_long", lambda _: iter(LONG * 9), ["train"])
    ticks = itertools.count(1000.0, 60.0)
    monkeypatch.setattr(token_progress, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    given = {"tokenizer": None} if teacher else {"tokenizer": str(teachers["en"])}
    changes = {"corpus": "predict_long", "documents_per_shard": 1000, "worker": "0/1"} | given
    manifest = predict(config_of(tmp_path, teachers["en"] if teacher else None, **changes))
    lines = capsys.readouterr().err.splitlines()
    assert len(manifest.shards) == 1
    assert len(lines) > 5
    pattern = re.compile(r"predict ([\d,]+) tokens, [\d,]+ tokens/s, (\d+)% of the text, ([\d:]+) left")
    told = [pattern.fullmatch(line) for line in lines[:-1]]
    assert all(told)
    tokens = [int(match[1].replace(",", "")) for match in told if match]
    shares = [int(match[2]) for match in told if match]
    assert tokens == sorted(tokens)
    assert tokens[-1] == manifest.shards[0].tokens
    assert shares == sorted(shares)
    middle = len(told) // 2
    assert abs(shares[middle] - 100 * tokens[middle] / tokens[-1]) < 25  # from a sample of the first document
    assert re.fullmatch(rf"predict {tokens[-1]:,} tokens, [\d,]+ tokens/s, took [\d:]+", lines[-1])


def test_the_default_bound_of_shards_is_that_of_a_manifest_without_one():
    assert PredictConfig(output="", corpus="", split="", language="", teacher="a").bytes_per_shard == BYTES_PER_SHARD
