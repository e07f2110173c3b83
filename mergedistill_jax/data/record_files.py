"""Any record of a folder by its number: offsets found and checksums compared once, before the first use of a shard.

A shard is a TFRecord file, records end to end, each framed by its length and two checksums of four bytes:

    | length 8 | crc 4 | record | crc 4 | length 8 | crc 4 | record | crc 4 | ...
    ^ offset 0                          ^ offset 1

One pass over a shard gives the offsets, which are kept (four bytes a record), and the checksum, which must be the one
that the manifest lists. A shard that is not local is copied first, to a file that is named by its checksum.
"""

import array
import concurrent.futures
import contextlib
import getpass
import hashlib
import os
import queue
import struct
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from jaxtyping import Int, UInt

from mergedistill_jax.files import temporary_path
from mergedistill_jax.manifest import Manifest, ShardEntry, shard_name
from mergedistill_jax.schema import RecordError

_BLOCK_BYTES = 1 << 22
_BEFORE, _AFTER = 12, 4
"""Bytes of the frame on either side of a record."""
_LENGTH = struct.Struct("<Q")
_MAX_OFFSET = (1 << 64) - 1
_OPEN_FILES = 256


class RecordFiles:
    """The records of a folder's shards; safe to use from several threads."""

    def __init__(self, manifest: Manifest) -> None:
        """Takes a complete folder; opens nothing yet."""
        self._folder = manifest.folder
        self._entries = [entry for entry in manifest.shards if entry.records]
        self._ends = np.cumsum([entry.records for entry in self._entries], dtype=np.int64)
        self._shards: dict[int, concurrent.futures.Future[_Shard]] = {}
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_shards(self) -> int:
        """Shards that have records."""
        return len(self._entries)

    def read(self, numbers: Int[np.ndarray, " n"]) -> list[bytes]:
        """The records of these numbers, serialised, in the order asked for.

        Raises:
            RecordError: a shard that is missing, or not what its entry lists.
        """
        which = np.searchsorted(self._ends, numbers, side="right")
        within = numbers - np.concatenate([[0], self._ends])[which]
        shards = {int(index): self.shard(int(index)) for index in np.unique(which)}
        spans = [
            (shards[one], *shards[one].span(place)) for one, place in zip(which.tolist(), within.tolist(), strict=True)
        ]
        for span in spans:
            _OPEN.announce(*span)
        return [_OPEN.read(*span) for span in spans]

    def shard(self, index: int) -> "_Shard":
        """The index of a shard, found now, or waited for where another thread is at it.

        Raises:
            RecordError: as `read`; the same one each time.
        """
        with self._lock:
            found = self._shards.get(index)
            future = self._shards.setdefault(index, concurrent.futures.Future())
        if found is None:
            try:
                entry = self._entries[index]
                future.set_result(_checked(str(self._folder / shard_name(entry.shard)), entry))
            except BaseException as error:  # noqa: BLE001 - it is every reader's
                self._failure = error
                future.set_exception(error)
        return future.result()

    def raise_failure(self) -> None:
        """Raises what any thread found wrong with a shard so far."""
        if self._failure is not None:
            raise self._failure


@contextlib.contextmanager
def checked_in_background(folders: Sequence[RecordFiles], threads: int = 2) -> Iterator[Callable[[], None]]:
    """Checks all shards of the folders while something else goes on; gives a function that raises what was found wrong.

    So a damaged shard is found when work begins, and not when its first record happens to be wanted.
    """
    left = queue.SimpleQueue[tuple[RecordFiles, int] | None]()
    for files in folders:
        for index in range(files.num_shards):
            left.put((files, index))
    for _ in range(threads):
        left.put(None)
    stopped = threading.Event()

    def check() -> None:
        while not stopped.is_set() and (found := left.get()) is not None:
            files, index = found
            with contextlib.suppress(Exception):  # the folder keeps it
                files.shard(index)

    def raise_failures() -> None:
        for files in folders:
            files.raise_failure()

    for _ in range(threads):
        threading.Thread(target=check, name="checksums", daemon=True).start()
    try:
        yield raise_failures
    finally:
        stopped.set()


