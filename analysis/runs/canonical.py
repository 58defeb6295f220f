"""Anyone's table in canonical columns: which column is what, units, what became of the runs, and which rows remain."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.results import axis_label
from analysis.runs import column, condition, formula, near, repeat, row, state
from analysis.runs import table as tables
from lab import check
from lab.check import InputError

_NAMES = ("status", "lr_node", "variant")
_RESERVED = (*column.CANONICAL, *_NAMES)
_ALIKE = 0.05  # steps x batch x length and tokens differ by less where they are one


@dataclass(frozen=True)
class Asked:
    """How a table is to be read: see `analysis.runs.source.load`."""

    columns: Mapping[str, str] | None
    batch_unit: str | None
    needed: tuple[str, ...]
    where: Mapping[str, Any] | None
    repeats: tuple[str, ...]
    as_is: bool


@dataclass(frozen=True)
class Read:
    """A table in canonical columns, lines on what became of it, and what its columns say that all runs hold fixed."""

    frame: pd.DataFrame
    notes: tuple[str, ...]
    conditions: dict[str, Any]


def read(table: pd.DataFrame, names: row.Names, source: str, asked: Asked, csv: Path | None) -> Read:
    """A table of at least one row, called `source` in messages; `csv` is the file that it comes from, if any.

    Raises:
        InputError: see `analysis.runs.source.load`.
    """
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    found, notes = column.find_columns(table, asked.columns, asked.needed, source)
    frame = _canonical(table, found, names, source)
    frame, more = _ended(chosen(frame, asked.where, source), table, found, names, source, csv)
    notes += more
    names = row.Names([names.labels[place] for place in frame.index], names.word)
    frame, more, conditions = _counted(frame, found, names, source, asked)
    notes += more
    if "nonembedding" in re.sub("[^a-z]", "", found.get("params", "").lower()):
        conditions["params"] = "N non-embedding"
    frame, more = _usable(frame, [*asked.needed, "batch"], names, source)
    if "lr" in frame:
        repeat.ask(frame, asked.repeats, source)
        more += condition.mixed(frame)
    return Read(frame, (*notes, *more), conditions)


def chosen(frame: pd.DataFrame, where: Mapping[str, Any] | None, source: str) -> pd.DataFrame:
    """The rows whose columns have the wanted values; a column may be called by its label, the last part of its name.

    Raises:
        InputError: no such column, several of that label, or no such row.
    """
    for name, value in (where or {}).items():
        labelled = [str(other) for other in frame if axis_label(str(other)) == name]
        known = name if name in frame or len(labelled) != 1 else labelled[0]
        if known not in frame and labelled:
            varying = next((one for one in labelled if frame[one].astype(str).nunique() > 1), labelled[0])
            told = f"{' or '.join(labelled)}: choose with --where {varying}={value}"
            raise InputError(f"{source}: {name} may be {told}")
        check.require(
            known in frame,
            f"{source} has no column {name!r}{check.nearest(name, map(str, frame.columns))} to choose by",
        )
        words = {str(value), f"{value:g}"} if isinstance(value, float) else {str(value)}
        equal = (frame[known] == value) | frame[known].astype(str).isin(words)
        held = ", ".join(sorted(frame[known].astype(str).unique())[:6])
        check.require(bool(equal.any()), f"{source}: no row has {name}={value}; it has {held}")
        frame = frame[equal]
    return frame


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Canonical columns first, rows numbered from 0."""
    first = [name for name in _RESERVED if name in frame]
    return frame[[*first, *(name for name in frame if name not in first)]].reset_index(drop=True)


def _canonical(table: pd.DataFrame, found: Mapping[str, str], names: row.Names, source: str) -> pd.DataFrame:
    """The table with numbers under canonical names; columns that these displace are called `NAME (file)`."""
    taken = set(found.values())
    others = {
        origin: f"{origin} (file)" if origin in (*found, *_NAMES) else origin
        for origin in table.columns
        if origin not in taken
    }
    table = table.reset_index(drop=True)
    frame = table[list(others)].rename(columns=others)
    for name, origin in found.items():

        def numbers(one: str, name: str = name) -> np.ndarray:
            return row.numbers(table[one], f"{name} ({one})" if name != one else name, names, source)

        frame[name] = formula.value(origin, table, numbers)
    return frame


