"""The paper's six students and one more: who teaches what, told without weights; one of them made from gin alone."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS, make_teacher
from hub_cache import NEW, add_snapshot, use_cache
from test_cli import refusal

from mergedistill_jax import cli
from mergedistill_jax.configs.recipe import StudentRecipe
from mergedistill_jax.configs.vocab import UnionConfig
from mergedistill_jax.counting import counted
from mergedistill_jax.manifest import read_manifest
from mergedistill_jax.teachers.hub import hub_name
from mergedistill_jax.training.metrics import read_log

ROOT = Path(__file__).parents[1]
NAMES = ("similar", "dissimilar", "muril", "mbert", "both_all", "both_best")
"""The students of the paper."""
TEN = "ten"
"""The one of ten teachers, of the README's first job on a pod."""
MURIL, MBERT = "muril-base-cased", "bert-base-multilingual-cased"
MURIL_LANGUAGES = {"bn", "en", "gu", "hi", "kn", "ml", "mr", "ne", "pa", "ta", "te", "ur"}
HUB_NAMES = {
    "bert_base_cased": "bert-base-cased",
    "gbert_base": "deepset/gbert-base",
    "bert_base_italian_xxl_cased": "dbmdz/bert-base-italian-xxl-cased",
    "bert_base_spanish_wwm_cased": "dccuchile/bert-base-spanish-wwm-cased",
    "bert_base_arabertv02": "aubmindlab/bert-base-arabertv02",
    "bert_base_finnish_cased_v1": "TurkuNLP/bert-base-finnish-cased-v1",
    "bert_base_turkish_cased": "dbmdz/bert-base-turkish-cased",
    "bert_base_chinese": "bert-base-chinese",
    "muril_base_cased": "google/muril-base-cased",
    "bert_base_multilingual_cased": "bert-base-multilingual-cased",
}
"""The teachers of the paper, by the files that name them."""
ONE_EACH = {
    "similar": {"en": "bert_base_cased", "de": "gbert_base", "it": "bert_base_italian_xxl_cased",
                "es": "bert_base_spanish_wwm_cased"},
    "dissimilar": {"en": "bert_base_cased", "ar": "bert_base_arabertv02", "fi": "bert_base_finnish_cased_v1",
                   "tr": "bert_base_turkish_cased", "zh": "bert_base_chinese"},
}  # fmt: skip


def gin_file(name: str) -> str:
    return f"gin/students/{name}.gin"


@functools.cache
def recipe_of(name: str) -> StudentRecipe:
    config = cli.configure("vocab", [gin_file(name)], [])
    assert isinstance(config.method, UnionConfig)
    assert config.method.teachers == config.student.sources
    assert config.method.languages == config.student.languages
    assert config.output == f"runs/paper/{name}/vocabulary"
    return config.student


def test_every_teacher_and_student_has_a_file_and_every_file_is_tested() -> None:
    assert {path.stem for path in (ROOT / "gin/teachers").glob("*.gin")} == set(HUB_NAMES)
    assert {path.stem for path in (ROOT / "gin/students").glob("*.gin")} == {*NAMES, TEN, "student"}


def test_the_teachers_have_their_names_on_the_hub() -> None:
    """The name that a file gives is one to the hub's rule, and the file's own name is its last part."""
    found = {}
    for name in NAMES:
        for teacher in recipe_of(name).teachers:
            found[teacher.name.replace("-", "_")] = teacher.source
            asked = hub_name(teacher.source)
            assert asked is not None
            assert asked.repository.rpartition("/")[2] == teacher.name
    assert found == HUB_NAMES


@pytest.mark.parametrize("name", ONE_EACH)
def test_monolingual_teachers(name: str) -> None:
    student = recipe_of(name)
    taught = ONE_EACH[name]
    assert student.sources == {HUB_NAMES[file].rpartition("/")[2]: HUB_NAMES[file] for file in taught.values()}
    assert {one: student.teacher(one, None).source for one in taught} == {k: HUB_NAMES[v] for k, v in taught.items()}
    assert sum(map(len, student.languages.values())) == len(taught)


def test_mberts_languages_are_its_wikipedias() -> None:
    """104 are on its list, and Simplified and Traditional Chinese are one Wikipedia."""
    languages = recipe_of("both_all").languages[MBERT]
    assert len(languages) == 103
    assert MURIL_LANGUAGES | {"zh", "th", "mn", "yo", "war", "pnb"} <= set(languages)


