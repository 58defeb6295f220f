"""How far a sweep is: which of its runs are done, diverged, being trained now, or still to be trained."""

import dataclasses
from pathlib import Path
from typing import Any

from analysis.results import Results, describe, load
from lab import disk, store

TRAINING = "training"


def read(root: Path) -> Results:
    """The results of a store, with the status `training` for the runs that a launcher has in hand.

    Raises:
        InputError: the folder is not a store, or a record is damaged.
    """
    results = load(root)
    frame = results.frame
    now = (frame["status"] == "pending") & frame["run_id"].isin(_in_hand(root))
    return dataclasses.replace(results, frame=frame.assign(status=frame["status"].mask(now, TRAINING)))


def summary(results: Results) -> dict[str, Any]:
    """Runs by status, of the sweep and of each cell, as plain data."""
    cells = [
        {"cell": describe(values), **{str(k): int(v) for k, v in rows["status"].value_counts().items()}}
        for values, rows in results.cells()
    ]
    found = {"runs": {str(k): int(v) for k, v in results.frame["status"].value_counts().items()}, "cells": cells}
    return found | ({"notes": list(results.notes)} if results.notes else {})


def text(results: Results) -> str:
    """The same for a person."""
    found = summary(results)
    lines = [f"{results.sweep['name']}: {_counted(found['runs'])}", *results.notes]
    for cell in found["cells"]:
        lines.append(f"  {cell['cell']}: {_counted({name: n for name, n in cell.items() if name != 'cell'})}")
    return "\n".join(lines)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _in_hand(root: Path) -> set[str]:
    """The runs of the unit that was claimed last, where a launcher holds the store; a worker has one unit at a time."""
    claims = list((root / "units").glob("*/claims/*.json"))
    if not claims or not disk.in_use(root / ".lock"):
        return set()
    folder = max(claims, key=lambda path: path.stat().st_mtime_ns).parents[1]
    unit = folder / "unit.json"
    if not unit.is_file():
        return set()
    lanes = store.read_json(unit, "run its sweep again with the same --out")["lanes"]
    return {run_id for lane in lanes for run_id in lane["runs"]}
