"""t5x.train and `mergedistill train` do the same: losses, checkpoints both ways, and what they are evaluated to."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")

from small_merge import MODEL, Merge, make_merge, train_config
from t5x_runs import evaluate, partitioner, train

from mergedistill_jax import train as verb
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.start import StartConfig
from mergedistill_jax.data.batches import describe_mixture
from mergedistill_jax.evaluation.masked_words import score_student
from mergedistill_jax.export import export
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.t5x_adapter import datasets, student
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, read_run
from mergedistill_jax.training.metrics import read_log
from tasks.distillation import add_students_mixture
from tasks.masked_words import add_masked_words

pytestmark = pytest.mark.slow

STEPS, HALF = 50, 30
LOSSES = ("gold_loss", "teacher_loss", "masked_accuracy", "teacher_agreement", "gold_weight", "gold_loss/language/en")


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


def config_of(merge: Merge, folder: Path, **changes: Any) -> Any:
    settings = {"steps": STEPS, "log_every": 1, "save_every": HALF, "evaluate_every": None}
    return train_config(merge, folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def ours(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    verb.train(config_of(merge, folder))
    return folder


@pytest.fixture(scope="module")
def theirs(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODEL_DIR of a whole run of t5x.train."""
    folder = tmp_path_factory.mktemp("theirs")
    found = train(config_of(merge, folder), folder)
    (folder / "scalars.json").write_text(json.dumps(found))
    return folder


def assert_same_losses(found: dict[str, dict[int, float]], expected: Path, first: int = 1, last: int = STEPS) -> None:
    rows = {row["step"]: row for row in read_log(expected)}
    for name in LOSSES:
        wanted = {step: rows[step][name] for step in range(first, last + 1) if name in rows[step]}
        assert wanted
        assert {int(step) for step in found[name]} >= set(wanted)
        by_step = {int(step): value for step, value in found[name].items()}
        np.testing.assert_allclose([by_step[step] for step in wanted], list(wanted.values()), atol=1e-4, rtol=0)


def test_both_runners_reach_the_same_losses(ours: Path, theirs: Path) -> None:
    """From the same seed: start, batches, annealing, learning rate, clipping and decay all agree."""
    found = json.loads((theirs / "scalars.json").read_text())
    assert_same_losses(found, ours)
    assert read_log(ours)[-1]["gold_loss"] < read_log(ours)[0]["gold_loss"]


@pytest.mark.parametrize("change", [{"num_microbatches": 4}, {"dropout_rate": 0.3}])
def test_microbatches_and_dropout_agree_too(merge: Merge, tmp_path: Path, change: dict[str, Any]) -> None:
    """Sum over sum over microbatches; and dropout is drawn from the same keys."""
    microbatches = change.get("num_microbatches", 1)
    model = functools.partial(MODEL, dropout_rate=change.get("dropout_rate", 0.0))
    config = config_of(merge, tmp_path / "ours", steps=8, model=model, num_microbatches=microbatches)
    verb.train(config)
    found = train(dataclasses.replace(config, num_microbatches=1), tmp_path / "theirs", num_microbatches=microbatches)
    assert_same_losses(found, tmp_path / "ours", last=8)


def test_both_describe_the_same_run(ours: Path, theirs: Path) -> None:
    assert read_run(ours) == read_run(theirs)


def test_our_run_goes_on_in_t5x(merge: Merge, ours: Path, tmp_path: Path) -> None:
    """In its own folder, where T5X finds the checkpoint of step 30 by itself."""
    verb.train(config_of(merge, tmp_path, stop_after=HALF))
    found = train(config_of(merge, tmp_path), tmp_path / "checkpoints")
    assert min(found["gold_loss"]) == HALF + 1
    assert_same_losses(found, ours, first=HALF + 1)


def test_our_checkpoint_begins_another_run_of_t5x(merge: Merge, ours: Path, tmp_path: Path) -> None:
    """As INITIAL_CHECKPOINT_PATH: parameters, optimizer, schedules and data go on from its step."""
    start = str(ours / "checkpoints" / f"checkpoint_{HALF}")
    found = train(config_of(merge, tmp_path), tmp_path, initial_checkpoint=start)
    assert_same_losses(found, ours, first=HALF + 1)


def test_t5xs_run_goes_on_in_our_runner_and_is_exported(merge: Merge, ours: Path, theirs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(theirs, folder)
    shutil.rmtree(folder / f"checkpoint_{STEPS}")
    verb.train(config_of(merge, folder))
    rows = read_log(folder)
    assert [row["step"] for row in rows] == list(range(HALF + 1, STEPS + 1))
    assert rows[-1]["gold_loss"] == pytest.approx(read_log(ours)[-1]["gold_loss"], abs=1e-4)
    assert (folder / f"checkpoint_{STEPS}").is_dir()
    export(ExportConfig(run=str(theirs), output=str(tmp_path / "export"), languages=("en", "es")))
    _, exported = load_masked_lm(tmp_path / "export")
    params = Checkpoints(theirs).restore_params()
    np.testing.assert_array_equal(exported["encoder"]["embeddings"]["token"], params["encoder"]["embeddings"]["token"])


def test_another_run_is_refused_by_name(merge: Merge, theirs: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run.json: field settings.batch_size: found 8, expected 16;"):
        train(config_of(merge, theirs, batch_size=16, steps=STEPS), theirs, stop=STEPS + 1)


@pytest.mark.parametrize("runner", ["ours", "theirs"])
def test_t5x_evaluates_a_checkpoint_of_either_runner_to_our_numbers(
    merge: Merge, ours: Path, theirs: Path, tmp_path: Path, runner: str
) -> None:
    folder = {"ours": ours / "checkpoints", "theirs": theirs}[runner]
    checkpoint = str(folder / f"checkpoint_{STEPS}")
    tasks = add_masked_words(list(merge.heldout.values()), merge.vocabulary, name="evaluated")
    model = student.trained(checkpoint, partitioner(), mixture=tasks, vocabulary=merge.vocabulary)
    lengths = datasets.feature_lengths(tasks)
    found = evaluate(model, tasks, checkpoint, tmp_path, lengths, target_field_name="gold_ids")

    mixture = describe_mixture(
        add_students_mixture(list(merge.heldout.values()), merge.vocabulary, name="evaluated_by_us")
    )
    run = read_run(folder.parent if runner == "ours" else folder)
    params = Checkpoints(folder.parent if runner == "ours" else folder).restore_params()
    scores = score_student(EncoderConfig(**run.model), params, mixture, 8)
    assert set(found) == {"evaluated_en", "evaluated_es"}
    for language, one in scores.items():
        expected = one.metrics()
        metrics = found[f"evaluated_{language}"]
        assert set(metrics) == {"step", "masked_accuracy", "pseudo_perplexity", "teacher_agreement"}
        assert metrics["step"] == STEPS
        assert metrics["masked_accuracy"] == expected["masked_accuracy"]
        assert metrics["teacher_agreement"] == expected["teacher_agreement"]
        assert metrics["pseudo_perplexity"] == pytest.approx(expected["pseudo_perplexity"], rel=1e-5)


def test_a_student_starts_from_its_teachers_in_both(merge: Merge, tmp_path: Path) -> None:
    start = StartConfig(teachers=merge.teachers, layers_from="en")
    config = config_of(merge, tmp_path / "ours", steps=3, start=start)
    verb.train(config)
    found = train(config, tmp_path / "theirs")
    assert_same_losses(found, tmp_path / "ours", last=3)
