"""Files that are there whole or not at all, also where several processes write into one folder. Paths may be gs://.

A file is written under a hidden name that tells who writes it, and then renamed:

    shard-00001.tfrecord  <-  .shard-00001.tfrecord.MACHINE.PID.RANDOM.tmp

What a killed process leaves under such a name is removed by the next process that writes into the folder.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

STALE_S = 24 * 3600.0
"""Seconds after which a temporary file counts as left behind where nobody can tell whether its writer still lives."""
_TEMPORARY = re.compile(r"\.(?P<name>.+?)(\.(?P<machine>[0-9a-f]{8})\.(?P<pid>\d+)\.[0-9a-f]{8})?\.tmp")


def write_atomically(path: epath.PathLike, data: bytes) -> None:
    """Writes a file aside, syncs it to disk, then gives it its name; an older file of that name is replaced.

    Raises:
        OSError: with the path and the cause, such as a full disk; an older file of that name stands as it was.
    """
    path = epath.Path(path)
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        with contextlib.suppress(Exception):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def temporary_path(path: epath.PathLike) -> epath.Path:
    """A hidden name beside `path`, for a file or a folder of this process and this call alone.

    The first call for a folder removes what dead processes left there.
    """
    path = epath.Path(path)
    _remove_left_behind_once(str(path.parent))
    return path.parent / f".{path.name}.{_machine()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"


@functools.lru_cache(maxsize=4096)
def _remove_left_behind_once(folder: str) -> None:
    with contextlib.suppress(OSError):  # no such folder, or not writable: the caller will see
        remove_left_behind(folder)


def names_in(folder: epath.PathLike, start: str = "", end: str = "") -> list[str]:
    """Sorted names in a folder that start and end so; none where there is no folder.

    Unlike `glob`, which takes `[`, `*` and `?` in the folder's own name for a pattern.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if name.startswith(start) and name.endswith(end))


def remove_left_behind(folder: epath.PathLike) -> list[str]:
    """Removes the temporary files and folders that dead processes left in a folder, and returns their names.

    A process of this machine is known to be dead. Of another machine nobody knows: its file goes when nothing was
    written to it for STALE_S seconds. So does one under the older, shared name `.NAME.tmp`.
    """
    removed = []
    for path in (epath.Path(folder) / name for name in names_in(folder, ".", ".tmp")):
        if (match := _TEMPORARY.fullmatch(path.name)) and _left_behind(path, match["machine"], match["pid"]):
            _remove(path)
            removed.append(path.name)
    return removed


def _remove(path: epath.Path) -> None:
    """Removes a file or a folder that another process may be removing too."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink()


def _left_behind(path: epath.Path, machine: str | None, pid: str | None) -> bool:
    if machine == _machine() and pid is not None:
        return not _alive(int(pid))
    try:
        return time.time() - path.stat().mtime > STALE_S
    except FileNotFoundError:  # its writer has just renamed it
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """Eight digits for the place where process numbers mean the same: machine, boot, and container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux alone has these two
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("|".join(parts).encode(), digest_size=4).hexdigest()


@contextlib.contextmanager
def exclusive(folder: epath.PathLike) -> Iterator[None]:
    """Holds a folder for one process at a time; the lock ends with the process, however that ends.

    Where there are no locks (object stores, some network drives) it holds nothing: what is done under it must be
    safe, if wasteful, when two do it.
    """
    with contextlib.ExitStack() as stack:
        if "://" not in str(folder):
            descriptor = os.open(str(folder), os.O_RDONLY)
            stack.callback(os.close, descriptor)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def sync(path: epath.PathLike) -> None:
    """Syncs a local file, or the names in a local folder, to disk.

    An object store needs none of it: there an object becomes visible when it is whole.
    """
    if "://" in str(path):
        return
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network drives sync no folders; a folder's names are then as safe as the drive makes them.
        if error.errno != errno.EINVAL or not epath.Path(path).is_dir():
            raise
    finally:
        os.close(descriptor)
