"""A healthy folder passes, and every kind of damage is found and named."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from conftest import TEXTS, make_teacher
from hub_cache import NEW, OLD, add_snapshot, use_cache

from mergedistill_jax import schema
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.evaluation import replay
from mergedistill_jax.evaluation.folder_report import histogram
from mergedistill_jax.evaluation.replay import sample_numbers
from mergedistill_jax.manifest import entry_name, read_manifest, read_records, shard_name, write_shard
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE
from mergedistill_jax.predict import predict
from mergedistill_jax.schema import NO_MASS, Layout, RecordError
from mergedistill_jax.sealed import FIELDS_CHECKSUM, write_sealed
from mergedistill_jax.shards import file_checksum
from mergedistill_jax.teachers.loading import model_hash
from mergedistill_jax.verify import verify
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks import corpora

K, SHARDS = 4, 4
LAYOUT = Layout(k=K, vocabulary_size=1000)
TFRECORD, ENTRY = shard_name(1), entry_name(1)


def text_again(language="en"):
    """What a gin file gives as `@corpora.add_...`."""
    return corpora.add_corpus(f"verify_{language}", lambda _: iter(TEXTS[language]), ["train"])


def predicted(output, **changes):
    """A folder of the English text, by the teacher or tokenizer that the changes name."""
    settings = {"output": str(output), "corpus": text_again(), "split": "train", "language": "en", "k": K}
    settings |= {"max_length": 32, "draws": 2, "documents_per_shard": 1}
    predict(PredictConfig(**settings | {"masking": MaskingConfig(rate=0.2, max_share=0.25)} | changes))
    return output


@pytest.fixture(scope="module")
def written(tmp_path_factory, teachers):
    """A sound folder of four shards; nothing in it is changed."""
    return predicted(tmp_path_factory.mktemp("verify") / "records", teacher=str(teachers["en"]))


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


def refused(folder, named, teacher=None, **settings):
    """verify refuses in one line that names the file, and the report beside the records says the same."""
    with pytest.raises(RecordError, match=named) as error:
        verify(VerifyConfig(folder=str(folder), teacher=teacher and str(teacher), **settings))
    assert "\n" not in str(error.value)
    report = json.loads((folder / "verify.json").read_text())
    assert not report["sound"]
    assert report["folders"][0]["problems"] == error.value.problems
    assert str(error.value).startswith(error.value.problems[0])
    for problem in error.value.problems[:20]:
        assert problem in (folder / "verify.txt").read_text()
    return error.value.problems


def mismatched(folder, named, teacher=None, **settings):
    """verify refuses before it starts, and does not call the folder unsound for what it was given."""
    with pytest.raises(RecordError, match=named) as error:
        verify(VerifyConfig(folder=str(folder), teacher=teacher and str(teacher), **settings))
    assert "\n" not in str(error.value)
    assert not (folder / "verify.json").exists()


def state(folder):
    """Everything that makes the records: all files but the reports."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("verify.")}


def records_of(folder, shards=range(SHARDS)):
    return [record for shard in shards for record in read_records(folder, shard, LAYOUT)]


def test_a_sound_folder_passes_and_is_left_as_it_was(folder, teachers, capsys):
    manifest, before = read_manifest(folder), state(folder)
    config = VerifyConfig(folder=str(folder), teacher=str(teachers["en"]), sample=100, corpus=text_again)
    (report,) = verify(config)
    assert (report.sound, report.problems) == (True, [])
    assert (report.records, report.shards, report.hash) == (manifest.records, SHARDS, manifest.hash)
    positions = sum(entry.masked_positions for entry in manifest.shards)
    assert (report.replay.records, report.replay.positions) == (manifest.records, positions)  # 100 is more than all
    assert (report.replay.same_best, report.replay.same_candidates) == (1.0, 1.0)
    assert 0 < report.replay.mean_difference < report.replay.largest_difference < 5e-3  # half precision, nothing more
    assert report.remasked_shards == SHARDS
    assert state(folder) == before
    assert read_manifest(folder).hash == manifest.hash
    printed = capsys.readouterr()
    assert "100.00% same best token" in printed.out
    assert "next: mergedistill train" in printed.out
    assert f"{SHARDS}/{SHARDS} shard" in printed.err
    assert (folder / "verify.txt").read_text().strip() in printed.out
    assert json.loads((folder / "verify.json").read_text())["folders"] == [dataclasses.asdict(report)]
    verify(config)  # the reports in the folder are no damage


