"""Files that are there whole or not at all. Paths may be gs://."""

import os

from etils import epath


def write_atomically(path: epath.PathLike, data: bytes) -> None:
    """Writes a file aside, syncs it to disk, then gives it its name; an older file of that name is replaced."""
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(data)
    sync(temporary)
    temporary.replace(path)


def sync(path: epath.PathLike) -> None:
    """Syncs a local file to disk; object stores make an object visible only when it is whole."""
    if "://" in str(path):
        return
    descriptor = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
