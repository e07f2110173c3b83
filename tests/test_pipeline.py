"""The pipeline: every step's needs are met by an earlier one, and its commands are what a person could type."""

import ast
import contextlib
import dataclasses
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gin
from mergedistill_jax import cli
from mergedistill_jax.configs.pipeline import GrammarTagging, PipelineConfig, TaggingTask, Variant
from mergedistill_jax.corpus.labelled import read_tagged
from mergedistill_jax.pipeline import Step, pipeline, steps_of

ROOT = Path(__file__).parents[1]
INPUTS = {
    "TEACHER",
    "TEACHERS",
    "TOKENIZER",
    "VOCABULARY",
    "RECORDS",
    "HELDOUT",
    "TRAIN_RECORDS",
    "FOLDER",
    "RUN",
    "MODEL",
    "HELDOUT_OWN",
    "START_TEACHERS",
    "STUDENTS",
    "TEACHER_RUNS",
    "FINETUNED",
}
"""Macros that hold folders which another step writes."""

CONFIG = PipelineConfig(
    output="runs/here",
    languages=("en", "de"),
    title="A title",
    teacher_draws=2,
    transfer_draws=3,
    masking_rate=0.3,
    tagging=(
        TaggingTask(name="udpos", task="pos", train="train-{language}", test="test-{language}", file_format="tsv"),
        TaggingTask(
            name="panx", task="ner", train="t-{language}", test="d-{language}", file_format="tsv", without_train=("de",)
        ),
    ),
)


BOTH = ("teacher_routed", "union")
CHOICES = dataclasses.replace(
    CONFIG,
    variants=(
        Variant(name="student", policies=BOTH),
        Variant(name="started", gin_file="student_started", seed=1, layers_from="de"),
        Variant(name="aligned", gin_file="student_started_aligned"),
        Variant(name="cut", size=500, policies=BOTH),
    ),
    own_heldout=True,
    report="runs/here/choices",
)