def test_the_missing_mass_is_that_of_every_position(folder):
    """Without a teacher too: it is in the records."""
    (report,) = verify(VerifyConfig(folder=str(folder)))
    masses = np.concatenate([1 - np.exp(r.top_log_probs.astype(np.float64)).sum(axis=1) for r in records_of(folder)])
    tenths = np.minimum((masses.clip(0, 1) * 10).astype(int), 9)
    assert report.missing_mass.counts == np.bincount(tenths, minlength=10).tolist()
    assert report.missing_mass.mean == pytest.approx(masses.clip(0, 1).mean())


def test_the_bars_of_a_histogram():
    lines = histogram("sw", [30, 0, 0, 0, 0, 0, 0, 0, 0, 10], 0.25)
    assert lines[0] == "sw: probability outside the stored candidates, mean 25.0% over 40 positions"
    assert lines[1].split() == ["0.0-0.1", "#" * 40, "75.0%"]
    assert lines[2].split() == ["0.1-0.2", "0.0%"]
    assert lines[10].split() == ["0.9-1.0", "#" * 13, "25.0%"]


def test_without_a_teacher_the_structure_is_checked_and_no_replay_is_reported(folder):
    (report,) = verify(VerifyConfig(folder=str(folder)))
    assert (report.replay, report.shown, report.remasked_shards) == (None, None, None)
    assert report.records == read_manifest(folder).records


def test_what_stands_at_masked_positions_is_counted(folder, teachers):
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"])))
    mask = load_tokenizer(teachers["en"]).mask_id
    pairs = [p for r in records_of(folder) for p in zip(r.input_ids[r.masked_positions], r.gold_ids, strict=True)]
    assert report.shown["mask"] == sum(shown == mask for shown, _ in pairs)
    assert report.shown["same"] == sum(shown == gold for shown, gold in pairs)
    assert sum(report.shown.values()) == len(pairs)


def test_a_sample_is_of_every_shard_and_drawn_by_the_seed(folder, teachers):
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"]), sample=1))
    assert report.replay.records == SHARDS
    drawn = {seed: sample_numbers(1000, 16, seed, 3).tolist() for seed in range(3)}
    assert drawn[0] == sample_numbers(1000, 16, 0, 3).tolist()
    assert drawn[0] != drawn[1] != drawn[2]
    assert drawn[0] != sample_numbers(1000, 16, 0, 4).tolist()
    assert all(len(set(one)) == 16 and one == sorted(one) for one in drawn.values())
    assert sample_numbers(3, 16, 0, 0).tolist() == [0, 1, 2]


