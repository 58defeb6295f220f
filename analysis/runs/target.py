"""What a law of the optimum is fitted to: one row per cell, or the runs that come close to each cell's best.

An estimator changes a law (the exponent of D is .25, .31 or .38 on the same runs of Step Law), so it has a name:

- `surface`: the fitted optimum of each cell with its variance, jointly in rate and batch or, at given batches, in the
  rate; the default.
- `near-optimal:0.25%`: every run whose loss is less than 0.25 % above its cell's best run, the best itself always
  (Step Law, arXiv 2503.04715, `fit_tool.py`; DeepSeek, 2401.02954).
- `argmin`: the best node of each cell, replicates averaged.

The last two tell no variances; theirs are 0, and all scatter about a law is left for it to find.

A cell whose best rate is on the edge of its grid has no optimum but a bound: the optimum lies beyond it.  What becomes
of bounds is named with the law (`analysis.target.Edges`).  The authors of `near-optimal` keep all runs, those of edge
cells too, and so does this rule by default; a run is no bound, so it can only keep or drop them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.edges import DEFAULT, Edges
from analysis.runs import optima, surface
from analysis.runs.node import Edge, cells_of, edge_of, frame_of, keys_of, nodes_of
from analysis.runs.optima import BOTH, CellOptimum, Optima
from analysis.runs.source import Runs
from analysis.target import Censored, Level, Target, Targets
from lab.check import nearest, require

Kind = Literal["surface", "near-optimal", "argmin"]
KINDS: tuple[Kind, ...] = ("surface", "near-optimal", "argmin")
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
    found: Optima | None = None,
) -> Targets:
    """The rows that a power law of the optimum is fitted to, bounds among them.

    Over both axes a row has a `batch`, the best one in tokens per update, where its cell has an optimum; at given
    batches the batch is a regressor.  The value of a bound is that of `analysis.runs.node.Edge`, of argmin the best
    node itself.  Cells that have neither an optimum nor a bound are counted in `left_out`.

    Args:
        runs: from `analysis.runs.source.load`, or a frame in its columns.
        estimator: see the module.
        over: ("lr", "batch"), ("lr",), or what the runs were swept over (`analysis.runs.optima.swept`).
        window: of surfaces, see `analysis.runs.optima.find_optima`.
        edges: what becomes of bounds; by default `analysis.edges.DEFAULT`, and `keep` for near-optimal.  A surface
            that finds its optimum inside has no edge; one that does not is never kept as a point.
        found: the optima of the same runs and axes (`analysis.runs.optima.locate`), where they are at hand.

    Raises:
        InputError: an estimator that is none, a column that is missing, edges that the estimator does not take, or no
            cell that gives a row.
    """
    rule = parse_estimator(estimator) if isinstance(estimator, str) else estimator
    frame = frame_of(runs)
    axes = tuple(over) if over is not None else optima.swept(frame)
    way = edges_of(rule, edges)
    if rule.kind == "surface":
        found = optima.locate(frame, over=axes, window=window) if found is None else found
        rows, left = _fitted(found)
    else:
        for name in ("params", "tokens", "loss", "lr", *axes):
            require(name in frame, f"the estimator {rule} over {' and '.join(axes)} needs the column {name}")
        rows, left = _measured(frame, rule.threshold, axes, keep=way == "keep")
    told = ", ".join(f"{count} {name}" for name, count in left.items())
    require(len(rows) > 0, f"no cell has an optimum to fit a law to ({told or 'no finite loss'})")
    return Targets(tuple(rows), str(rule), way, left)


def edges_of(rule: Estimator, edges: Edges | None) -> Edges:
    """What becomes of bounds under an estimator.

    Raises:
        InputError: a way that the estimator does not know.
    """
    if edges is None:
        return "keep" if rule.kind == "near-optimal" else DEFAULT
    require(
        rule.kind != "near-optimal" or edges != "censor",
        f"the estimator {rule} takes runs, and a run is no bound: use edges=drop, or the estimator surface",
    )
    require(rule.kind != "surface" or edges != "keep", "a surface has no optimum to keep at an edge: drop or censor")
    return edges


def _fitted(found: Optima) -> tuple[list[Target], dict[str, int]]:
    """A row per cell with an optimum or a bound, and how many cells of which quality have neither."""
    rows, left = [], {}
    for cell in found.cells:
        row = _row(cell)
        if row is None:
            left[cell.quality] = left.get(cell.quality, 0) + 1
        else:
            rows.append(row)
    return rows, left


def _row(cell: CellOptimum) -> Target | None:
    """An interior cell as a point; one with its best node on the edge as a bound, which says nothing of the batch.

    Where the best batch is at an edge too there is no bound: another batch would move the rate.
    """
    if cell.lr is not None:
        batch = None if cell.batch is None else Level(cell.batch.value, cell.batch.sd**2)
        return Target(cell.at, Level(cell.lr.value, cell.lr.sd**2), batch, cell.loss, cell.variant)
    if math.isfinite(cell.edge.bound) and not cell.edge.batch:
        bound = Level(cell.edge.bound, math.nan, cell.edge.lr)
        return Target(cell.at, bound, None, cell.argmin[2], cell.variant)
    return None


def _measured(
    frame: pd.DataFrame, threshold: float | None, axes: tuple[str, ...], *, keep: bool
) -> tuple[list[Target], dict[str, int]]:
    """The runs within a threshold of their cell's best run, or each cell's best node where there is no threshold."""
    joint = axes == BOTH
    keys = keys_of(frame, joint=joint)
    sides: dict[tuple[Any, ...], Censored] = {
        _named(cell.keys, keys): _told(edge_of(cell)) for cell in cells_of(frame, joint=joint)
    }
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
    left = len(sides) - rows.groupby(keys, dropna=False).ngroups
    found: list[Target] = []
    for record in rows.to_dict("records"):
        side: Censored = sides[_named(record, keys)]
        at = {name: float(record[name]) for name in keys if name != "variant"}
        # Where the rate is at an edge, its batch is no optimum either.
        batch = Level(float(record["batch"])) if joint and (keep or side == "") else None
        lr = Level(float(record["lr"]), 0.0, side)
        found.append(Target(at, lr, batch, float(record["loss"]), record.get("variant")))
    return found, {"all-diverged": left} if left else {}


def _named(record: Mapping[Any, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """A cell's values, missing ones as None: nan differs from itself."""
    return tuple(None if record[name] != record[name] else record[name] for name in keys)


def _told(edge: Edge) -> Censored:
    return edge.lr if math.isfinite(edge.bound) else ""