def bindings_of(step: Step) -> dict[str, Any]:
    pairs = (binding.split(" = ", 1) for binding in step.bindings)
    return {name: ast.literal_eval(value) for name, value in pairs}


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_in(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from strings_in(inner)


STEPS = list(steps_of(CONFIG))
STEPS_OF_CHOICES = list(steps_of(CHOICES))


@pytest.mark.parametrize("steps", [STEPS, STEPS_OF_CHOICES], ids=["usual", "choices"])
def test_every_input_of_a_step_is_the_output_of_an_earlier_one(steps: list[Step]) -> None:
    written: list[str] = []
    for step in steps:
        bindings = bindings_of(step)
        for name in INPUTS & set(bindings):
            for folder in strings_in(bindings[name]):
                assert any(folder == done or folder.startswith(f"{done}/") for done in written), (step, name, folder)
        written += [bindings["OUTPUT"]] if "OUTPUT" in bindings else []


def test_no_folder_of_a_step_is_left_out_of_the_check_above() -> None:
    """Every string below the pipeline's folder is an output or one of INPUTS, or where the stages' times are."""
    for step in [*STEPS, *STEPS_OF_CHOICES]:
        for name, value in bindings_of(step).items():
            if any(text.startswith(CONFIG.output) for text in strings_in(value)):
                assert name in {*INPUTS, "OUTPUT", "RUN_FOLDER"}, (step, name)


def test_no_two_steps_write_the_same_folder() -> None:
    outputs = [bindings_of(step)["OUTPUT"] for step in STEPS if step.stage not in ("evaluate", "verify")]
    assert len(outputs) == len(set(outputs))
    assert all(output.startswith(f"{CONFIG.output}/") for output in outputs)


def test_the_stages_come_in_the_order_of_the_drawing() -> None:
    order = list(dict.fromkeys((step.stage, step.gin_file) for step in STEPS))
    assert order == [
        ("vocab", "learn_vocabulary"),
        ("predict", "mask"),
        ("train", "teacher"),
        ("export", "export"),
        ("predict", "predict"),
        ("verify", "verify"),
        ("vocab", "union"),
        ("train", "student"),
        ("train", "student_gold"),
        ("finetune", "finetune"),
        ("finetune", "finetune_routed"),
        ("evaluate", "evaluate"),
    ]


def test_all_that_predictions_stand_in_is_verified_before_a_student_reads_it() -> None:
    student = next(index for index, step in enumerate(STEPS) if step.gin_file == "student")
    verified = {bindings_of(step)["FOLDER"] for step in STEPS[:student] if step.stage == "verify"}
    bindings = bindings_of(STEPS[student])
    assert {*bindings["RECORDS"], *bindings["HELDOUT"]} == verified


def test_student_and_control_read_the_same_records() -> None:
    student, control = (next(step for step in STEPS if step.gin_file == name) for name in ("student", "student_gold"))
    assert {**bindings_of(student), "OUTPUT": ""} == {**bindings_of(control), "OUTPUT": ""}


def test_draws_and_masking_rate_are_of_training_text_and_not_of_held_out_text() -> None:
    found = {}
    for step in STEPS:
        if step.stage == "predict":
            bindings = bindings_of(step)
            found[step.gin_file, bindings["SPLIT"]] = (bindings["DRAWS"], bindings["MASKING_RATE"])
    assert found == {
        ("mask", "train"): (2, 0.3),
        ("mask", "heldout"): (1, 0.15),
        ("predict", "transfer"): (3, 0.3),
        ("predict", "heldout"): (1, 0.15),
    }


def test_a_language_without_training_file_has_its_test_file_divided() -> None:
    files = {
        (bindings_of(step)["TASK"], bindings_of(step)["LANGUAGE"]): (
            bindings_of(step)["TRAIN_FILES"],
            bindings_of(step)["TEST_FILES"],
        )
        for step in STEPS
        if step.gin_file == "finetune"
    }
    assert files == {
        ("pos", "en"): (("train-en",), ("test-en",)),
        ("pos", "de"): (("train-de",), ("test-de",)),
        ("ner", "en"): (("t-en",), ("d-en",)),
        ("ner", "de"): ((), ("d-de",)),
    }


def test_every_tagger_is_reported() -> None:
    trained = {bindings_of(step)["OUTPUT"] for step in STEPS if step.stage == "finetune"}
    reported = bindings_of(STEPS[-1])["FINETUNED"]
    assert set(reported) == {"teacher", "student", "student_gold"}
    assert set(strings_in(reported)) == trained
    assert len(trained) == 3 * 2 * 2


def test_without_a_labelled_task_nothing_is_fine_tuned() -> None:
    steps = list(steps_of(PipelineConfig(output="x", languages=("en",), title="")))
    assert not [step for step in steps if step.stage == "finetune"]
    assert bindings_of(steps[-1])["FINETUNED"] == {}


def test_a_variant_reads_its_own_vocabulary_and_is_reported_with_those_of_the_same() -> None:
    trained = {bindings_of(step)["OUTPUT"]: bindings_of(step) for step in STEPS_OF_CHOICES if step.stage == "train"}
    vocabulary = {name: trained[f"runs/here/{name}"]["VOCABULARY"] for name in ("student", "started", "aligned", "cut")}
    whole, cut = "runs/here/vocabulary", "runs/here/vocabulary_500"
    assert vocabulary == {"student": whole, "started": whole, "aligned": whole, "cut": cut}
    assert trained["runs/here/started"]["SEED"] == 1
    assert trained["runs/here/started"]["LAYERS_FROM"] == "de"
    reports = [bindings_of(step) for step in STEPS_OF_CHOICES if step.stage == "evaluate"]
    assert [report["OUTPUT"] for report in reports] == ["runs/here/choices", "runs/here/choices/report_500"]
    assert [set(report["STUDENTS"]) for report in reports] == [{"student", "started", "aligned"}, {"cut"}]
    assert [set(report["FINETUNED"]) for report in reports] == [
        {"teacher", "student", "student_union", "started", "aligned"},
        {"teacher", "cut", "cut_union"},
    ]
    assert all("_500" in folder for folder in reports[1]["HELDOUT_OWN"])


@pytest.mark.parametrize(
    "step", {step.gin_file: step for step in [*STEPS_OF_CHOICES, *STEPS]}.values(), ids=lambda step: step.gin_file
)
def test_a_steps_file_exists_and_reads_exactly_what_it_is_given(step: Step) -> None:
    """With the demo's settings every macro has a value, and none is given that nothing reads."""
    gin.clear_config()
    with gin.unlock_config():
        gin.add_config_file_search_path(str(ROOT))
        files = ["gin/runs/demo.gin", f"gin/runs/{step.gin_file}.gin"]
        gin.parse_config_files_and_bindings(files, list(step.bindings), finalize_config=True)
        read = set(re.findall(r"%(\w+)", gin.config_str()))
    assert set(bindings_of(step)) <= read


def test_the_steps_are_run_in_order_and_only_the_report_is_always_made_again() -> None:
    calls = []

    def run_stage(stage: str, gin_file: str, bindings: tuple[str, ...], *, reuse: bool) -> None:
        calls.append((Step(stage=stage, gin_file=Path(gin_file).stem, bindings=bindings, reuse=reuse), gin_file))

    pipeline(CONFIG, run_stage)
    assert [step for step, _ in calls] == STEPS
    assert all((ROOT / gin_file).exists() for _, gin_file in calls)
    assert [step.stage for step in STEPS if not step.reuse] == ["evaluate"]


def test_a_printed_command_typed_back_is_the_same_step() -> None:
    """What a shell makes of the line, cut again by the command line: stage, files, bindings."""
    settings, given = ["gin/runs/demo.gin"], ["STUDENT_STEPS = 5", "DATA = 'a folder'"]
    for step in STEPS:
        files, bindings = [*settings, f"gin/runs/{step.gin_file}.gin"], [*given, *step.bindings]
        words = shlex.split(cli.command_line(step.stage, files, bindings))
        assert words[0] == "mergedistill"
        assert cli.parse(words[1:]) == (step.stage, files, [], bindings)


def test_a_stages_output_is_announced_by_that_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergedistill_jax.vocab.vocab", lambda _config: None)
    stdout = io.StringIO()
    with contextlib.redirect_stdout(stdout):
        files, bindings = ["gin/runs/union.gin"], ["OUTPUT = '/dev/null/nowhere'", "TEACHERS = {'en': 'x'}"]
        with pytest.raises(OSError, match="nowhere"):
            cli.run_stage("vocab", files, bindings)
    assert stdout.getvalue().splitlines()[0] == f"$ {cli.command_line('vocab', files, bindings)}"


def test_the_grammars_tagged_sentences_are_written_where_the_task_reads_them(tmp_path: Path) -> None:
    config = PipelineConfig(
        output=str(tmp_path),
        languages=("en", "ru"),
        title="",
        grammar_tagging=GrammarTagging(train=(0, 3), test=(3, 5)),
    )
    pipeline(config, lambda *_arguments, **_options: None)
    for language in config.languages:
        parts = [
            read_tagged(str(tmp_path / "labelled" / f"{split}-{language}.tsv"), "tsv") for split in ("train", "test")
        ]
        assert all(len(sentence.words) == len(sentence.tags) > 1 for part in parts for sentence in part)
        assert parts[0] != parts[1]
        assert {"NOUN", "VERB"} <= {tag for part in parts for sentence in part for tag in sentence.tags}
