"""Where runs begin to diverge: per curve, between the largest stable rate and the smallest that diverged above it.

The edge of a curve is as likely anywhere between the two rates, in ln lr, as anywhere else there: its middle stands for
it with variance h^2 / 12, h the distance.  A curve without a diverged rate has its edge above its largest rate, one
whose lowest rate diverged below that: bounds, as for optima (`analysis.power.censor`).  Curves that saw no edge are
thus no reason to think it low.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.runs.node import Cell, cells_of
from analysis.runs.optima import Optima
from analysis.target import Level, Target, Targets

CURVE = "curve"  # the number of a row's curve: edges of one size are as far apart as any


def boundary(frame: pd.DataFrame, optima: Optima, *, along: bool) -> Targets:
    """A row for every curve of a table: its place, and the rate above which runs diverge.

    Args:
        frame: runs in canonical columns (`analysis.runs.node.frame_of`).
        optima: of the same runs, over rates or over rates and batches.
        along: of rates and batches: only the curve nearest to each cell's best batch, without its batch, for a law that
            knows no batch.
    """
    curves = cells_of(frame, joint=False)
    if along:
        best = {_key(cell.at): cell.batch.value for cell in optima.cells if cell.batch is not None}
        curves = [curve for curve in curves if _key(curve.keys) in best]
        nearest: dict[tuple[float, float], Cell] = {}
        for curve in curves:
            key = _key(curve.keys)
            if key not in nearest or _away(curve, best[key]) < _away(nearest[key], best[key]):
                nearest[key] = curve
        curves = list(nearest.values())
    names = ("params", "tokens") if along else ("params", "tokens", "batch")
    rows = []
    for number, curve in enumerate(curves):
        at = {name: float(curve.keys[name]) for name in names if name in curve.keys}
        rows.append(Target(at | {CURVE: float(number)}, edge(curve)))
    return Targets(tuple(rows), edges="censor")


def edge(curve: Cell) -> Level | None:
    """The rate above which the runs of a curve diverge, or a bound of it; None without a rate."""
    lr_P = curve.lr_P[curve.diverged_P | ~np.isnan(curve.loss_P)]
    lost_P = curve.lr_P[curve.diverged_P]
    if len(lr_P) == 0:
        return None
    if len(lost_P) == 0:
        return Level(float(lr_P.max()), math.nan, "high")
    high = float(lost_P.min())
    below_P = lr_P[lr_P < high]
    if len(below_P) == 0:
        return Level(high, math.nan, "low")
    low = float(below_P.max())
    return Level(math.sqrt(low * high), math.log(high / low) ** 2 / 12)


def _key(at: Mapping[str, float]) -> tuple[float, float]:
    return float(at["params"]), float(at["tokens"])


def _away(curve: Cell, batch: float) -> float:
    return abs(math.log(float(curve.keys["batch"]) / batch))
