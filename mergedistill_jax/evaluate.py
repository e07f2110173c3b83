"""Stage 4: teachers and students on the same held-out masked words, with what fine-tuning found, as one report."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.evaluate import EvaluateConfig
from mergedistill_jax.counting import counted
from mergedistill_jax.data.batches import RecordMixture, describe_mixture
from mergedistill_jax.evaluation.fills import Reader, fill_examples, teacher_reader
from mergedistill_jax.evaluation.masked_words import (
    all_records,
    merge_scores,
    score_baseline,
    score_student,
    score_teacher,
    unseen_shares,
)
from mergedistill_jax.evaluation.report import Fill, Report, Vocabulary, console_table, write_report
from mergedistill_jax.json_objects import object_of, read_json, require_type
from mergedistill_jax.locks import owns_output
from mergedistill_jax.manifest import MANIFEST_NAME, Manifest, read_manifest, require_equal
from mergedistill_jax.schema import RecordError
from mergedistill_jax.stage_log import StageTime, read_stage_times
from mergedistill_jax.teachers.inference import Teacher
from mergedistill_jax.teachers.loading import load_teacher, load_token_counts, model_hash
from mergedistill_jax.training.checkpoints import RUN_FILE, Checkpoints, read_run
from mergedistill_jax.training.metrics import read_log
from mergedistill_jax.vocabulary.folder import Vocabulary as VocabularyFolder
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.id_map import IdMap

_BASELINE_MARGIN = 0.005
"""Half a point: less than what so few words tell apart."""
FINETUNE_RESULT = "result.json"
TAGGING_METRICS = {"pos": {"tagging_f1": "tagging_f1"}, "ner": {"entity_f1": "ner_f1"}}


@owns_output()
def evaluate(config: EvaluateConfig) -> Report:
    """Scores everything, writes the report and prints its table."""
    began = time.monotonic()
    mixture = describe_mixture(config.heldout)
    manifests = _manifests(mixture)
    missing = sorted(set(config.teachers) - set(manifests))
    if missing:
        raise RecordError(
            f"mixture {config.heldout}: language: found no {missing[0]!r}, expected one of {sorted(manifests)}"
        )
    print(
        f"evaluate: {counted(len(config.teachers), 'teacher')} and {counted(len(config.students), 'student')}"
        f" on {counted(mixture.records, 'held-out record')}"
    )
    vocabulary = read_vocabulary(mixture.vocabulary_folder)
    teachers = {language: _teacher(folder, manifests[language]) for language, folder in config.teachers.items()}
    students = {name: _student(folder, vocabulary) for name, folder in config.students.items()}
    finetuned = {name: _finetuned(folders) for name, folders in config.finetuned.items()}

    # Where the union was cut, its students are not asked for every word: nobody is asked for the others then.
    id_maps = {language: _id_map(vocabulary, manifest) for language, manifest in manifests.items()}
    scores: dict[str, dict[str, dict[str, float]]] = {"baseline": _baselines(config, manifests, id_maps)}
    scores["teacher"] = {
        language: score_teacher(teacher, manifests[language], config.batch_size, id_maps[language]).metrics()
        for language, teacher in teachers.items()
    }
    mixtures = {"": mixture}
    if config.heldout_union:
        mixtures["_union"] = _own_mixture(config.heldout_union, vocabulary)
    for name, (encoder, params) in students.items():
        counts = load_token_counts(config.students[name])
        scores[name] = {}
        for suffix, one in mixtures.items():
            for language, metrics in _student_scores(encoder, params, counts, one, config.batch_size).items():
                named = {f"{metric}{suffix}": value for metric, value in metrics.items()}
                scores[name].setdefault(language, {}).update(named)
    for name, by_language in finetuned.items():
        for language, metrics in by_language.items():
            scores.setdefault(name, {}).setdefault(language, {}).update(metrics)

    fills = _fills(config, manifests, vocabulary, teachers, students)
    stages = read_stage_times(config.run_folder) if config.run_folder else []
    report = _report(config, mixture, vocabulary, merge_scores(scores), fills, stages, time.monotonic() - began)
    write_report(config.output, report)
    print(console_table(report))
    for fill in fills:
        print(_shown(fill))
    for line in (*_at_baseline(report, students), *_without_example(config, report)):
        print(f"evaluate: {line}")
    print(f"evaluate: wrote {config.output}/report.html and report.json\nnext: open {config.output}/report.html")
    return report


def _at_baseline(report: Report, students: Iterable[str]) -> list[str]:
    """Students that predict no better than the most frequent token, whatever they agree with."""
    return [
        f"{student} in {language} is at the baseline: {found:.1%} of masked words, the most frequent token {low:.1%}"
        for language, models in report.languages.items()
        for student in students
        if (low := models.get("baseline", {}).get("masked_accuracy")) is not None
        and (found := models.get(student, {}).get("masked_accuracy")) is not None
        and found <= low + _BASELINE_MARGIN
    ]


def _without_example(config: EvaluateConfig, report: Report) -> list[str]:
    """Languages whose held-out text had no sentence to fill in."""
    if not config.examples or not report.fills:
        return []
    filled = {fill.language for fill in report.fills}
    missing = [language for language in config.teachers if language not in filled]
    return [
        f"no sentence of {language} fits as an example: see evaluation/fills.py for their length"
        for language in missing
    ]


def _manifests(mixture: RecordMixture) -> dict[str, Manifest]:
    """The held-out folders by language."""
    doubled = sorted({one for one in mixture.languages if mixture.languages.count(one) > 1})
    if doubled:
        raise RecordError(f"mixture {mixture.name}: found two folders of {doubled[0]}, expected one per language")
    return {
        language: read_manifest(folder).require_complete()
        for language, folder in zip(mixture.languages, mixture.folders, strict=True)
    }


def _teacher(folder: str, manifest: Manifest) -> Teacher:
    """Loads a teacher, and refuses one that did not predict the held-out records of its language."""
    identity = manifest.identity
    path = manifest.folder / MANIFEST_NAME
    require_equal(path, dataclasses.asdict(identity), {"weights_hash": model_hash(folder)})
    return load_teacher(folder, max_length=identity.max_length, k=max(identity.k, 1))


def _id_map(vocabulary: VocabularyFolder, manifest: Manifest) -> IdMap:
    return vocabulary.id_map(vocabulary.member_of(manifest.identity.vocabulary_hash, manifest.folder / MANIFEST_NAME))


def _student(folder: str, vocabulary: VocabularyFolder) -> tuple[EncoderConfig, Any]:
    """The newest checkpoint of a run over the same vocabulary."""
    run = read_run(folder)
    if run.vocabulary_hash != vocabulary.hash:
        raise RecordError(
            f"{folder}/run.json: field vocabulary_hash: found {run.vocabulary_hash}, expected {vocabulary.hash}"
            f" of {vocabulary.folder}"
        )
    checkpoints = Checkpoints(folder, alone=True)
    params = checkpoints.restore_params()
    checkpoints.close()
    return object_of(epath.Path(folder) / RUN_FILE, EncoderConfig, run.model, within="model"), params


def _own_mixture(name: str, vocabulary: VocabularyFolder) -> RecordMixture:
    """The held-out records in the student's own ids."""
    mixture = describe_mixture(name)
    for folder in mixture.folders:
        path = epath.Path(folder) / MANIFEST_NAME
        identity = dataclasses.asdict(read_manifest(folder).identity)
        require_equal(path, identity, {"vocabulary_hash": vocabulary.hash})
    return mixture


