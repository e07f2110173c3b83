"""Every gin file is parsed, with the files it says it needs, into the config object of its stage."""

import dataclasses
import lzma
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from small_merge import Merge, make_merge

import gin
from mergedistill_jax import cli
from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.pipeline import PipelineConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.train import TrainConfig

ROOT = Path(__file__).parents[1]
SETTINGS = ("gin/runs/demo.gin", "gin/experiments/wikipedia_four.gin")
PUBLISHED = "gin/experiments/published_teachers.gin"
STAGE_OF = {
    "learn_vocabulary": "vocab",
    "union": "vocab",
    "union_cut": "vocab",
    "mask": "predict",
    "predict": "predict",
    "verify": "verify",
    "compare": "compare",
    "teacher": "train",
    "student": "train",
    "student_gold": "train",
    "student_started": "train",
    "student_started_aligned": "train",
    "export": "export",
    "plan": "plan",
    "finetune": "finetune",
    "finetune_routed": "finetune",
    "evaluate": "evaluate",
    "evaluate_both": "evaluate",
}
SHOWN_IN_WORDS = {"finetune_routed", "evaluate_both", "student_started", "student_started_aligned"}
"""As another file's command, or only by the pipeline."""
WITH_PUBLISHED = ("union", "union_cut", "predict", "compare", "student", "export", "finetune", "evaluate")
"""Files whose command is whole with the settings for published teachers."""
INCLUDED_ONLY = {"train"}
"""Parts of other files."""


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the experiment on Wikipedia expects, with one small article."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text" / "wikipedia").mkdir(parents=True)
    article = b'<doc id="1" title="A">\nA\n\nText.\n</doc>\n'
    (folder / "text" / "wikipedia" / "en.wikiextractor.txt.xz").write_bytes(lzma.compress(article))
    return folder


def value_of(macro: str, merge: Merge, stage_file: str) -> Any:
    """A value for each macro that a stage's file leaves to the command line."""
    if macro == "RECORDS" and stage_file == "teacher":
        return tuple(merge.masked.values())
    return {
        "TEACHER": merge.teachers["en"],
        "CANDIDATES": {"en": tuple(merge.teachers.values())},
        "TEACHER_NAME": "en",
        "START_TEACHERS": merge.teachers,
        "LAYERS_FROM": "en",
        "SIZE": 100,
        "RUN_FOLDER": "some",
        "HELDOUT_OWN": tuple(merge.heldout.values()),
        "OUTPUT": "unused",
        "LANGUAGE": "en",
        "SPLIT": "train",
        "DRAWS": 2,
        "MASKING_RATE": 0.3,
        "TITLE": "A title",
        "TOKENIZER": merge.teachers["en"],
        "TEACHERS": merge.teachers,
        "VOCABULARY": merge.vocabulary,
        "RECORDS": tuple(merge.records.values()),
        "HELDOUT": tuple(merge.heldout.values()),
        "FOLDER": merge.records["en"],
        "RUN": "some/run",
        "LANGUAGES": ("en", "es"),
        "MODEL": merge.teachers["en"],
        "TASK": "pos",
        "FILE_FORMAT": "tsv",
        "TRAIN_FILES": ("train.tsv",),
        "TEST_FILES": ("test.tsv",),
        "STUDENTS": {"student": "some/run"},
        "TRAIN_RECORDS": merge.records,
        "TEACHER_RUNS": {},
        "FINETUNED": {},
    }[macro]


def text_with_includes(path: str) -> str:
    text = (ROOT / path).read_text()
    return text + "".join(text_with_includes(name) for name in re.findall(r"^include '(.+)'", text, re.MULTILINE))


def bindings_for(stage_file: str, settings: str, merge: Merge, data: Path) -> list[str]:
    """Macros that the stage's file reads and neither file sets, as the command line would give them."""
    given = text_with_includes(settings) + text_with_includes(f"gin/runs/{stage_file}.gin")
    read = set(re.findall(r"%(\w+)", re.sub(r"#.*", "", text_with_includes(f"gin/runs/{stage_file}.gin"))))
    missing = sorted(name for name in read if name == "LANGUAGE" or not re.search(rf"^{name} =", given, re.MULTILINE))
    bindings = [f"{name} = {value_of(name, merge, stage_file)!r}" for name in missing]
    return [*bindings, f"DATA = {str(data)!r}"] if "%DATA" in given else bindings


