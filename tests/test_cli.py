"""The command line: its flags, what it says of wrong input, and what it leaves beside an output."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_merge import Merge, make_merge
from transformers import BertConfig, BertModel

from mergedistill_jax import cli
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.gin_types import type_errors
from mergedistill_jax.stage_log import read_stage_time, read_stage_times

ROOT = Path(__file__).parents[1]
UNION = "--gin_file=gin/runs/union.gin"
SETTINGS = """
from __gin__ import dynamic_registration

from mergedistill_jax.configs import encoder
from tasks import corpora

encoder.EncoderConfig:
    num_layers = 1
    hidden_size = 16
    num_heads = 2
    intermediate_size = 32

LANGUAGE = 'en'
CORPUS = @corpora.add_files()
corpora.add_files:
    name = 'cli_text'
    files = (%TEXT,)
    text_format = 'plain'
    splits = None
SPLIT = 'train'
DRAWS = 1
MAX_LENGTH = 32
MASKING_RATE = 0.15
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
WARMUP_STEPS = 1
STUDENT_STEPS = 50
TEACHER_STEPS = 60
"""


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture
def settings(merge: Merge, tmp_path: Path) -> str:
    """A settings file for every stage, over the English text."""
    path = tmp_path / "settings.gin"
    text = Path(merge.records["en"]).parents[1] / "en.txt"
    path.write_text(f"{SETTINGS}\nTEXT = {str(text)!r}\n")
    return f"--gin_file={path}"


def flags(**macros: object) -> list[str]:
    return [f"--gin.{name}={value!r}" for name, value in macros.items()]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that is refused; the folder is as it was."""
    before = snapshot(folder)
    capfd.readouterr()
    assert cli.main(arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith("mergedistill: ")
    assert error.count("\n") == 1, error
    assert snapshot(folder) == before
    return error.removeprefix("mergedistill: ").rstrip("\n")


# Flags


def test_a_command_is_cut_into_stage_files_paths_and_bindings() -> None:
    found = cli.parse(
        [
            "train",
            "--gin_file=a.gin",
            "--gin_file=b.gin",
            "--gin_search_paths=x,y",
            "--gin.train.TrainConfig.steps=5",
            "--gin.NAME='a = b'",
            "--gin_bindings=OTHER = 3",
        ]
    )
    bindings = ["train.TrainConfig.steps = 5", "NAME = 'a = b'", "OTHER = 3"]
    assert found == ("train", ["a.gin", "b.gin"], ["x", "y"], bindings)


@pytest.mark.parametrize(
    "flag", ["-x", "--gin_file", "--gin_file=", "--gin.=", "--gin.NAME", "--gin.NAME=", "file.gin", "--steps=5"]
)
def test_an_unknown_or_empty_flag_is_refused(flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(["train", flag], tmp_path, capfd).startswith(f"flag: found {flag!r}, expected --gin_file=FILE")


def test_an_unknown_stage_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        refusal(["trian"], tmp_path, capfd) == f"stage: found 'trian', expected one of {', '.join(cli.STAGES)} (train?)"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["train", "--help"]])
def test_help_names_every_stage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {stage} ", shown, re.MULTILINE) for stage in cli.STAGES)


def test_no_arguments_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: mergedistill STAGE")


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "mergedistill_jax", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == cli.usage() + "\n"


@pytest.mark.slow
@pytest.mark.parametrize("gin_file", ["gin/runs/nothere.gin", "gin/runs/union.gin"])
def test_a_process_says_one_line_and_exits_with_2(gin_file: str, tmp_path: Path) -> None:
    """With nothing of TensorFlow's, gin's or absl's own on standard error."""
    command = [sys.executable, "-m", "mergedistill_jax", "vocab", f"--gin_file={gin_file}"]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run(  # noqa: S603 - our own
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"mergedistill: {gin_file}: ")
    assert not list(tmp_path.iterdir())


