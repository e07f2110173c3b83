"""Whether a checkpoint is whole: what a half copied folder, a full disk or a power cut leaves is not.

Read are its small files and the index of its arrays, which tells where each array's bytes lie; of the files that hold
them only the lengths. A changed byte within them is not seen here.
"""

import collections
import json
import re
import textwrap
from typing import Any

import tensorstore as ts
from etils import epath
from orbax.checkpoint.utils import is_checkpoint_finalized

STATE, POSITION = "state", "position"

_METADATA = "_CHECKPOINT_METADATA"
_INDEX = "manifest.ocdbt"


class _FlawError(Exception):
    """What is wrong, in words that follow the checkpoint's name."""


def flaw_of(checkpoint: epath.Path, *, needs_metadata: bool) -> str | None:
    """What keeps a checkpoint from being read, in words that follow its name; None where it is whole.

    Args:
        checkpoint: the folder.
        needs_metadata: it was written by `mergedistill`, so that Orbax described it; T5X may not have.
    """
    try:
        _require_whole(checkpoint, needs_metadata=needs_metadata)
    except _FlawError as error:
        return str(error)
    # Whatever the libraries below say of a damaged file.
    except Exception as error:  # noqa: BLE001
        return f"cannot be read ({cause_of(error)})"
    return None


def cause_of(error: Exception) -> str:
    """One line of a library's error, without where in its sources or in which object it came up."""
    text = re.split(r"\.? *(?:\[source locations=|\[tensorstore_spec=|See full TensorStore details)", str(error))[0]
    return textwrap.shorten(text, 200, placeholder=" ...") or type(error).__name__


def _require_whole(checkpoint: epath.Path, *, needs_metadata: bool) -> None:
    if not checkpoint.is_dir():
        raise _FlawError("is no folder")
    if not any(checkpoint.iterdir()):
        raise _FlawError("is empty")
    if not is_checkpoint_finalized(checkpoint):
        raise _FlawError("was not finished")
    items = {STATE}
    if needs_metadata or (checkpoint / _METADATA).exists():
        items |= set(_object_in(checkpoint, _METADATA, "item_handlers"))
    for item in sorted(items):
        if not (checkpoint / item).is_dir() or not any((checkpoint / item).iterdir()):
            raise _FlawError(f"has no {item}")
    if POSITION in items:
        _object_in(checkpoint, f"{POSITION}/metadata")
    _require_state(checkpoint)


def _require_state(checkpoint: epath.Path) -> None:
    _object_in(checkpoint, f"{STATE}/_METADATA", "tree_metadata")
    optional = [checkpoint / STATE / "_sharding"]
    if (checkpoint / STATE / "array_metadatas").is_dir():
        optional += (checkpoint / STATE / "array_metadatas").iterdir()
    for path in optional:
        if path.exists():
            _object_in(checkpoint, str(path.relative_to(checkpoint)))
    if _object_in(checkpoint, f"{STATE}/_METADATA").get("use_ocdbt", True):
        _require_data(checkpoint)


def _object_in(checkpoint: epath.Path, name: str, field: str | None = None) -> dict[str, Any]:
    """The JSON object in a file, or in a field of it."""
    if not (checkpoint / name).exists():
        raise _FlawError(f"has no {name}")
    try:
        found = json.loads((checkpoint / name).read_bytes())
        found = found if field is None else found[field]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _FlawError(f"has a damaged {name}") from error
    if not isinstance(found, dict):
        raise _FlawError(f"has a damaged {name}")
    return found


def _require_data(checkpoint: epath.Path) -> None:
    """Every array's bytes lie within a file that is there; the index itself carries checksums, which are compared."""
    state = checkpoint / STATE
    if not (state / _INDEX).exists():
        raise _FlawError(f"has no {STATE}/{_INDEX}")
    try:
        needed = _bytes_needed(state)
    except _FlawError:
        raise
    # TensorStore tells its errors apart by text alone.
    except Exception as error:
        raise _FlawError(f"has a damaged index of {STATE} ({cause_of(error)})") from error
    for name, length in sorted(needed.items()):
        _require_bytes(state, name, length)


def _require_bytes(state: epath.Path, name: str, length: int) -> None:
    path = state / name
    if not path.exists():
        raise _FlawError(f"has no {STATE}/{name}")
    if path.stat().length < length:
        raise _FlawError(f"has {path.stat().length:,} of {length:,} bytes of {STATE}/{name}")


def _bytes_needed(state: epath.Path) -> dict[str, int]:
    """{file in the folder: its least length} of all that the index of a state refers to."""
    folder = f"{state}/"
    store = ts.KvStore.open(folder if "://" in folder else {"driver": "file", "path": folder}).result()
    needed: dict[str, int] = collections.defaultdict(int)
    references = [ts.ocdbt.dump(store).result()["versions"][-1]["root"]["location"]]
    while references:
        kind, base, name, offset, length = references.pop().split(":")
        needed[f"{base}{name}"] = max(needed[f"{base}{name}"], int(offset) + int(length))
        if kind == "btreenode":
            _require_bytes(state, f"{base}{name}", needed[f"{base}{name}"])
            entries = ts.ocdbt.dump(store, f"{kind}:{base}:{name}:{offset}:{length}").result()["entries"]
            references += [
                entry[field] for entry in entries for field in ("indirect_value", "location") if field in entry
            ]
    return needed