def test_a_sample_is_replayed_in_parts_and_what_is_found_is_the_same(folder, teachers, monkeypatch):
    """No more than a part of it is held at a time; float32 means of float64 sums."""
    (whole,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"])))
    predict, sizes = replay.predict_records, []

    def predict_records(teacher, records, **settings):
        sizes.append(len(records))
        return predict(teacher, records, **settings)

    monkeypatch.setattr(replay, "predict_records", predict_records)
    monkeypatch.setattr(replay, "AT_ONCE", 1)
    (parts,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"])))
    assert len(sizes) == SHARDS
    assert sum(sizes) == whole.replay.records
    for name, value in dataclasses.asdict(whole.replay).items():
        assert getattr(parts.replay, name) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert dataclasses.replace(parts, replay=whole.replay) == whole


@pytest.mark.slow
def test_several_folders_are_reported_together_and_by_language(tmp_path, folder, teachers, capsys):
    """Two of one language make one histogram; a report of all goes where it is asked to."""
    settings = {"teacher": str(teachers["es"]), "corpus": text_again("es"), "language": "es"}
    spanish = predicted(tmp_path / "es", **settings)
    before = {path: state(path) for path in (folder, spanish)}
    folders = (str(folder), str(spanish), str(folder))
    by_language = {name: str(path) for name, path in teachers.items()}
    config = VerifyConfig(folder=folders, teacher=by_language, corpus=text_again, report=str(tmp_path / "report"))
    reports = verify(config)
    assert [report.language for report in reports] == ["en", "es", "en"]
    assert all(report.replay and report.remasked_shards for report in reports)
    assert {path: state(path) for path in before} == before
    assert not (folder / "verify.json").exists()
    text = (tmp_path / "report" / "verify.txt").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.count("en: probability outside the stored candidates") == 1
    assert f"over {2 * reports[0].masked_positions:,} positions" in text
    one_each = tuple(by_language[report.language] for report in reports)
    assert verify(dataclasses.replace(config, teacher=one_each)) == reports
    with pytest.raises(ValueError, match="field language: found 'es', expected one of"):
        verify(dataclasses.replace(config, teacher={"en": by_language["en"]}))


def test_a_sound_folder_beside_a_damaged_one_is_told_apart(tmp_path, folder, written, teachers):
    (folder / TFRECORD).unlink()
    config = VerifyConfig(folder=(str(written), str(folder)), teacher=str(teachers["en"]), report=str(tmp_path / "r"))
    with pytest.raises(RecordError, match=rf"{TFRECORD}: not found"):
        verify(config)
    found = json.loads((tmp_path / "r" / "verify.json").read_text())
    assert (found["sound"], [one["sound"] for one in found["folders"]]) == (False, [True, False])


def flip(path, index):
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def swap(folder, one, other):
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)


def changed(path, changes):
    content = json.loads(path.read_text())
    return {**content, **{k: v(content) if callable(v) else v for k, v in changes.items()}}


def alter(path, **changes):
    """By a damaged disk, or a hand."""
    path.write_text(json.dumps(changed(path, changes)))


def edit(path, **changes):
    """By a program that redoes the checksum of the fields."""
    write_sealed(path, {name: value for name, value in changed(path, changes).items() if name != FIELDS_CHECKSUM})


def seal(folder, shard=1):
    """Makes an entry fit the bytes of its shard, and nothing else."""
    path = folder / shard_name(shard)
    edit(folder / entry_name(shard), checksum=file_checksum(path), bytes=path.stat().st_size)


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def test_all_damage_is_listed_not_the_first_alone(folder, teachers):
    flip(folder / TFRECORD, 77)
    edit(folder / "shard-00002.json", records=lambda e: e["records"] + 1)
    alter(folder / "shard-00003.json", tokens=lambda e: e["tokens"] + 1)
    (folder / "shard-00009.tfrecord").write_bytes(b"")
    problems = refused(folder, r" \(and 3 more problems, see verify.txt in the folder\)$", teachers["en"])
    for name in ("shard-00001.tfrecord", "shard-00002.json", "shard-00003.json", "shard-00009.tfrecord"):
        assert sum(name in problem for problem in problems) == 1


def test_of_many_unsound_records_some_are_told_and_all_are_counted(folder):
    edit(folder / "manifest.json", vocabulary_size=30)
    problems = refused(folder, "record 0: field input: found id")
    entries = read_manifest(folder).shards
    for entry in entries:
        of_shard = [problem for problem in problems if shard_name(entry.shard) in problem]
        assert len(of_shard) <= 4
        more = [problem for problem in of_shard if "more of" in problem]
        assert (len(of_shard) == 4) == bool(more)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: flip(f / TFRECORD, 0), rf"{TFRECORD}: field checksum"),
        (lambda f: flip(f / TFRECORD, 77), rf"{TFRECORD}: field checksum"),
        (lambda f: flip(f / TFRECORD, -1), rf"{TFRECORD}: field checksum"),
        (lambda f: (f / TFRECORD).unlink(), rf"{TFRECORD}: not found"),
        (lambda f: (f / ENTRY).unlink(), rf"{ENTRY}: found 3 finished shards, expected 4"),
        (lambda f: cut(f / TFRECORD, 3), rf"{TFRECORD}: field bytes"),
        (lambda f: (f / TFRECORD).write_bytes(b""), rf"{TFRECORD}: field bytes: found 0"),
        (lambda f: swap(f, TFRECORD, "shard-00002.tfrecord"), rf"{TFRECORD}: field (bytes|checksum)"),
        (lambda f: swap(f, ENTRY, "shard-00002.json"), rf"{ENTRY}: field shard: found 2"),
        (lambda f: (f / ENTRY).write_text(""), rf"{ENTRY}: found no JSON"),
        (lambda f: alter(f / ENTRY, tokens=7), rf"{ENTRY}: field {FIELDS_CHECKSUM}: found"),
        (lambda f: edit(f / ENTRY, records=lambda e: e["records"] + 1), rf"{ENTRY}: field records"),
        (lambda f: edit(f / ENTRY, masked_positions=lambda e: e["masked_positions"] - 1), "field masked_positions"),
        (lambda f: edit(f / ENTRY, tokens=0), rf"{ENTRY}: field tokens: found 0"),
        (lambda f: edit(f / ENTRY, gold_nll_nats=lambda e: e["gold_nll_nats"] / 4), rf"{ENTRY}: field gold_nll_nats"),
        (lambda f: edit(f / ENTRY, gold_nll_nats=-1.0), rf"{ENTRY}: field gold_nll_nats: found -1.0, expected at leas"),
        (lambda f: edit(f / ENTRY, gold_nll_nats=float("nan")), rf"{ENTRY}: field gold_nll_nats: found nan"),
        (lambda f: edit(f / ENTRY, masked_words=0), rf"{ENTRY}: field masked_words: found 0, expected from"),
        (lambda f: edit(f / ENTRY, masked_words=10_000), rf"{ENTRY}: field masked_words: found 10000, expected from"),
        (lambda f: edit(f / ENTRY, checksum="00"), rf"{TFRECORD}: field checksum: found .*, expected 00"),
        (lambda f: (f / "shard-00004.tfrecord").write_bytes(b""), r"shard-00004\.tfrecord: found a shard beyond the 4"),
        (lambda f: (f / "shard-1.tfrecord").write_bytes(b""), r"shard-1\.tfrecord: found a shard beyond the 4"),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: not found"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: found no JSON"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), r"manifest\.json: found no JSON"),
        (lambda f: alter(f / "manifest.json", seed=7), rf"manifest\.json: field {FIELDS_CHECKSUM}: found"),
        (lambda f: edit(f / "manifest.json", schema_version=9), r"field schema_version: found 9, expected one of"),
        (lambda f: alter(f / "corpus.json", text_bytes_per_shard=3), rf"corpus\.json: field {FIELDS_CHECKSUM}: found"),
    ],
)
def test_damage_is_found_and_named(folder, damage, named):
    damage(folder)
    problems = refused(folder, named)
    assert all(str(folder) in problem for problem in problems)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: cut(f / TFRECORD, 3), rf"{TFRECORD}: record \d+: found .*, expected whole TFRecord frames"),
        (lambda f: flip(f / TFRECORD, 77), rf"{TFRECORD}: record \d+: found .*, expected whole TFRecord frames"),
        (lambda f: (f / TFRECORD).write_bytes(b""), rf"{ENTRY}: field records: found \d+, expected 0"),
        # Counts betray records that belong to another shard.
        (lambda f: swap(f, TFRECORD, "shard-00002.tfrecord") or seal(f, 2), rf"{ENTRY}: field (records|masked_pos)"),
    ],
)
def test_damage_behind_a_redone_checksum_is_found(folder, damage, named):
    damage(folder)
    seal(folder)
    refused(folder, named)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"k": K - 1}, rf"{shard_name(0)}: record 0: record: found .* words, expected"),
        ({"k": 0}, rf"{shard_name(0)}: record 0: record: found .* words, expected"),
        ({"vocabulary_size": 70_000}, rf"{shard_name(0)}: record 0: record"),  # 17 bits an id
        ({"vocabulary_size": 30}, "expected below 30"),
        ({"documents": 40}, "found 4 finished shards, expected 40"),
        ({"documents": 3}, "field shard: found 3, expected the number in its name, below 3"),
        ({"max_length": 12}, "ids, expected at most 12"),
        ({"draws": 1}, "field draw: found 1, expected below 1"),
        ({"rate": 0.02, "max_share": 0.04}, "field masked positions: found .*, expected 1 to 1"),
    ],
)
def test_a_manifest_that_does_not_fit_its_records_is_refused(folder, changes, named):
    (folder / "corpus.json").unlink()  # which tells on its own where `documents` is another
    edit(folder / "manifest.json", **changes)
    refused(folder, named)


