"""JSON objects in files: what is wrong with one is told in one line that names the file and the field."""

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from etils import epath

Fields = TypeVar("Fields")


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: not found, not UTF-8, not JSON, or no object.
    """
    path = epath.Path(path)
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: not found, expected a JSON object") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: found no JSON ({error}), expected a JSON object") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}, expected a JSON object")  # noqa: TRY004 - wrong input
    return found


def read_object(path: epath.PathLike, cls: type[Fields]) -> Fields:
    """The dataclass whose fields are a file's JSON object.

    Raises:
        ValueError: as `read_json`; unknown, missing or mistyped fields, or a number that is not finite.
    """
    return object_of(path, cls, read_json(path))


def object_of(path: epath.PathLike, cls: type[Fields], found: Mapping[str, Any], *, within: str = "") -> Fields:
    """The dataclass of fields that stood in a file, in its object's field `within` where that is named.

    Raises:
        ValueError: unknown, missing or mistyped fields, or what the dataclass itself refuses; names file and field.
    """
    prefix = f"{within}." if within else ""
    fields = {field.name: field for field in dataclasses.fields(typing.cast("Any", cls))}
    hints = typing.get_type_hints(cls)
    for name in sorted(found.keys() - fields.keys()):
        raise ValueError(f"{path}: field {prefix}{name}: found an unknown field, expected one of {', '.join(fields)}")
    for name, field in fields.items():
        if name in found:
            require_type(path, f"{prefix}{name}", found[name], hints[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}: field {prefix}{name}: not found, expected it")
    with naming(path, within or cls.__name__):
        return cls(**found)


def require_type(path: epath.PathLike, name: str, value: Any, hint: Any) -> None:
    """Raises ValueError where a value is not of a plain type: numbers, text, objects, lists, and unions of those."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    accepted = {_PLAIN.get(typing.get_origin(kind) or kind, typing.get_origin(kind) or kind) for kind in kinds}
    if Any in accepted:
        return
    accepted |= {int} if float in accepted else set()
    if type(value) not in accepted or (type(value) is float and not math.isfinite(value)):
        names = " or ".join(sorted(getattr(kind, "__name__", str(kind)) for kind in accepted))
        raise ValueError(f"{path}: field {name}: found {value!r}, expected {names}")


_PLAIN: dict[Any, Any] = {Mapping: dict, Sequence: list, tuple: list}


@contextlib.contextmanager
def naming(path: epath.PathLike, field: str) -> Iterator[None]:
    """Turns what wrong values raise in the middle of a computation into one line that names the file and the field."""
    try:
        yield
    except (TypeError, KeyError, ValueError, ArithmeticError, AttributeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path}: field {field}: found damaged values ({cause}), expected those written") from error
