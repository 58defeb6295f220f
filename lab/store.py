"""The result store: a folder of plain files.

DIR/sweep.json                           what the sweep asks, its axes, its runs
DIR/runs/<run_id>/config.json            the resolved configuration
DIR/runs/<run_id>/record.json            the result: written once, never changed
DIR/runs/<run_id>/record.json.damaged    what stood there and was no record, when the run was trained anew
DIR/runs/<run_id>/curve.csv              training loss, gradient norm and rate per update
DIR/runs/<run_id>/log.csv                of `lrlab train`: loss, throughput and utilisation along the run
DIR/runs/<run_id>/validation.csv         of `lrlab train`: validation along the run, and at its end
DIR/runs/<run_id>/probes/<probe_id>/     what a probe found, a record per number of updates (000000064.json)
DIR/units/<unit_id>/claims/              one file per attempt to run a unit
DIR/units/<unit_id>/checkpoints/         resume points, and the final state
DIR/units/<unit_id>/fork/                the state that other units start from, until the last of them is done
DIR/prediction.json                      of `lrlab train --law`: what the law said when the run was started
DIR/report/                              what `lrlab report` writes
"""

import contextlib
import dataclasses
import functools
import json
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import disk, group, identity
from lab.check import InputError, require
from lab.config import RunConfig
from lab.identity import paths
from lab.override import ALIASES
from lab.record import SCHEMA, problem
from lab.text import parsed, plain, shown

# Names of runs and units, which are folders of the store and nothing beyond it.
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")
_AGAIN = "run lrlab sweep with the same --out to write it again"
_SWEEP_AGAIN = "delete it and run lrlab sweep with the same --out to write it again"
_SWEEP: dict[str, type] = {"name": str, "question": str, "runs": dict, "axes": list, "optimum_axes": list, "base": str}


def run_folder(root: Path, run_id: str) -> Path:
    """Where a run's files are.

    Raises:
        InputError: the name is none of a run, and could lead out of the store.
    """
    _require_name(run_id, f"{root}:", _AGAIN)
    return root / "runs" / run_id


def unit_folder(root: Path, unit_id: str) -> Path:
    _require_name(unit_id, f"{root}:", _AGAIN)
    return root / "units" / unit_id


def fork_folder(root: Path, unit_id: str) -> Path:
    return unit_folder(root, unit_id) / "fork"


def unit_ids(root: Path, part: str) -> list[str]:
    """The units of a store that have a file or folder of that name; other things that lie among them are none."""
    found = (path.parent.name for path in (root / "units").glob(f"*/{part}"))
    return sorted(name for name in found if NAME.fullmatch(name))


def point_file(root: Path, run_id: str, probe_id: str, step: int) -> Path:
    """Where a probe's record of a run after `step` updates is."""
    return run_folder(root, run_id) / "probes" / probe_id / f"{step:09d}.json"


def create_exclusive(path: Path, data: bytes) -> bool:
    """`disk.create_exclusive`; of a group, process 0 writes."""
    return disk.create_exclusive(path, data) if group.leader() else True


def write_atomic(path: Path, data: bytes) -> None:
    """`disk.write_atomic`; of a group, process 0 writes."""
    if group.leader():
        disk.write_atomic(path, data)


def write_config(root: Path, run_id: str, config: RunConfig) -> None:
    """Store a planned run's configuration, once; one that cannot be read is written again."""
    path = run_folder(root, run_id) / "config.json"
    disk.require_inside(root, path)
    try:
        read_config(root, run_id)
    except InputError:
        write_atomic(path, pretty(dataclasses.asdict(config)))


def write_record(root: Path, record: dict[str, Any]) -> bool:
    """Store a run's record; False where another writer was first, whose record then stands."""
    return create_exclusive(run_folder(root, record["run_id"]) / "record.json", pretty(record))


def read_records(root: Path) -> dict[str, dict[str, Any]]:
    """Every finished run's record, by run_id, without those that `scan` finds damaged."""
    return scan(root)[0]


def scan(root: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(records, what is wrong with the damaged ones) by run_id; what is no run's folder is none of ours."""
    found: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}
    for folder in sorted((root / "runs").glob("*/")):
        run_id, path = folder.name, folder / "record.json"
        if not NAME.fullmatch(run_id) or not os.path.lexists(path):  # a link that leads nowhere has the name too
            continue
        try:
            disk.require_inside(root, path)
            value = read_json(path, "")
        except InputError as error:
            damaged[run_id] = str(error).removesuffix(": ")
            continue
        wrong = problem(value, run_id)
        if wrong is None:
            found[run_id] = value
        else:
            damaged[run_id] = f"{path} {wrong}"
    return found, damaged


def set_aside(root: Path, run_id: str) -> None:
    """Take a damaged record out of the way of a new one; it is kept as `record.json.damaged`."""
    path = run_folder(root, run_id) / "record.json"
    os.replace(path, path.with_name("record.json.damaged"))