def configured(stage_file: str, settings: str, merge: Merge, data: Path, *more: str) -> Any:
    files = [settings, f"gin/runs/{stage_file}.gin"]
    return cli.configure(STAGE_OF[stage_file], files, [*bindings_for(stage_file, settings, merge, data), *more])


def test_every_file_of_a_stage_is_tested_here() -> None:
    """A settings file configures a whole pipeline; what is left are stages and their parts."""
    found = {path.stem for path in (ROOT / "gin" / "runs").glob("*.gin")}
    assert found == {*STAGE_OF, *INCLUDED_ONLY, "demo"}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("stage_file", STAGE_OF)
def test_a_stage_is_configured_by_its_file_and_the_settings(
    merge: Merge, data: Path, stage_file: str, settings: str
) -> None:
    config = configured(stage_file, settings, merge, data)
    module, name, _ = cli.STAGES[STAGE_OF[stage_file]]
    assert type(config).__name__ == name
    assert type(config).__module__ == f"mergedistill_jax.configs.{module}"


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_pipeline_is_configured_by_its_settings_alone(settings: str, data: Path) -> None:
    bindings = [f"DATA = {str(data)!r}"] if "%DATA" in (ROOT / settings).read_text() else []
    config = cli.configure("pipeline", [settings], bindings)
    assert isinstance(config, PipelineConfig)
    assert config.output.startswith("runs/")
    assert len(config.languages) >= 3


def test_settings_reach_the_stages(merge: Merge, data: Path) -> None:
    config = configured("student", SETTINGS[0], merge, data, "STUDENT_STEPS = 123", "LEARNING_RATE = 0.5")
    assert isinstance(config, TrainConfig)
    assert (config.steps, config.optimizer.learning_rate.peak) == (123, 0.5)
    assert config.model(vocab_size=7, max_length=8).hidden_size == 128
    assert (config.mixture, config.heldout) == ("records", "heldout")


def test_the_control_differs_from_the_student_in_its_labels_alone(merge: Merge, data: Path) -> None:
    student, gold = (configured(name, SETTINGS[0], merge, data) for name in ("student", "student_gold"))
    assert not student.gold_weight.gold_only
    assert gold.gold_weight.gold_only
    fields = ("mixture", "heldout", "optimizer", "steps", "batch_size", "k", "distillation", "seed", "dtype")
    assert [getattr(student, field) for field in fields] == [getattr(gold, field) for field in fields]


def test_the_teachers_predictions_are_the_papers_eight(merge: Merge, data: Path) -> None:
    config = configured("predict", SETTINGS[0], merge, data)
    assert isinstance(config, PredictConfig)
    assert (config.k, config.name, config.split, config.masking.rate) == (8, "en", "train", 0.3)
    mask = configured("mask", SETTINGS[0], merge, data)
    assert (mask.teacher, mask.tokenizer, mask.max_length) == (None, merge.teachers["en"], config.max_length)


def every_model_and_experiment() -> list[str]:
    return [
        str(path.relative_to(ROOT))
        for kind in ("models", "experiments")
        for path in (ROOT / "gin" / kind).glob("*.gin")
    ]


@pytest.mark.parametrize("path", every_model_and_experiment())
def test_every_model_and_experiment_is_parsed(path: str, data: Path) -> None:
    """Without a stage: its names exist, and what it leaves open is the data's folder alone."""
    bindings = [f"DATA = {str(data)!r}"] if "%DATA" in text_with_includes(path) else []
    gin.clear_config()
    with gin.unlock_config():
        gin.add_config_file_search_path(str(ROOT))
        gin.parse_config_files_and_bindings([path], bindings, finalize_config=True)
        assert gin.config_str()


def test_published_teachers_are_distilled_into_a_base_size_student(merge: Merge, data: Path) -> None:
    settings = "gin/experiments/published_teachers.gin"
    config = configured("student", settings, merge, data)
    assert isinstance(config, TrainConfig)
    assert config.model(vocab_size=7, max_length=8).num_layers == 12
    assert config.dtype == "bfloat16"


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in sorted((ROOT / "gin").rglob("*.gin"))])
def test_a_file_opens_with_what_it_is(path: str) -> None:
    assert (ROOT / path).read_text().startswith("# ")