def test_multilingual_students() -> None:
    everything = set(recipe_of("both_all").languages[MBERT])
    found = {name: {k: set(v) for k, v in recipe_of(name).languages.items()} for name in NAMES[2:]}
    assert found["muril"] == {MURIL: MURIL_LANGUAGES, MBERT: everything - MURIL_LANGUAGES}
    assert found["mbert"] == {MURIL: set(), MBERT: everything}
    assert found["both_all"] == found["both_best"] == {MURIL: MURIL_LANGUAGES, MBERT: everything}
    assert [recipe_of(name).rule for name in NAMES] == ["all"] * 5 + ["best"]


def test_ten_teachers_for_fourteen_languages() -> None:
    """Every teacher that has a file, one for each language; the README and the file's header name the languages."""
    student = recipe_of(TEN)
    assert set(student.sources.values()) == set(HUB_NAMES.values())
    languages = sorted(language for taught in student.languages.values() for language in taught)
    assert len(languages) == len(set(languages)) == 14
    assert all(student.languages.values())
    for path in (ROOT / "README.md", ROOT / gin_file(TEN)):
        assert f"for language in {' '.join(languages)}; do" in path.read_text()


@pytest.mark.parametrize("name", [*NAMES, TEN])
def test_a_dry_run_tells_everything_and_touches_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    use_cache(tmp_path / "empty", monkeypatch)
    assert cli.main(["vocab", f"--gin_file={gin_file(name)}", "--dry_run"]) == 2  # there is no text
    shown = capsys.readouterr().out
    student = recipe_of(name)
    assert f"union of the student {name}" not in shown  # it would unite, it does not
    assert shown.startswith(
        f"# vocab: would unite {counted(len(student.teachers), 'vocabulary', 'vocabularies')} of the student {name} -> "
    )
    for teacher in student.teachers:
        told = (
            f"#   name       {teacher.name}\n#   teacher    {teacher.source}: not on this machine, would be downloaded"
        )
        languages = f"{len(teacher.languages)} language" if teacher.languages else "no language"
        assert told in shown
        assert languages in shown.split(told)[1].splitlines()[1]
    if name.startswith("both"):
        shared = " ".join(student.languages[MURIL])
        rule = f"# several teachers for a language, rule {student.rule!r}: {MURIL} and {MBERT} for {shared}"
    else:
        rule = "# several teachers for a language: none"
    assert rule in shown.splitlines()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["predict", "verify", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_the_other_stages_show_the_configuration_they_would_run_with(
    name: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--gin.LANGUAGE='en'", *([f"--gin.TEACHER_NAME={MBERT!r}"] if name.startswith("both") else [])]
    assert cli.main([stage, f"--gin_file={gin_file(name)}", *flags, "--dry_run"]) == 2  # there are no records yet
    shown = capsys.readouterr().out
    assert shown.startswith(f"# {stage}: would ")
    assert f"\n# command: mergedistill {stage} --gin_file={gin_file(name)} " in shown
    assert f"recipe.StudentRecipe.name = '{name}'" in shown
    assert "LANGUAGE = 'en'" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_on_this_machine_is_looked_at(
    tmp_path: Path, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_snapshot(use_cache(tmp_path / "cache", monkeypatch), "deepset/gbert-base", teachers["es"], NEW, "main")
    override = f"--gin.bert_base_cased/recipe.TeacherOf.source={str(teachers['en'])!r}"
    assert cli.main(["vocab", f"--gin_file={gin_file('similar')}", override, "--dry_run"]) == 2  # there is no text
    shown = capsys.readouterr().out
    (german,) = [line for line in shown.splitlines() if f"deepset/gbert-base@{NEW}" in line]
    (english,) = [line for line in shown.splitlines() if f"#   teacher    {teachers['en']}" in line]
    assert "bert, weights of " in german
    assert "bert, weights of " in english
    assert shown.count("not on this machine") == 2


@pytest.mark.slow
def test_a_dry_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mergedistill_jax", "vocab", f"--gin_file={gin_file('both_best')}", "--dry_run"]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(  # noqa: S603 - our own
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mergedistill: vocab: found no text ")
    assert done.stdout.count("not on this machine") == 2


def test_a_misspelt_name_is_refused_in_a_dry_run_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for stage in ("vocab", "train"):
        arguments = [stage, f"--gin_file={gin_file('similar')}", "--gin.LANGUAGES='en'", "--dry_run"]
        assert refusal(arguments, tmp_path, capfd).startswith("--gin.LANGUAGES: found a name that nothing reads")


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_header_name_what_exists(name: str) -> None:
    text = (ROOT / gin_file(name)).read_text()
    header = text[: text.index("from __gin__")]
    commands = re.findall(r"mergedistill (\w+) --gin_file=(\S+)", header)
    assert {"vocab", "predict", "train", "export"} <= {stage for stage, _ in commands} <= set(cli.STAGES)
    assert {file for _, file in commands} == {gin_file(name), "gin/runs/export.gin"}
    teacher = MBERT if name.startswith("both") else None
    configuration = "\n".join(
        cli.describe_stage("predict", [gin_file(name)], ["LANGUAGE = 'en'", f"TEACHER_NAME = {teacher!r}"]).lines
    )
    export = (ROOT / "gin/runs/export.gin").read_text()
    for macro in re.findall(r"--gin\.([A-Z_]+)=", header + text):
        assert f"%{macro}" in configuration or f"%{macro}" in export, macro


# One student from gin alone: two teachers of one language, on a machine's own folders


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """Settings that shrink both_best to two languages and a student of one layer."""
    make_teacher(tmp_path / "muril", TEXTS["en"], seed=1)
    make_teacher(tmp_path / "mbert", TEXTS["en"] + TEXTS["es"], seed=2)
    for language, texts in TEXTS.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{language}.jsonl").write_text(lines)
    settings = tmp_path / "small.gin"
    settings.write_text(f"""# both_best on two languages.
from __gin__ import dynamic_registration

from mergedistill_jax.configs import predict
from mergedistill_jax.configs import train
from mergedistill_jax.configs import splits
from mergedistill_jax.configs import encoder
from mergedistill_jax.configs import recipe
from tasks import corpora

include 'gin/students/both_best.gin'

muril_base_cased/recipe.TeacherOf.source = '{tmp_path}/muril'
bert_base_multilingual_cased/recipe.TeacherOf.source = '{tmp_path}/mbert'
MURIL_LANGUAGES = ('en',)
MBERT_LANGUAGES = ('en', 'es')
ROOT = '{tmp_path}/runs'
DATA = '{tmp_path}'
corpora.add_jsonl.pattern = '{{language}}.jsonl'
corpora.add_jsonl.splits = {{'train': @splits.Split(), 'heldout': @splits.Split(), 'transfer': @splits.Split()}}
MAX_LENGTH = 32
MASKING_RATE = 0.3
predict.PredictConfig.documents_per_shard = 1
encoder.EncoderConfig:
    num_layers = 1
    hidden_size = 16
    num_heads = 2
    intermediate_size = 32
BATCH_SIZE = 8
STUDENT_STEPS = 3
WARMUP_STEPS = 1
train.TrainConfig:
    num_microbatches = 1
    dtype = 'float32'
    log_every = 1
    save_every = 1
    evaluate_every = None
""")
    return {"files": [str(settings)], "root": tmp_path / "runs"}


@pytest.mark.slow
def test_a_student_of_two_teachers_for_one_language_is_made_from_gin_alone(small: dict[str, Any]) -> None:
    run = functools.partial(cli.run_stage, gin_files=small["files"])
    run("vocab", bindings=[])
    for split in ("train", "heldout"):
        for language, teacher in (("en", MURIL), ("en", MBERT), ("es", None)):
            given = [f"LANGUAGE = {language!r}", f"SPLIT = {split!r}", f"TEACHER_NAME = {teacher!r}"]
            run("predict", bindings=given)
            run("verify", bindings=given)
    state = run("train", bindings=[])
    assert int(state.step) == 3
    folders = sorted(path.name for path in (small["root"] / "records/train").iterdir())
    assert folders == [f"en-{MBERT}", f"en-{MURIL}", f"es-{MBERT}"]
    identity = read_manifest(small["root"] / "records/train" / folders[1]).identity
    assert (identity.teacher, identity.language, identity.revision) == (MURIL, "en", "")
    logged = {name for row in read_log(str(small["root"] / "both_best/student")) for name in row}
    assert f"gold_loss/teacher/{MBERT}" in logged


def test_several_teachers_must_be_told_apart(
    small: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", f"--gin_file={small['files'][0]}", "--gin.LANGUAGE='en'"]
    message = refusal(arguments, tmp_path, capfd)
    assert message.endswith(f"TEACHER_NAME: found None, expected {MURIL!r} or {MBERT!r} for en")
    assert not (tmp_path / "runs").exists()
