"""The four commands as they are typed, and every student's file under them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")
pytest.importorskip("t5", reason="t5, which T5X's precompile imports, is not installed: see README.md")

from small_merge import Merge, make_merge

from mergedistill_jax.training.checkpoints import read_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STUDENTS = ("similar", "dissimilar", "muril", "mbert", "both_all", "both_best")


def run(*arguments: str) -> str:
    """What a program prints; one device, so that T5X's own mesh is the smallest."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_every_student_is_parsed_under_every_file() -> None:
    """Unchanged: its batch size has the last word over T5X's 128."""
    found = json.loads(run("tests/t5x_adapter/parsed_files.py", *STUDENTS).splitlines()[-1])
    for name in ("pretrain", "precompile", "eval"):
        for student in STUDENTS:
            one = found[f"{name} {student}"]
            assert one["BATCH_SIZE"] == 4096
            assert f"recipe.StudentRecipe.name = '{student}'" in one["text"]
    text = found["pretrain both_all"]["text"]
    assert "trainer_cls = @annealing.annealing()" in text
    assert "TRAIN_STEPS = %STEPS" in text
    assert "trainer.Trainer.num_microbatches = @student.num_microbatches()" in text


def test_train_evaluate_infer_and_precompile(teachers: dict[str, Path], tmp_path: Path) -> None:
    merge: Merge = make_merge(next(iter(teachers.values())).parent)
    settings = tmp_path / "settings.gin"
    settings.write_text(
        "from __gin__ import dynamic_registration\n"
        "include 'gin/models/tiny.gin'\n"
        "include 'gin/runs/student.gin'\n"
        f"RECORDS = {tuple(merge.records.values())!r}\n"
        f"HELDOUT = {tuple(merge.heldout.values())!r}\n"
        f"VOCABULARY = {merge.vocabulary!r}\n"
        "OUTPUT = 'unused'\nBATCH_SIZE = 8\nSTUDENT_STEPS = 4\nLEARNING_RATE = 1e-3\nWARMUP_STEPS = 1\n"
    )
    model_dir = tmp_path / "t5x"
    run(
        *("-m", "t5x.train", "--gin_file=gin/t5x/pretrain.gin", f"--gin_file={settings}"),
        *(f"--gin.MODEL_DIR='{model_dir}'", "--gin.trainer.Trainer.num_microbatches=2", "--gin.train.eval_steps=2"),
        *("--gin.train.eval_period=4", "--gin.utils.SaveCheckpointConfig.period=4"),
    )
    assert (model_dir / "checkpoint_4" / "state").is_dir()
    described = read_run(model_dir).settings
    assert (described["num_microbatches"], described["steps"], described["batch_size"]) == (2, 4, 8)

    checkpoint = f"--gin.CHECKPOINT_PATH='{model_dir / 'checkpoint_4'}'"
    run(
        *("-m", "t5x.eval", "--gin_file=gin/t5x/eval.gin", f"--gin_file={settings}", checkpoint),
        f"--gin.EVAL_OUTPUT_DIR='{tmp_path / 'eval'}'",
    )
    written = {path.name for path in (tmp_path / "eval" / "inference_eval").glob("*-metrics.jsonl")}
    assert written == {"masked_words_en-metrics.jsonl", "masked_words_es-metrics.jsonl"}

    (tmp_path / "lines.txt").write_text("The old [MASK] slept.\n")
    run(
        *("-m", "t5x.infer", "--gin_file=gin/t5x/infer.gin", checkpoint),
        *(f"--gin.TEXT='{tmp_path / 'lines.txt'}'", f"--gin.VOCABULARY='{merge.vocabulary}'"),
        f"--gin.INFER_OUTPUT_DIR='{tmp_path / 'fills'}'",
    )
    (path,) = (tmp_path / "fills").glob("*.jsonl-00000-of-00001")
    assert json.loads(path.read_text())["text"] == "The old [MASK] slept."

    run(
        *("-m", "t5x.main", "--run_mode=precompile", "--gin_file=gin/t5x/precompile.gin", f"--gin_file={settings}"),
        *(f"--gin.MODEL_DIR='{tmp_path / 'precompiled'}'", "--gin.partitioning.PjitPartitioner.backend=None"),
    )
    assert (tmp_path / "precompiled" / "lowered_hlo_post_optimization").stat().st_size
