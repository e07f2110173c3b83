"""What a worker is to run, a stage with its flags, of one commit of this repository; and the record kept of it."""

import ast
import dataclasses
import hashlib
import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from mergedistill_jax.cli import parse

ROOT = Path(__file__).parents[1]

CARRIED = "launch_files"
"""The folder of the worker's copy of the repository into which gin files go that the commit does not hold."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageCommand:
    """A stage as the workers run it.

    Attributes:
        arguments: what follows `mergedistill`, with the paths that gin files have on a worker.
        carried: local gin files that go to the workers' CARRIED folder, because the commit does not hold them.
        gin_files: text of every gin file that the command names, by its path on a worker.
        record: the gs:// path at which launch_json is kept, or None where the command names no such folder.
        commit: hash of the repository's state.
    """

    arguments: tuple[str, ...]
    carried: tuple[str, ...]
    gin_files: dict[str, str]
    record: str | None
    commit: str

    def launch_json(self, configuration: object) -> str:
        """The record: enough to launch the same again. Holds no time, so that launching again writes the same."""
        settings = dataclasses.asdict(configuration)  # pyright: ignore[reportArgumentType]
        content = {
            "command": shlex.join(["mergedistill", *self.arguments]),
            "arguments": self.arguments,
            "commit": self.commit,
            "configuration": settings,
            "gin_files": self.gin_files,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def stage_command(arguments: Sequence[str], commit: str) -> StageCommand:
    """Reads a stage and its flags, and says which files have to go with them.

    Args:
        arguments: a stage of the command line, and its flags.
        commit: hash of the state of the repository that the workers have.

    Raises:
        ValueError: an unknown stage or flag, or a gin file that is not there.
    """
    if not arguments:
        raise ValueError("stage: found nothing after --, expected STAGE --gin_file=FILE --gin.NAME=VALUE ...")
    stage, _, _, bindings = parse([argument for argument in arguments if argument != "--dry_run"])
    made: list[str] = []
    carried: list[str] = []
    texts: dict[str, str] = {}
    for argument in arguments:
        flag, _, path = argument.partition("=")
        if flag != "--gin_file":
            made.append(argument)
            continue
        committed = _committed(path, commit)
        text = _local(path)
        if committed is None and text is None:
            raise ValueError(f"--gin_file: found {path}, expected a file that is here or in commit {commit[:12]}")
        if text is None or text == committed:
            text = committed or ""
        else:
            carried.append(path)
            path = f"{CARRIED}/{epath.Path(path).name}"
        if texts.setdefault(path, text) != text:
            raise ValueError(f"--gin_file: found two files called {path}, expected names that differ")
        made.append(f"--gin_file={path}")
    record = _record(stage, made, bindings)
    return StageCommand(arguments=tuple(made), carried=tuple(carried), gin_files=texts, record=record, commit=commit)


def commit_hash(commit: str) -> str:
    """The whole hash of a commit of this repository.

    Raises:
        ValueError: there is none of this name.
    """
    done = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if done is None:
        raise ValueError(f"--commit: found {commit!r}, expected a commit of the repository in {ROOT}")
    return done.strip()


def archive_command(commit: str, path: str) -> list[str]:
    """The command that packs the repository as it is in a commit."""
    return ["git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={path}", commit]


def uncommitted() -> bool:
    """Whether tracked files differ from the commit: workers do not get those differences."""
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _record(stage: str, arguments: Sequence[str], bindings: Sequence[str]) -> str | None:
    """Where to keep the launch: in OUTPUT, or of stages that make their output's name themselves, below ROOT."""
    values = {}
    for binding in bindings:
        name, _, value = (part.strip() for part in binding.partition("="))
        if name in ("OUTPUT", "ROOT"):
            try:
                values[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                continue  # a reference, or what gin itself will refuse
    folder = values.get("OUTPUT", values.get("ROOT"))
    if not isinstance(folder, str) or not folder.startswith("gs://"):
        return None
    if "OUTPUT" in values:
        return f"{folder.rstrip('/')}/launch.json"
    digest = hashlib.blake2b("\0".join(arguments).encode(), digest_size=4).hexdigest()
    return f"{folder.rstrip('/')}/launches/{stage}-{digest}.json"


def _local(path: str) -> str | None:
    for file in (epath.Path(path), epath.Path(ROOT) / path):
        if file.is_file():
            return file.read_text()
    return None


def _committed(path: str, commit: str) -> str | None:
    return None if path.startswith(("/", "gs://")) else _git("show", f"{commit}:{path}")


def _git(*arguments: str) -> str | None:
    done = subprocess.run(  # noqa: S603 - no shell
        ["git", "-C", str(ROOT), *arguments],  # noqa: S607 - the user's own git
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode else done.stdout