@pytest.mark.parametrize("field", ["weights_hash", "vocabulary_hash", "tokenizer_hash"])
def test_a_manifest_that_does_not_fit_its_teacher_is_refused(folder, teachers, field):
    edit(folder / "manifest.json", **{field: "0" * 32})
    mismatched(folder, rf"manifest\.json: field {field}: found '0+', expected", teachers["en"])


def test_a_vocabulary_size_that_is_not_the_teachers_is_refused(folder, teachers):
    edit(folder / "manifest.json", vocabulary_size=lambda m: m["vocabulary_size"] + 1)
    mismatched(folder, "field vocabulary_size", teachers["en"])


def test_another_teachers_weights_are_refused(folder, teachers, impostor):
    mismatched(folder, r"manifest\.json: field weights_hash", impostor)
    mismatched(folder, r"manifest\.json: field weights_hash", teachers["es"])


def test_another_teachers_weights_are_found_by_replay_behind_a_forged_hash(folder, impostor):
    edit(folder / "manifest.json", weights_hash=model_hash(str(impostor)))
    refused(folder, "field log_probs: found a difference of .* nats", impostor)


def broken_copy(teacher, target, change):
    """A teacher's folder with other tensors."""
    target.mkdir()
    for path in teacher.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = change(safetensors.numpy.load_file(target / WEIGHTS_FILE))
    safetensors.numpy.save_file(tensors, target / WEIGHTS_FILE, metadata={"format": "pt"})
    return target


