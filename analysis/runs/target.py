"""What a law of the optimum is fitted to: one row per cell, or the runs that come close to each cell's best.

An estimator changes a law (the exponent of D is .25, .31 or .38 on the same runs of Step Law), so it has a name:

- `surface`: the fitted optimum of each cell with its variance, jointly in rate and batch or, at given batches, in the
  rate; the default.
- `near-optimal:0.25%`: every run whose loss is less than 0.25 % above its cell's best run, the best itself always
  (Step Law, arXiv 2503.04715, `fit_tool.py`; DeepSeek, 2401.02954).
- `argmin`: the best node of each cell, replicates averaged.

The last two tell no variances; theirs are 0, and all scatter about a law is left for it to find.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.runs import optima, surface
from analysis.runs.node import Edge, cells_of, edge_of, frame_of, keys_of, nodes_of
from analysis.runs.optima import BOTH
from analysis.runs.source import Runs
from lab.check import nearest, require

Kind = Literal["surface", "near-optimal", "argmin"]
KINDS: tuple[Kind, ...] = ("surface", "near-optimal", "argmin")
Edges = Literal["censor", "drop", "keep"]
_MOST = 0.1  # a threshold above it is no neighbourhood of an optimum


@dataclass(frozen=True)
class Estimator:
    """Which runs or fits stand for a cell's optimum; `threshold` is relative, of `near-optimal` only."""

    kind: Kind
    threshold: float | None = None

    def __str__(self) -> str:
        return self.kind if self.threshold is None else f"{self.kind}:{100 * self.threshold:g}%"


def parse_estimator(text: str) -> Estimator:
    """`surface`, `argmin`, or `near-optimal:0.25%`.

    Raises:
        InputError: anything else; a threshold that is missing, without its per cent sign, or not in [0 %, 10 %].
    """
    word, colon, value = text.strip().partition(":")
    require(
        word in KINDS,
        f"estimator {text!r} is not one of surface, near-optimal:0.25%, argmin{nearest(word, KINDS)}",
    )
    kind: Kind = "surface" if word == "surface" else "argmin" if word == "argmin" else "near-optimal"
    if kind != "near-optimal":
        require(not colon, f"estimator {text!r}: {word} takes no threshold: write {word}")
        return Estimator(kind)
    matched = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)%", value.strip())
    require(matched is not None, f"estimator {text!r} needs a threshold in per cent, as in near-optimal:0.25%")
    assert matched is not None
    threshold = float(matched[1]) / 100
    require(threshold <= _MOST, f"estimator {text!r}: above {100 * _MOST:g} % of loss no run is near an optimum")
    return Estimator(kind, threshold)


