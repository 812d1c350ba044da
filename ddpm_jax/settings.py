"""Settings as nested frozen dataclasses: checked, found by name, written as JSON and read back.

A configuration is a dataclass whose fields are values, or dataclasses of values (its sections). No
two settings share a name, so that a name alone says which one is meant: as a keyword of
`ddpm_jax.fit`, as a flag of the command line.
"""

import dataclasses
import functools
import json
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from ddpm_jax.errors import ConfigError

T = TypeVar("T")


def check(section: Any, ranges: Mapping[str, tuple[int | float, int | float]]) -> None:
    """Raise ConfigError unless each field has its type and, where `ranges` names it, its range."""
    for name, hint in hints(type(section)).items():
        value = getattr(section, name)
        if not _matches(value, hint):
            raise ConfigError(f"{name} must be {_words(hint)}, got {value!r}")
        least, most = ranges.get(name, (None, None))
        if least is not None and _is_number(value) and not least <= value <= most:
            raise ConfigError(f"{name} must be from {least} to {most}, got {value}")


def replace(config: T, **changes: Any) -> T:
    """The same configuration with the named settings changed, in whichever section they are.

    A list may stand for a tuple, and a word for a tuple of this one word. Raises ConfigError for an
    unknown name, and for what the sections themselves refuse.
    """
    own, nested = {}, {}
    places = sections(type(config))
    for name, value in changes.items():
        if name not in places:
            raise ConfigError(f"unknown setting {name!r}; known are {', '.join(sorted(places))}")
        section = places[name]
        kind = type(config) if section is None else hints(type(config))[section]
        if isinstance(value, list) or (isinstance(value, str) and _takes_words(hints(kind)[name])):
            value = listed(value)
        (own if section is None else nested.setdefault(section, {}))[name] = value
    for section, values in nested.items():
        own[section] = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **own)  # pyright: ignore[reportArgumentType]


def listed(value: str | Iterable[T]) -> tuple[str | T, ...]:
    """The values as a tuple; a word is one of one word, not of its letters."""
    return (value,) if isinstance(value, str) else tuple(value)


def flat(config: Any) -> dict[str, Any]:
    """Every setting by its name, sections opened."""
    found = {}
    for name in hints(type(config)):
        value = getattr(config, name)
        found |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return found


@functools.cache
def sections(kind: type) -> dict[str, str | None]:
    """Every setting's name, and the section it belongs to; None for the configuration's own."""
    found: dict[str, str | None] = {}
    for name, hint in hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= dict.fromkeys(hints(typing.cast(type, hint)), name)
        else:
            found[name] = None
    return found


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def from_json(kind: type[T], values: Any, where: str) -> T:
    """The dataclass back from JSON; ConfigError names the field that is missing or wrong."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected an object of settings, got {type(values).__name__}")
    known = hints(kind)
    unknown = sorted(map(str, values.keys() - known.keys()))
    if unknown:
        raise ConfigError(f"{where}: unknown setting {unknown[0]!r}; known are {sorted(known)}")
    read = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(known[name]):
            read[name] = from_json(typing.cast(type, known[name]), value, f"{where}: {name}")
        else:
            read[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**read)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = "in the run"
) -> list[str]:
    """A line for each key whose values differ."""
    keys = sorted(old.keys() | new.keys())
    return [
        f"{k}: {json.dumps(old.get(k))} {where}, {json.dumps(new.get(k))} now"
        for k in keys
        if old.get(k) != new.get(k)
    ]


def _takes_words(hint: Any) -> bool:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple[str, ...] in kinds


def _matches(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), list(typing.get_args(hint))
    if origin in (types.UnionType, typing.Union):
        return any(_matches(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return isinstance(value, tuple) and all(
            _matches(v, item) for v in value for item in args[:1]
        )
    if hint is float:
        return _is_number(value) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(hint: Any) -> str:
    args = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, args))}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_words(arg) for arg in args)
    return getattr(hint, "__name__", str(hint)) if not args else str(hint)