def test_a_teacher_that_gives_no_numbers_is_not_agreement(tmp_path, folder, teachers):
    """NaN is neither larger nor smaller than any tolerance."""
    name = "cls.predictions.bias"
    broken = broken_copy(teachers["en"], tmp_path / "broken", lambda t: t | {name: np.full_like(t[name], np.nan)})
    edit(folder / "manifest.json", weights_hash=model_hash(str(broken)))
    with pytest.raises(ValueError, match="field log_probs: found numbers that are not finite"):
        verify(VerifyConfig(folder=str(folder), teacher=str(broken)))


def test_a_teacher_without_a_masked_lm_head_is_refused(tmp_path, folder, teachers):
    def headless(tensors):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith("cls.")}

    broken = broken_copy(teachers["en"], tmp_path / "headless", headless)
    edit(folder / "manifest.json", weights_hash=model_hash(str(broken)))
    with pytest.raises(ValueError, match="has no masked-LM head"):
        verify(VerifyConfig(folder=str(folder), teacher=str(broken)))


def rewrite(folder, change):
    """A custom writer: shard 1 with its second record changed, and an entry that fits."""
    records = records_of(folder, [1])
    fields = {
        f.name: np.copy(value) if isinstance(value := getattr(records[1], f.name), np.ndarray) else value
        for f in dataclasses.fields(records[1])
    }
    fields |= change(fields) or {}
    records[1] = schema.Record(**fields)
    write_shard(folder, 1, records, LAYOUT)


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
        (set_value("masked_positions", 0, 0), "field masked positions: found position 0, expected none at the first"),
    ],
)
def test_a_custom_writers_mistakes_are_found(folder, change, named):
    rewrite(folder, change)
    refused(folder, rf"{TFRECORD}: record 1: .*{named}")


def shown_instead(ids):
    """Puts an id that is no [MASK] at the first masked position."""

    def change(fields):
        fields["input_ids"][fields["masked_positions"][0]] = ids

    return change


def visible(index):
    """Puts an id at the first position of the text that is not masked."""

    def change(fields):
        text = np.setdiff1d(np.arange(1, len(fields["input_ids"]) - 1), fields["masked_positions"])
        fields["input_ids"][text[0]] = index

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: set_value("input_ids", t.sep_id, 0), "record 1: field input: found id {sep} as the first"),
        (lambda t: set_value("input_ids", t.cls_id, -1), "record 1: field input: found id {cls} as the last"),
        (lambda t: shown_instead(t.pad_id), "record 1: field input: found the special id {pad} at a masked position"),
        (lambda t: set_value("gold_ids", t.cls_id, 0), "record 1: field gold: found the special id {cls}, expected"),
        (lambda t: set_value("gold_ids", t.mask_id, 0), "record 1: field gold: found the special id {mask}, expected"),
        (lambda t: visible(t.mask_id), "record 1: field input: found the special id {mask} in the text, expected none"),
        (lambda t: visible(t.pad_id), "record 1: field input: found the special id {pad} in the text, expected none"),
    ],
)
def test_special_tokens_where_none_belong_are_found_with_the_tokenizer(folder, teachers, change, named):
    tokenizer = load_tokenizer(teachers["en"])
    rewrite(folder, change(tokenizer))
    verify(VerifyConfig(folder=str(folder)))
    ids = {role: getattr(tokenizer, f"{role}_id") for role in ("sep", "cls", "pad", "mask")}
    refused(folder, named.format(**ids), tokenizer=str(teachers["en"]))


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
    refused(folder, rf"{TFRECORD}: record 1: field log_probs: found a difference", teachers["en"])


def test_a_shard_of_another_teacher_is_found_by_replay_alone(tmp_path, folder, teachers, impostor):
    """Its checksum fits, its text and its masks too."""
    other = predicted(tmp_path / "other", teacher=str(impostor))
    for name in (TFRECORD, ENTRY):
        (folder / name).write_bytes((other / name).read_bytes())
    verify(VerifyConfig(folder=str(folder), tokenizer=str(teachers["en"]), corpus=text_again))
    problems = refused(folder, f"{TFRECORD}: record 0: field log_probs: found a difference", teachers["en"])
    assert all(TFRECORD in problem for problem in problems)


def rewrite_all(folder, shard, records):
    write_shard(folder, shard, records, LAYOUT)


def exchange_records(folder):
    """Two shards change their places, entries and all."""
    first, second = records_of(folder, [1]), records_of(folder, [2])
    rewrite_all(folder, 1, second)
    rewrite_all(folder, 2, first)


