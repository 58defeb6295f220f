"""Anyone's runs as one canonical table: a sweep folder, a CSV or Parquet file, or a data frame.

Columns of the table: `lr` peak learning rate; `batch` tokens per update; `params` N; `tokens` D; `loss` nats per token,
nan where it is not finite; `status` done or diverged; `lr_node`, where rates are stored in several roundings, the rate
that names the node (`lr` stays as it is); `variant`, where a sweep varies more than sizes, which of its laws a run
belongs to.  Other columns keep their names.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import results
from analysis.runs import column, condition, row
from lab import check
from lab.check import InputError

NEEDED = ("lr", "params", "tokens", "loss")  # of a law of optima
_RESERVED = (*column.CANONICAL, "status", "lr_node", "variant")
_NAMES = ("status", "lr_node", "variant")
_STATES = ("done", "diverged", "pending")


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
) -> Runs:
    """Read runs and put them into canonical columns.

    Args:
        source: a folder of `lrlab sweep`, a CSV or Parquet file, or a data frame.
        columns: {canonical name: the table's column} where it is not to be guessed (`analysis.runs.column`).
        batch_unit: `tokens` or `sequences:2048`, of a table's batch column.
        require: the canonical columns without which the caller can do nothing.
        where: {column: value} that a row must have to be taken.

    Raises:
        InputError: one line, naming the place and the remedy: no such source, a column missing, misspelt or ambiguous,
            an unknown batch unit, a value that is no number or cannot be, units that differ between rows.
    """
    if isinstance(source, pd.DataFrame):
        names = row.Names(source.index, "row")
        return _from_table(source, names, "the frame", "frame", columns, batch_unit, require, where, None)
    path = Path(source)
    check.require(path.exists(), f"there is no {path}: give a sweep folder, a CSV or a Parquet file")
    if path.is_dir():
        given = "--columns" if columns else "--batch-unit"
        check.require(
            not columns and batch_unit is None, f"{given} is for tables, and {path} is a folder of lrlab sweep"
        )
        return _from_sweep(path, where)
    csv: Path | None = None
    if path.suffix.lower() in (".parquet", ".pq"):
        table = _read_parquet(path)
        names = row.Names(table.index, "row")
    else:
        table, csv = _read_csv(path), path
        names = row.Names(table.index + 2, "line")  # the header is line 1
    return _from_table(table, names, str(path), path.stem, columns, batch_unit, require, where, csv)


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


def _from_sweep(root: Path, where: Mapping[str, Any] | None) -> Runs:
    found = results.load(root)
    frame, axes = found.frame, found.sweep["axes"]
    pending = frame["status"] == "pending"
    check.require(not pending.all(), f"{root} holds no finished run yet: run lrlab sweep with the same --out")
    notes = list(found.notes)
    if pending.any():
        notes.append(f"{int(pending.sum())} of {len(frame)} runs are not finished and left out")
    frame = frame[~pending].assign(
        lr=frame["optimizer.lr"].astype(float),
        batch=(frame["data.sequences"] * frame["data.length"]).astype(float),
        params=frame["params"].astype(float),
        tokens=frame["tokens"].astype(float),
    )
    frame = _ordered(_chosen(frame, where, str(root)))
    differing = condition.variant_axes(frame, axes)
    if differing:
        frame["variant"] = condition.variants(frame, differing, {axis: results.axis_label(axis) for axis in differing})
        told = ", ".join(sorted(frame["variant"].unique())[:4])
        notes.append(f"runs of one size differ in {', '.join(differing)}: each variant has its own law ({told})")
    return Runs(frame, tuple(notes), condition.of_sweep(frame), fingerprint(frame), root.name)


def _from_table(
    table: pd.DataFrame,
    names: row.Names,
    source: str,
    name: str,
    columns: Mapping[str, str] | None,
    batch_unit: str | None,
    needed: Sequence[str],
    where: Mapping[str, Any] | None,
    csv: Path | None,
) -> Runs:
    check.require(len(table) > 0, f"{source} holds no rows: give a table with one row per run")
    check.require(table.columns.is_unique, f"{source} has two columns of one name: rename one")
    found, notes = column.find_columns(table, columns, needed, source)
    frame = _canonical(table, found, names, source)
    if "loss" in found:
        empty = _empty(table, found["loss"], csv)
        if "status" in frame:
            empty &= frame["status"].ne("diverged")
        if empty.any():
            notes.append(f"{int(empty.sum())} runs without a loss left out ({names.some(empty.to_numpy())})")
            check.require(not empty.all(), f"{source}: no row has a loss in {found['loss']!r}")
            frame = frame[~empty]
    frame = _chosen(frame, where, source)
    names = row.Names([names.labels[place] for place in frame.index], names.word)
    row.check_values(frame, names, source)
    conditions = condition.of_table(frame)
    if "batch" in frame:
        length, note = _batch_length(frame, found["batch"], batch_unit, needed, source)
        notes.append(note)
        if length is None:
            frame = frame.drop(columns="batch")
        else:
            frame["batch"] *= length
            conditions |= {"sequence length": length} if length > 1 else {}
    else:
        check.require(batch_unit is None, f"--batch-unit {batch_unit}, but {source} has no batch column")
    if "tokens" not in frame and "flops" in frame:
        frame["tokens"] = frame["flops"] / (6 * frame["params"])
        notes.append(f"tokens = FLOPs / (6 N), FLOPs from the column {found['flops']!r}")
    row.check_units(frame, names, source)
    if "nonembedding" in re.sub("[^a-z]", "", found.get("params", "").lower()):
        conditions["params"] = "N non-embedding"
    frame, more = _usable(frame, [*needed, "batch"], names, source)
    return Runs(frame, (*notes, *more), conditions, fingerprint(frame), name)


def _canonical(table: pd.DataFrame, found: Mapping[str, str], names: row.Names, source: str) -> pd.DataFrame:
    """The table with numbers under canonical names; columns that these displace are called `NAME (file)`."""
    taken = {origin: name for name, origin in found.items()}
    others = {
        origin: f"{origin} (file)" if origin in (*found, *_NAMES) else origin
        for origin in map(str, table.columns)
        if origin not in taken
    }
    table = table.set_axis([str(origin) for origin in table.columns], axis=1).reset_index(drop=True)
    frame = table[list(others)].rename(columns=others)
    for name, origin in found.items():
        frame[name] = row.numbers(table[origin], f"{name} ({origin})" if name != origin else name, names, source)
    # A table's own word on what became of a run counts where it is in ours.
    if "status (file)" in frame and frame["status (file)"].isin(_STATES).all():
        frame = frame.rename(columns={"status (file)": "status"})
    return frame


def _empty(table: pd.DataFrame, origin: str, csv: Path | None) -> pd.Series:
    """Which rows have nothing where the loss stands: a run without a result, while nan or inf is one that diverged.

    A table of numbers has nan for both, so a file's own text is looked at; nan in a frame is a diverged run.
    """
    column = table.set_axis([str(name) for name in table.columns], axis=1)[origin]
    if csv is not None and column.isna().any():
        column = _read_csv(csv, text=True).set_axis([str(name) for name in table.columns], axis=1)[origin]
        column = column.loc[table.index]
    blank = [value is None or value is pd.NA or (isinstance(value, str) and not value.strip()) for value in column]
    return pd.Series(blank)


def _usable(
    frame: pd.DataFrame, needed: Sequence[str], names: row.Names, source: str
) -> tuple[pd.DataFrame, list[str]]:
    """The rows that can be used, in canonical order, and notes on the others and on what was made equal."""
    keep, notes = row.complete(frame, needed, names, source)
    if "status" in frame:
        pending = (frame["status"] == "pending").to_numpy()
        if (pending & keep).any():
            notes.append(f"{int((pending & keep).sum())} runs are not finished and left out")
        keep &= ~pending
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
    return _ordered(frame), notes


def _batch_length(
    frame: pd.DataFrame, origin: str, batch_unit: str | None, needed: Sequence[str], source: str
) -> tuple[int | None, str]:
    """(tokens per unit of the batch column, note); None where it is not known and not needed."""
    if batch_unit is not None:
        unit = column.parse_batch_unit(batch_unit)
        return unit.length, f"batch in tokens = {origin} x {unit.length}" if unit.sequences else "batch is in tokens"
    if column.names_tokens(origin):
        return 1, f"batch is in tokens, as the column's name {origin!r} says"
    values = frame["batch"].to_numpy(float)
    if np.nanmin(values, initial=np.inf) >= row.SEQUENCES_BELOW:
        return 1, f"batch is taken to be in tokens: no value of {origin!r} is below {row.SEQUENCES_BELOW}"
    if not {"lr", "batch"} & set(needed):
        return None, f"batch is left out: whether {origin!r} counts tokens or sequences is not known (--batch-unit)"
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    raise InputError(
        f"{source}: the unit of the batch column {origin!r} ({least:g} to {most:g}) cannot be guessed: give "
        "--batch-unit tokens, or sequences:LENGTH as in sequences:2048"
    )


def _chosen(frame: pd.DataFrame, where: Mapping[str, Any] | None, source: str) -> pd.DataFrame:
    """The rows whose columns have the wanted values."""
    for name, value in (where or {}).items():
        check.require(
            name in frame, f"{source} has no column {name!r}{check.nearest(name, map(str, frame.columns))} to choose by"
        )
        words = {str(value), f"{value:g}"} if isinstance(value, float) else {str(value)}
        equal = (frame[name] == value) | frame[name].astype(str).isin(words)
        held = ", ".join(sorted(frame[name].astype(str).unique())[:6])
        check.require(bool(equal.any()), f"{source}: no row has {name}={value}; it has {held}")
        frame = frame[equal]
    return frame


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Canonical columns first, rows numbered from 0."""
    first = [name for name in _RESERVED if name in frame]
    return frame[[*first, *(name for name in frame if name not in first)]].reset_index(drop=True)


def _read_csv(path: Path, *, text: bool = False) -> pd.DataFrame:
    """A CSV file separated by commas, semicolons or tabs; blank lines keep their number in the index.

    With `text` every cell is what stands in the file, '' where that is nothing.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="strict") as file:
            header = file.readline()
        check.require(bool(header.strip()), f"{path} is empty: give a table with a header and one row per run")
        separator = max(",;\t", key=header.count)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                sep=separator,
                encoding="utf-8-sig",
                skip_blank_lines=False,
                index_col=False,
                low_memory=False,
                **({"dtype": str, "keep_default_na": False} if text else {}),
            )
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8: give a CSV or a .parquet file") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a CSV table ({reason}): give one row per run, as long as the header") from None
    check.require(table.shape[1] > 1, f"{path} is not a CSV table: it has one column, {table.columns[0]!r}")
    return table if text else table.dropna(how="all")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow: pip install 'lr-scaling-lab[parquet]', or convert it to CSV"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a Parquet file ({' '.join(str(error).split())[:120]})") from None