# Names and values


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--gin.TEECHERS={}", "--gin.TEECHERS: found a name that nothing reads, expected one of OUTPUT, TEACHERS"),
        (
            "--gin.vocab.VocabConfig.outputt='x'",
            "--gin.vocab.VocabConfig.outputt: outputt: found no such parameter of vocab.VocabConfig, expected one of",
        ),
        (
            "--gin.vocab.VocabConfi.output='x'",
            "--gin.vocab.VocabConfi.output: vocab.VocabConfi: found no such name, expected one that the gin files",
        ),
        (
            "--gin.TEACHERS=@vocab.Unite()",
            "--gin.TEACHERS: @vocab.Unite(): found no such name, expected one that the gin files import",
        ),
        ("--gin.OUTPUT=runs/x", "--gin.OUTPUT: found runs/x, expected a value as in Python, strings in quotes"),
        ("--gin.OUTPUT='runs", "--gin.OUTPUT: found 'runs, expected a value as in Python, strings in quotes"),
    ],
)
def test_a_misspelt_name_or_value_is_refused_by_its_flag(
    merge: Merge, wrong: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    right = flags(OUTPUT=str(tmp_path / "out"), TEACHERS=merge.teachers)
    assert refusal(["vocab", UNION, *right, wrong], tmp_path, capfd).startswith(message)


def test_a_macro_that_the_settings_set_for_other_stages_is_no_misspelling(merge: Merge, settings: str) -> None:
    macros = {"OUTPUT": "unused", "TEACHERS": merge.teachers, "STUDENT_STEPS": 7}
    bindings = [f"{name} = {value!r}" for name, value in macros.items()]
    files = [settings.partition("=")[2], "gin/runs/union.gin"]
    assert cli.configure("vocab", files, bindings).output == "unused"


def test_a_name_misspelt_in_a_file_is_refused_with_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\nfrom mergedistill_jax.configs import vocab\nvocab.VocabConfig.out = 'x'\n"  # noqa: E501
    )
    message = refusal(["vocab", f"--gin_file={path}"], tmp_path, capfd)
    assert message.startswith(
        f"{path}: out: found no such parameter of vocab.VocabConfig, expected one of output, method, student (output?)."
    )
    assert "line 3" in message


def test_a_value_that_nobody_gives_is_asked_for(
    merge: Merge, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal(["vocab", UNION, *flags(TEACHERS=merge.teachers)], tmp_path, capfd)
    assert (
        message == "gin/runs/union.gin: %OUTPUT: found no value, expected --gin.OUTPUT=VALUE or a gin file that sets it"
    )


def test_a_missing_gin_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = refusal(["vocab", "--gin_file=gin/runs/nothere.gin"], tmp_path, capfd)
    assert message.startswith("gin/runs/nothere.gin: not found in ['', ")
    assert message.endswith("expected a gin file; --gin_search_paths=DIR names further folders")


def test_a_file_of_the_search_path_is_found(merge: Merge, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.gin").write_text((ROOT / "gin/runs/union.gin").read_text())
    bindings = ["OUTPUT = 'x'", f"TEACHERS = {merge.teachers!r}"]
    config = cli.configure("vocab", ["elsewhere.gin"], bindings, [str(tmp_path)])
    assert config == VocabConfig(output="x", method=UnionConfig(teachers=merge.teachers))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    steps: int = 1
    limit: int | None = None
    files: "list[str] | tuple[str, ...]" = ()
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "Outer.name: found 3, expected str"),
        ({"steps": "5"}, "Outer.steps: found '5', expected int"),
        ({"steps": 1.5}, "Outer.steps: found 1.5, expected int"),
        ({"steps": True}, "Outer.steps: found True, expected int"),
        ({"limit": "none"}, "Outer.limit: found 'none', expected int or None"),
        ({"inner": Inner(rate="high")}, "Inner.rate: found 'high', expected float"),
        ({"inner": 3}, "Outer.inner: found 3, expected @test_cli.Inner()"),
    ],
)
def test_a_value_of_another_type_is_named_by_its_field(changes: dict, message: str) -> None:
    assert type_errors(dataclasses.replace(Outer(), **changes)) == [message]


def test_an_integer_is_a_number_and_none_may_be_one(merge: Merge) -> None:
    assert type_errors(Outer(limit=None, inner=Inner(rate=1))) == []
    assert type_errors(VocabConfig(output="x", method=UnionConfig(teachers=merge.teachers))) == []