def targets(
    runs: Runs | pd.DataFrame,
    estimator: str | Estimator = "surface",
    *,
    over: Sequence[str] | None = None,
    window: float | None = surface.WINDOW,
    edges: Edges | None = None,
    found: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The rows that a power law of the optimum is fitted to.

    Columns: `params`, `tokens`; `batch` where the rate alone is optimised, as a regressor (tokens per update); `lr` and
    `lr_variance` (of ln lr); `best_batch` and `batch_variance` (of ln batch) where both are; `loss`; `censored`: "" for
    a point, "low" or "high" where the optimum lies below or above `lr` (such a row has no `best_batch`: nan; its `lr`
    is the bound of `analysis.runs.node.Edge`, of argmin the best node itself); `variant` where the runs have it.
    `attrs["left_out"]` counts the cells that are not told, by their quality; `attrs["estimator"]` names the rule.

    Args:
        runs: from `analysis.runs.source.load`, or a frame in its columns.
        estimator: see the module.
        over: ("lr", "batch"), ("lr",), or what the runs were swept over (`analysis.runs.optima.swept`).
        window: of surfaces, see `analysis.runs.optima.find_optima`.
        edges: what becomes of cells whose best rate is on the edge of their grid: rows that say so, no rows, or rows
            like the others.  By default `censor`, and `keep` for near-optimal, whose authors take all runs.  A surface
            that finds its optimum inside has no edge; one that does not is never kept as a point.
        found: the frame of `find_optima` for the same runs and axes, where it is at hand.

    Raises:
        InputError: an estimator that is none, a column that is missing, or no cell that gives a row.
    """
    rule = parse_estimator(estimator) if isinstance(estimator, str) else estimator
    frame = frame_of(runs)
    axes = tuple(over) if over is not None else optima.swept(frame)
    if rule.kind == "surface":
        found = optima.find_optima(frame, over=axes, window=window) if found is None else found
        table, left = _fitted(found, axes, edges or "censor")
    else:
        for name in ("params", "tokens", "loss", "lr", *axes):
            require(name in frame, f"the estimator {rule} over {' and '.join(axes)} needs the column {name}")
        edges = edges or ("keep" if rule.kind == "near-optimal" else "censor")
        table, left = _measured(frame, rule.threshold, axes, edges)
    told = ", ".join(f"{count} {name}" for name, count in left.items())
    require(len(table) > 0, f"no cell has an optimum to fit a law to ({told or 'no finite loss'})")
    table.attrs = {"left_out": left, "estimator": str(rule)}
    return table


def _fitted(found: pd.DataFrame, axes: tuple[str, ...], edges: Edges) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row per interior cell of `find_optima`, and per censored one; and what was left out."""
    keys = keys_of(found, joint=axes == BOTH)
    interior = found["quality"] == "interior"
    points = found[interior]
    rows = points[keys].assign(lr=points["lr"], lr_variance=points["lr_sd"] ** 2, loss=points["loss"], censored="")
    if axes == BOTH:
        rows["best_batch"], rows["batch_variance"] = points["batch"], points["batch_sd"] ** 2
    rest = found[~interior]
    if edges == "censor":
        # A curve says on which side by its quality, a cell of two dimensions where its best node lies.
        told = rest["lr_bound"].notna()
        beyond = rest[told]
        bounds = beyond[keys].assign(
            lr=beyond["lr_bound"], lr_variance=0.0, loss=beyond["argmin_loss"], censored=beyond["lr_edge"]
        )
        rows = pd.concat([rows, bounds]).sort_index()
        rest = rest[~told]
    return _ordered(rows), {str(name): int(count) for name, count in rest["quality"].value_counts().items()}


def _measured(
    frame: pd.DataFrame, threshold: float | None, axes: tuple[str, ...], edges: Edges
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The runs within a threshold of their cell's best run, or each cell's best node where there is no threshold."""
    joint = axes == BOTH
    keys = keys_of(frame, joint=joint)
    sides = [cell.keys | {"censored": _told(edge_of(cell))} for cell in cells_of(frame, joint=joint)]
    if threshold is None:
        nodes = nodes_of(frame)
        alive = nodes[~nodes["diverged"]]
        best = alive.loc[alive.groupby(keys, dropna=False)["loss"].idxmin()]
        # The rate as it was run, not the node's name.
        rows = best.assign(lr=np.exp(best["x"].to_numpy(float)))
    else:
        done = frame[(frame["status"] == "done") & np.isfinite(frame["loss"].to_numpy(float))]
        error = done["loss"] / done.groupby(keys, dropna=False)["loss"].transform("min") - 1
        rows = done[(error < threshold) | (error == 0)]
    rows = rows.merge(pd.DataFrame(sides), on=keys, how="left", sort=False)
    left = {"all-diverged": len(sides) - rows.groupby(keys, dropna=False).ngroups}
    if edges == "drop":
        on_edge = rows["censored"] != ""
        left["edge"] = rows[on_edge].groupby(keys, dropna=False).ngroups
        rows = rows[~on_edge]
    elif edges == "keep":
        rows["censored"] = ""
    rows["lr_variance"] = 0.0
    if joint:
        rows["best_batch"], rows["batch_variance"] = rows["batch"].where(rows["censored"] == ""), 0.0
        rows = rows.drop(columns="batch")
    return _ordered(rows), {name: count for name, count in left.items() if count}


def _told(edge: Edge) -> str:
    return edge.lr if math.isfinite(edge.bound) else ""


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    names = (
        "variant",
        "params",
        "tokens",
        "batch",
        "lr",
        "lr_variance",
        "best_batch",
        "batch_variance",
        "loss",
        "censored",
    )
    return rows[[name for name in names if name in rows]].reset_index(drop=True)
