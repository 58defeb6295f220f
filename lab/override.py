"""Overrides: `{"model.width": 128}` applied to a configuration, strictly and all at once."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lab.check import InputError, checked, nearest, require
from lab.config import ALTERNATIVES, RunConfig
from lab.identity import optional, paths

T = TypeVar("T")

# Fields that only resolving a run sets: what they follow from.
DERIVED = {"numerics": "dtype"}

# One word that sets several fields: the seed of a run is the seed of its weights and of its data together.
ALIASES: dict[str, tuple[str, ...]] = {"seed": ("seed_init", "seed_data")}


def apply(config: T, values: Mapping[str, Any]) -> T:
    """A copy of `config` with the dotted fields replaced.

    Setting one of several fields that say the same thing (`schedule.steps`, `schedule.tokens`) clears the others.

    Raises:
        InputError: an unknown name, an ill-typed value, or an impossible combination.
    """
    known = paths(type(config))
    flat: dict[str, Any] = {}
    for name, value in values.items():
        for target in ALIASES.get(name, (name,)):
            if target not in known:  # the line is looked up only where it is needed: it takes milliseconds
                raise InputError(unknown(target, known))
            require(target not in DERIVED, f"{target} is not set by hand: it follows from {DERIVED.get(target)}")
            flat[target] = checked(value, known[target], target)
    for group in ALTERNATIVES:
        chosen = [name for name in group if flat.get(name) is not None]
        if len(chosen) == 1:
            flat |= {name: None for name in group if name in known and name != chosen[0]}
    return _replace(config, flat)


def unknown(name: str, known: Mapping[str, Any]) -> str:
    """The line that says a name is not a field, with the nearest one."""
    candidates = [*known, *ALIASES]
    guess = nearest(name, candidates)
    if not guess:  # a wrong section with the right field, as in optim.lr
        leaf = name.rsplit(".", 1)[-1]
        same = [path for path in candidates if path.rsplit(".", 1)[-1] == leaf]
        guess = f" (did you mean {same[0]}?)" if same else ""
    return f"unknown setting {name}{guess}"


def parse(name: str, text: str, cls: type = RunConfig) -> list[Any]:
    """The values of `NAME=V1,V2,...` as given on a command line, typed by the field's annotation.

    `none` clears an optional field; numbers may be written as `2**-6` or `1e-3`, tuples as `10:20`.

    Raises:
        InputError: an unknown name or a value of the wrong type.
    """
    known = paths(cls)
    target = ALIASES.get(name, (name,))[0]
    require(target in known, unknown(name, known))
    hint = known[target]
    require(text.strip() != "", f"{name}= has no value: write {name}=VALUE or {name}=V1,V2,...")
    return [checked(_literal(part.strip(), hint), hint, name) for part in text.split(",")]


def _literal(text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if optional(hint) else (hint,)
    if text.lower() == "none" and optional(hint):
        return None
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            return tuple(_literal(part.strip(), typing.get_args(kind)[0]) for part in text.split(":"))
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in kinds or float in kinds:
        base, power, exponent = text.partition("**")
        number = _number(base)
        shift = _number(exponent) if power else 1
        if number is None or shift is None:
            return text
        value = float(number) ** shift if power else number
        return int(value) if int in kinds and float(value).is_integer() else value
    return text


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _replace(config: T, flat: Mapping[str, Any]) -> T:
    """Replace nested fields; sections are rebuilt once, so that checks see the final combination."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        head, _, rest = name.partition(".")
        sections.setdefault(head, {})[rest] = value
    changed = {
        head: values[""] if "" in values else _replace(getattr(config, head), values)
        for head, values in sections.items()
    }
    return dataclasses.replace(typing.cast(Any, config), **changed)
