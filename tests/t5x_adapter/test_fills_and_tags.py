"""Masks of a text filled into JSON lines, and a tagger of `mergedistill finetune` under t5x.eval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")

import seqio
import t5x.infer
import t5x.utils
import tensorflow as tf
from small_merge import Merge, make_merge, train_config
from t5x_runs import evaluate, partitioner

from mergedistill_jax import train as verb
from mergedistill_jax.configs.finetune import FinetuneConfig
from mergedistill_jax.evaluation.fills import readable_tokens
from mergedistill_jax.finetune import finetune
from mergedistill_jax.t5x_adapter import fills, student, tagging
from mergedistill_jax.vocabulary.folder import read_vocabulary
from tasks.masked_text import add_masked_text, masked_text_lengths
from tasks.tagging import add_tagging, labels_of, tagging_lengths

LINES = ["The old sailor [MASK] the small boat.", "[MASK] dogs slept under the [MASK] table", "Nothing to fill."]
TAGGED = "The\tDET\nold\tADJ\ndogs\tNOUN\nsleep\tVERB\n"


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.mark.parametrize(
    ("text", "tokens", "filled"),
    [
        ("la casa [MASK].", ["roja"], "la casa roja."),
        ("sun [MASK] shines", ["##light"], "sunlight shines"),
        ("[MASK] and [MASK]", ["one"], "one and [MASK]"),
        ("nothing", [], "nothing"),
    ],
)
def test_a_text_is_filled_in(text: str, tokens: list[str], filled: str) -> None:
    assert fills.fill_in(text, tokens) == filled


@pytest.mark.parametrize("teacher", [None, "en"])
def test_a_line_becomes_a_sequence_with_its_masks(merge: Merge, tmp_path: Path, teacher: str | None) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join([*LINES, "", "[MASK] " * 40]))
    name = add_masked_text(str(path), merge.vocabulary, teacher, max_length=32)
    examples = list(seqio.TaskRegistry.get(name).get_dataset(None, "infer", shuffle=False).as_numpy_iterator())
    tokenizer = read_vocabulary(merge.vocabulary).tokenizer()
    assert [example["masks"] for example in examples] == [1, 2, 0, 30]
    for example in examples:
        ids = example["token_ids"]
        assert ids[0] == tokenizer.cls_id
        assert len(ids) <= 32
        assert (ids[example["masked_positions"]] == tokenizer.mask_id).all()
    assert examples[0]["text"].decode() == LINES[0]
    with pytest.raises(ValueError, match=r"nowhere.txt: not found, expected a text file with \[MASK\] in it"):
        add_masked_text("nowhere.txt", merge.vocabulary)


@pytest.mark.slow
def test_t5x_fills_the_masks_of_a_file(merge: Merge, tmp_path: Path) -> None:
    verb.train(train_config(merge, tmp_path / "run", steps=10, evaluate_every=None))
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    checkpoint = str(tmp_path / "run" / "checkpoints" / "checkpoint_10")
    model = student.trained(checkpoint, partitioner(), vocabulary=merge.vocabulary, candidates=3)
    name = add_masked_text(str(tmp_path / "lines.txt"), merge.vocabulary, max_length=32)

    def write_fn(*arguments: Any) -> None:
        fills.write_fills(*arguments, vocabulary=merge.vocabulary)

    (tmp_path / "fills").mkdir()
    t5x.infer.infer(
        mode="predict_with_aux",
        model=model,
        dataset_cfg=t5x.utils.DatasetConfig(
            mixture_or_task_name=name,
            task_feature_lengths=masked_text_lengths(32, 4),
            split="infer",
            batch_size=8,
            shuffle=False,
            seed=0,
        ),
        restore_checkpoint_cfg=t5x.utils.RestoreCheckpointConfig(path=checkpoint, mode="specific", dtype="float32"),
        partitioner=partitioner(),
        output_dir=str(tmp_path / "fills"),
        checkpoint_period=1,
        write_fn=write_fn,
        checkpoint_ds_iter=False,
        summarize_config_fn=lambda **_: None,
        verify_matching_vocabs_fn=None,
        output_vocab_feature_name="gold_ids",
    )
    (path,) = (tmp_path / "fills").glob("*.jsonl-00000-of-00001")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == LINES
    assert [len(row["masks"]) for row in rows] == [1, 2, 0]
    tokens = set(readable_tokens(read_vocabulary(merge.vocabulary).tokenizer()))
    for row in rows:
        best = [candidates[0]["token"] for candidates in row["masks"]]
        assert row["filled"] == fills.fill_in(row["text"], best)
        for candidates in row["masks"]:
            log_probs = [one["log_prob"] for one in candidates]
            assert len(candidates) == 3
            assert {one["token"] for one in candidates} <= tokens
            assert log_probs == sorted(log_probs, reverse=True)
            assert np.exp(log_probs).sum() <= 1.0


def test_other_modes_are_refused(merge: Merge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"infer.mode: found 'predict', expected 'predict_with_aux'"):
        fills.write_fills(tmp_path / "x", ([], {}), tf.data.Dataset.range(1), "predict", vocabulary=merge.vocabulary)


@pytest.mark.slow
def test_t5x_scores_a_tagger_as_finetune_does(merge: Merge, tmp_path: Path) -> None:
    folder = tmp_path / "tagged"
    folder.mkdir()
    for name in ("train-en.tsv", "dev-en.tsv"):
        (folder / name).write_text("\n".join([TAGGED] * 6))
    result = finetune(
        FinetuneConfig(
            model=merge.teachers["en"],
            task="pos",
            language="en",
            file_format="tsv",
            train_files=(str(folder / "train-en.tsv"),),
            test_files=(str(folder / "dev-en.tsv"),),
            output=str(tmp_path / "tagger"),
            epochs=2,
            learning_rate=1e-2,
            max_length=32,
            save_model=True,
        )
    )
    model_folder = str(tmp_path / "tagger" / "model")
    tasks = add_tagging("pos", str(folder), model_folder, ("en",), max_length=32)
    model = tagging.tagger(model_folder, partitioner(), labels_of("pos"))
    checkpoint = tagging.as_checkpoint(model_folder, str(tmp_path / "checkpoint"))
    assert tagging.as_checkpoint(model_folder, str(tmp_path / "checkpoint")) == checkpoint
    found = evaluate(model, tasks, checkpoint, tmp_path / "eval", tagging_lengths(32), dataset={"split": "validation"})
    metrics = found["pos_udpos_en"]
    assert metrics["accuracy"] == pytest.approx(result["metrics"]["accuracy"], abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(result["metrics"]["macro_f1"], abs=1e-12)
    with pytest.raises(ValueError, match=r"tagger: label: found 'ADJ', expected one of the task's"):
        tagging.tagger(model_folder, partitioner(), labels_of("ner"))


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task: found 'qa', expected one of \['ner', 'pos'\]"):
        labels_of("qa")
