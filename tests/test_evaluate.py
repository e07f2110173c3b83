"""The evaluation verb: scores equal to those of transformers, and a student that is its teacher scores as it does."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_merge import MAX_LENGTH, MODEL, K, Merge, add_corpus, make_merge, train_config
from transformers import AutoModelForMaskedLM

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.evaluate import EvaluateConfig
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.data.batches import describe_mixture
from mergedistill_jax.evaluate import evaluate
from mergedistill_jax.evaluation import masked_words
from mergedistill_jax.evaluation.masked_words import (
    all_records,
    score_baseline,
    score_student,
    score_teacher,
    unseen_shares,
)
from mergedistill_jax.evaluation.report import Report
from mergedistill_jax.manifest import Manifest, open_for_writing, read_manifest, write_shard
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.predict import predict
from mergedistill_jax.schema import Record, RecordError
from mergedistill_jax.stage_log import StageTime, write_stage_time
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.train import train
from mergedistill_jax.training.checkpoints import Checkpoints, Run, open_run, read_run
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.canonical import SPECIAL, atoms
from mergedistill_jax.vocabulary.folder import read_vocabulary, write_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, whole_map
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks.distillation import add_students_mixture

LANGUAGES = ("en", "es")


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


def transformers_scores(teacher: str, manifest: Manifest) -> dict[str, float]:
    """The same scores from transformers' dense logits, one unpadded sequence at a time, in float64."""
    model = AutoModelForMaskedLM.from_pretrained(teacher).double().eval()
    losses, hits = [], []
    for record in all_records(manifest):
        with torch.no_grad():
            logits = model(torch.tensor(record.input_ids[None].astype(np.int64))).logits[0].numpy()
        rows = logits[record.masked_positions]
        shifted = rows - rows.max(-1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        losses += list(-log_probs[np.arange(len(rows)), record.gold_ids])
        hits += list(rows.argmax(-1) == record.gold_ids)
    return {"masked_accuracy": float(np.mean(hits)), "pseudo_perplexity": float(np.exp(np.mean(losses)))}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_teachers_scores_are_those_of_transformers(merge: Merge, language: str) -> None:
    """In batches of 8, whose last one is padded; records of uneven length and number of masked positions."""
    manifest = read_manifest(merge.heldout[language])
    assert manifest.records % 8
    teacher = load_teacher(merge.teachers[language], max_length=32, k=K)
    found = score_teacher(teacher, manifest, 8).metrics()
    assert found == pytest.approx(transformers_scores(merge.teachers[language], manifest), rel=1e-4)
    assert "teacher_agreement" not in found


def test_a_student_that_is_its_teacher_has_its_scores_exactly(merge: Merge, tmp_path: Path) -> None:
    """In the teacher's own vocabulary, with the teacher's own weights."""
    teacher = merge.teachers["en"]
    tokenizer = load_tokenizer(teacher)
    identity = whole_map(np.arange(len(tokenizer.tokens), dtype=np.int32))
    write_vocabulary(tmp_path, tokenizer, {"en": (tokenizer, identity)}, {})
    mixture = describe_mixture(add_students_mixture([merge.heldout["en"]], str(tmp_path), name="small_identity"))
    encoder, params = load_masked_lm(teacher)

    student = score_student(encoder, params, mixture, 8)["en"].metrics()
    expected = score_teacher(load_teacher(teacher, max_length=32, k=K), read_manifest(merge.heldout["en"]), 8).metrics()
    assert student.pop("teacher_agreement") == 1.0
    assert student == expected


def test_a_teacher_is_scored_on_the_positions_of_a_student_that_lacks_some_tokens(merge: Merge, tmp_path: Path) -> None:
    """A third of the labels is gone and no input: the student that is its teacher has its scores exactly, again."""
    teacher = merge.teachers["en"]
    tokenizer = load_tokenizer(teacher)
    ids = np.arange(len(tokenizer.tokens), dtype=np.int32)
    cut = IdMap(labels=np.where(ids % 3, ids, DROPPED), ids=ids, starts=np.arange(len(ids) + 1, dtype=np.int64))
    write_vocabulary(tmp_path, tokenizer, {"en": (tokenizer, cut)}, {})
    mixture = describe_mixture(add_students_mixture([merge.heldout["en"]], str(tmp_path), name="small_cut_labels"))
    manifest = read_manifest(merge.heldout["en"])
    found = score_teacher(load_teacher(teacher, max_length=32, k=K), manifest, 8, cut)
    student = score_student(*load_masked_lm(teacher), mixture, 8)["en"]
    assert (found.count, found.correct, found.nll_nats) == (student.count, student.correct, student.nll_nats)

    gold, best = (np.concatenate(arrays) for arrays in zip(*map(answers, all_records(manifest)), strict=True))
    kept = (gold % 3 > 0) & (best % 3 > 0).any(axis=1)
    assert found.count == kept.sum() < len(kept) == found.positions
    assert found.metrics()["scored_share"] == kept.mean()
    most = np.bincount(np.concatenate([one.gold_ids for one in all_records(manifest)])).argmax()
    expected = {"masked_accuracy": float((gold[kept] == most).mean())}
    assert score_baseline(manifest, manifest, cut) == pytest.approx(expected)


def answers(record: Record) -> tuple[np.ndarray, np.ndarray]:
    return record.gold_ids, record.top_ids


def test_scoring_holds_one_batch_and_places_the_parameters_once(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = 0, []
    score, records = masked_words._hits_and_loss, masked_words.all_records

    def counted(manifest: Manifest) -> Iterator[Record]:
        nonlocal read
        for record in records(manifest):
            read += 1
            yield record

    def watched(params: Any, *arrays: Any, **static: Any) -> Any:
        seen.append((read, jax.tree.leaves(params)))
        return score(params, *arrays, **static)

    monkeypatch.setattr(masked_words, "all_records", counted)
    monkeypatch.setattr(masked_words, "_hits_and_loss", watched)
    manifest = read_manifest(merge.heldout["en"])
    score_teacher(load_teacher(merge.teachers["en"], max_length=32, k=K), manifest, 2)
    assert [count for count, _ in seen] == [*range(2, manifest.records, 2), manifest.records]
    name = add_students_mixture([merge.heldout["en"]], merge.vocabulary, name="small_placed")
    encoder = EncoderConfig(
        **{**MODEL.keywords, "vocab_size": describe_mixture(name).vocabulary_size, "max_length": 32}
    )
    shapes = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.zeros((1, 1), jnp.int32))
    params = jax.device_get(nn.unbox(masked_language_model(encoder).init(jax.random.key(0), *shapes))["params"])
    teacher_calls = len(seen)
    score_student(encoder, params, describe_mixture(name), 2)
    for calls in (seen[:teacher_calls], seen[teacher_calls:]):
        assert len(calls) > 1
        for _, leaves in calls:
            assert all(isinstance(leaf, jax.Array) for leaf in leaves)
            assert list(map(id, leaves)) == list(map(id, calls[0][1]))


def test_the_baseline_answers_the_token_hidden_most_often_in_training(merge: Merge) -> None:
    train_manifest, heldout = (read_manifest(folders["en"]) for folders in (merge.records, merge.heldout))
    counts: dict[int, int] = {}
    for record in all_records(train_manifest):
        for gold in record.gold_ids.tolist():
            counts[gold] = counts.get(gold, 0) + 1
    most = max(counts, key=lambda gold: (counts[gold], -gold))
    gold = np.concatenate([record.gold_ids for record in all_records(heldout)])
    assert score_baseline(train_manifest, heldout) == {"masked_accuracy": float((gold == most).mean())}


@pytest.fixture(scope="module")
def report(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, EvaluateConfig]:
    """A short run of a student, the same run under another name, a tagger's result, and their report."""
    root = tmp_path_factory.mktemp("report")
    train(train_config(merge, root / "student", steps=10, heldout=None))
    (root / "tagger").mkdir()
    result = {"task": "ner", "language": "es", "metrics": {"entity_f1": 0.75, "entity_precision": 0.5}}
    (root / "tagger" / "result.json").write_text(json.dumps(result))
    write_stage_time(
        root / "student", StageTime(stage="train", command="mergedistill train", configuration="", seconds=7, order=1)
    )
    config = evaluate_config(
        merge,
        root,
        students={"student": str(root / "student"), "student_gold": str(root / "student")},
        train_records=merge.records,
        finetuned={"student": (str(root / "tagger"),)},
        run_folder=str(root),
    )
    return root, evaluate(config), config


def evaluate_config(merge: Merge, root: Path, **changes: Any) -> EvaluateConfig:
    heldout = add_students_mixture(list(merge.heldout.values()), merge.vocabulary, name="small_heldout")
    fields: dict[str, Any] = {
        "output": str(root / "report"),
        "heldout": heldout,
        "teachers": merge.teachers,
        "students": {},
        "batch_size": 8,
        "examples": 1,
    }
    return EvaluateConfig(**{**fields, **changes})


@pytest.mark.slow
def test_the_report_holds_every_score_that_was_measured(
    merge: Merge, report: tuple[Path, Report, EvaluateConfig]
) -> None:
    content = json.loads((report[0] / "report" / "report.json").read_text())
    for language in LANGUAGES:
        models = content["languages"][language]
        assert set(models) == {"baseline", "teacher", "student", "student_gold"}
        assert set(models["baseline"]) == {"masked_accuracy"}
        assert set(models["teacher"]) == {"masked_accuracy", "pseudo_perplexity"}
        measured = {"masked_accuracy", "pseudo_perplexity", "teacher_agreement", "unseen_share"}
        assert set(models["student_gold"]) == measured
        manifest = read_manifest(merge.heldout[language])
        assert models["teacher"] == pytest.approx(transformers_scores(merge.teachers[language], manifest), rel=1e-4)
    assert content["languages"]["es"]["student"]["ner_f1"] == 0.75
    assert "ner_f1" not in content["languages"]["en"]["student"]


def counted_by_hand(folder: str, id_map: IdMap, token_counts: np.ndarray) -> float:
    """Share of the input tokens of a folder, as the student reads them, that never stood in its training batches."""
    unseen = total = 0
    for record in all_records(read_manifest(folder)):
        masked = np.isin(np.arange(len(record.input_ids)), record.masked_positions)
        ids, _ = id_map.expand(record.input_ids, masked)
        if len(ids) > MAX_LENGTH:
            ids = np.append(ids[: MAX_LENGTH - 1], ids[-1])
        unseen += int(np.count_nonzero(token_counts[ids] == 0))
        total += len(ids)
    return unseen / total


def test_the_share_of_unseen_tokens_is_that_of_a_count_by_hand(
    merge: Merge, report: tuple[Path, Report, EvaluateConfig]
) -> None:
    """From the run's file of counts. The last batch is filled up, which must not count."""
    content = json.loads((report[0] / "report" / "report.json").read_text())
    counts = np.fromfile(report[0] / "student" / "token_counts-10.bin", "<i8")
    vocabulary = read_vocabulary(merge.vocabulary)
    assert len(counts) == vocabulary.size
    shares = []
    for language in LANGUAGES:
        expected = counted_by_hand(merge.heldout[language], vocabulary.id_map(language), counts)
        shares.append(content["languages"][language]["student"]["unseen_share"])
        assert shares[-1] == pytest.approx(expected, rel=1e-12)
    assert min(shares) < 1


def cut_vocabulary(merge: Merge, folder: Path) -> str:
    """Special tokens and characters alone."""
    kept = [
        token
        for token in read_vocabulary(merge.vocabulary).tokenizer().tokens
        if token in SPECIAL or len(atoms(token)) == 1
    ]
    root = Path(merge.teachers["en"]).parent
    method = UnionConfig(
        teachers=merge.teachers, corpus=lambda language: add_corpus(root, language), split="all", size=len(kept)
    )
    vocab(VocabConfig(output=str(folder), method=method))
    return str(folder)


@pytest.mark.slow
def test_unseen_tokens_of_a_cut_vocabulary_are_counted_in_every_record(merge: Merge, tmp_path: Path) -> None:
    """Also in one of which no position is left to predict: all words hidden in it are cut."""
    vocabulary = cut_vocabulary(merge, tmp_path / "vocabulary")
    dropped = read_vocabulary(vocabulary).id_map("en").labels == DROPPED
    manifest = read_manifest(merge.heldout["en"])
    records = [
        dataclasses.replace(record, gold_ids=np.full_like(record.gold_ids, np.flatnonzero(dropped)[-1]))
        if number % 2
        else record
        for number, record in enumerate(all_records(manifest))
    ]
    emptied = tmp_path / "en"
    identity = dataclasses.replace(manifest.identity, documents=1, documents_per_shard=1)
    open_for_writing(emptied, identity)
    write_shard(emptied, 0, records, identity.layout)
    folders = {**merge.heldout, "en": str(emptied)}
    name = add_students_mixture(list(folders.values()), vocabulary, name="small_cut")
    mixture = describe_mixture(name)
    token_counts = np.random.default_rng(0).integers(0, 2, mixture.vocabulary_size)
    found = unseen_shares(mixture, token_counts, 8)
    for language in LANGUAGES:
        id_map = read_vocabulary(vocabulary).id_map(language)
        assert not id_map.one_to_one
        expected = counted_by_hand(folders[language], id_map, token_counts)
        assert found[language] == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def own_heldout(merge: Merge) -> dict[str, str]:
    """The same held-out words hidden in text that the student's own tokenizer cut, by language."""
    root = Path(merge.teachers["en"]).parent
    folders = {language: str(root / "merge" / "own" / language) for language in LANGUAGES}
    for language, folder in folders.items():
        predict(
            PredictConfig(
                output=folder,
                corpus=add_corpus(root, language),
                split="all",
                language=language,
                tokenizer=merge.vocabulary,
                max_length=MAX_LENGTH,
                draws=2,
                masking=MaskingConfig(seed=1),
                documents_per_shard=2,
                batch_size=8,
            )
        )
    return folders


@pytest.mark.slow
def test_both_policies_are_scored_side_by_side(
    merge: Merge, own_heldout: dict[str, str], report: tuple[Path, Report, EvaluateConfig]
) -> None:
    root, routed, config = report
    mixture = add_students_mixture(list(own_heldout.values()), merge.vocabulary, name="small_own")
    both = evaluate(dataclasses.replace(config, heldout_union=mixture, output=str(root / "both"), examples=0))
    encoder = EncoderConfig(**read_run(root / "student").model)
    checkpoints = Checkpoints(root / "student")
    params = checkpoints.restore_params()
    checkpoints.close()
    scores = score_student(encoder, params, describe_mixture(mixture), 8)
    counts = np.fromfile(root / "student" / "token_counts-10.bin", "<i8")
    identity = whole_map(np.arange(len(counts), dtype=np.int32))
    for language in LANGUAGES:
        found = both.languages[language]["student"]
        own = {name: value for name, value in found.items() if name.endswith("_union")}
        assert set(own) == {"masked_accuracy_union", "pseudo_perplexity_union", "unseen_share_union"}
        expected = {f"{name}_union": value for name, value in scores[language].metrics().items()}
        expected["unseen_share_union"] = counted_by_hand(own_heldout[language], identity, counts)
        assert own == pytest.approx(expected, rel=1e-6)
        assert {name: found[name] for name in set(found) - set(own)} == routed.languages[language]["student"]
        assert not [name for name in both.languages[language]["teacher"] if name.endswith("_union")]


def test_records_of_a_teacher_are_not_the_students_own(merge: Merge, tmp_path: Path) -> None:
    mixture = add_students_mixture(list(merge.heldout.values()), merge.vocabulary, name="small_heldout")
    with pytest.raises(RecordError, match=r"heldout/en/manifest.json: field vocabulary_hash: found '\w+', expected"):
        evaluate(evaluate_config(merge, tmp_path, heldout_union=mixture))
    assert not list(tmp_path.iterdir())


def test_the_deviation_from_the_teachers_is_that_of_the_papers_tables(
    report: tuple[Path, Report, EvaluateConfig],
) -> None:
    """Positive where the student is better: of a perplexity, where it is lower."""
    content = json.loads((report[0] / "report" / "report.json").read_text())
    scores = [content["languages"][language] for language in LANGUAGES]
    for metric, sign in {"masked_accuracy": 1, "pseudo_perplexity": -1}.items():
        pairs = [(models["teacher"][metric], models["student"][metric]) for models in scores]
        if all(teacher for teacher, _ in pairs):
            expected = sign * 100 * np.mean([(student - teacher) / teacher for teacher, student in pairs])
            assert content["rdt"][metric] == pytest.approx(expected)
        else:
            assert metric not in content["rdt"]
    assert "ner_f1" not in content["rdt"]


def test_the_report_holds_seconds_commands_curves_and_fills(report: tuple[Path, Report, EvaluateConfig]) -> None:
    root, found, _ = report
    content = json.loads((root / "report" / "report.json").read_text())
    assert content["seconds"] == pytest.approx(7 + found.seconds_per_stage["evaluate"])
    assert found.commands == ["mergedistill train"]
    assert [row["step"] for row in found.curves["student"]] == [10]
    for fill in found.fills:
        assert "[MASK]" in fill.text
        assert len(fill.teacher) == len(fill.student) == 3
    assert (root / "report" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_another_teacher_is_refused_before_anything_is_written(merge: Merge, tmp_path: Path) -> None:
    swapped = {"en": merge.teachers["es"], "es": merge.teachers["en"]}
    with pytest.raises(RecordError, match=r"heldout/en/manifest.json: field weights_hash: found '\w+', expected '\w+'"):
        evaluate(evaluate_config(merge, tmp_path, teachers=swapped))
    assert not list(tmp_path.iterdir())


def test_a_language_without_held_out_records_is_refused(merge: Merge, tmp_path: Path) -> None:
    teachers = {**merge.teachers, "de": merge.teachers["en"]}
    with pytest.raises(RecordError, match="mixture small_heldout: language: found no 'de', expected one of"):
        evaluate(evaluate_config(merge, tmp_path, teachers=teachers))
    assert not list(tmp_path.iterdir())


def test_a_student_of_another_vocabulary_is_refused(merge: Merge, tmp_path: Path) -> None:
    encoder, params = load_masked_lm(merge.teachers["en"])
    run = Run(model=dict(vars(encoder)), vocabulary_folder="x", vocabulary_hash="other", mixture_hash="", settings={})
    open_run(tmp_path / "student", run)
    checkpoints = Checkpoints(tmp_path / "student")
    params = jax.tree.map(jnp.asarray, params)
    checkpoints.save(1, TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state={"count": jnp.zeros(())}))
    checkpoints.close()
    config = evaluate_config(merge, tmp_path, students={"student": str(tmp_path / "student")})
    with pytest.raises(RecordError, match=r"student/run.json: field vocabulary_hash: found other, expected \w+ of"):
        evaluate(config)
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_no_run_is_refused(merge: Merge, tmp_path: Path) -> None:
    config = evaluate_config(merge, tmp_path, students={"student": str(tmp_path / "nowhere")})
    with pytest.raises(
        ValueError, match=r"nowhere/run.json: not found, expected a folder written by `mergedistill train`"
    ):
        evaluate(config)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "tagger/result.json: not found, expected a file written by `mergedistill finetune`"),
        ("{", "tagger/result.json: found no JSON"),
        (
            '{"task": "qa", "language": "en", "metrics": {}}',
            "tagger/result.json: field task: found 'qa', expected one of",
        ),
    ],
)
def test_a_missing_or_damaged_result_of_finetuning_is_refused(
    merge: Merge, tmp_path: Path, content: str | None, message: str
) -> None:
    folder = tmp_path / "tagger"
    folder.mkdir()
    if content is not None:
        (folder / "result.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        evaluate(evaluate_config(merge, tmp_path, finetuned={"student": (str(folder),)}))
    assert not (tmp_path / "report").exists()


def test_a_score_that_finetuning_could_not_measure_is_absent(merge: Merge, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"task": "pos", "language": "en", "metrics": {}}')
    found = evaluate(evaluate_config(merge, tmp_path, finetuned={"other": (str(tmp_path),)}))
    assert "other" not in found.models
