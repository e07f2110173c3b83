"""What gin files and flags bind, checked against the annotations of what it is bound to, before anything is called.

train.TrainConfig.batch_size = %BATCH_SIZE      int        a literal, through any number of macros
train.TrainConfig.optimizer = @optimizer.Adam() AdamWConfig  a class, and its own bindings in turn
train.TrainConfig.model = @encoder.EncoderConfig Callable  a reference without brackets
"""

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gin.config import ConfigurableReference

import gin

_NOT_BOUND = object()
_SETTINGS = "mergedistill_jax.configs."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What is wrong with the bindings that make one object.

    Attributes:
        missing: names without a value, `%MACRO` or `Class.field`, in the order of the files.
        mistyped: one message each.
    """

    missing: list[str]
    mistyped: list[str]


def check_bindings(config_class: type, selector: str) -> Findings:
    """Follows every binding that making an object of the class would use."""
    findings = Findings(missing=[], mistyped=[])
    _check_call(config_class, (), selector, findings, called=True)
    return findings


class Call(str):  # noqa: SLOT000 - few of them
    """The name that a function would register and return, `@corpora.add_jsonl()`, where it was not called.

    Attributes:
        arguments: what gin would call it with, macros replaced.
    """

    arguments: Mapping[str, Any]

    def __new__(cls, function: str, arguments: Mapping[str, Any]) -> "Call":  # noqa: PYI034 - beartype reads it
        """A Call of a function by its name, which is what it reads as."""
        call = super().__new__(cls, function)
        call.arguments = arguments
        return call


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A function or class that a stage would call later, `@corpora.add_jsonl`, with its arguments in gin."""

    function: str
    arguments: Mapping[str, Any]

    def __call__(self, **more: Any) -> Call:
        """What it would be called with."""
        return Call(self.function, {**self.arguments, **more})


def without_calls(config_class: type, selector: str) -> Any:
    """The object that gin would make, with a Call in the place of whatever a function outside `configs` would return.

    Raises:
        ValueError: a setting is out of its range.
    """
    return _made(config_class, (), selector)


def macro_without_calls(name: str) -> Any:
    """The value of a macro, with Calls; None where it is not bound."""
    bound = gin.get_bindings(f"{name}/gin.macro", resolve_references=False)
    return _resolved(bound.get("value"), ())


def _made(function: Any, scopes: Sequence[str], selector: str) -> Any:
    bindings = gin.get_bindings("/".join([*scopes, selector]), resolve_references=False)
    arguments = {name: _resolved(value, scopes) for name, value in bindings.items()}
    if function.__module__.startswith(_SETTINGS):
        return function(**arguments)
    return Call(function.__name__, arguments)


def _resolved(value: Any, scopes: Sequence[str]) -> Any:
    value, _ = _through_macros(value, "", Findings(missing=[], mistyped=[]))
    if _is_reference(value):
        inner, configurable = value.scopes or scopes, value.configurable
        if value.evaluate:
            return _made(configurable.wrapped, inner, configurable.selector)
        bindings = gin.get_bindings("/".join([*inner, configurable.selector]), resolve_references=False)
        arguments = {name: _resolved(one, inner) for name, one in bindings.items()}
        return Reference(function=configurable.wrapped.__name__, arguments=arguments)
    if isinstance(value, Mapping):
        return {_resolved(k, scopes): _resolved(v, scopes) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolved(one, scopes) for one in value)
    return value


def type_errors(value: Any) -> list[str]:
    """Of an object that exists: what the references of a gin file returned, their annotations being what they may."""
    name = type(value).__name__
    wrong = []
    for field, hint in typing.get_type_hints(type(value)).items():
        held = getattr(value, field, None)
        if dataclasses.is_dataclass(held) and not isinstance(held, type):
            wrong += type_errors(held)
        if not _fits(held, hint):
            wrong.append(_message(f"{name}.{field}", held, hint))
    return wrong