TRAIN = ["train", "--gin_file=gin/runs/demo.gin", "--gin_file=gin/runs/student.gin"]
WRONG = {
    "vocab": (["--gin_file=gin/runs/union.gin"], "TEACHERS=('a',)", "UnionConfig.teachers"),
    "predict": (["--gin_file=gin/runs/predict.gin"], "MASKING_RATE='0.15'", "MaskingConfig.rate"),
    "verify": (["--gin_file=gin/runs/verify.gin"], "verify.VerifyConfig.sample=2.5", "VerifyConfig.sample"),
    "compare": (["--gin_file=gin/runs/compare.gin"], "compare.CompareConfig.k='8'", "CompareConfig.k"),
    "train": (["--gin_file=gin/runs/student.gin"], "optimizer.AdamWConfig.learning_rate=0.1", "AdamWConfig"),
    "evaluate": (["--gin_file=gin/runs/evaluate.gin"], "HELDOUT='one'", "add_students_mixture.folders"),
    "finetune": (["--gin_file=gin/runs/finetune.gin"], "finetune.FinetuneConfig.epochs=None", "FinetuneConfig.epochs"),
    "export": (["--gin_file=gin/runs/export.gin"], "LANGUAGES=('en', 3)", "ExportConfig.languages"),
    "plan": (["--gin_file=gin/runs/plan.gin"], "plan.PlanConfig.train=@masking.MaskingConfig()", "PlanConfig.train"),
    "pipeline": ([], "pipeline.PipelineConfig.languages='en'", "PipelineConfig.languages"),
}
"""For each stage its files beside the demo's settings, a value of another type, and the field that it is for."""
MACROS: dict[str, object] = {
    "OUTPUT": "o",
    "VOCABULARY": "v",
    "RECORDS": ("r",),
    "HELDOUT": ("h",),
    "TEACHERS": {"en": "t"},
    "SPLIT": "train",
    "TEACHER": "t",
    "DRAWS": 1,
    "MASKING_RATE": 0.15,
    "LANGUAGE": "en",
    "FOLDER": "f",
    "CANDIDATES": {"en": ("t",)},
    "STUDENTS": {"s": "r"},
    "MODEL": "m",
    "TASK": "pos",
    "FILE_FORMAT": "tsv",
    "TRAIN_FILES": ("a",),
    "TEST_FILES": ("b",),
    "RUN": "r",
    "LANGUAGES": ("en",),
}
HEAVY = ("tensorflow", "seqio", "jax", "flax", "orbax", "optax", "transformers", "matplotlib", "clu", "numpy")
PROBE = f"""
import sys
from mergedistill_jax.cli import main
status = main(sys.argv[1:])
print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def answered(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, the line on standard error, and the libraries that were imported for it, of a process of its own."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    *said, loaded = done.stderr.rstrip("\n").split("\n") if done.stderr.rstrip("\n") else ["", ""]
    return done.returncode, "\n".join(said) if said else loaded, loaded if said else ""


def given_for(files: list[str]) -> list[str]:
    """The macros that the files read and the demo's settings do not set."""
    texts = [text_with_includes(file.partition("=")[2]) for file in files]
    read = {name for text in texts for name in re.findall(r"%([A-Z_]+)", text)}
    bound = {name for text in texts for name in re.findall(r"^([A-Z_]+) =", text, re.MULTILINE)} - {"LANGUAGE"}
    return flags(**{name: value for name, value in MACROS.items() if name in read - bound})


def text_with_includes(path: str) -> str:
    text = (ROOT / path).read_text()
    return text + "".join(text_with_includes(name) for name in re.findall(r"^include '(.+)'", text, re.MULTILINE))


