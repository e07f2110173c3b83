"""How often each token stood in a run's batches: which ids of a text the student has never seen."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from mergedistill_jax.files import write_atomically
from mergedistill_jax.training.distributed import leads, sum_over_processes

TOKEN_COUNTS_FILE = "token_counts.bin"  # noqa: S105 - no password
"""In an exported folder. A run has one for each checkpoint, token_counts-STEP.bin."""

_KEPT = 3


class TokenCounts:
    """Counts [v] of the tokens that stood in a batch, visible or hidden, kept beside the checkpoints.

    A run resumed from a checkpoint of which the counts are missing has none: `known` is False from then on. Every
    process of a job counts rows of its own; the leading one goes on from the file, and writes the sum.
    """

    def __init__(self, folder: epath.PathLike, vocab_size: int, *, resume_at: int) -> None:
        self._folder = epath.Path(folder)
        found = read_token_counts(folder, resume_at) if resume_at else np.zeros(vocab_size, np.int64)
        self.known = found is not None
        self._counts = found.copy() if found is not None and leads() else np.zeros(vocab_size, np.int64)

    def add(self, batch: Mapping[str, Any]) -> None:
        """Adds a batch: token_ids [b, l] up to lengths [b], and gold_ids [b, m] where loss_weights [b, m] > 0."""
        inside = np.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
        for ids in (batch["token_ids"][inside], batch["gold_ids"][batch["loss_weights"] > 0]):
            self._counts += np.bincount(ids, minlength=len(self._counts))

    def save(self, step: int) -> None:
        """Writes the counts of a step, before its checkpoint, and deletes all but the newest few."""
        if not self.known:
            return
        counts = sum_over_processes(self._counts)
        if not leads():
            return
        write_atomically(self._folder / _name(step), to_bytes(counts))
        for old in _steps(self._folder)[:-_KEPT]:
            (self._folder / _name(old)).unlink(missing_ok=True)


def read_token_counts(run_folder: epath.PathLike, step: int) -> Int[np.ndarray, " v"] | None:
    """The counts of a run up to a step, or None where there are none."""
    return read_counts_file(epath.Path(run_folder) / _name(step))


def read_counts_file(path: epath.PathLike) -> Int[np.ndarray, " v"] | None:
    """Counts [v], or None where there is no such file.

    Raises:
        ValueError: the file holds anything else.
    """
    path = epath.Path(path)
    if not path.exists():
        return None
    data = path.read_bytes()
    if len(data) % 8:
        raise ValueError(f"{path}: found {len(data)} bytes, expected 8 for each token")
    return np.frombuffer(data, "<i8").astype(np.int64)


def to_bytes(counts: Int[np.ndarray, " v"]) -> bytes:
    """The content of a file of counts: little-endian 64-bit numbers in the order of the ids."""
    return counts.astype("<i8").tobytes()


def _name(step: int) -> str:
    return f"token_counts-{step}.bin"


def _steps(folder: epath.Path) -> list[int]:
    found = (re.fullmatch(r"token_counts-(\d+)\.bin", path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)
