"""Check a folder of records: structure and checksums of everything, and a replay of the teacher on a sample."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from mergedistill_jax import schema
from mergedistill_jax.files import write_atomically
from mergedistill_jax.schema import Identity, Manifest, Record, RecordError, ShardEntry
from mergedistill_jax.teachers.hub import find_teacher
from mergedistill_jax.teachers.inference import Teacher, predict_records
from mergedistill_jax.teachers.loading import load_teacher, model_hash
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

REPORT_NAME = "verify.json"
LOG_PROB_SLACK = 2e-3
"""A sum of k half-precision probabilities may exceed one by this much."""
HALF_PRECISION = 2.0**-10
"""Relative error of a stored log-probability, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """What to verify.

    Attributes:
        folder: of records.
        teacher: Hugging Face folder, or name on the hub, to replay; without it the predictions are checked for
            structure alone.
        sample: records replayed per shard, evenly spread.
        tolerance: largest difference of a log-probability, in nats, beside what half precision loses.
    """

    folder: str
    teacher: str | None = None
    sample: int = 16
    batch_size: int = 16
    tolerance: float = 2e-2

    def __post_init__(self) -> None:
        for field in ("sample", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"VerifyConfig.{field}: found {getattr(self, field)}, expected at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found.

    Attributes:
        positions: masked positions compared.
        agreement: share of them whose best token is the stored one.
        largest_difference: of a stored log-probability from the replayed one of the same token, in nats.
        missing_mass: counts over ten equal bins of the probability outside the top-k, from 0 to 1.
    """

    positions: int
    agreement: float
    largest_difference: float
    missing_mass: list[int]


def verify(config: VerifyConfig) -> dict[str, object]:
    """Checks the folder and writes verify.json into it.

    Raises:
        RecordError: anything is wrong; the message names the file, the field, found and expected.
    """
    manifest = schema.read_manifest(config.folder).require_complete()
    identity = manifest.identity
    if not manifest.records:
        raise RecordError(f"{manifest.folder}: found 0 records, expected at least one")
    print(
        f"verify: {manifest.folder}: {identity.language}, {identity.num_shards} shards, {manifest.records:,} records,"
        f" k={identity.k}; replay of {config.teacher or 'nothing: no teacher given'}"
    )
    teacher = _teacher(config, manifest) if config.teacher else None
    found: dict[str, object] = {"records": manifest.records, "shards": identity.num_shards, "hash": manifest.hash}
    sample = _check_all(manifest, config.sample if teacher else 0)
    if teacher:
        replay = _replay(teacher, sample, identity, config)
        found["replay"] = dataclasses.asdict(replay)
        print(
            f"verify: replayed {replay.positions:,} positions: {replay.agreement:.2%} same best token,"
            f" largest difference {replay.largest_difference:.2g} nats"
        )
        bins = " ".join(map(str, replay.missing_mass))
        print(f"verify: mass outside the stored candidates, 0 to 1 in tenths: {bins}")
    write_atomically(epath.Path(config.folder) / REPORT_NAME, (json.dumps(found, indent=1) + "\n").encode())
    print(f"verify: {manifest.records:,} records are sound; wrote {config.folder}/{REPORT_NAME}")
    print("next: mergedistill train")
    return found


def _teacher(config: VerifyConfig, manifest: Manifest) -> Teacher:
    assert config.teacher is not None  # noqa: S101 - the caller asked for a replay
    identity = manifest.identity
    path = manifest.folder / schema.MANIFEST_NAME
    if not identity.k:
        raise RecordError(f"{path}: field k: found 0, expected predictions to replay {config.teacher} against")
    source = find_teacher(config.teacher)
    tokenizer = load_tokenizer(source.folder)
    expected = {
        # Of a folder no revision is known: its contents decide.
        **({"revision": source.revision} if source.revision and identity.revision else {}),
        "weights_hash": model_hash(source.folder),
        "vocabulary_hash": tokenizer.vocabulary_hash,
        "tokenizer_hash": tokenizer.tokenizer_hash,
        "vocabulary_size": len(tokenizer.tokens),
    }
    schema.require_equal(path, dataclasses.asdict(identity), expected)
    return load_teacher(source.folder, max_length=identity.max_length, k=identity.k)


def _check_all(manifest: Manifest, sample: int) -> list[Record]:
    """Checks every shard and record; returns about `sample` records of each shard."""
    progress = Progress(len(manifest.shards), "shard", "verify")
    sampled: list[Record] = []
    for entry in manifest.shards:
        schema.check_shard(manifest.folder, entry)
        records = _checked_records(manifest, entry)
        if sample and records:
            chosen = np.unique(np.linspace(0, len(records) - 1, min(sample, len(records))).astype(int))
            sampled.extend(records[index] for index in chosen)
        progress.update()
    progress.close()
    return sampled


def _checked_records(manifest: Manifest, entry: ShardEntry) -> list[Record]:
    identity = manifest.identity
    path = manifest.folder / schema.shard_name(entry.shard)
    records = []
    for number, record in enumerate(
        schema.read_records(manifest.folder, entry.shard, k=identity.k, width=identity.id_bytes)
    ):
        if problem := record_problem(record, identity):
            raise RecordError(f"{path}: record {number}: {problem}")
        records.append(record)
    counts = {
        "records": len(records),
        "masked_positions": sum(len(record.masked_positions) for record in records),
        "tokens": sum(len(record.input_ids) for record in records),
    }
    listed = manifest.folder / schema.entry_name(entry.shard)
    schema.require_equal(listed, dataclasses.asdict(entry), counts)
    if problem := gold_problem(records, entry):
        raise RecordError(f"{listed}: {problem}")
    return records


def gold_problem(records: Sequence[Record], entry: ShardEntry) -> str | None:
    """What a shard's entry says of the gold tokens that its records contradict, "field ...: found ..."; or None.

    A gold token among the candidates has a known loss, and any other at least that of the last candidate. Every record
    hides at least one word, and every hidden word at least one token.
    """
    if entry.masked_words is not None and not entry.records <= entry.masked_words <= entry.masked_positions:
        between = f"{entry.records} records to {entry.masked_positions} masked positions"
        return f"field masked_words: found {entry.masked_words}, expected from {between}"
    if entry.gold_nll_nats is None:
        return None
    least = 0.0
    for record in records:
        is_gold = record.top_ids == record.gold_ids[:, None]
        known = np.where(is_gold, record.top_log_probs, 0.0).sum(axis=1)
        at_most = np.where(is_gold.any(axis=1), known, record.top_log_probs.min(axis=1, initial=0.0))
        least -= float((at_most * (1 - HALF_PRECISION)).sum())
    if not least - 1e-3 * entry.masked_positions <= entry.gold_nll_nats < np.inf:
        return f"field gold_nll_nats: found {entry.gold_nll_nats}, expected at least {least:.6g} nats"
    return None


def record_problem(record: Record, identity: Identity) -> str | None:
    """The first thing wrong with a record, "field ...: found ..., expected ...", or None."""
    return _input_problem(record, identity) or (_prediction_problem(record) if identity.k else None)


def _input_problem(record: Record, identity: Identity) -> str | None:
    size, masked = identity.vocabulary_size, len(record.masked_positions)
    if len(record.input_ids) > identity.max_length:
        return f"field input: found {len(record.input_ids)} ids, expected at most {identity.max_length}"
    for field, ids in (("input", record.input_ids), ("gold", record.gold_ids), ("top", record.top_ids)):
        if ids.size and int(ids.max()) >= size:
            return f"field {field}: found id {int(ids.max())}, expected below {size}"
    if not 1 <= masked <= identity.max_predictions:
        return f"field masked positions: found {masked}, expected 1 to {identity.max_predictions}"
    if record.draw >= identity.draws:
        return f"field draw: found {record.draw}, expected below {identity.draws}"
    return None


def _prediction_problem(record: Record) -> str | None:
    ordered = np.sort(record.top_ids, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        return "field top: found a candidate twice, expected distinct ids"
    log_probs = record.top_log_probs
    if not np.isfinite(log_probs).all() or (np.diff(log_probs, axis=1) > 0).any():
        return "field log_probs: found values that are not finite or not descending, expected best first"
    mass = float(np.exp(log_probs).sum(axis=1).max())
    if mass > 1 + LOG_PROB_SLACK:
        return f"field log_probs: found a mass of {mass:.4f}, expected at most 1"
    return None


def _of_same_tokens(stored: Record, again: Record) -> Float[np.ndarray, "m k"]:
    """The replayed log-probability of each stored candidate.

    A candidate that is no longer among the k best can only have swapped places with one of nearly equal probability at
    the very end: it is compared with the last that is.
    """
    same = stored.top_ids[:, :, None] == again.top_ids[:, None, :]
    found = np.where(same, again.top_log_probs[:, None, :], 0.0).sum(axis=2)
    return np.where(same.any(axis=2), found, again.top_log_probs[:, -1:]).astype(np.float32)


def _replay(teacher: Teacher, records: Sequence[Record], identity: Identity, config: VerifyConfig) -> Replay:
    """Runs the teacher again on the sampled inputs and compares; refuses a difference beyond the tolerance."""
    replayed = predict_records(
        teacher,
        records,
        k=identity.k,
        batch_size=config.batch_size,
        length=identity.max_length,
        max_predictions=identity.max_predictions,
    )
    largest, same, positions = 0.0, 0, 0
    mass = []
    for stored, again in zip(records, replayed, strict=True):
        allowed = config.tolerance + np.abs(stored.top_log_probs) * HALF_PRECISION
        difference = np.abs(stored.top_log_probs - _of_same_tokens(stored, again))
        if not (difference <= allowed).all():  # a NaN is not within the tolerance either
            raise RecordError(
                f"{config.folder}: text {stored.text_id.hex()}: field log_probs: found a difference of"
                f" {float(difference.max()):.3g} nats from {config.teacher}, expected at most {config.tolerance}"
            )
        largest = max(largest, float(difference.max()))
        same += int((stored.top_ids[:, 0] == again.top_ids[:, 0]).sum())
        positions += len(stored.top_ids)
        mass.append(1.0 - np.exp(stored.top_log_probs.astype(np.float64)).sum(axis=1))
    counts, _ = np.histogram(np.clip(np.concatenate(mass), 0.0, 1.0), bins=10, range=(0.0, 1.0))
    return Replay(
        positions=positions, agreement=same / positions, largest_difference=largest, missing_mass=counts.tolist()
    )
