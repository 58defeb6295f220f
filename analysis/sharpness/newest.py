"""The newest point of every run, as a table of text and as plain data."""

from typing import Any

import pandas as pd

from analysis.results import axis_label
from analysis.sharpness.panel import word
from analysis.sharpness.plain import number
from analysis.sharpness.points import RATE_AXIS, SIZE_AXES, Points

_FIRST = ("edge", "ratio")
_LAST = ("loss", "gradient_norm", "train_loss")
_HIDDEN = ("/smallest", "gradient_norm", "train_loss")  # not in the text: a line has to fit a terminal
_SHORT = {
    "error": "residual",
    "hessian": "H",
    "gauss_newton": "G",
    "residual": "R",
    "tangent_kernel": "kernel",
    "directional": "g'Sg",
    "loss": "loss",
}


def newest(points: Points) -> pd.DataFrame:
    """One row per run, in the order of the store: the run's axes and seeds, its newest point, and what it measured.

    Of a spectrum it has the largest eigenvalue; `error` is the residual bound of the sharpness.  `alive` is false
    where the run had diverged.
    """
    frame = points.frame
    last = frame[frame["step"] == frame.groupby("run_id")["step"].transform("max")]
    axes = [name for name in dict.fromkeys([*SIZE_AXES, *points.axes, RATE_AXIS, "seed_init"]) if name in frame]
    heads = last.drop_duplicates("run_id").set_index("run_id")[[*axes, "step", "alive"]]
    top = last[last["index"] == 0]
    values = top.pivot(index="run_id", columns="quantity", values="value")
    order = [points.sharpness, *_FIRST]
    order += [name for name in points.quantities if name not in (*order, *_LAST) and not name.startswith("blocks/")]
    order += [name for name in _LAST if name in values]
    errors = top[top["quantity"] == points.sharpness].set_index("run_id")["error"]
    made = heads.join(values.reindex(columns=[name for name in order if name in values]))
    if points.sharpness in made:
        made.insert(int(made.columns.get_indexer(pd.Index([points.sharpness]))[0]) + 1, "error", errors)
    return made


def newest_table(points: Points) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the newest points, `div` behind the step of a diverged run, edge = threshold / rate.

    Axes on which all runs agree are left out, but for size, rate and seed.
    """
    found = newest(points)
    at = list(found.columns).index("step")
    axes = [name for name in found.columns[:at] if name in _kept(points) or found[name].nunique(dropna=False) > 1]
    shown = [*axes, "step", *(name for name in found.columns[at + 2 :] if not name.endswith(_HIDDEN))]
    header = ["run", *(_label(points, name, axes) for name in shown)]
    rows = [
        [str(run_id), *(_text(row[name]) for name in axes), f"{row['step']}{'' if row['alive'] else ' div'}"]
        + [_text(row[name]) for name in shown[len(axes) + 1 :]]
        for run_id, row in found.iterrows()
    ]
    return header, rows


def newest_plain(points: Points) -> list[dict[str, Any]]:
    """The newest points as plain data, under the names of `newest`; None where a number does not exist."""
    found = newest(points)
    return [
        {"run_id": run_id} | {name: number(row[name]) for name in found.columns} for run_id, row in found.iterrows()
    ]


def _kept(points: Points) -> tuple[str, ...]:
    return (points.size_axis, RATE_AXIS, "seed_init")


def _label(points: Points, name: str, axes: list[str]) -> str:
    if name in axes:
        return axis_label(name).removesuffix("_init")
    return word(points, name) if name == points.sharpness else _SHORT.get(name, name)


def _text(value: Any) -> str:
    """`-` for what is missing."""
    value = number(value)
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
