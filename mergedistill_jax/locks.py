"""One process at a time owns the output folder of a stage, from the stage's start to its end.

The owner holds flock(2) on a lock file. The kernel lets go of it when the process ends, however it ends, so after
SIGKILL the same command starts at once. A lock file that a killed process left is taken over, and the owner deletes it
at its end. Deleting such a file races with a process that has just opened it, so the new owner checks whether
the file still has its name, and starts over if it does not.

    OUTPUT/.mergedistill.lock     of a stage that writes into its folder
    PARENT/.OUTPUT.lock           of export, which puts another folder in its place

There is no lock where flock does not exist (gs:// and some network drives); docs/decisions.md says what protects there.
"""

import contextlib
import contextvars
import errno
import fcntl
import functools
import json
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

LOCK_NAME = ".mergedistill.lock"

Verb = TypeVar("Verb", bound=Callable[..., Any])
Decide = Callable[[Callable[[], str]], str]

_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: contextvars.ContextVar[frozenset[tuple[int, str]]] = contextvars.ContextVar("held", default=frozenset())
"""(process, lock file) of this thread: the last stage of a pipeline writes into the folder of the pipeline."""
_descriptors: set[int] = set()


class FolderInUseError(ValueError):
    """Another process owns the folder; the message is one line that names both."""


def _close_inherited() -> None:
    """A forked child would keep the lock after its parent's end. Programs that are executed inherit no descriptor."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)


def owns_output(*, beside: bool = False, decide: Decide | None = None) -> Callable[[Verb], Verb]:
    """Decorates a verb that takes a config: it owns the folder `config.output` while it runs.

    Args:
        beside: the lock file lies beside the folder, which the verb replaces.
        decide: for a verb that all processes of a job call: calls a function on the leading process, which takes the
            lock, and gives its result on every process.

    Raises:
        FolderInUseError: by the decorated verb, on every process of the job, before it does anything.
    """

    def decorated(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def owner(config: Any, *arguments: Any, **options: Any) -> Any:
            with contextlib.ExitStack() as stack:
                take = functools.partial(_take, config.output, stack, beside=beside)
                if refusal := decide(take) if decide else take():
                    raise FolderInUseError(refusal)
                return verb(config, *arguments, **options)

        return owner  # pyright: ignore[reportReturnType]

    return decorated


def _take(output: str, stack: contextlib.ExitStack, *, beside: bool) -> str:
    """Takes the lock until the stack is closed; or says who has it."""
    try:
        stack.enter_context(owned(output, beside=beside))
    except FolderInUseError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def owned(output: str, *, beside: bool = False) -> Iterator[None]:
    """Owns a folder. One that does not exist yet is made, and removed at the end where nothing was written into it.

    Raises:
        FolderInUseError: another process, or another thread, owns it.
    """
    with contextlib.ExitStack() as stack:
        if "://" not in output:
            folder = Path(os.path.realpath(output))
            path = folder.parent / f".{folder.name}.lock" if beside else folder / LOCK_NAME
            if (os.getpid(), str(path)) not in _held.get():
                _lock(path, output, stack)
        yield


def _lock(path: Path, output: str, stack: contextlib.ExitStack) -> None:
    try:
        descriptor = _open(path, stack)
    except FolderInUseError as error:
        raise FolderInUseError(f"{output}: found in use by {error}, expected no other process") from None
    except OSError:  # a read-only folder, a file in its place: the stage itself says what is wrong with its output
        return
    if descriptor is None:
        return
    _descriptors.add(descriptor)
    stack.callback(_release, path, descriptor)
    token = _held.set(_held.get() | {(os.getpid(), str(path))})
    stack.callback(_held.reset, token)
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_owner()).encode(), 0)


def _open(path: Path, stack: contextlib.ExitStack) -> int | None:
    """The descriptor of a lock file that this process has locked, or None where the file system knows no locks."""
    while True:
        missing = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(_remove_empty, missing)
        try:
            descriptor = _descriptor(path)
        except FileNotFoundError:  # another process has just removed the empty folder, or the file
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _described(descriptor)
            os.close(descriptor)
            raise FolderInUseError(owner) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNSUPPORTED:
                raise
            path.unlink(missing_ok=True)
            return None
        if _is_named(path, descriptor):
            return descriptor
        os.close(descriptor)


def _descriptor(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # another user's in a shared folder: it can be locked all the same


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    if descriptor not in _descriptors:  # closed in a forked child
        return
    with contextlib.suppress(OSError):
        if _is_named(path, descriptor):  # before the lock is let go
            path.unlink()
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _owner() -> dict[str, Any]:
    name = Path(sys.argv[0]).name
    command = shlex.join(["mergedistill" if name == "__main__.py" else name, *sys.argv[1:]])
    return {"pid": os.getpid(), "host": platform.node(), "command": textwrap.shorten(command, 200, placeholder=" ...")}


def _described(descriptor: int) -> str:
    """The owner by its own account; it may not have written it yet."""
    try:
        owner = json.loads(os.pread(descriptor, 1 << 16, 0))
        return f"process {owner['pid']} on {owner['host']} ({' '.join(owner['command'].split())})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "another process"
