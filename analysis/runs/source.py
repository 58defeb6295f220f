"""Anyone's runs as one canonical table: a sweep folder, a CSV or Parquet file, or a data frame.

Columns of the table: `lr` peak learning rate; `batch` tokens per update; `params` N; `tokens` D; `loss` nats per token,
nan where it is not finite; `status` done or diverged; `lr_node`, where rates are stored in several roundings, the rate
that names the node (`lr` stays as it is); `variant`, where a sweep varies more than sizes, which of its laws a run
belongs to.  Other columns keep their names.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import results
from analysis.runs import canonical, column, condition, row
from analysis.runs import table as tables
from analysis.runs.canonical import chosen, ordered
from lab import check

NEEDED = ("lr", "params", "tokens", "loss")  # of a law of optima


@dataclass(frozen=True)
class Runs:
    """Runs in canonical columns (see the module) and what became of their source.

    `notes` are lines on what was guessed, converted, left out or snapped; `conditions` what all runs hold fixed, where
    known; `fingerprint` is the SHA-256 of the canonical numbers, whatever their order; `name` that of the source.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]
    conditions: dict[str, Any]
    fingerprint: str
    name: str


def load(
    source: str | Path | pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    batch_unit: str | None = None,
    require: Sequence[str] = NEEDED,
    where: Mapping[str, Any] | None = None,
    repeats: Sequence[str] = (),
    as_is: bool = False,
) -> Runs:
    """Read runs and put them into canonical columns.

    Args:
        source: a folder of `lrlab sweep`, a file of `lrlab export`, anyone's CSV, JSON lines or Parquet file, or a
            data frame.
        columns: {canonical name: the table's column} where it is not to be guessed (`analysis.runs.column`); also a
            product, as in {"tokens": "steps*batch*2048"}, the logarithm of a column, log(NAME), or a power, 2**NAME.
        batch_unit: `tokens` or `sequences:2048`, of a table's batch column.
        require: the canonical columns without which the caller can do nothing.
        where: {column: value} that a row must have to be taken.
        repeats: columns that only number repeats of a setting (`analysis.runs.repeat`).
        as_is: take values that look like another unit as they are (`analysis.runs.row.ask_units`).

    Raises:
        InputError: one line, naming the place and the remedy: no such source, a column missing, misspelt or ambiguous,
            an unknown batch unit, a value that is no number or cannot be, units that differ between rows or cannot be,
            repeats of a setting that differ in another column.
    """
    frame_name, csv = "frame", None
    if isinstance(source, pd.DataFrame):
        table, told = tables.unlike(source, "the frame"), "the frame"
        names = row.Names(table.index, "row")
    else:
        path = Path(source)
        check.require(path.exists(), f"there is no {path}: give a sweep folder, a CSV or a Parquet file")
        if path.is_dir():
            given = "--columns" if columns else "--batch-unit"
            check.require(
                not columns and batch_unit is None, f"{given} is for tables, and {path} is a folder of lrlab sweep"
            )
            return _from_results(results.load(path), str(path), path.name, where)
        told, frame_name = str(path), path.stem
        if path.suffix.lower() in (".parquet", ".pq"):
            table = tables.read_parquet(path)
            names = row.Names(table.index, "row")
        else:
            table, csv = tables.read_text(path), path
            names = row.Names(table.index, "line")
    check.require(len(table) > 0, f"{told} holds no rows: give a table with one row per run")
    if not columns and batch_unit is None and results.exported(table):
        return _from_results(results.of_export(table, frame_name), told, frame_name, where)
    asked = canonical.Asked(columns, batch_unit, tuple(require), where, tuple(repeats), as_is)
    found = canonical.read(table, names, told, asked, csv)
    return Runs(found.frame, found.notes, found.conditions, fingerprint(found.frame), frame_name)


def fingerprint(frame: pd.DataFrame) -> str:
    """SHA-256 of the canonical numbers of a frame, sorted, so that the order of rows and columns does not matter."""
    kept = [name for name in (*column.CANONICAL, "seed_init", "seed_data") if name in frame]
    values_RC = np.column_stack(
        [frame[name].to_numpy(float) for name in kept] + [(frame["status"] == "diverged").to_numpy(float)]
    )
    values_RC[np.isnan(values_RC)] = np.nan  # one bit pattern
    order = np.lexsort(values_RC.T[::-1])
    digest = hashlib.sha256(",".join((*kept, "diverged")).encode())
    digest.update(values_RC[order].astype("<f8").tobytes())
    return digest.hexdigest()


def _from_results(found: results.Results, told: str, name: str, where: Mapping[str, Any] | None) -> Runs:
    frame, axes = found.frame, found.sweep["axes"]
    pending = frame["status"] == "pending"
    check.require(not pending.all(), f"{told} holds no finished run yet: run lrlab sweep with the same --out")
    notes = list(found.notes)
    if pending.any():
        notes.append(f"{int(pending.sum())} of {len(frame)} runs are not finished and left out")
    frame = frame[~pending].assign(
        lr=frame["optimizer.lr"].astype(float),
        batch=(frame["data.sequences"] * frame["data.length"]).astype(float),
        params=frame["params"].astype(float),
        tokens=frame["tokens"].astype(float),
    )
    frame = ordered(chosen(frame, where, told))
    differing = condition.variant_axes(frame, axes)
    if differing:
        # A label that several columns share (`kind` of the model, the optimizer and the schedule) chooses none of them.
        labels = [results.axis_label(str(name)) for name in frame]
        short = {axis: results.axis_label(axis) for axis in differing}
        names = {axis: label if labels.count(label) == 1 else axis for axis, label in short.items()}
        frame["variant"] = condition.variants(frame, differing, names)
        told = ", ".join(sorted(frame["variant"].unique())[:4])
        notes.append(f"runs of one size differ in {', '.join(differing)}: each variant has its own law ({told})")
    return Runs(frame, tuple(notes), condition.of_sweep(frame), fingerprint(frame), name)
