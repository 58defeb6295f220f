"""Identity of a run: canonical JSON of its configuration, and the `run_id` that hashes it.

A field added after schema 1 states the value that behaves as before (`lab.config.field.added`).  It is left out of the
canonical form while it has that value, so old ids stay what they were.
"""

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

from lab.check import InputError, nearest, require, type_hints
from lab.config import RunConfig

SCHEMA = 1
ID_DIGITS = 12

T = TypeVar("T")


def canonical(config: Any) -> dict[str, Any]:
    """What a configuration's identity consists of: hashed fields only, later ones only where they differ."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.metadata.get("hashed", True):
            continue
        if "frozen" in field.metadata and value == field.metadata["frozen"]:
            continue
        kept[field.name] = canonical(value) if dataclasses.is_dataclass(value) else value
    return kept


def canonical_json(config: Any) -> str:
    """Sorted, compact JSON of `canonical`; floats in their shortest round-tripping form."""
    return dump(canonical(config))


def dump(value: Any) -> str:
    """Canonical JSON text of plain data; non-finite numbers are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(text: str) -> str:
    """The first 12 hex digits of sha256, enough to tell apart every run of a project."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def run_id(config: RunConfig) -> str:
    """Identity of a resolved run.

    Raises:
        InputError: the configuration is not resolved (it still holds fields to be derived).
    """
    require(
        config.data.fingerprint is not None and config.schedule.warmup_steps is not None,
        "run_id needs a resolved configuration: call RunConfig.resolve first",
    )
    return digest(canonical_json(config))


def from_dict(cls: type[T], values: dict[str, Any], path: str = "") -> T:
    """Build a configuration from nested plain dicts, strictly.

    Raises:
        InputError: an unknown field (the nearest valid one is named) or an ill-typed value.
    """
    hints = type_hints(cls)
    for name in values:
        if name not in hints:  # not `require`, which would seek the nearest one for every name
            dotted = f"{path}{name}"
            raise InputError(f"unknown field {dotted}{nearest(dotted, [path + known for known in hints])}")
    built = {
        name: from_dict(hints[name], value, f"{path}{name}.") if dataclasses.is_dataclass(hints[name]) else value
        for name, value in values.items()
    }
    return cls(**built)


def paths(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted field name below a configuration class, with its annotation."""
    found: dict[str, Any] = {}
    for name, hint in type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            found |= paths(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            found[prefix + name] = hint
    return found


def optional(hint: Any) -> bool:
    """Whether None is a valid value of an annotation."""
    return isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
