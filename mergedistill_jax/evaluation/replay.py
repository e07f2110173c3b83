"""A teacher once more over some of the records that it made: are the stored predictions its own?"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from mergedistill_jax.configs.sampling import Sampling
from mergedistill_jax.evaluation.record_checks import HALF_PRECISION
from mergedistill_jax.manifest import Identity, shard_name
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.inference import Teacher, predict_records

UNITS = {"top": "nats", "sampled": "of the draws"}
TOLERANCES = {
    ("top", "float32"): 2e-2,
    ("top", "bfloat16"): 2e-1,
    ("sampled", "float32"): 0.0,
    ("sampled", "bfloat16"): 0.5,
}
"""What rounding explains, where other devices or other batches add up in another order; of draws, one always."""


AT_ONCE = 1024
"""Records that wait for each other before the teacher is run, so that its batches are full."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """A record and where it stands."""

    shard: int
    number: int
    record: Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found.

    Attributes:
        records, positions: compared.
        same_best: share of the positions whose best token is the stored one.
        same_candidates: share of the positions whose candidates are the stored ones, in any order.
        largest_difference, mean_difference: of a stored log-probability from the replayed one of the same token, in
            nats, without sign; of sampled targets the share of a position's draws that fell on another token.
        tolerance: what was allowed, in the same unit; in nats, beside what half precision loses.
    """

    records: int
    positions: int
    same_best: float
    same_candidates: float
    largest_difference: float
    mean_difference: float
    tolerance: float


def sample_numbers(count: int, sample: int, seed: int, shard: int) -> Int[np.ndarray, " n"]:
    """Numbers of the records of a shard to replay, ascending: drawn by (seed, shard), all where there are few."""
    key = hashlib.blake2b(f"{seed}:{shard}".encode(), digest_size=16, person=b"verify").digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return np.sort(generator.permutation(count)[:sample])


class Replayer:
    """Runs the teacher on sampled inputs and compares: some hundreds at a time, so that a folder of any size fits."""

    def __init__(
        self, teacher: Callable[[], Teacher], identity: Identity, *, batch_size: int, tolerance: float | None
    ) -> None:
        """Starts with nothing compared.

        Args:
            teacher: gives who made the records; called once, when there are any to replay.
            identity: of their folder.
            batch_size: of the replay.
            tolerance: in the unit of Replay; None: TOLERANCES.
        """
        self._teacher, self._identity = functools.cache(teacher), identity
        self._batch_size = batch_size
        self._drawn = identity.targets == "sampled"
        if tolerance is None:
            tolerance = TOLERANCES[identity.targets, identity.dtype]
        self._tolerance = max(tolerance, 1 / identity.samples) if self._drawn else tolerance
        self._waiting: list[Sampled] = []
        self._records = self._positions = self._compared = self._same_best = self._same_candidates = 0
        self._sum = self._largest = 0.0
        self._problems: dict[tuple[int, int], str] = {}

    def add(self, sampled: Sequence[Sampled]) -> None:
        """Takes some records, all sound."""
        self._waiting += sampled
        if len(self._waiting) >= AT_ONCE:
            self._run()

    def finish(self) -> tuple[Replay | None, dict[tuple[int, int], str]]:
        """What was found, None of no records; and what is wrong with every record (shard, number) that differs."""
        if self._waiting:
            self._run()
        if not self._records:
            return None, {}
        found = Replay(
            records=self._records,
            positions=self._positions,
            same_best=self._same_best / self._positions,
            same_candidates=self._same_candidates / self._positions,
            largest_difference=self._largest,
            mean_difference=self._sum / self._compared,
            tolerance=self._tolerance,
        )
        return found, self._problems

    def _run(self) -> None:
        identity, sampled = self._identity, self._waiting
        self._waiting = []
        replayed = predict_records(
            self._teacher(),
            [one.record for one in sampled],
            k=identity.k,
            batch_size=self._batch_size,
            length=identity.max_length,
            max_predictions=identity.max_predictions,
            dtype=identity.dtype,
            sampling=Sampling(samples=identity.samples, seed=identity.seed) if self._drawn else None,
        )
        for one, again in zip(sampled, replayed, strict=True):
            self._compare(one, again)

    def _compare(self, one: Sampled, again: Record) -> None:
        stored = one.record
        difference = _changed_draws(stored, again) if self._drawn else _nats_apart(stored, again)
        rounding = 1e-3 if self._drawn else np.abs(stored.top_log_probs) * HALF_PRECISION
        within = (difference <= self._tolerance + rounding).all(axis=1)
        if not within.all():  # a NaN is not within the tolerance either
            row = int(np.argmin(within))
            self._problems[one.shard, one.number] = (
                f"field log_probs: found a difference of {float(difference[row].max()):.3g}"
                f" {UNITS[self._identity.targets]} from the teacher at position {int(stored.masked_positions[row])},"
                f" expected at most {self._tolerance:g}"
            )
        same = np.sort(stored.top_ids, axis=1) == np.sort(again.top_ids, axis=1)
        self._records += 1
        self._positions += len(difference)
        self._compared += difference.size
        self._same_best += int((stored.top_ids[:, 0] == again.top_ids[:, 0]).sum())
        self._same_candidates += int(same.all(axis=1).sum())
        self._sum += float(difference.sum(dtype=np.float64))
        self._largest = float(np.maximum(self._largest, difference.max(initial=0.0)))  # of a NaN too


def _nats_apart(stored: Record, again: Record) -> Float[np.ndarray, "m k"]:
    """How far each stored log-probability is from the replayed one of the same token.

    A candidate that is no longer among the k best can only have swapped places with one of nearly equal probability at
    the very end: it is compared with the last that is.
    """
    same = stored.top_ids[:, :, None] == again.top_ids[:, None, :]
    found = np.where(same, again.top_log_probs[:, None, :], 0.0).sum(axis=2)
    found = np.where(same.any(axis=2), found, again.top_log_probs[:, -1:])
    return np.abs(stored.top_log_probs - found).astype(np.float32)


def _changed_draws(stored: Record, again: Record) -> Float[np.ndarray, "m 1"]:
    """The share of the draws of each position that fell on another token: total variation of the two targets.

    The uniform numbers are the same; rounding moves a draw only where its number is at the edge of a token's interval.
    """
    same = stored.top_ids[:, :, None] == again.top_ids[:, None, :]
    one, other = np.exp(stored.top_log_probs)[:, :, None], np.exp(again.top_log_probs)[:, None, :]
    return 1.0 - np.where(same, np.minimum(one, other), 0.0).sum(axis=(1, 2))[:, None]


def located(folder: object, shard: int, number: int, problem: str) -> str:
    """A problem of one record, with its place."""
    return f"{folder}/{shard_name(shard)}: record {number}: {problem}"