class _Shard:
    """A checked file, and where its records lie."""

    def __init__(self, path: str, stamp: "_Stamp", offsets: UInt[np.ndarray, " r1"]) -> None:
        self._path, self._stamp, self._offsets = path, stamp, offsets

    def span(self, number: int) -> tuple[int, int]:
        """Start and size in bytes of a record."""
        start, end = self._offsets[number : number + 2].tolist()
        return start + _BEFORE, end - start - _BEFORE - _AFTER

    def open(self) -> "_File":
        """Opens it; raises RecordError where it is no longer the file that was checked."""
        file = _File(self._path)
        if file.stamp != self._stamp:
            raise RecordError(f"{self._path}: found another file than a moment ago, expected it to stay as it was")
        return file


_Stamp = tuple[int, int, int, int]


class _File:
    """An open local file that is closed when nobody uses it any more."""

    def __init__(self, path: str) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise RecordError(f"{path}: not found, expected the file that its entry lists") from error

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    @property
    def stamp(self) -> _Stamp:
        """Changes when the file does, or when another takes its place."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _checked(path: str, entry: ShardEntry) -> _Shard:
    local = path if "://" not in path else _local_copy(path, entry)
    file = _File(local)
    stamp = file.stamp
    digest, offsets = _scan(file.descriptor)
    if digest != entry.checksum:
        if local != path:
            Path(local).unlink(missing_ok=True)  # or it would be found damaged for ever
        raise RecordError(f"{path}: field checksum: found {digest}, expected {entry.checksum}")
    if (len(offsets) - 1, offsets[-1]) != (entry.records, stamp[2]):
        found = f"{len(offsets) - 1} of {offsets[-1]} bytes"
        raise RecordError(f"{path}: field records: found {found}, expected {entry.records} of {stamp[2]}")
    # The offsets of a shard of common size fit 32 bits.
    return _Shard(local, stamp, np.array(offsets, np.uint32 if offsets[-1] < 1 << 32 else np.uint64))


def _scan(descriptor: int) -> tuple[str, "array.array[int]"]:
    """Checksum of a file, and where each of its records begins and the last one ends."""
    digest = hashlib.blake2b(digest_size=16)
    offsets = array.array("Q", [0])
    data, position, following = b"", 0, 0  # of the bytes at hand, and of the next record
    while block := os.pread(descriptor, _BLOCK_BYTES, position + len(data)):
        digest.update(block)
        data += block
        while following + _LENGTH.size <= position + len(data):
            following += _BEFORE + _LENGTH.unpack_from(data, following - position)[0] + _AFTER
            offsets.append(min(following, _MAX_OFFSET))  # a damaged length may be anything
        used = min(following - position, len(data))
        data, position = data[used:], position + used
    return digest.hexdigest(), offsets


def _local_copy(path: str, entry: ShardEntry) -> str:
    """The local copy of a file of an object store; whoever needs it first makes it, TMPDIR says where."""
    folder = Path(tempfile.gettempdir()) / f"mergedistill-records-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"{entry.checksum}.tfrecord"
    if not copy.exists() or copy.stat().st_size != entry.bytes:
        temporary = Path(temporary_path(copy))
        try:
            with tf.io.gfile.GFile(path, "rb") as source, temporary.open("wb") as target:
                while block := source.read(_BLOCK_BYTES):
                    target.write(block)
            temporary.replace(copy)
        except tf.errors.NotFoundError as error:
            raise RecordError(f"{path}: not found, expected the file that its entry lists") from error
        finally:
            temporary.unlink(missing_ok=True)
    return str(copy)


class _OpenFiles:
    """The files read last; a process may open about a thousand, and a corpus may have more shards."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[_Shard, _File] = OrderedDict()
        self._lock = threading.Lock()

    # A file is closed when nothing refers to it: whoever uses its descriptor holds the file, or another thread drops it
    # in between, and the number is already another file's.

    def read(self, shard: _Shard, start: int, size: int) -> bytes:
        file = self._file(shard)
        return os.pread(file.descriptor, size, start)

    def announce(self, shard: _Shard, start: int, size: int) -> None:
        """Lets the system fetch what is about to be read, all of it at once."""
        if hasattr(os, "posix_fadvise"):
            file = self._file(shard)
            os.posix_fadvise(file.descriptor, start, size, os.POSIX_FADV_WILLNEED)

    def _file(self, shard: _Shard) -> _File:
        with self._lock:
            if shard in self._files:
                self._files.move_to_end(shard)
                return self._files[shard]
            file = self._files[shard] = shard.open()
            if len(self._files) > self._limit:
                self._files.popitem(last=False)
            return file


_OPEN = _OpenFiles(_OPEN_FILES)