def _student_scores(
    encoder: EncoderConfig, params: Any, counts: Any, mixture: RecordMixture, batch_size: int
) -> dict[str, dict[str, float]]:
    """{language: metrics} of a student on one mixture."""
    found = {language: one.metrics() for language, one in score_student(encoder, params, mixture, batch_size).items()}
    if counts is not None:
        for language, share in unseen_shares(mixture, counts, batch_size).items():
            found[language]["unseen_share"] = share
    return found


def _baselines(
    config: EvaluateConfig, manifests: Mapping[str, Manifest], id_maps: Mapping[str, IdMap]
) -> dict[str, dict[str, float]]:
    found = {}
    for language, folder in config.train_records.items():
        train = read_manifest(folder).require_complete().require_undamaged()
        expected = {"vocabulary_hash": manifests[language].identity.vocabulary_hash}
        require_equal(train.folder / MANIFEST_NAME, dataclasses.asdict(train.identity), expected)
        found[language] = score_baseline(train, manifests[language], id_maps[language])
    return found


def _finetuned(folders: Sequence[str]) -> dict[str, dict[str, float]]:
    """{language: metrics} of finetune's result.json files, under the report's names; what was measured."""
    found: dict[str, dict[str, float]] = {}
    for folder in folders:
        language, task, metrics = _finetune_result(epath.Path(folder) / FINETUNE_RESULT)
        ours = {ours: metrics[theirs] for theirs, ours in TAGGING_METRICS[task].items() if theirs in metrics}
        found.setdefault(language, {}).update(ours)
    return found