def replaced_gold(fields):
    fields["gold_ids"][0] = 7 if fields["gold_ids"][0] != 7 else 8


def reached_around(fields):
    """A word that is not hidden becomes another."""
    free = np.setdiff1d(np.arange(1, len(fields["input_ids"]) - 1), fields["masked_positions"])[0]
    fields["input_ids"][free] = 7 if fields["input_ids"][free] != 7 else 8


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (exchange_records, rf"{TFRECORD}: record 0: field text id: found .* draw 0, expected .* as the corpus has it"),
        (lambda f: rewrite(f, replaced_gold), rf"{TFRECORD}: record 1: field gold: found . at number 0, expected"),
        (lambda f: rewrite(f, reached_around), rf"{TFRECORD}: record 1: field input: found"),
        (lambda f: rewrite_all(f, 1, records_of(f, [1])[:-1]), rf"{TFRECORD}: field records: found \d+, expected"),
        (lambda f: edit(f / "manifest.json", seed=5), r"record 0: field (input|masked positions): found"),
    ],
)
def test_what_only_the_text_can_tell_is_found_with_the_corpus(folder, teachers, damage, named):
    damage(folder)
    verify(VerifyConfig(folder=str(folder), tokenizer=str(teachers["en"])))
    refused(folder, named, tokenizer=str(teachers["en"]), corpus=text_again)


@pytest.mark.parametrize("summary", [True, False])
def test_another_text_than_the_folders_is_refused(folder, teachers, summary):
    """Also in folders from before corpus.json."""
    if not summary:
        (folder / "corpus.json").unlink()

    def other(language):
        texts = [*TEXTS[language][:2], "Another text.", TEXTS[language][3]]
        return corpora.add_corpus(f"verify_{language}", lambda _: iter(texts), ["train"])

    refused(folder, "field corpus_hash: found", tokenizer=str(teachers["en"]), corpus=other)
    another = lambda language: corpora.add_corpus(f"another_{language}", lambda _: iter(TEXTS["en"]), ["train"])  # noqa: E731
    named = "field corpus: found 'verify_en:train', expected 'another_en:train'"
    (folder / "verify.json").unlink()
    mismatched(folder, named, tokenizer=str(teachers["en"]), corpus=another)


def test_candidates_of_nearly_equal_probability_may_swap_places(folder, teachers):
    """What another machine's rounding does: two neighbours a hair apart change their order."""
    records = records_of(folder, [1])
    gaps = [np.diff(record.top_log_probs, axis=1) for record in records]
    number = int(np.argmax([gap.max() for gap in gaps]))
    row, rank = np.unravel_index(np.argmax(gaps[number]), gaps[number].shape)
    if gaps[number].max() < -0.015:
        pytest.skip("no two candidates of this shard are close enough")
    top_ids = records[number].top_ids.copy()
    top_ids[row, [rank, rank + 1]] = top_ids[row, [rank + 1, rank]]
    records[number] = dataclasses.replace(records[number], top_ids=top_ids)
    rewrite_all(folder, 1, records)
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"])))
    assert (report.replay.same_best < 1) == (rank == 0)


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory, teachers):
    """Sampled targets; nothing in it is changed."""
    return predicted(tmp_path_factory.mktemp("drawn") / "records", teacher=str(teachers["en"]), targets="sampled")


@pytest.fixture
def drawn(tmp_path, drawn_once):
    target = tmp_path / "drawn"
    target.mkdir()
    for path in drawn_once.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_sampled_targets_are_drawn_again(drawn, teachers):
    """And no mass is missing of them: their weights sum to 1."""
    (report,) = verify(VerifyConfig(folder=str(drawn), teacher=str(teachers["en"]), corpus=text_again, sample=100))
    assert (report.targets, report.missing_mass, report.remasked_shards) == ("sampled", None, SHARDS)
    assert (report.replay.same_best, report.replay.same_candidates) == (1.0, 1.0)
    assert report.replay.largest_difference < 1e-3
    assert "of the draws" in (drawn / "verify.txt").read_text()


def half_the_first(fields):
    fields["top_log_probs"][0, 0] = np.log(1 / K) - 0.5


def lose_a_draw(fields):
    fields["top_log_probs"][0] = [np.log(2 / K), np.log(1 / K), schema.NO_MASS, schema.NO_MASS]
    fields["top_ids"][0] = [7, 8, 7, 7]