def _check_call(function: Any, scopes: Sequence[str], selector: str, findings: Findings, *, called: bool) -> None:
    """The bindings of a function's parameters; `called` without others than these."""
    bindings = gin.get_bindings("/".join([*scopes, selector]), resolve_references=False)
    hints = _hints(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        name = f"{function.__name__}.{parameter.name}"
        value = bindings.get(parameter.name, _NOT_BOUND)
        if value is not _NOT_BOUND:
            if not called and _through_macros(value, name, findings)[0] is None:
                continue  # a caller gives it
            _check_value(value, hints.get(parameter.name, Any), name, scopes, findings)
        elif called and parameter.default is parameter.empty:
            findings.missing.append(name)


def _check_value(value: Any, hint: Any, name: str, scopes: Sequence[str], findings: Findings) -> None:
    value, name = _through_macros(value, name, findings)
    if value is _NOT_BOUND:
        return
    if not _fits(value, hint):
        findings.mistyped.append(_message(name, value, hint))
        return
    for reference in _references(value):
        if _is_macro(reference):
            _check_value(reference, Any, name, scopes, findings)
        else:
            configurable = reference.configurable
            inner = reference.scopes or scopes
            _check_call(configurable.wrapped, inner, configurable.selector, findings, called=reference.evaluate)


def _through_macros(value: Any, name: str, findings: Findings) -> tuple[Any, str]:
    """The value behind any number of macros, and the name with the first of them."""
    first = name
    while _is_macro(value):
        macro = "/".join(value.scopes)
        if value.configurable.name == "constant":
            value = value.scoped_configurable_fn()
            if value is gin.REQUIRED:
                findings.missing.append(name)
                return _NOT_BOUND, name
            continue
        bound = gin.get_bindings(value.scoped_selector, resolve_references=False)
        if "value" not in bound:
            if f"%{macro}" not in findings.missing:
                findings.missing.append(f"%{macro}")
            return _NOT_BOUND, name
        first, value = (f"{name} (%{macro})" if first == name else first), bound["value"]
    return value, first


def _is_reference(value: Any) -> bool:
    return isinstance(value, ConfigurableReference)


def _is_macro(value: Any) -> bool:
    return _is_reference(value) and value.configurable.module == "gin"


def _references(value: Any) -> Iterator[Any]:
    """Those of a value, and inside lists and mappings."""
    if _is_reference(value):
        yield value
    elif isinstance(value, Mapping):
        for inner in [*value.keys(), *value.values()]:
            yield from _references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _references(inner)


def _hints(function: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # annotations of others' code may not resolve
        return {}


def _fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 - one for each kind of annotation
    """Whether a value, or what a reference would return, may have the annotation; True where that cannot be told."""
    if hint is Any or _is_macro(value):
        return True  # a macro here is inside a list or mapping, and followed by itself
    if _is_reference(value):
        return _reference_fits(value, hint)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple and Ellipsis not in arguments:
        fixed = isinstance(value, list | tuple) and len(value) == len(arguments)
        return fixed and all(map(_fits, value, arguments))
    if origin in (collections.abc.Sequence, list, tuple):
        return isinstance(value, list | tuple) and all(_fits(inner, arguments[0]) for inner in value)
    if origin in (collections.abc.Mapping, dict):
        whole = isinstance(value, Mapping)
        return whole and all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items())
    if origin is collections.abc.Callable:
        return callable(value)
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float, str, bool):
        return type(value) in ((int, float) if hint is float else (hint,))
    return not isinstance(hint, type) or isinstance(value, hint)


def _reference_fits(reference: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_reference_fits(reference, one) for one in arguments)
    if not reference.evaluate:
        return hint is Any or origin is collections.abc.Callable
    made = reference.configurable.wrapped
    if not isinstance(made, type):
        made = _hints(made).get("return", Any)
    return _is_kind_of(typing.get_origin(made) or made, origin or hint)


def _is_kind_of(made: Any, wanted: Any) -> bool:
    unknown = [one is Any for one in (made, wanted)]
    if any(unknown):
        return not unknown[0] or not dataclasses.is_dataclass(wanted)  # no code but ours makes settings
    try:
        return issubclass(made, wanted) or (made is int and wanted is float)
    except TypeError:  # no classes: nothing can be told
        return True


def _message(name: str, value: Any, hint: Any) -> str:
    if isinstance(value, str) and typing.get_origin(hint) is collections.abc.Sequence:
        return f"{name}: found one string {value!r}, expected several in brackets"
    return f"{name}: found {value!r}, expected {_described(hint)}"


def _described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(one) for one in arguments)
    if origin is collections.abc.Callable:
        made = arguments[1] if len(arguments) == 2 else Any
        is_config = isinstance(made, type) and dataclasses.is_dataclass(made)
        return _spelled(made) if is_config else "a reference without brackets, @NAME"
    if hint in (None, type(None)):
        return "None"
    if origin is None and isinstance(hint, type):
        return f"{_spelled(hint)}()" if dataclasses.is_dataclass(hint) else hint.__name__
    described = ", ".join("..." if one is Ellipsis else _described(one) for one in arguments)
    return f"{getattr(origin, '__name__', hint)}[{described}]" if origin else str(hint)


def _spelled(made: Callable[..., Any]) -> str:
    """A class as a gin file refers to it."""
    return f"@{made.__module__.rpartition('.')[2]}.{made.__name__}"