def _finetune_result(path: epath.Path) -> tuple[str, str, Mapping[str, float]]:
    """Language, task and scores."""
    if not path.exists():
        raise ValueError(f"{path}: not found, expected a file written by `mergedistill finetune`")
    result = read_json(path)
    fields = {"language": str, "task": str, "metrics": dict}
    for field, kind in fields.items():
        require_type(path, field, result.get(field), kind)
    language, task, metrics = (result[field] for field in fields)
    for metric, value in metrics.items():
        require_type(path, f"metrics.{metric}", value, float)
    if task not in TAGGING_METRICS:
        raise ValueError(f"{path}: field task: found {task!r}, expected one of {sorted(TAGGING_METRICS)}")
    return language, task, metrics


def _fills(
    config: EvaluateConfig,
    manifests: Mapping[str, Manifest],
    vocabulary: VocabularyFolder,
    teachers: Mapping[str, Teacher],
    students: Mapping[str, tuple[EncoderConfig, Any]],
) -> list[Fill]:
    if "student" not in students:
        return []
    tokens = vocabulary.tokenizer().tokens
    fills = []
    for language, teacher in teachers.items():
        manifest = manifests[language]
        name = vocabulary.member_of(manifest.identity.vocabulary_hash, manifest.folder / MANIFEST_NAME)
        tokenizer = vocabulary.teacher_tokenizer(name)
        readers = {"teacher": teacher_reader(teacher, tokenizer)}
        for student in ("student", "student_gold"):
            if student in students:
                encoder, params = students[student]
                readers[student] = Reader(
                    config=encoder,
                    params=params,
                    id_map=vocabulary.id_map(name),
                    tokens=tokens,
                    num_tokens=len(tokens),
                )
        fills += fill_examples(language, all_records(manifest), tokenizer, readers, config.examples)
    return fills


def _shown(fill: Fill) -> str:
    return (
        f"\n[{fill.language}] {fill.text}\n"
        f"     gold: {fill.gold}   teacher: {', '.join(fill.teacher)}   student: {', '.join(fill.student)}"
    )


def _report(
    config: EvaluateConfig,
    mixture: RecordMixture,
    vocabulary: VocabularyFolder,
    languages: dict[str, dict[str, dict[str, float]]],
    fills: list[Fill],
    stages: Sequence[StageTime],
    own_seconds: float,
) -> Report:
    description = json.loads((vocabulary.folder / "vocabulary.json").read_text())
    shared = description.get("overlaps", {})
    vocabularies = {
        name: Vocabulary(size=member.size, shared={o: n for o, n in shared.get(name, {}).items() if o != name})
        for name, member in vocabulary.members.items()
    }
    vocabularies["union"] = Vocabulary(size=vocabulary.size)
    curves = {name: read_log(folder) for name, folder in config.students.items()}
    curves |= {f"teacher_{language}": read_log(folder) for language, folder in config.teacher_runs.items()}
    per_stage: dict[str, float] = {}
    for stage in stages:
        if stage.stage not in ("evaluate", "pipeline"):
            per_stage[stage.stage] = per_stage.get(stage.stage, 0.0) + stage.seconds
    per_stage["evaluate"] = own_seconds
    summary = (
        f"{counted(len(config.teachers), 'teacher')} ({', '.join(languages)}), each with its own vocabulary, and one"
        f" student over the union of {vocabulary.size:,} tokens, on the same"
        f" {counted(mixture.records, 'held-out masked sequence')}."
    )
    scored = {language: models.get("teacher", {}).get("scored_share") for language, models in languages.items()}
    told = ", ".join(f"{share:.1%} in {language}" for language, share in scored.items() if share is not None)
    left_out = f"Scored are the masked tokens that the students' vocabulary has: {told}." if told else None
    return Report(
        title=config.title,
        summary=[summary, *([left_out] if left_out else [])],
        languages=languages,
        seconds=sum(per_stage.values()),
        seconds_per_stage=per_stage,
        curves=curves,
        vocabularies=vocabularies,
        fills=fills,
        commands=[stage.command for stage in stages if stage.stage != "pipeline"],
        configuration={name: dict(read_run(folder).settings) for name, folder in config.students.items()},
    )