def stray_slot(fields):
    fields["top_log_probs"][0] = [0.0, schema.NO_MASS, schema.NO_MASS, schema.NO_MASS]
    fields["top_ids"][0] = [7, 7, 9, 7]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (half_the_first, "field log_probs: found (shares that are no multiples|values that are not)"),
        (lose_a_draw, r"field log_probs: found weights that add up to 0\.7500, expected 1"),
        (stray_slot, "field top: found id 9 in a slot without mass, expected the first id"),
    ],
)
def test_sampled_targets_that_nobody_drew_are_found(drawn, change, named):
    rewrite(drawn, change)
    refused(drawn, rf"{TFRECORD}: record 1: .*{named}")


def test_sampled_targets_of_other_draws_are_found_by_replay(tmp_path, drawn, teachers, impostor):
    rewrite(drawn, lambda f: {"top_ids": (f["top_ids"] + 1) % 80})
    verify(VerifyConfig(folder=str(drawn)))
    named = f"{TFRECORD}: record 1: field log_probs: found a difference of .* of the draws from the teacher"
    refused(drawn, named, teachers["en"])
    other = predicted(tmp_path / "other", teacher=str(impostor), targets="sampled")
    for name in (TFRECORD, ENTRY):
        (drawn / name).write_bytes((other / name).read_bytes())
    refused(drawn, f"{TFRECORD}: record 0: field log_probs: found a difference", teachers["en"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"packing": "document"},
        {"packing": "best_fit", "documents_per_shard": 2},
        {"masking": MaskingConfig(rate=0.25, max_share=0.4, cover=True), "draws": 4},
        {"masking": MaskingConfig(rate=0.2, max_share=0.4, replacement="mask", max_count=5, seed=3)},
        {"dtype": "bfloat16"},
    ],
)
def test_every_way_to_write_records_can_be_verified(tmp_path, teachers, changes):
    """The replay and the masks come from the manifest alone."""
    made = predicted(tmp_path / "records", teacher=str(teachers["en"]), **changes)
    (report,) = verify(VerifyConfig(folder=str(made), teacher=str(teachers["en"]), corpus=text_again, batch_size=3))
    assert report.remasked_shards == report.shards
    assert report.replay.positions > 0


def test_a_shown_word_where_all_are_to_be_hidden_is_found(tmp_path, teachers):
    masking = MaskingConfig(rate=0.2, max_share=0.25, replacement="mask")
    made = predicted(tmp_path / "records", tokenizer=str(teachers["en"]), masking=masking)
    records = list(read_records(made, 1, dataclasses.replace(LAYOUT, k=0)))
    shown = records[1].input_ids.copy()
    shown[records[1].masked_positions[0]] = records[1].gold_ids[0]
    records[1] = dataclasses.replace(records[1], input_ids=shown)
    write_shard(made, 1, records, dataclasses.replace(LAYOUT, k=0))
    named = rf"{TFRECORD}: record 1: field input: found id \d+ at a masked position, expected \d+ at all of them"
    refused(made, named, tokenizer=str(teachers["en"]))


def test_gold_labels_alone_have_nothing_to_replay(tmp_path, teachers):
    gold = predicted(tmp_path / "gold", tokenizer=str(teachers["en"]))
    (report,) = verify(VerifyConfig(folder=str(gold), tokenizer=str(teachers["en"]), corpus=text_again))
    assert report.records > 0
    assert (report.missing_mass, report.replay, report.remasked_shards) == (None, None, SHARDS)
    (gold / "verify.json").unlink()
    mismatched(gold, "field k: found 0, expected predictions to replay", teachers["en"])


def test_a_folder_without_records_is_not_sound(folder):
    for shard in range(SHARDS):
        rewrite_all(folder, shard, [])
    refused(folder, "found 0 records, expected at least one")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sample": 0}, r"VerifyConfig\.sample: found 0, expected at least 1"),
        ({"batch_size": 0}, r"VerifyConfig\.batch_size: found 0, expected at least 1"),
        ({"folder": ()}, r"VerifyConfig\.folder: found none"),
        ({"folder": ("a", "b"), "teacher": ("x",)}, r"VerifyConfig\.teacher: found 1, expected 2, one a folder"),
        ({"teacher": "x", "tokenizer": "x"}, r"VerifyConfig\.tokenizer: found one beside a teacher"),
        ({"corpus": text_again}, r"VerifyConfig\.corpus: found one alone, expected a teacher or a tokenizer"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        VerifyConfig(**{"folder": "x"} | settings)


def test_a_folder_from_before_gold_losses_and_checksums_is_sound(folder, teachers):
    (folder / "corpus.json").unlink()
    for shard in range(SHARDS):
        path = folder / entry_name(shard)
        later = ("gold_nll_nats", "masked_words", FIELDS_CHECKSUM)
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in later}))
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=str(teachers["en"]), corpus=text_again))
    assert report.records > 0


