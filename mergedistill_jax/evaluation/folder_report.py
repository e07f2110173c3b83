"""What `verify` found of folders of records, as a text for people and as plain data."""

import dataclasses
from collections.abc import Sequence

from mergedistill_jax.counting import counted
from mergedistill_jax.evaluation.folder_checks import BINS, Tally
from mergedistill_jax.evaluation.replay import UNITS, Replay
from mergedistill_jax.manifest import Manifest

_BAR = 40
_PRINTED = 20
"""Problems of a folder that the text lists; the JSON file has them all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MissingMass:
    """The probability that a teacher gave to tokens beyond its k best, over all masked positions.

    Attributes:
        counts: positions in ten equal bins from 0 to 1.
        mean: from 0 to 1.
    """

    counts: list[int]
    mean: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderReport:
    """One folder. What could not be measured is None.

    Attributes:
        hash: of its manifest, which says what was verified: any change of the folder is another hash.
        problems: one line each; the folder is sound where there is none.
        shown: masked positions at which the input holds [MASK], the gold id, or another token.
        remasked_shards: shards whose inputs, masks and gold ids were made again from the text.
    """

    folder: str
    sound: bool
    problems: list[str]
    hash: str | None = None
    language: str = ""
    teacher: str = ""
    corpus: str = ""
    k: int = 0
    targets: str = "top"
    shards: int = 0
    documents: int = 0
    records: int = 0
    tokens: int = 0
    masked_positions: int = 0
    bytes: int = 0
    max_length: int = 0
    shown: dict[str, int] | None = None
    missing_mass: MissingMass | None = None
    replay: Replay | None = None
    remasked_shards: int | None = None


def report_of(
    folder: str, manifest: Manifest | None, tally: Tally, replay: Replay | None, remasked_shards: int | None
) -> FolderReport:
    """Puts together what is known of a folder."""
    sound, problems = not tally.problems, list(tally.problems)
    if manifest is None:
        return FolderReport(folder=folder, sound=sound, problems=problems)
    identity = manifest.identity
    positions = int(tally.bins.sum())
    counts = tally.bins.tolist()
    shown: dict[str, int] = dict(zip(("mask", "same", "other"), tally.shown.tolist(), strict=True))
    return FolderReport(
        folder=folder,
        sound=sound,
        problems=problems,
        hash=manifest.hash,
        language=identity.language,
        teacher=identity.teacher,
        corpus=identity.corpus,
        k=identity.k,
        targets=identity.targets,
        shards=len(manifest.shards),
        documents=identity.documents,
        records=manifest.records,
        tokens=sum(entry.tokens for entry in manifest.shards),
        masked_positions=sum(entry.masked_positions for entry in manifest.shards),
        bytes=sum(entry.bytes for entry in manifest.shards),
        max_length=identity.max_length,
        shown=shown if sum(shown.values()) else None,
        missing_mass=MissingMass(counts=counts, mean=tally.mass / positions) if positions else None,
        replay=replay,
        remasked_shards=remasked_shards,
    )


def reports_text(reports: Sequence[FolderReport]) -> str:
    """Every folder, then the histograms of the missing mass by language."""
    lines: list[str] = []
    for report in reports:
        lines += [*_folder_lines(report), ""]
    return "\n".join([*lines, *_histograms(reports)]).rstrip()


def _folder_lines(report: FolderReport) -> list[str]:
    count = len(report.problems)
    found = counted(count, "problem")
    lines = [f"{report.folder}: {found if count else 'sound'}"]
    if report.hash is not None:
        lines += [f"  {name:<10}{text}" for name, text in _facts(report)]
    lines += [f"  PROBLEM   {problem}" for problem in report.problems[:_PRINTED]]
    if len(report.problems) > _PRINTED:
        lines.append(f"  and {counted(len(report.problems) - _PRINTED, 'more problem')}")
    return lines


def _facts(report: FolderReport) -> list[tuple[str, str]]:
    tokens = max(report.tokens, 1)
    full = report.tokens / max(report.records * report.max_length, 1)
    k = f"k = {report.k}{', drawn' if report.targets == 'sampled' else ''}"
    facts = [
        (
            "of",
            f"{report.language}, {report.teacher or 'gold labels alone'}, {k}; manifest {report.hash}",
        ),
        ("text", f"{report.corpus}, {counted(report.documents, 'document')} in {counted(report.shards, 'shard')}"),
        ("records", f"{report.records:,} of at most {report.max_length} tokens, {full:.1%} full"),
        ("bytes", f"{report.bytes:,}, {report.bytes / tokens:.2f} a token"),
        ("masked", f"{report.masked_positions:,} of {report.tokens:,} tokens, {report.masked_positions / tokens:.1%}"),
    ]
    if report.shown is not None:
        total = sum(report.shown.values())
        shares = {name: f"{count / total:.1%}" for name, count in report.shown.items()}
        facts.append(("shown as", f"[MASK] {shares['mask']}, itself {shares['same']}, another {shares['other']}"))
    if report.replay is not None:
        facts += _replay_facts(report.replay, report)
    if report.remasked_shards is not None:
        facts.append(("text", f"hashed whole, and masked again for {counted(report.remasked_shards, 'shard')}"))
    return facts


def _replay_facts(replay: Replay, report: FolderReport) -> list[tuple[str, str]]:
    same = (
        f"{counted(replay.records, 'record')}, {counted(replay.positions, 'position')}:"
        f" {replay.same_best:.2%} same best token, {replay.same_candidates:.2%} the same {report.k} tokens"
    )
    differ = (
        f"largest difference {replay.largest_difference:.2g} {UNITS[report.targets]}, mean"
        f" {replay.mean_difference:.2g}, allowed {replay.tolerance:g} and what half precision loses"
    )
    return [("replay", same), ("", differ)]


def _histograms(reports: Sequence[FolderReport]) -> list[str]:
    by_language: dict[str, list[MissingMass]] = {}
    for report in reports:
        if report.missing_mass is not None:
            by_language.setdefault(report.language, []).append(report.missing_mass)
    lines: list[str] = []
    for language, found in by_language.items():
        counts = [sum(counts) for counts in zip(*(one.counts for one in found), strict=True)]
        mean = sum(one.mean * sum(one.counts) for one in found) / sum(counts)
        lines += [*histogram(language, counts, mean), ""]
    return lines


def histogram(language: str, counts: Sequence[int], mean: float) -> list[str]:
    """Bars of the share of positions in each bin."""
    total, largest = sum(counts), max(counts)
    lines = [f"{language}: probability outside the stored candidates, mean {mean:.1%} over {total:,} positions"]
    for index, count in enumerate(counts):
        bar = "#" * round(_BAR * count / largest)
        lines.append(f"  {index / BINS:.1f}-{(index + 1) / BINS:.1f} {bar:<{_BAR}} {count / total:6.1%}")
    return lines
