"""Check folders of records: structure and checksums of everything, a replay of the teacher, the text masked again."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from etils import epath

from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.counting import counted
from mergedistill_jax.evaluation.folder_checks import Tally, check_shards, read_folder
from mergedistill_jax.evaluation.folder_report import FolderReport, report_of, reports_text
from mergedistill_jax.evaluation.remasking import masked_again, remasking_problem, shards_of_corpus
from mergedistill_jax.evaluation.replay import Replayer, located, sample_numbers
from mergedistill_jax.files import write_atomically
from mergedistill_jax.manifest import (
    MANIFEST_NAME,
    Identity,
    Manifest,
    read_identity,
    read_records,
    require_equal,
    shard_name,
)
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.hub import Source, find_teacher
from mergedistill_jax.teachers.inference import Teacher
from mergedistill_jax.teachers.loading import load_teacher, model_hash
from mergedistill_jax.teachers.writer import corpus_documents
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

REPORT_JSON, REPORT_TEXT = "verify.json", "verify.txt"


class UnsoundError(RecordError):
    """At least one folder is unsound.

    Attributes:
        problems: every one, a line each.
    """

    def __init__(self, reports: Sequence[FolderReport], listed_in: str) -> None:
        self.problems = [problem for report in reports for problem in report.problems]
        more = (
            f" (and {counted(len(self.problems) - 1, 'more problem')}, see {listed_in})"
            if len(self.problems) > 1
            else ""
        )
        super().__init__(self.problems[0] + more)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Partner:
    """The teacher of a folder, or its tokenizer alone."""

    source: Source
    tokenizer: TeacherTokenizer
    is_teacher: bool


def verify(config: VerifyConfig) -> list[FolderReport]:
    """Checks every folder, prints what was found, and writes it to verify.json and verify.txt.

    Raises:
        UnsoundError: anything is wrong with a folder; its first problem, which names the file, the field, found and
            expected, is the message.
        ValueError: a teacher, tokenizer or corpus that cannot be had, or is not the folder's; nothing is written.
    """
    partners = [_partner(config, number, folder) for number, folder in enumerate(config.folders)]
    reports = [_verify_folder(config, *pair) for pair in zip(config.folders, partners, strict=True)]
    print(f"\n{reports_text(reports)}\n")
    written = _write(config, reports)
    sound = [report for report in reports if report.sound]
    records = sum(report.records for report in sound)
    of = f"{len(sound)} of {counted(len(reports), 'folder')}"
    print(f"verify: {counted(records, 'record')} of {of} {'is' if records == 1 else 'are'} sound; see {written}")
    if len(sound) < len(reports):
        raise UnsoundError(reports, written)
    print("next: mergedistill train")
    return reports


def _partner(config: VerifyConfig, number: int, folder: str) -> _Partner | None:
    """Who made the folder, as the config has it; found, and compared with the manifest, before any work starts."""
    try:
        identity = read_identity(folder)
    except RecordError:  # which the checks will tell
        return None
    if config.corpus is not None:
        task, split = config.corpus(language=identity.language), identity.corpus.rpartition(":")[2]
        given = {"corpus": f"{task}:{split}"}
        require_equal(epath.Path(folder) / MANIFEST_NAME, {"corpus": identity.corpus}, given)
    is_teacher = config.teacher is not None
    given = config.teacher if is_teacher else config.tokenizer
    if given is None:
        return None
    name = given if isinstance(given, str) else _of_language(given, identity, folder, number)
    source = find_teacher(name, weights=is_teacher)
    partner = _Partner(source=source, tokenizer=load_tokenizer(source.folder), is_teacher=is_teacher)
    _require_fit(epath.Path(folder) / MANIFEST_NAME, identity, partner)
    return partner


def _of_language(given: Mapping[str, str] | Sequence[str], identity: Identity, folder: str, number: int) -> str:
    if not isinstance(given, Mapping):
        return given[number]
    if identity.language not in given:
        raise ValueError(f"{folder}: field language: found {identity.language!r}, expected one of {sorted(given)}")
    return given[identity.language]


def _require_fit(path: epath.Path, identity: Identity, partner: _Partner) -> None:
    """Raises RecordError unless the folder was made by this teacher, or with this tokenizer."""
    source, tokenizer = partner.source, partner.tokenizer
    expected = {
        "vocabulary_hash": tokenizer.vocabulary_hash,
        "tokenizer_hash": tokenizer.tokenizer_hash,
        "vocabulary_size": len(tokenizer.tokens),
    }
    if partner.is_teacher:
        if not identity.k:
            raise RecordError(f"{path}: field k: found 0, expected predictions to replay {source} against")
        # Of a folder no revision is known: its contents decide.
        revision = {"revision": source.revision} if source.revision and identity.revision else {}
        expected = {**revision, "weights_hash": model_hash(source.folder), **expected}
    require_equal(path, dataclasses.asdict(identity), expected)


def _verify_folder(config: VerifyConfig, folder: str, partner: _Partner | None) -> FolderReport:
    tally = Tally()
    manifest = read_folder(epath.Path(folder), tally)
    if manifest is None:
        return report_of(folder, None, tally, None, None)
    identity = manifest.identity
    replayed_by = partner.source if partner and partner.is_teacher else "nothing: no teacher given"
    print(
        f"verify: {folder}: {identity.language}, {counted(identity.num_shards, 'shard')},"
        f" {counted(manifest.records, 'record')}, k={identity.k}; replay of {replayed_by}"
    )
    tokenizer = partner.tokenizer if partner else None
    progress = Progress(len(manifest.shards), "shard", "verify")
    replayer = _replayer(config, identity, partner.source) if partner and partner.is_teacher else None
    check_shards(
        manifest,
        tally,
        tokenizer,
        sample=config.sample if replayer else 0,
        seed=config.seed,
        on_sample=replayer.add if replayer else lambda _: None,
        on_shard=progress.update,
    )
    replayed, differing = replayer.finish() if replayer else (None, {})
    if not tally.problems:  # else what goes to standard error is the one line that says so
        progress.close()
    remasked = _remask(config, manifest, tokenizer, tally) if config.corpus and tokenizer else None
    tally.problems += [located(manifest.folder, *place, problem) for place, problem in differing.items()]
    return report_of(folder, manifest, tally, replayed, remasked)


def _replayer(config: VerifyConfig, identity: Identity, source: Source) -> Replayer:
    def teacher() -> Teacher:
        return load_teacher(source.folder, max_length=identity.max_length, k=identity.k)

    return Replayer(teacher, identity, batch_size=config.batch_size, tolerance=config.tolerance)


def _remask(config: VerifyConfig, manifest: Manifest, tokenizer: TeacherTokenizer, tally: Tally) -> int:
    """Masks the text of some shards again; returns how many were compared."""
    assert config.corpus is not None  # noqa: S101 - the caller's case
    identity, folder = manifest.identity, manifest.folder
    split = identity.corpus.rpartition(":")[2]
    task = config.corpus(language=identity.language)
    listed = [entry.shard for entry in manifest.shards]
    wanted = {listed[index] for index in sample_numbers(len(listed), config.remasked_shards, config.seed, -1)}
    compared = 0
    try:
        shards = shards_of_corpus(folder, identity, lambda: corpus_documents(task, split), wanted.__contains__)
        for shard, documents in shards:
            path = folder / shard_name(shard)
            if any(problem.startswith(str(path)) for problem in tally.problems):
                continue  # it could not be read, or is known to be unsound
            stored = list(read_records(folder, shard, identity.layout))
            compared += 1
            if problem := remasking_problem(stored, masked_again(documents, tokenizer, identity)):
                tally.problems.append(f"{path}: {problem}")
    except RecordError as error:
        tally.problems.append(str(error))
    return compared


def _write(config: VerifyConfig, reports: Sequence[FolderReport]) -> str:
    """Writes the reports; returns where."""
    if config.report is not None:
        _write_report(epath.Path(config.report), reports)
        return f"{config.report}/{REPORT_TEXT}"
    for report in reports:
        folder = epath.Path(report.folder)
        if folder.exists():
            _write_report(folder, [report])
    return f"{REPORT_TEXT} in {'the folder' if len(reports) == 1 else 'each folder'}"


def _write_report(folder: epath.Path, reports: Sequence[FolderReport]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "sound": all(report.sound for report in reports),
        "folders": [dataclasses.asdict(report) for report in reports],
    }
    write_atomically(folder / REPORT_JSON, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(folder / REPORT_TEXT, (reports_text(reports) + "\n").encode())
