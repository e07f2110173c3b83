"""The file of one shard: written aside, synced and checksummed; and read again to see whether it is still the same."""

import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from mergedistill_jax.files import sync, temporary_path
from mergedistill_jax.schema import Layout, Record, RecordError, encode_record

FRAMING_BYTES = 16
"""Of one record in a TFRecord file: its length and two checksums."""
SETTLED_NS = 2_000_000_000
"""A file younger than this may change again without another time of change: what was found of it is not kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """A shard that is whole on the disk, but not under its name yet.

    Attributes:
        told: what its entry tells of it: the fields of ShardEntry but its number.
    """

    temporary: epath.Path
    told: dict[str, Any]

    def discard(self) -> None:
        """Removes the file, unless it has got its name meanwhile."""
        self.temporary.unlink(missing_ok=True)


def write_aside(path: epath.Path, records: Iterable[Record], layout: Layout) -> WrittenShard:
    """Writes a shard beside `path`, syncs it, and takes the checksum of what stands in the file.

    Raises:
        RecordError: the disk is full, or the folder not writable; names `path` and the cause. No file is left.
    """
    temporary = temporary_path(path)
    try:
        counts, expected = _write_records(path, temporary, records, layout)
        with failures_named(path):
            sync(temporary)
            size = temporary.stat().length
            checksum = file_checksum(temporary)
        _require_bytes(path, size, expected)
    except Exception:
        with contextlib.suppress(Exception):  # what went wrong first is what is told
            temporary.unlink(missing_ok=True)
        raise
    return WrittenShard(temporary=temporary, told=counts | {"bytes": size, "checksum": checksum})


def _require_bytes(path: epath.Path, found: int, expected: int) -> None:
    if found != expected:
        raise RecordError(f"{path}: field bytes: found {found} after it was written, expected {expected}")


def _write_records(
    path: epath.Path, temporary: epath.Path, records: Iterable[Record], layout: Layout
) -> tuple[dict[str, Any], int]:
    """Writes the records one by one; what an entry tells of them, and the bytes that the file must have."""
    count = masked = tokens = size = 0
    words: list[int | None] = []
    losses: list[float | None] = []
    with failures_named(path):
        writer = tf.io.TFRecordWriter(str(temporary))
    try:
        for record in records:
            encoded = encode_record(record, layout)
            with failures_named(path):
                writer.write(encoded)
            count += 1
            size += len(encoded) + FRAMING_BYTES
            masked += len(record.masked_positions)
            tokens += len(record.input_ids)
            words.append(record.masked_words)
            gold = record.gold_log_probs
            losses.append(None if gold is None else -float(gold.sum(dtype=np.float64)))
    except Exception:
        with contextlib.suppress(Exception):
            writer.close()
        raise
    with failures_named(path):
        writer.close()  # writes what is left in the buffer
    counts = {
        "records": count,
        "masked_positions": masked,
        "tokens": tokens,
        "masked_words": None if None in words else sum(filter(None, words)),
        "gold_nll_nats": None if None in losses else sum(filter(None, losses), 0.0),
    }
    return counts, size


@contextlib.contextmanager
def failures_named(path: epath.Path) -> Iterator[None]:
    """Turns a failure of the disk into one line with the shard's own name."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow says "NAME; CAUSE".
        cause = getattr(error, "strerror", None) or str(getattr(error, "message", error)).rpartition("; ")[2]
        raise RecordError(
            f"{path}: found {' '.join(cause.split())!r} while it was written, expected room and permission;"
            " it is not listed: run again to complete the folder"
        ) from error


def file_checksum(path: epath.PathLike) -> str:
    """blake2b-128 of a file, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with tf.io.gfile.GFile(str(path), "rb") as file:
        for block in iter(functools.partial(file.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def require_checksum(path: epath.Path, expected: str) -> None:
    """Reads a file; raises RecordError naming it where its checksum is another."""
    found = file_checksum(path)
    if found != expected:
        raise RecordError(f"{path}: field checksum: found {found}, expected {expected}")


_undamaged: set[tuple[Any, ...]] = set()
"""Files that this process has read and found as listed: path, checksum, and state."""


def require_checksum_once(path: epath.Path, expected: str) -> None:
    """The same, but a file that this process has read is read again only where its size or a time of it is another."""
    state = _state(path)
    if (str(path), expected, *state) in _undamaged:
        return
    require_checksum(path, expected)
    if time.time_ns() - state[0] > SETTLED_NS:
        _undamaged.add((str(path), expected, *state))


def _state(path: epath.Path) -> tuple[int, ...]:
    """Time of change of a file in nanoseconds, and what else would be another if it was written again."""
    if "://" in str(path):
        found = tf.io.gfile.stat(str(path))
        return found.mtime_nsec, found.length
    local = Path(path).stat()
    return max(local.st_mtime_ns, local.st_ctime_ns), local.st_mtime_ns, local.st_size, local.st_ino