def read_config(root: Path, run_id: str) -> dict[str, Any]:
    """A planned run's configuration.

    Raises:
        InputError: it is not there, or damaged.
    """
    path = run_folder(root, run_id) / "config.json"
    disk.require_inside(root, path)
    found = read_json(path, _AGAIN)
    require(_describes(found, run_id), f"{path} does not describe this run: {_AGAIN}")
    return found


def _describes(found: dict[str, Any], run_id: str) -> bool:
    """Whether a stored configuration has every part of one, and can be that of this run."""
    parts = ("model", "parametrization", "optimizer", "schedule", "data", "evaluation")
    whole = all(isinstance(found.get(part), dict) for part in parts)
    flat = found | {f"{part}.{name}": value for part in parts if whole for name, value in found[part].items()}
    return whole and all(_can_be(name, value) for name, value in flat.items()) and may_describe(found, run_id)


def may_describe(config: dict[str, Any], run_id: str) -> bool:
    """Whether a stored configuration can be that of a run: its identity is the run's, or is not known here.

    It is not where a version of this program wrote the configuration that has other fields, or refuses none of it.
    """
    try:
        return identity.run_id(identity.from_dict(RunConfig, config)) == run_id
    except (InputError, TypeError):
        return True


def _can_be(name: str, value: Any) -> bool:
    """Whether a field that holds a number has one, or nothing; what a version of this program does not know may be."""
    kinds = _numeric().get(name)
    return kinds is None or value is None or (isinstance(value, kinds) and not isinstance(value, bool))


@functools.cache
def _numeric() -> dict[str, tuple[type, ...]]:
    """The fields of a run that hold numbers, under the names that points have, and the types that these may have."""
    fields = paths(RunConfig)
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in (fields | {alias: fields[names[0]] for alias, names in ALIASES.items()}).items():
        kinds = set(typing.get_args(hint) or (hint,))
        if kinds <= {int, float, type(None)}:
            found[name] = (int, float) if float in kinds else (int,)
    return found


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object from a file; the rules of `text.parsed`.

    Raises:
        InputError: it is not one; the remedy is named.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for without an end
            raise ValueError("it is no plain file")
        value = parsed(path.read_bytes())
    except (ValueError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} is not readable JSON ({said}): {remedy}") from None
    require(isinstance(value, dict), f"{path} does not hold a JSON object: {remedy}")
    return value


def read_sweep(root: Path) -> dict[str, Any]:
    """`sweep.json` of a store; what a terminal would act on is written out in its texts.

    Raises:
        InputError: the folder is not a store, or what it says of itself cannot be.
    """
    path = root / "sweep.json"
    require(path.is_file(), f"{root} holds no sweep (no sweep.json): give the folder of lrlab sweep --out")
    for name in ("sweep.json", "runs", "units"):
        disk.require_inside(root, root / name)
    found = read_json(path, _SWEEP_AGAIN)
    schema = found.get("schema", SCHEMA)
    require(
        schema == SCHEMA, f"{path} is of schema {schema!r}, and this version knows {SCHEMA}: use the one that wrote it"
    )
    for name, kind in _SWEEP.items():
        require(isinstance(found.get(name), kind), f"{path} has no {name} as a sweep has it: {_SWEEP_AGAIN}")
    for run_id, point in found["runs"].items():
        _require_name(run_id, f"{path}: the run", _SWEEP_AGAIN)
        require(isinstance(point, dict), f"{path}: the run {run_id} has no point: {_SWEEP_AGAIN}")
        for name, value in point.items():
            require(
                _can_be(name, value) and not isinstance(value, dict),
                f"{path}: the run {run_id} has {shown(name)}={value!r}, which cannot be: {_SWEEP_AGAIN}",
            )
    known = {*paths(RunConfig), *ALIASES}
    for name in (*found["axes"], *found["optimum_axes"]):
        require(
            isinstance(name, str) and name in known,
            f"{path}: {name!r} is no setting of a run, and so no axis: {_SWEEP_AGAIN}",
        )
    require(bool(found["optimum_axes"]), f"{path} has no axis of the optimum: {_SWEEP_AGAIN}")
    return plain(found)


def _require_name(name: str, what: str, remedy: str) -> None:
    require(bool(NAME.fullmatch(name)), f"{what} {shown(name)!r} is no name of a run: {remedy}")


def pretty(value: dict[str, Any]) -> bytes:
    """Readable JSON; non-finite numbers are refused."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def locked(root: Path) -> Iterator[str | None]:
    """Hold a store for one launcher on this machine; of a group, process 0 holds it.

    Yields a note where the file system has no locks, else None.

    Raises:
        InputError: another process holds it, or the folder cannot be.
    """
    if not group.leader():
        yield None
        return
    disk.require_folder(root, "--out")
    root.mkdir(parents=True, exist_ok=True)
    with disk.held(root / ".lock") as note:
        yield note