def _ended(
    frame: pd.DataFrame, table: pd.DataFrame, found: Mapping[str, str], names: row.Names, source: str, csv: Path | None
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of runs that ended, with a `status` where the table has one, and notes on the others."""
    notes = []
    told, origins = state.states(table, source)
    short, words = state.cut_short(table)
    status = pd.Series("done", index=range(len(table))) if told is None else told.reset_index(drop=True)
    if told is not None:
        frame["status"] = status[frame.index]
    pending = status.eq("pending")[frame.index]
    if pending.any():
        by = "" if origins == ["status"] else f" ({', '.join(origins)})"
        notes.append(f"{int(pending.sum())} runs are not finished and left out{by}")
    cut = pd.Series(short)[frame.index] & ~pending
    if "status" in frame:
        cut &= frame["status"].ne("diverged")
    if cut.any():
        notes.append(f"{int(cut.sum())} runs ended early and are left out ({words}; {names.some(_at(cut, table))})")
    gone = pending | cut
    if "loss" in found:
        empty = _empty(table, formula.columns(found["loss"], table.columns)[0], csv)[frame.index] & ~gone
        if "status" in frame:
            empty &= frame["status"].ne("diverged")
        if empty.any():
            notes.append(f"{int(empty.sum())} runs without a loss left out ({names.some(_at(empty, table))})")
            check.require(not (empty | gone).all(), f"{source}: no row has a loss in {found['loss']!r}")
            gone |= empty
    check.require(not gone.all(), f"{source}: no run is finished ({'; '.join(notes)}): give one that is")
    return frame[~gone], notes


def _at(chosen_rows: pd.Series, table: pd.DataFrame) -> np.ndarray:
    """Which of all rows of a table are chosen."""
    return chosen_rows.reindex(range(len(table)), fill_value=False).to_numpy(bool)


def _empty(table: pd.DataFrame, origin: str, csv: Path | None) -> pd.Series:
    """Which rows have nothing where the loss stands: a run without a result, while nan or inf is one that diverged.

    A table of numbers has nan for both, so a file's own text is looked at; nan in a frame is a diverged run.
    """
    values = table[origin]
    if csv is not None and values.isna().any():
        return tables.blank(csv, origin).reindex(table.index, fill_value=False).reset_index(drop=True)
    return pd.Series([tables.nothing(value) for value in values])


def _counted(
    frame: pd.DataFrame, found: Mapping[str, str], names: row.Names, source: str, asked: Asked
) -> tuple[pd.DataFrame, list[str], dict[str, Any]]:
    """The frame with the batch in tokens and D where the table tells it otherwise, notes, and conditions."""
    notes, conditions = [], condition.of_table(frame)
    row.check_values(frame, names, source)
    if "batch" in frame:
        length, note = _batch_length(frame, found["batch"], asked.batch_unit, asked.needed, source)
        notes.append(note)
        if length is None:
            frame = frame.drop(columns="batch")
        else:
            frame = frame.assign(batch=frame["batch"] * length)
            same = np.unique(length)
            conditions |= {"sequence length": float(same[0])} if len(same) == 1 and same[0] > 1 else {}
    else:
        check.require(asked.batch_unit is None, f"--batch-unit {asked.batch_unit}, but {source} has no batch column")
    if "tokens" not in frame and {"steps", "batch"} <= set(frame):
        frame = frame.assign(tokens=frame["steps"] * frame["batch"])
        notes.append(f"tokens = {found['steps']} x batch in tokens")
    if "tokens" not in frame and "flops" in frame:
        frame = frame.assign(tokens=frame["flops"] / (6 * frame["params"]))
        notes.append(f"tokens = FLOPs / (6 N), FLOPs from the column {found['flops']!r}")
    if "tokens" in asked.needed and "tokens" not in frame:
        raise InputError(
            f"{source}: tokens = {found.get('steps', 'steps')} x batch needs the batch in tokens: give --batch-unit, "
            "as in sequences:2048"
        )
    row.check_units(frame, names, source, found)
    if not asked.as_is:
        row.ask_units(frame, names, source, found)
    return frame, notes, conditions


def _batch_length(
    frame: pd.DataFrame, origin: str, batch_unit: str | None, needed: Sequence[str], source: str
) -> tuple[np.ndarray | int | None, str]:
    """(tokens per unit of the batch column, note); None where it is not known and not needed."""
    if batch_unit is not None:
        unit = column.parse_batch_unit(batch_unit)
        return unit.length, f"batch in tokens = {origin} x {unit.length}" if unit.sequences else "batch is in tokens"
    if column.names_tokens(origin):
        return 1, f"batch is in tokens, as the column's name {origin!r} says"
    implied, why = _implied(frame)
    if implied == 1:
        return 1, f"batch is in tokens, since {why}"
    values = frame["batch"].to_numpy(float)
    if np.nanmin(values, initial=np.inf) >= row.SEQUENCES_BELOW:
        return 1, f"batch is taken to be in tokens: no value of {origin!r} is below {row.SEQUENCES_BELOW}"
    if "length" in frame and not frame["length"].isna().any():
        return frame["length"].to_numpy(float), f"batch in tokens = {origin} x the column of the sequence length"
    if implied is not None:
        return implied, f"batch in tokens = {origin} x {implied}, since {why}"
    if not {"lr", "batch"} & set(needed):
        return None, f"batch is left out: whether {origin!r} counts tokens or sequences is not known (--batch-unit)"
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    raise InputError(
        f"{source}: the unit of the batch column {origin!r} ({least:g} to {most:g}) cannot be guessed: give "
        "--batch-unit tokens, or sequences:LENGTH as in sequences:2048"
    )


def _implied(frame: pd.DataFrame) -> tuple[int | None, str]:
    """(tokens per unit of the batch that tokens, steps and batch imply, in words); None where they imply none."""
    if not {"tokens", "steps", "batch"} <= set(frame):
        return None, ""
    share = (frame["tokens"] / (frame["steps"] * frame["batch"])).to_numpy(float)
    share = share[np.isfinite(share)]
    if len(share) == 0:
        return None, ""
    middle = round(float(np.median(share)))
    alike = middle >= 1 and bool((np.abs(share / middle - 1) < _ALIKE).all())
    return (middle, f"tokens / (steps x batch) is about {middle} in all rows") if alike else (None, "")


def _usable(
    frame: pd.DataFrame, needed: Sequence[str], names: row.Names, source: str
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that can be used, in canonical order, and notes on the others and on what was made equal."""
    keep, notes = row.complete(frame, needed, names, source)
    repeated = row.duplicates(frame) & keep
    if repeated.any():
        notes.append(f"{int(repeated.sum())} exact duplicates left out ({names.some(repeated)})")
    frame = frame[keep & ~repeated].copy()
    check.require(len(frame) > 0, f"{source}: no row is left after those that cannot be used")
    lost = ~np.isfinite(frame["loss"].to_numpy(float))
    if lost.any():
        notes.append(f"{int(lost.sum())} runs without a finite loss count as diverged")
    frame.loc[lost, "loss"] = np.nan
    ended = frame["status"] == "diverged" if "status" in frame else pd.Series(False, index=frame.index)
    frame["status"] = np.where(lost | ended.to_numpy(), "diverged", "done")
    if "lr" in frame:
        lr = frame["lr"].to_numpy(float)
        nodes = row.snapped(lr)
        if (nodes != lr).any():
            frame["lr_node"] = nodes
            before, after = len(np.unique(lr)), len(np.unique(nodes))
            notes.append(f"{before} learning rates within {100 * row.SNAP:g} % of each other count as {after} nodes")
        # Rows that agree in rate are cells of their own by one token's difference.
        frame, more = near.merged(frame)
        notes += more
    return ordered(frame), notes