def test_another_revision_of_the_hub_is_refused_by_name(folder, teachers, tmp_path, monkeypatch):
    """Although the weights are those of the folder."""
    add_snapshot(use_cache(tmp_path / "cache", monkeypatch), "some/bert", teachers["en"], NEW, "main")
    config = VerifyConfig(folder=str(folder), teacher="some/bert")
    assert verify(config)[0].replay  # of a folder no revision is known
    edit(folder / "manifest.json", revision=OLD)
    (folder / "verify.json").unlink()
    mismatched(folder, rf"manifest\.json: field revision: found '{OLD}', expected '{NEW}'", "some/bert")
    edit(folder / "manifest.json", revision=NEW)
    assert verify(config)[0].replay


def sure(token, nats):
    """Gives one token so many nats more than it had."""

    def changed(tensors):
        bias = tensors["cls.predictions.bias"].copy()
        bias[token] += nats
        return tensors | {"cls.predictions.bias": bias}

    return changed


@pytest.mark.parametrize("nats", [7e4, 2e5, 1e8])
@pytest.mark.parametrize("targets", ["top", "sampled"])
def test_what_is_below_half_precision_is_stored_as_its_lowest_number(tmp_path, teachers, nats, targets):
    """A teacher that is very sure: predict writes nothing that verify, or half precision, cannot read."""
    teacher = str(broken_copy(teachers["en"], tmp_path / "sure", sure(7, nats)))
    folder = predicted(tmp_path / "records", teacher=teacher, targets=targets)
    assert min(record.top_log_probs.min() for record in records_of(folder)) == NO_MASS
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=teacher, corpus=text_again))
    assert report.sound
    assert report.replay.largest_difference == 0.0


def test_what_no_number_tells_from_what_is_no_token_is_refused(tmp_path, teachers):
    teacher = str(broken_copy(teachers["en"], tmp_path / "sure", sure(7, 1e12)))
    with pytest.raises(ValueError, match=r"field log_probs: found numbers that are not finite, or below -5e\+08"):
        predicted(tmp_path / "records", teacher=teacher)


def test_all_tokens_as_candidates_of_a_teacher_that_knows_nothing(tmp_path, teachers):
    """Every log-probability is the same, and rounded the same way."""
    flat = lambda tensors: {name: np.zeros_like(tensor) for name, tensor in tensors.items()}  # noqa: E731
    teacher = str(broken_copy(teachers["en"], tmp_path / "flat", flat))
    count = len(load_tokenizer(teacher).tokens)
    folder = predicted(tmp_path / "records", teacher=teacher, k=count)
    (report,) = verify(VerifyConfig(folder=str(folder), teacher=teacher))
    assert report.sound


@pytest.mark.parametrize("packing", ["across", "document", "best_fit"])
@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 3, "masking": MaskingConfig(rate=0.5, max_share=1.0)},
        {"max_length": 4, "masking": MaskingConfig(rate=0.5, max_share=0.5)},
        {"max_length": 5, "masking": MaskingConfig(rate=0.9, max_share=1.0), "draws": 3},
        {"max_length": 5, "masking": MaskingConfig(rate=0.25, max_share=0.25, cover=True), "draws": 4},
        {"masking": MaskingConfig(rate=0.2, max_count=4, replacement="mask")},
    ],
)
def test_what_predict_writes_with_settings_at_their_edges_is_sound(tmp_path, teachers, packing, changes):
    folder = predicted(tmp_path / "records", teacher=str(teachers["en"]), packing=packing, **changes)
    settings = {"folder": str(folder), "teacher": str(teachers["en"]), "corpus": text_again}
    (report,) = verify(VerifyConfig(**settings, remasked_shards=99))
    assert report.sound


@pytest.mark.parametrize("texts", [["a"], ["a b", "c"], [" ", "\n \n"], ["\u200b", "..."]])
def test_a_folder_without_a_record_is_refused_when_it_is_made(tmp_path, teachers, texts):
    """verify and train would refuse it: predict says so, and says why."""
    corpus = corpora.add_corpus("verify_little", lambda _: iter(texts), ["train"])
    changes = {"corpus": corpus, "masking": MaskingConfig(rate=0.001, max_share=0.5), "draws": 1}
    with pytest.raises(
        ValueError, match=r"records: found 0 records of \d documents, expected at least one: nothing was"
    ):
        predicted(tmp_path / "records", teacher=str(teachers["en"]), **changes)
