"""Points as a CSV file with one row per run and step, and the way back: figures can be drawn from it again.

Columns before `step` describe the run: `run_id`, `batch` (the measurement batch), the sweep's axes and the seeds under
their dotted names.  Then `step`, `tokens`, `lr_t` (rate of the next update), `alive`, and what was measured: `NAME` is
the largest eigenvalue or the value, `NAME[1]` the second eigenvalue and so on, `NAME.error` its residual bound or
standard error.  Numbers have six digits; a row of a diverged run has no values.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.results import SEED_AXES
from analysis.sharpness.points import SEEDS, Points, size_axes, table
from lab import disk
from lab.check import InputError, nearest, require

ERROR = ".error"
_FORMAT = "%.6g"
_ABOUT = ["step", "tokens", "lr_t", "alive"]


def export(points: Points, path: Path, *, top: int = 1, errors: bool = False, only: Sequence[str] | None = None) -> int:
    """Write the table, with the `top` largest of every kind of eigenvalue, and give the number of rows.

    `only` names the quantities to write, all by default.

    Raises:
        InputError: the folder does not exist, top is below 1, or a quantity was not measured.
    """
    require(path.parent.is_dir(), f"{path}: the folder {path.parent} does not exist")
    require(top >= 1, f"top={top}: keep at least the largest eigenvalue")
    described = [name for name in dict.fromkeys(["run_id", *points.axes, *SEEDS]) if name in points.frame]
    for name in only or ():
        known = points.quantities
        require(name in known, f"{name} was not measured: choose from {', '.join(known)}{nearest(name, known)}")
    frame = points.frame[points.frame["index"] < top]
    if only is not None:
        frame = frame[frame["quantity"].isin([*only, "loss"])]  # every point has a row for its loss
    names = frame["quantity"].where(frame["index"] == 0, frame["quantity"] + "[" + frame["index"].astype(str) + "]")
    frame = frame.assign(name=names)
    order = list(dict.fromkeys(names))
    values = frame.pivot(index=["run_id", "step"], columns="name", values="value")
    made = values.reindex(columns=order)
    if errors:
        found = frame.pivot(index=["run_id", "step"], columns="name", values="error").dropna(axis=1, how="all")
        for name in found.columns:
            made.insert(int(made.columns.get_indexer(pd.Index([name]))[0]) + 1, name + ERROR, found[name])
    made = made.dropna(axis=1, how="all").map(_rounded)
    heads = frame.drop_duplicates(["run_id", "step"])[[*described, *_ABOUT]].assign(batch=points.batch)
    whole = heads[["run_id", "batch", *described[1:], *_ABOUT]].join(made, on=["run_id", "step"])
    with disk.whole(path) as written:
        whole.assign(alive=whole["alive"].astype(int)).to_csv(written, index=False)
    return len(whole)


def read_table(path: Path, size_axis: str | None = None) -> Points:
    """Points from a file that `export` wrote; `size_axis` is found where it is not given.

    Raises:
        InputError: no such file, another kind of table, or points of several measurement batches.
    """
    require(path.is_file(), f"{path} is not a file: give a table of sharpness points, or a folder of lrlab sweep --out")
    try:
        # Identities are digits that may look like numbers, and some names of settings are "none".
        frame = pd.read_csv(path, dtype={"run_id": str, "batch": str}, keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a readable CSV file ({error})") from None
    missing = [name for name in ("run_id", "batch", *SEEDS, *_ABOUT) if name not in frame]
    require(not missing, f"{path} is no table of sharpness points: it has no column {', '.join(missing)}")
    batches = [str(name) for name in frame["batch"].unique()]
    require(
        len(batches) == 1,
        f"{path} has points that cannot be compared, of measurement batches {', '.join(batches)}: keep one of them",
    )
    at = list(frame.columns).index("step")
    described = frame.drop(columns="batch").iloc[:, : at - 1].drop_duplicates("run_id")
    measured = [name for name in frame.columns[at:] if name not in _ABOUT]
    axes = tuple(str(name) for name in described if name not in ("run_id", *SEEDS, *SEED_AXES))
    return Points(
        frame=table(_long(frame, measured), described),
        axes=axes,
        size_axis=size_axis or size_axes(described)[0],
        probe_id="",
        batch=batches[0],
        measurement={"batch": batches[0]},
    )


def _rounded(value: float) -> float:
    return float(_FORMAT % value) if math.isfinite(value) else math.nan


def _long(frame: pd.DataFrame, measured: list[str]) -> list[list[object]]:
    """Rows as `analysis.sharpness.points.table` takes them; values that a row lacks are left out, but for its loss."""
    rows: list[list[object]] = []
    about = frame[["run_id", *_ABOUT]].to_dict("list")
    heads = [list(one) for one in zip(*about.values(), strict=True)]
    nothing = [math.nan] * len(frame)
    for name in measured:
        if name.endswith(ERROR):
            continue
        quantity, _, rest = name.partition("[")
        index = int(rest.rstrip("]")) if rest else 0
        errors = frame[name + ERROR].tolist() if name + ERROR in frame else nothing
        for head, value, error in zip(heads, frame[name].tolist(), errors, strict=True):
            if math.isfinite(value) or quantity == "loss":
                rows.append([*head[:4], bool(head[4]), quantity, index, value, error])
    return rows