@pytest.mark.parametrize("stage", WRONG)
def test_wrong_input_is_answered_before_a_library_is_imported(stage: str) -> None:
    """A typo, missing settings, another type and a dry run of it: a process of its own each, for its imports count."""
    files, wrong, field = WRONG[stage]
    files = ["--gin_file=gin/runs/demo.gin", *files]
    given = given_for(files)
    cases = {
        f"--gin.{wrong.partition('=')[0]}X=1": "X: ",
        f"--gin.{wrong}": f": {field}",
    }
    for flag, expected in cases.items():
        for more in ([], ["--dry_run"]):
            status, said, loaded = answered([stage, *files, *given, flag, *more])
            assert (status, loaded) == (2, ""), said
            assert said.startswith("mergedistill: ")
            assert said.count("\n") == 0
            assert expected in said
    status, said, loaded = answered([stage, *files[1:]])
    assert (status, loaded) == (2, ""), said
    missing = (
        [flag.removeprefix("--gin.").partition("=")[0] for flag in given_for(files[1:])]
        if files[1:]
        else ["--gin_file"]
    )
    assert all(name in said for name in missing), said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("train.TrainConfig.batch_size='x'", "TrainConfig.batch_size: found 'x', expected int"),
        ("BATCH_SIZE='x'", "TrainConfig.batch_size (%BATCH_SIZE): found 'x', expected int"),
        ("train.TrainConfig.model=3", "TrainConfig.model: found 3, expected @encoder.EncoderConfig"),
        ("encoder.EncoderConfig.hidden_size='32'", "EncoderConfig.hidden_size: found '32', expected int"),
        (
            "optimizer.AdamWConfig.learning_rate=0.1",
            "AdamWConfig.learning_rate: found 0.1, expected @schedules.LearningRate()",
        ),
        ("LEARNING_RATE='1e-3'", "LearningRate.peak (%LEARNING_RATE): found '1e-3', expected float"),
        (
            "train.TrainConfig.optimizer=@schedules.GoldWeight()",
            "TrainConfig.optimizer: found @schedules.GoldWeight(), expected @optimizer.AdamWConfig()",
        ),
        (
            "train.TrainConfig.optimizer=@optimizer.AdamWConfig",
            "TrainConfig.optimizer: found @optimizer.AdamWConfig, expected @optimizer.AdamWConfig()",
        ),
        (
            "VOCABULARY=None",
            "add_students_mixture.vocabulary (%VOCABULARY): found None, expected str",
        ),
        ("RECORDS=('a', 3)", "add_students_mixture.folders (%RECORDS): found ('a', 3), expected Sequence[str]"),
        ("train.TrainConfig.save_every=7", "TrainConfig.save_every: found 7, expected a multiple of log_every=50"),
        ("GOLD_START=2.0", "GoldWeight.start: found 2.0, expected a weight from 0 to 1"),
    ],
)
def test_types_come_before_ranges_and_the_field_is_named(
    wrong: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    macros = {"OUTPUT": "o", "VOCABULARY": "v", "RECORDS": ("r",), "HELDOUT": ("h",)}
    for more in ([], ["--dry_run"]):
        said = refusal([*TRAIN, *flags(**macros), f"--gin.{wrong}", *more], tmp_path, capfd)
        assert said.endswith(f": {message}"), said


def test_all_mistyped_values_are_told_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    macros = {"OUTPUT": 3, "VOCABULARY": "v", "RECORDS": ("r",), "HELDOUT": "h", "STUDENT_STEPS": 1.5}
    said = refusal([*TRAIN, *flags(**macros)], tmp_path, capfd)
    assert [part.split(": found ")[0] for part in said.split(": ", 1)[1].split("; ")] == [
        "TrainConfig.output (%OUTPUT)",
        "TrainConfig.steps (%STEPS)",
        "add_students_mixture.folders (%HELDOUT)",
    ]


def test_an_optimizer_of_optax_is_no_settings_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\nimport optax\nfrom mergedistill_jax.configs import train\n"
        "include 'gin/runs/student.gin'\ntrain.TrainConfig.optimizer = @optax.lion()\noptax.lion.learning_rate = 0.1\n"
    )
    macros = flags(OUTPUT="o", VOCABULARY="v", RECORDS=("r",), HELDOUT=("h",))
    for more in ([], ["--dry_run"]):
        said = refusal(["train", TRAIN[1], f"--gin_file={path}", *macros, *more], tmp_path, capfd)
        assert said.endswith("TrainConfig.optimizer: found @optax.lion(), expected @optimizer.AdamWConfig()")


def test_an_import_of_settings_from_their_code_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(
        "from __gin__ import dynamic_registration\nfrom mergedistill_jax.models import encoder\n"
        "encoder.EncoderConfig.num_layers = 2\n"
    )
    said = refusal(["vocab", f"--gin_file={path}", UNION], tmp_path, capfd)
    right = "expected `from mergedistill_jax.configs import encoder`"
    assert said.endswith(f"found `from mergedistill_jax.models import encoder`, {right}")


# A dry run


