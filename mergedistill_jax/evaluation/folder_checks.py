"""All that is checked of a folder of records without its teacher and its text, and what was counted on the way."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from etils import epath
from jaxtyping import Int

from mergedistill_jax.evaluation.record_checks import (
    Rows,
    count_problem,
    gold_problem,
    laid_out,
    missing_mass,
    record_problems,
)
from mergedistill_jax.evaluation.replay import Sampled, located, sample_numbers
from mergedistill_jax.files import names_in
from mergedistill_jax.manifest import (
    Identity,
    Manifest,
    ShardEntry,
    check_shard,
    entry_name,
    read_entry,
    read_identity,
    read_records,
    shard_name,
)
from mergedistill_jax.schema import Record, RecordError
from mergedistill_jax.teachers.corpus_hashes import division_of_folder, known_summary
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

LISTED_PER_SHARD = 3
"""Records of a shard whose problems are told one by one."""
BINS = 10
_SHARD_FILE = re.compile(r"shard-(\d+)\.tfrecord")


@dataclasses.dataclass(kw_only=True)
class Tally:
    """What was found of a folder so far.

    Attributes:
        problems: one line each, naming the file.
        bins: masked positions by the probability outside their candidates, in BINS equal bins from 0 to 1.
        mass: its sum.
        shown: masked positions at which the input holds [MASK], the gold id, or another token.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    bins: Int[np.ndarray, " bins"] = dataclasses.field(default_factory=lambda: np.zeros(BINS, np.int64))
    mass: float = 0.0
    shown: Int[np.ndarray, " 3"] = dataclasses.field(default_factory=lambda: np.zeros(3, np.int64))


def read_folder(folder: epath.Path, tally: Tally) -> Manifest | None:
    """The manifest with every entry that can be read; None without an identity."""
    try:
        identity = read_identity(folder)
    except RecordError as error:
        tally.problems.append(str(error))
        return None
    entries: list[ShardEntry] = []
    unreadable = 0
    for path in (folder / name for name in names_in(folder, "shard-", ".json")):
        try:
            entries.append(read_entry(path, identity))
        except RecordError as error:
            tally.problems.append(str(error))
            unreadable += 1
    manifest = Manifest(folder=folder, identity=identity, shards=tuple(entries))
    tally.problems.extend(_folder_problems(manifest, unreadable))
    return manifest


def _folder_problems(manifest: Manifest, unreadable: int) -> list[str]:
    """Shards that are missing, and files that are too many."""
    folder, identity = manifest.folder, manifest.identity
    problems = []
    try:
        if not unreadable:
            manifest.require_complete()
        known_summary(folder, identity.corpus, division_of_folder(identity))
    except RecordError as error:
        problems.append(str(error))
    for name in names_in(folder, "shard-", ".tfrecord"):
        match = _SHARD_FILE.fullmatch(name)
        if match is None or name != shard_name(int(match[1])) or int(match[1]) >= identity.num_shards:
            told = f"found a shard beyond the {identity.num_shards} of the manifest, expected none"
            problems.append(f"{folder / name}: {told}")
    if not manifest.records and not unreadable and manifest.complete:
        problems.append(f"{folder}: found 0 records, expected at least one")
    return problems


def check_shards(
    manifest: Manifest,
    tally: Tally,
    tokenizer: TeacherTokenizer | None,
    *,
    sample: int,
    seed: int,
    on_sample: Callable[[Sequence[Sampled]], None],
    on_shard: Callable[[], None],
) -> None:
    """Checks every listed shard, and gives away a sample of its records where it is sound."""
    for entry in manifest.shards:
        records = _decoded(manifest, entry, tally)
        if records:
            sound = _check_records(manifest, entry, laid_out(records), tally, tokenizer)
            numbers = sample_numbers(len(records), sample, seed, entry.shard) if sound else ()
            on_sample([Sampled(shard=entry.shard, number=int(n), record=records[n]) for n in numbers])
        on_shard()


def _decoded(manifest: Manifest, entry: ShardEntry, tally: Tally) -> list[Record] | None:
    """The records of a shard; None after a problem that keeps them from being read."""
    path = manifest.folder / shard_name(entry.shard)
    records: list[Record] = []
    try:
        check_shard(manifest.folder, entry)
        records.extend(read_records(manifest.folder, entry.shard, manifest.identity.layout))
    except tf.errors.OpError as error:
        cause = " ".join(str(error.message).split())
        tally.problems.append(f"{path}: record {len(records)}: found {cause!r}, expected whole TFRecord frames")
        return None
    except RecordError as error:
        told = str(error)
        tally.problems.append(told if str(path) in told else f"{path}: record {len(records)}: {told}")
        return None
    if not records and entry.records:
        listed = manifest.folder / entry_name(entry.shard)
        tally.problems.append(f"{listed}: field records: found {entry.records}, expected 0")
    return records


def _check_records(
    manifest: Manifest, entry: ShardEntry, rows: Rows, tally: Tally, tokenizer: TeacherTokenizer | None
) -> bool:
    """Adds what is wrong with a shard's records, or counts them; returns whether nothing is."""
    identity, folder = manifest.identity, manifest.folder
    found = record_problems(rows, identity, tokenizer)
    problems = [located(folder, entry.shard, number, problem) for number, problem in found.items()]
    if len(problems) > LISTED_PER_SHARD:
        more = len(problems) - LISTED_PER_SHARD
        path = folder / shard_name(entry.shard)
        problems = [*problems[:LISTED_PER_SHARD], f"{path}: {more} more of {entry.records} records are unsound"]
    for problem in (count_problem(rows, entry), None if found else gold_problem(rows, entry, identity.targets)):
        if problem:
            problems.append(f"{folder / entry_name(entry.shard)}: {problem}")
    if not problems:
        _count(rows, identity, tally, tokenizer)
    tally.problems += problems
    return not problems


def _count(rows: Rows, identity: Identity, tally: Tally, tokenizer: TeacherTokenizer | None) -> None:
    if identity.k and identity.targets == "top":
        mass = missing_mass(rows)
        tally.bins += np.histogram(mass, bins=BINS, range=(0.0, 1.0))[0]
        tally.mass += float(mass.sum())
    if tokenizer is not None:
        hidden = rows.shown_ids == tokenizer.mask_id
        same = ~hidden & (rows.shown_ids == rows.gold_ids)
        tally.shown += np.array([hidden.sum(), same.sum(), (~hidden & ~same).sum()])
