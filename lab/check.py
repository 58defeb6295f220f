"""Checks of configuration fields: types, literals, signs, and the nearest valid word."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class InputError(ValueError):
    """Something that a person gave cannot be: one line that names the value and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def entry(table: Mapping[K, V], key: K, what: str) -> V:
    """A table's value: what the table lacks fails by name, where a last `else` would serve it as something else.

    Raises:
        InputError: naming the key, what it is, and what the table has.
    """
    require(key in table, f"{what} {key} is not known here, only {', '.join(map(str, table))}")
    return table[key]


def nearest(word: str, words: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest of `words`, or nothing where none is close."""
    by_lower = {known.lower(): known for known in words}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[found[0]]}?)" if found else ""


def positive(config: Any, section: str, *names: str) -> None:
    """Require that the named fields, where given, are above zero."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, f"{section}.{name}={value} is not above 0")


def check_fields(config: Any, section: str) -> None:
    """Check every field of a frozen dataclass against its annotation; ints become floats where floats belong.

    Raises:
        InputError: naming the field, its value and what it may be.
    """
    for name, hint in type_hints(type(config)).items():
        path = f"{section}.{name}" if section else name
        object.__setattr__(config, name, checked(getattr(config, name), hint, path))


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a dataclass, in field order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def checked(value: Any, hint: Any, path: str) -> Any:
    """`value` if it agrees with the annotation `hint`, as float where a whole number stands for one."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    (kind,) = (option for option in options if option is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        words = typing.get_args(kind)
        if value not in words:  # the nearest one is sought for the message alone: seeking takes milliseconds
            raise InputError(f"{path}={value} is not one of {', '.join(words)}{nearest(str(value), words)}")
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        require(math.isfinite(value), f"{path}={value} is not a finite number")
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, (tuple, list)):  # JSON has lists
        item = typing.get_args(kind)[0]
        return tuple(checked(part, item, f"{path}[{place}]") for place, part in enumerate(value))
    require(type(value) is kind, f"{path}={value!r} is not {_named(kind)}")
    return value


def _named(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if typing.get_origin(kind) is tuple:
        return f"a list, each part {_named(typing.get_args(kind)[0])}: write it as in 10:20"
    return names.get(kind, f"a {kind.__name__}")