def looked(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, standard output and standard error of a dry run."""
    capfd.readouterr()
    status = cli.main([*arguments, "--dry_run"])
    return status, *capfd.readouterr()


def test_a_dry_run_of_a_union_tells_sizes_and_what_is_missing(
    merge: Merge, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = flags(OUTPUT=str(tmp_path / "out"), TEACHERS={**merge.teachers, "de": "runs/not/yet", "fr": "a/b-c"})
    status, shown, said = looked(["vocab", UNION, *given], capfd)
    assert status == 2
    assert said == "mergedistill: vocab: found no teacher runs/not/yet, expected what the lines above say\n"
    assert shown.startswith(f"# vocab: would unite 4 vocabularies -> {tmp_path / 'out'}\n")
    for folder in merge.teachers.values():
        size = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
        assert re.search(rf"#   teacher    {folder}: bert, .*\n#   vocabulary {size:,} tokens\n", shown)
    assert "#   teacher    a/b-c: not on this machine, would be downloaded from the hub\n" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_learned_vocabulary(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = ["--gin_file=gin/runs/demo.gin", "--gin_file=gin/runs/learn_vocabulary.gin"]
    status, shown, said = looked(["vocab", *files, *flags(LANGUAGE="en", OUTPUT=str(tmp_path / "out"))], capfd)
    assert (status, said) == (0, "")
    assert shown.startswith(f"# vocab: would learn 1,200 WordPiece tokens from add_grammar:train -> {tmp_path}/out\n")


def test_a_dry_run_of_train_names_what_is_missing_and_shows_its_configuration(
    settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    macros = {"OUTPUT": str(tmp_path / "run"), "VOCABULARY": "runs/v", "RECORDS": ("runs/r",), "HELDOUT": ("runs/h",)}
    arguments = ["train", settings, "--gin_file=gin/runs/student.gin", *flags(**macros)]
    before = snapshot(tmp_path)
    status, shown, said = looked(arguments, capfd)
    assert status == 2
    assert "found no records runs/r, no vocabulary runs/v, no held-out runs/h, expected" in said
    assert shown.startswith("# train: would train 50 steps of 8 sequences -> ")
    assert "STUDENT_STEPS = 50" in shown
    assert "RECORDS = ('runs/r',)" in shown
    assert snapshot(tmp_path) == before
    kept = tmp_path / "shown.gin"
    kept.write_text(shown)
    again = cli.describe_stage("train", [str(kept)], [])
    assert again.lines[-1].rstrip("\n") == shown.split("\n\n", 1)[1].rstrip("\n")
    assert cli.main(arguments) == 2  # the same in earnest


def test_a_dry_run_tells_how_much_of_the_text_the_records_and_the_output_there_is(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "records"
    shutil.copytree(merge.records["en"], output)
    next(output.glob("shard-*.json")).unlink()
    given = flags(OUTPUT=str(output), TEACHER=merge.teachers["en"])
    status, shown, said = looked(["predict", settings, "--gin_file=gin/runs/predict.gin", *given], capfd)
    assert (status, said) == (0, "")
    assert re.search(rf"teacher    {merge.teachers['en']}: bert, weights of [\d.]+ kB\n", shown)
    assert re.search(r"text       .*en.txt: 1 file, \d+ bytes\n", shown)
    assert re.search(rf"output     {output}: 1 of 2 shards, not finished", shown)
    status, shown, said = looked(["train", settings, *train_flags(merge, tmp_path, RECORDS=(str(output),))], capfd)
    assert status == 2
    assert f"found no records {output}, expected" in said  # unfinished
    assert f"records    {output}: 1 of 2 shards, not finished\n" in shown
    assert re.search(rf"held-out   {merge.heldout['en']}: .* complete\n", shown)


@pytest.mark.parametrize(
    ("stage", "macros", "missing"),
    [
        ("predict", {"TEACHER": "runs/no", "TEXT": "/nowhere/*.txt"}, ["teacher runs/no", "text /nowhere/*.txt"]),
        ("verify", {"FOLDER": "runs/no", "TEACHER": "runs/none"}, ["records runs/no", "teacher runs/none"]),
        ("compare", {"CANDIDATES": {"en": ("runs/no",)}}, ["teacher runs/no"]),
        ("export", {"RUN": "runs/no", "LANGUAGES": ("en",)}, ["run runs/no"]),
        (
            "finetune",
            {"MODEL": "runs/no", "TASK": "pos", "FILE_FORMAT": "tsv", "TRAIN_FILES": (), "TEST_FILES": ("no.tsv",)},
            ["model runs/no", "text no.tsv"],
        ),
        (
            "evaluate",
            {
                "TEACHERS": {"en": "runs/no"},
                "STUDENTS": {"s": "runs/s"},
                "HELDOUT": ("runs/h",),
                "VOCABULARY": "runs/v",
            },
            ["records runs/h", "vocabulary runs/v", "teacher runs/no", "run runs/s"],
        ),
    ],
)
def test_a_dry_run_names_what_each_stage_lacks(
    settings: str,
    stage: str,
    macros: dict[str, object],
    missing: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    macros = {"OUTPUT": str(tmp_path / "out"), **macros} if stage != "verify" else macros
    more = ["FINETUNE_LEARNING_RATE", "FINETUNE_EPOCHS", "FINETUNE_SENTENCES"] if stage == "finetune" else []
    given = [*flags(**macros), *flags(**dict.fromkeys(more, 1))]
    if stage == "compare":
        given.append("--gin.compare.CompareConfig.corpus=@corpora.add_files")
    status, _, said = looked([stage, settings, f"--gin_file=gin/runs/{stage}.gin", *given], capfd)
    assert status == 2
    assert f"{stage}: found no {', no '.join(missing)}, expected" in said


def test_a_dry_run_refuses_what_the_stage_would_refuse(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(["vocab", UNION, "--dry_run"], tmp_path, capfd).startswith("gin/runs/union.gin: %OUTPUT, %TEACHERS:")
    given = flags(OUTPUT="x", TEECHERS={})
    assert "found a name that nothing reads" in refusal(["vocab", UNION, *given, "--dry_run"], tmp_path, capfd)
    assert "found no settings of train" in refusal(["train", UNION, "--dry_run"], tmp_path, capfd)


# Wrong input: the acceptance list of the stages


def damaged(source: str, target: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(source, target)
    change(target / "shard-00001.tfrecord")
    return str(target)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def train_flags(merge: Merge, tmp_path: Path, **changes: object) -> list[str]:
    macros = {
        "OUTPUT": str(tmp_path / "run"),
        "VOCABULARY": merge.vocabulary,
        "RECORDS": tuple(merge.records.values()),
        "HELDOUT": tuple(merge.heldout.values()),
    }
    return ["--gin_file=gin/runs/student.gin", *flags(**{**macros, **changes})]


def test_a_missing_vocabulary_is_refused(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", settings, *train_flags(merge, tmp_path, VOCABULARY="nowhere")]
    message = refusal(arguments, tmp_path, capfd)
    assert message.endswith("nowhere/vocabulary.json: not found, expected a folder written by `mergedistill vocab`")


@pytest.mark.parametrize(("change", "field"), [(flip, "checksum"), (truncate, "bytes")])
@pytest.mark.parametrize("stage", ["train", "verify"])
def test_an_altered_or_truncated_shard_is_refused(
    merge: Merge,
    settings: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    field: str,
    stage: str,
) -> None:
    records = damaged(merge.records["en"], tmp_path / "records", change)
    if stage == "train":
        arguments = ["train", settings, *train_flags(merge, tmp_path, RECORDS=(records,))]
    else:
        given = flags(FOLDER=records, TEACHER=merge.teachers["en"])
        report = f"--gin.verify.VerifyConfig.report='{tmp_path}_report'"  # else it stands beside the records
        arguments = ["verify", "--gin_file=gin/runs/verify.gin", *given, report]
    message = refusal(arguments, tmp_path, capfd)
    assert re.search(rf"{records}/shard-00001.tfrecord: field {field}: found \w+, expected \w+$", message)


def test_more_predictions_than_stored_are_refused(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", settings, *train_flags(merge, tmp_path), "--gin.train.TrainConfig.k=9"]
    message = refusal(arguments, tmp_path, capfd)
    assert message == f"{merge.records['en']}/manifest.json: field k: found 4, expected at least 9"


def test_another_teachers_manifest_is_refused(merge: Merge, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = flags(FOLDER=merge.records["en"], TEACHER=merge.teachers["es"])
    message = refusal(["verify", "--gin_file=gin/runs/verify.gin", *given], tmp_path, capfd)
    pattern = r"records/en/manifest.json: field weights_hash: found '\w+', expected '\w+'$"
    assert re.search(pattern, message)


def test_another_teachers_folder_is_not_continued(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "records"
    shutil.copytree(merge.records["es"], output)
    given = flags(OUTPUT=str(output), TEACHER=merge.teachers["en"])
    message = refusal(["predict", settings, "--gin_file=gin/runs/predict.gin", *given], tmp_path, capfd)
    assert re.match(rf"{output}/manifest.json: field \w+: found .+, expected .+$", message)


def test_a_folder_without_a_masked_lm_head_is_refused(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    headless = tmp_path / "headless"
    size = json.loads((Path(merge.teachers["en"]) / "config.json").read_text())["vocab_size"]
    BertModel(
        BertConfig(vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(headless)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(merge.teachers["en"]) / name, headless)
    given = flags(OUTPUT=str(tmp_path / "records"), TEACHER=str(headless))
    message = refusal(["predict", settings, "--gin_file=gin/runs/predict.gin", *given], tmp_path, capfd)
    assert message == f"{headless}: has no masked-LM head: found no weights cls.predictions.*, expected them"


def test_an_unknown_language_of_a_corpus_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = flags(OUTPUT=str(tmp_path / "out"), LANGUAGE="xx")
    files = ["--gin_file=gin/runs/demo.gin", "--gin_file=gin/runs/learn_vocabulary.gin"]
    message = refusal(["vocab", *files, *given], tmp_path, capfd)
    assert message.endswith("language: found 'xx', expected one of ('en', 'es', 'ru')")
    files = ["--gin_file=gin/experiments/wikipedia_four.gin", "--gin_file=gin/runs/learn_vocabulary.gin"]
    message = refusal(["vocab", *files, *given, *flags(DATA=str(tmp_path))], tmp_path, capfd)
    assert message.endswith("xx.wikiextractor.txt.xz: found no file, expected text of the corpus wikipedia_xx")


def test_an_unknown_language_of_a_report_is_refused(
    merge: Merge, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = flags(
        OUTPUT=str(tmp_path / "report"),
        RUN_FOLDER=str(tmp_path),
        TITLE="t",
        VOCABULARY=merge.vocabulary,
        HELDOUT=(merge.heldout["en"],),
        TEACHERS=merge.teachers,
        STUDENTS={},
        TRAIN_RECORDS={},
        TEACHER_RUNS={},
        FINETUNED={},
    )
    message = refusal(["evaluate", "--gin_file=gin/runs/evaluate.gin", *given], tmp_path, capfd)
    assert message == "mixture heldout: language: found no 'es', expected one of ['en']"


def test_an_unknown_split_is_refused(
    merge: Merge, settings: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = flags(OUTPUT=str(tmp_path / "records"), TEACHER=merge.teachers["en"], SPLIT="training")
    message = refusal(["predict", settings, "--gin_file=gin/runs/predict.gin", *given], tmp_path, capfd)
    assert message.startswith("corpus cli_text: split: found 'training', expected one of [")


def test_a_missing_checkpoint_is_refused_by_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = flags(RUN=str(tmp_path / "nowhere"), OUTPUT=str(tmp_path / "out"), LANGUAGES=("en",))
    message = refusal(["export", "--gin_file=gin/runs/export.gin", *given], tmp_path, capfd)
    assert message == f"{tmp_path}/nowhere/run.json: not found, expected a folder written by `mergedistill train`"


def test_a_bucket_that_cannot_be_read_is_one_line(
    settings: str, merge: Merge, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow's own errors, from a stage and from what a gin file calls; it has no file system for s3."""
    given = flags(RUN="s3://bucket/run", OUTPUT=str(tmp_path / "out"), LANGUAGES=("en",))
    message = refusal(["export", "--gin_file=gin/runs/export.gin", *given], tmp_path, capfd)
    assert message == "File system scheme 's3' not implemented (file: 's3://bucket/run/run.json')"
    given = flags(TEXT="s3://bucket/*.txt", TEACHER=merge.teachers["en"], OUTPUT=str(tmp_path / "out"))
    message = refusal(["predict", settings, "--gin_file=gin/runs/predict.gin", *given], tmp_path, capfd)
    assert "File system scheme 's3' not implemented" in message
    assert message.startswith(settings.removeprefix("--gin_file="))


def test_a_program_error_is_not_disguised_as_wrong_input(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_config: object) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr("mergedistill_jax.vocab.vocab", broken)
    with pytest.raises(AttributeError, match="a bug"):
        cli.main(["vocab", UNION, *flags(OUTPUT="x", TEACHERS=merge.teachers)])


def test_a_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MERGEDISTILL_TRACEBACK", "1")
    with pytest.raises(cli.UsageError):
        cli.main(["trian"])
    assert capsys.readouterr().err == ""


# What a stage leaves behind, and its reuse


@pytest.mark.parametrize(
    "bindings",
    [
        ["OUTPUT = 'runs/x'", "TEACHERS = {'en': 'a folder', 'de': \"it's\"}"],
        ["OUTPUT = 'costs $5 and `more` \\\\ !'", "NAME = ''"],
        ["train.TrainConfig.k = None", "LANGUAGES = ('en', 'كلمة', 'naïve')"],
    ],
)
def test_a_command_survives_a_shell(bindings: list[str]) -> None:
    files = ["gin/runs/demo.gin", "with space.gin"]
    command = cli.command_line("train", files, bindings)
    assert cli.parse(shlex.split(command)[1:]) == ("train", files, [], bindings)
    printed = subprocess.run(  # noqa: S603 - our own
        ["/bin/sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    )
    assert cli.parse(printed.stdout.split("\0")[1:-1]) == ("train", files, [], bindings)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[VocabConfig]:
    """Configs that the vocabulary stage was called with, instead of doing it."""
    found: list[VocabConfig] = []

    def verb(config: VocabConfig) -> None:
        Path(config.output).mkdir(parents=True, exist_ok=True)
        found.append(config)

    monkeypatch.setattr("mergedistill_jax.vocab.vocab", verb)
    return found


def run_union(output: Path, teachers: dict[str, str], *, reuse: bool = True) -> None:
    bindings = [f"OUTPUT = {str(output)!r}", f"TEACHERS = {teachers!r}"]
    cli.run_stage("vocab", ["gin/runs/union.gin"], bindings, reuse=reuse)


def test_a_finished_stage_is_skipped_and_a_changed_one_is_not(
    calls: list[VocabConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_union(tmp_path, {"en": "a"})
    run_union(tmp_path, {"en": "a"})
    assert len(calls) == 1
    assert f"vocab: done before, {tmp_path}" in capsys.readouterr().out
    run_union(tmp_path, {"en": "b"})
    assert [config.method for config in calls] == [UnionConfig(teachers={"en": name}) for name in "ab"]
    run_union(tmp_path, {"en": "b"}, reuse=False)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("TEACHER_STEPS = 7", False),
        ("STUDENT_STEPS = 7", True),
        ("LEARNING_RATE = 0.5", True),
        ("encoder.EncoderConfig.hidden_size = 32", True),
        ("distillation.add_students_mixture.exponent = 0.1", True),
    ],
)
def test_a_setting_of_another_stage_is_no_change_and_any_of_its_own_is(
    merge: Merge,
    settings: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    again: bool,  # noqa: FBT001 - a table
) -> None:
    """The encoder's size is used when the stage runs, long after its configuration was made."""
    found = []

    def verb(config: TrainConfig) -> None:
        Path(config.output).mkdir(parents=True, exist_ok=True)
        found.append(config)

    monkeypatch.setattr("mergedistill_jax.train.train", verb)
    files = [settings.partition("=")[2], "gin/runs/student.gin"]
    bindings = [flag.removeprefix("--gin.").replace("=", " = ", 1) for flag in train_flags(merge, tmp_path)[1:]]
    for more in (["TEACHER_STEPS = 5"], ["TEACHER_STEPS = 5"], ["TEACHER_STEPS = 5", change]):
        cli.run_stage("train", files, [*bindings, *more], reuse=True)
    assert len(found) == 1 + again


def test_a_stage_that_failed_is_not_skipped(
    calls: list[VocabConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_config: VocabConfig) -> None:
        raise ValueError("something")

    with monkeypatch.context() as patch:
        patch.setattr("mergedistill_jax.vocab.vocab", failing)
        with pytest.raises(ValueError, match="something"):
            run_union(tmp_path, {"en": "a"})
    assert read_stage_time(tmp_path, "vocab") is None
    run_union(tmp_path, {"en": "a"})
    assert len(calls) == 1


def test_a_stage_leaves_its_command_and_its_time(calls: list[VocabConfig], tmp_path: Path) -> None:
    run_union(tmp_path / "one", {"en": "a"})
    run_union(tmp_path / "two", {"en": "b"})
    one, two = read_stage_times(tmp_path)
    assert len(calls) == 2
    assert one.stage == two.stage == "vocab"
    assert str(tmp_path / "one") in one.command
    assert str(tmp_path / "two") in two.command
    assert one.order < two.order
    assert one.seconds >= 0
    assert one.configuration != two.configuration


def test_the_configuration_kept_beside_an_output_configures_the_same_stage(
    calls: list[VocabConfig], tmp_path: Path
) -> None:
    run_union(tmp_path, {"en": "a folder", "de": "b"})
    kept = tmp_path / "vocab.gin"
    assert kept.read_text().startswith("# mergedistill vocab --gin_file=gin/runs/union.gin ")
    assert cli.configure("vocab", [str(kept)], []) == calls[0]


def test_ctrl_c_while_the_command_line_is_imported_is_one_line() -> None:
    """Imports take most of a short command's time."""
    program = (
        "import os, signal, sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'mergedistill_jax.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "from mergedistill_jax.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.split("\n", 1) == [
        "",
        "mergedistill: stopped by Ctrl-C; the same command goes on from what is finished\n",
    ]
