"""Small JSON files that tell whether they were altered after they were written."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from mergedistill_jax.files import write_atomically
from mergedistill_jax.schema import RecordError

FIELDS_CHECKSUM = "fields_checksum"
"""Its field: blake2b-128, hexadecimal, of the file without this field's line."""
ADDED = {"added": True}
"""Metadata of a dataclass's field that files written before it existed lack: they are read with its default."""
TOLD_WHERE_SET = {"added": True, "told": "where set"}
"""The same of a field that is written only where it has another value than its default."""


def write_sealed(path: epath.PathLike, fields: Mapping[str, Any]) -> None:
    """Writes plain fields as JSON, with a checksum of themselves."""
    write_atomically(path, to_json({**fields, FIELDS_CHECKSUM: _fields_checksum(fields)}))


def read_sealed(path: epath.PathLike, cls: type, check: Callable[[Any], object] | None = None) -> Any:
    """Reads the fields of a dataclass; those that are marked as `ADDED` may be absent.

    Args:
        path: of a file that `write_sealed` wrote, or an older program, without a checksum.
        cls: the dataclass.
        check: what else must be true of it; asked before the checksum, because it may name the field.

    Raises:
        RecordError: not found, not JSON, unknown, missing or mistyped fields, or altered; names the file and the field.
    """
    path = epath.Path(path)
    fields = _read_json(path)
    value = _of_fields(path, cls, fields)
    if check is not None:
        check(value)
    _require_unaltered(path, fields)
    return value


def to_json(content: Any) -> bytes:
    """One field a line, in the order of their names: equal contents are equal bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _fields_checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.blake2b(to_json(fields), digest_size=16).hexdigest()


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        raise RecordError(f"{path}: not found, expected a file written by `mergedistill predict`")
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise RecordError(f"{path}: found no JSON ({error}), expected a JSON object") from error
    if not isinstance(fields, dict):
        raise RecordError(f"{path}: fields {fields} missing or unknown, expected a JSON object")
    return fields


def _of_fields(path: epath.Path, cls: type, fields: Mapping[str, Any]) -> Any:
    """The dataclass of a file's fields, its checksum of itself left out; refuses unknown, missing and mistyped ones."""
    found = set(fields) - {FIELDS_CHECKSUM}
    known = {field.name for field in dataclasses.fields(cls)}
    expected = {field.name for field in dataclasses.fields(cls) if not field.metadata}
    if not expected <= found <= known:
        difference = sorted((found - known) | (expected - found))
        raise RecordError(f"{path}: fields {difference} missing or unknown, expected {sorted(expected)}")
    for field in dataclasses.fields(cls):
        union = isinstance(field.type, types.UnionType)
        accepted = set(typing.get_args(field.type)) - {types.NoneType} if union else {_plain(field.type)}
        accepted |= {int} if float in accepted else set()
        if field.name in found and type(fields[field.name]) not in accepted:
            kind = getattr(field.type, "__name__", field.type)
            raise RecordError(f"{path}: field {field.name}: found {fields[field.name]!r}, expected {kind}")
    try:
        return cls(**{name: fields[name] for name in found})
    except ValueError as error:  # a value that the class refuses by its field's name
        raise RecordError(f"{path}: {error}") from error


def _plain(kind: Any) -> Any:
    """The list of list[str]: what stands inside is not looked at."""
    return typing.get_origin(kind) or kind


def _require_unaltered(path: epath.Path, fields: Mapping[str, Any]) -> None:
    """A damaged disk, or a hand, may have changed a digit that nothing else would tell."""
    told = fields.get(FIELDS_CHECKSUM)
    found = _fields_checksum({name: value for name, value in fields.items() if name != FIELDS_CHECKSUM})
    if told is not None and told != found:
        raise RecordError(
            f"{path}: field {FIELDS_CHECKSUM}: found {told!r}, expected {found!r} of the other fields:"
            " one of them was altered after the file was written"
        )
