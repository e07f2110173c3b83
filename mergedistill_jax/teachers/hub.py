"""Teachers by the name they have on the Hugging Face hub: what is a name and what a path, and the folder it stands for.

    runs/x/export                             a path
    deepset/gbert-base                        a name: branch main
    dbmdz/bert-base-turkish-cased@<revision>  a branch, a tag, a commit, or refs/pr/N

The rule: what exists as a local folder is that folder. Else NAME or OWNER/NAME, in the hub's own characters, is a name,
except where it is a path to anyone who reads it: OWNER is a local folder, or one of LOCAL_OWNERS; or there is no OWNER
and no hyphen. (The hub takes no new names without an owner; all its old masked language models have a hyphen:
bert-base-cased, xlm-roberta-base.) Everything else is a path, and is never asked for on the hub.
"""

import dataclasses
import functools
import re
from pathlib import Path

import huggingface_hub
from etils import epath
from huggingface_hub import constants

from mergedistill_jax.files import names_in

LOCAL_OWNERS = ("runs", "models", "data", "path")
"""First parts of paths that people write here although the folder is not there yet."""

TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
WEIGHTS_FILES = ("*.safetensors", "model.safetensors.index.json")
TORCH_FILE = "pytorch_model.bin"
_SUBFOLDERS = "*/*"
"""Other formats of the same weights, which nothing here reads."""

_NAME = re.compile(r"(?!.*\.\.)((?:\w[\w.-]*/)?\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
"""`..` stands in no repository's name and no revision's (git-check-ref-format): it would lead out of the cache."""


class TeacherNotFoundError(ValueError):
    """A teacher that is neither a folder nor to be had from the hub; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository of the hub and what was asked of it: a branch, a tag or a commit."""

    repository: str
    revision: str = constants.DEFAULT_REVISION

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a teacher is.

    Attributes:
        folder: local, or gs://.
        repository: its name on the hub; empty for a folder.
        revision: the commit that this folder holds; empty for a folder.
    """

    folder: str
    repository: str = ""
    revision: str = ""

    @property
    def name(self) -> str:
        """The last part of the repository's name, or of the folder's."""
        return (self.repository or self.folder).rstrip("/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.repository else self.folder


def hub_name(teacher: str) -> HubName | None:
    """The name that a teacher has on the hub, or None where it is a path: see the module's rule."""
    match = _NAME.fullmatch(teacher)
    if match is None or epath.Path(teacher).exists():
        return None
    repository, revision = match.groups()
    owner, _, name = repository.rpartition("/")
    if "--" in repository or ".." in repository or name.endswith((".", "-", ".git")):
        return None
    is_path = owner in LOCAL_OWNERS or Path(owner).exists() if owner else "-" not in name
    return None if is_path else HubName(repository=repository, revision=revision or constants.DEFAULT_REVISION)


def find_teacher(teacher: str, *, weights: bool = True) -> Source:
    """The folder that a teacher's path or name stands for; what the hub has and this machine lacks is downloaded.

    In one process a name stands for one commit, however often it is asked for.

    Args:
        teacher: a path, or a name of the hub.
        weights: whether the weights are needed too, or the tokenizer alone.

    Raises:
        TeacherNotFoundError: no such folder; or a name of which the hub gives nothing, or not what is needed.
    """
    name = hub_name(teacher)
    if name is not None:
        return _download(name, weights=weights)
    if not epath.Path(teacher).exists():
        raise TeacherNotFoundError(
            f"{teacher}: not found, expected a folder, or a name of the hub: OWNER/NAME, with no local folder OWNER"
        )
    return Source(folder=teacher)


def local_teacher(teacher: str) -> Source | None:
    """As find_teacher for the tokenizer alone, without asking the hub: None where it is not on this machine."""
    name = hub_name(teacher)
    if name is None:
        return Source(folder=teacher) if epath.Path(teacher).exists() else None
    try:
        return _source(name, _snapshot(name, TOKENIZER_FILES, offline=True))
    except OSError:
        return None


@functools.cache
def _download(name: HubName, *, weights: bool) -> Source:
    files = TOKENIZER_FILES + (WEIGHTS_FILES if weights else ())
    try:
        source = _source(name, _snapshot(name, files, offline=False))
    except Exception as error:  # the library lets its own, its transport's and the system's errors through
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise _unavailable(name, f"{type(error).__name__}: {first_line}", weights=weights) from error
    missing = _missing(source, weights=weights)
    if missing:
        raise _unavailable(name, f"its commit {source.revision} brings no {missing}", weights=weights)
    return source


def _snapshot(name: HubName, files: tuple[str, ...], *, offline: bool) -> str:
    return huggingface_hub.snapshot_download(
        name.repository,
        revision=name.revision,
        allow_patterns=list(files),
        ignore_patterns=[_SUBFOLDERS],
        local_files_only=offline,
    )


def _source(name: HubName, folder: str) -> Source:
    """The cache calls a snapshot's folder by its commit."""
    return Source(folder=folder, repository=name.repository, revision=Path(folder).name)


def _missing(source: Source, *, weights: bool) -> str | None:
    """What a snapshot lacks; pickled weights that are in the cache already are refused where weights are read."""
    folder = Path(source.folder)
    if not (folder / "config.json").exists():
        return "config.json"
    if weights and not names_in(folder, end=".safetensors") and not (folder / TORCH_FILE).exists():
        return f"*.safetensors{_told_torch(source)}"
    return None


def _told_torch(source: Source) -> str:
    """What to do where the hub has pickled weights alone: they are not downloaded, only looked for."""
    try:
        found = huggingface_hub.file_exists(source.repository, TORCH_FILE, revision=source.revision)
    except Exception:  # noqa: BLE001 - a hint: where the hub cannot be asked, there is none
        return ""
    if not found:
        return ""
    return f" but {TORCH_FILE}, which is not read: name a revision with safetensors, if refs/pr/N is one, or convert it"


def _unavailable(name: HubName, reason: str, *, weights: bool) -> TeacherNotFoundError:
    needed = "config.json, the tokenizer's files" + (" and *.safetensors" if weights else "")
    return TeacherNotFoundError(
        f"{name.repository}: revision {name.revision}: not found on the hub or in its cache {constants.HF_HUB_CACHE}"
        f" ({reason}), expected {needed}: connect once, set HF_HOME to where they are, or give a folder"
    )
