"""The result store: a folder of plain files.

DIR/sweep.json                           what the sweep asks, its axes, its runs
DIR/runs/<run_id>/config.json            the resolved configuration
DIR/runs/<run_id>/record.json            the result: written once, never changed
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
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import group
from lab.check import InputError, require
from lab.config import RunConfig


def run_folder(root: Path, run_id: str) -> Path:
    return root / "runs" / run_id


def unit_folder(root: Path, unit_id: str) -> Path:
    return root / "units" / unit_id


def fork_folder(root: Path, unit_id: str) -> Path:
    return unit_folder(root, unit_id) / "fork"


def point_file(root: Path, run_id: str, probe_id: str, step: int) -> Path:
    """Where a probe's record of a run after `step` updates is."""
    return run_folder(root, run_id) / "probes" / probe_id / f"{step:09d}.json"


def create_exclusive(path: Path, data: bytes) -> bool:
    """Write a file that did not exist; False if it does, which is then left as it is.  Of a group, process 0 writes.

    The bytes are complete and on disk before the name appears (temporary file, fsync, link, fsync of the folder).
    """
    if not group.leader():
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    finally:
        os.unlink(temporary)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def write_atomic(path: Path, data: bytes) -> None:
    """Write or replace a file; a reader sees the old bytes or the new ones.  Of a group, process 0 writes."""
    if not group.leader():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_config(root: Path, run_id: str, config: RunConfig) -> None:
    """Store a planned run's configuration, once."""
    path = run_folder(root, run_id) / "config.json"
    if not path.exists():
        create_exclusive(path, pretty(dataclasses.asdict(config)))


def write_record(root: Path, record: dict[str, Any]) -> bool:
    """Store a run's record; False where another writer was first, whose record then stands."""
    return create_exclusive(run_folder(root, record["run_id"]) / "record.json", pretty(record))


def read_records(root: Path) -> dict[str, dict[str, Any]]:
    """Every finished run's record, by run_id.

    Raises:
        InputError: a record that is not readable JSON; the file and the remedy are named.
    """
    found = {}
    for path in sorted((root / "runs").glob("*/record.json")):
        found[path.parent.name] = read_json(path, "delete it and run the sweep again to get it back")
    return found


def read_config(root: Path, run_id: str) -> dict[str, Any]:
    """A planned run's configuration."""
    return read_json(run_folder(root, run_id) / "config.json", "run lrlab sweep with the same --out to write it again")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it is not one; the remedy is named.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable JSON ({error}): {remedy}") from None
    require(isinstance(value, dict), f"{path} does not hold a JSON object: {remedy}")
    return value


def read_sweep(root: Path) -> dict[str, Any]:
    """`sweep.json` of a store.

    Raises:
        InputError: the folder is not a store.
    """
    path = root / "sweep.json"
    require(path.is_file(), f"{root} holds no sweep (no sweep.json): give the folder of lrlab sweep --out")
    return read_json(path, "run lrlab sweep with the same --out to write it again")


def pretty(value: dict[str, Any]) -> bytes:
    """Readable JSON; non-finite numbers are refused."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a store for one launcher on this machine; of a group, process 0 holds it.

    Raises:
        InputError: another process holds it.
    """
    if not group.leader():
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise InputError(
                f"{root} is in use by process {file.read().strip()}: wait for it, or use another --out"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
