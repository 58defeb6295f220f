"""A list of runs as a file: a base configuration and points, which `lrlab sweep` takes like a bundled sweep.

JSON, for programs that propose runs; a person writes a Python file (docs/sweeps.md).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import store
from lab.check import InputError, require
from lab.config import RunConfig
from lab.identity import canonical, digest, dump, from_dict
from sweeps.sweep import Sweep

FORMAT, VERSION = "lr-scaling-lab runs", 1


def to_dict(sweep: Sweep) -> dict[str, Any]:
    """A sweep as plain data."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": sweep.name,
        "question": sweep.question,
        "cost": sweep.cost,
        "expected": sweep.expected,
        "optimum_axes": list(sweep.optimum_axes),
        "configuration": dataclasses.asdict(sweep.base),
        "points": list(sweep.points),
    }


def read(path: Path) -> Sweep:
    """The sweep of a file.

    Raises:
        InputError: no file, not a list of runs, or one that does not fit this version.
    """
    require(path.is_file(), f"{path} is not a file: give the path of a list of runs, as lrlab suggest --out writes it")
    data = store.read_json(path, "write it again with lrlab suggest --out")
    told = data.get("format") == FORMAT and data.get("version") == VERSION
    require(told, f"{path} is not a list of runs of version {VERSION}: write it with lrlab suggest --out")
    try:
        return Sweep(
            name=data["name"],
            question=data["question"],
            cost=data["cost"],
            expected=data["expected"],
            base=from_dict(RunConfig, data["configuration"]),
            points=data["points"],
            optimum_axes=tuple(data["optimum_axes"]),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): write it again") from error


def base_digest(base: RunConfig) -> str:
    """What tells base configurations apart: `base` of a store's `sweep.json`."""
    return digest(dump(canonical(dataclasses.replace(base, optimizer=base.optimizer.resolve()))))


def stored_base(described: Mapping[str, Any], root: Path) -> RunConfig:
    """The base configuration of a store's sweep (`described` is its `sweep.json`).

    Raises:
        InputError: the store was made before it kept the configuration, and its sweep is not a bundled one.
    """
    if "configuration" in described:
        return from_dict(RunConfig, described["configuration"])
    from sweeps import catalog  # which reads lists of runs

    name = described["name"]
    base = catalog.load(name).base if name in catalog.names() else None
    require(
        base is not None and base_digest(base) == described["base"],
        f"{root}/sweep.json keeps no base configuration: run its sweep again with the same --out to add it",
    )
    assert base is not None
    return base