def test_commands_in_the_files_can_be_parsed() -> None:
    """The command that a stage's file shows names that file, its stage, and macros that it reads."""
    for stage_file, stage in STAGE_OF.items():
        text = (ROOT / "gin" / "runs" / f"{stage_file}.gin").read_text()
        if stage_file in SHOWN_IN_WORDS:
            continue
        command = " ".join(re.findall(r"^#   ? ?(.*?)\\?$", text, re.MULTILINE))
        assert f"mergedistill {stage} " in command, stage_file
        assert f"--gin_file=gin/runs/{stage_file}.gin" in command
        read = set(re.findall(r"%(\w+)", text_with_includes(f"gin/runs/{stage_file}.gin")))
        assert set(re.findall(r"--gin\.(\w+)=", command)) <= read


def commands_in(text: str, settings: str) -> list[list[str]]:
    """Arguments of the whole commands that a text shows, with the published teachers' settings."""
    lines = re.sub(r"\\\n#?", "", text)
    commands = re.findall(r"^#? +mergedistill (\w+ .*?--gin_file=.*?)$", lines, re.MULTILINE)
    return [
        [part for part in shlex.split(command.replace(settings, PUBLISHED), comments=True) if part != "--dry_run"]
        for command in commands
        if " $at" not in command
    ]


def parsed(command: list[str]) -> str:
    """The stage of a command that names macros that are read, and leaves none without a value."""
    stage, files, paths, bindings = cli.parse(command)
    cli._parse_files(stage, files, bindings, paths)
    return stage


def test_the_commands_of_the_readme_give_every_value_that_is_read() -> None:
    commands = commands_in((ROOT / "README.md").read_text(), "my.gin")
    assert {parsed(command) for command in commands} == set(cli.STAGES) - {"pipeline"}


@pytest.mark.parametrize("stage_file", WITH_PUBLISHED)
def test_the_command_of_a_file_gives_every_value_that_published_teachers_leave_open(stage_file: str) -> None:
    commands = commands_in((ROOT / "gin" / "runs" / f"{stage_file}.gin").read_text(), "SETTINGS")
    assert {parsed(command) for command in commands} == {STAGE_OF[stage_file]}


def test_a_routed_tagger_is_the_other_one_through_a_teacher(merge: Merge, data: Path) -> None:
    own, routed = (configured(name, SETTINGS[0], merge, data) for name in ("finetune", "finetune_routed"))
    assert (own.policy, own.vocabulary, own.teacher) == ("union", None, None)
    assert (routed.policy, routed.vocabulary, routed.teacher) == ("teacher_routed", merge.vocabulary, "en")
    assert dataclasses.replace(routed, policy="union", vocabulary=None, teacher=None) == own


def test_exports_take_what_the_pipeline_gives(merge: Merge, data: Path) -> None:
    config = configured("export", SETTINGS[0], merge, data)
    assert config == ExportConfig(run="some/run", output="unused", languages=("en", "es"))


@pytest.mark.parametrize(
    ("binding", "named"),
    [
        ("LEARNING_RATE = -1e-4", "LearningRate.peak: found -0.0001"),
        ("WARMUP_STEPS = -1", "LearningRate.warmup_steps: found -1"),
        ("train.TrainConfig.seed = -1", "TrainConfig.seed: found -1"),
        ("train.TrainConfig.k = 0", "TrainConfig.k: found 0"),
    ],
)
def test_values_out_of_range_are_refused_before_a_file_is_read(binding: str, named: str) -> None:
    files = ["gin/experiments/published_teachers.gin", "gin/runs/student.gin"]
    given = ["OUTPUT = 'o'", "VOCABULARY = 'v'", "RECORDS = ('a',)", "HELDOUT = ('b',)", binding]
    with pytest.raises(cli.UsageError, match=re.escape(named)):
        cli.describe_stage("train", files, given)


def test_a_missing_gin_file_is_named_once() -> None:
    with pytest.raises(cli.UsageError) as caught:
        cli.describe_stage("train", ["gin/runs/trian.gin"], [])
    assert str(caught.value).startswith("gin/runs/trian.gin: not found in ")
