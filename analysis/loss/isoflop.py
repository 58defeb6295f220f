"""Iso-FLOP curves: a parabola per budget and a line through the optima, and what is wrong with them.

"Approach 2" of Hoffmann et al. (arXiv 2203.15556, section 3.2): at each budget C = 6 N D fit a parabola to the loss in
log10 D, and then `log10 D* = slope log10 C + intercept` by least squares.  Unless alpha = beta, the loss rises faster
on one side of its optimum, so that D* is biased even without noise: by -5 % for curves that span a factor of 16 to each
side at Chinchilla's exponents, by -23 % at others (arXiv 2603.22339).  The slope is right where all curves span the
same factor around their optimum.  `analysis.loss.fit` fits the same runs without that bias; the difference of the two
says how far to trust the parabolas.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lab.check import require

SAME = 0.005  # budgets whose log10 differ by less are one budget


@dataclass(frozen=True)
class IsoFlop:
    """`log10 D* = slope log10 C + intercept`, and the optima: `flops`, `tokens`, `params`, `loss`, `interior`."""

    slope: float
    intercept: float
    optima: pd.DataFrame


def isoflop(frame: pd.DataFrame, per_token: float = 6.0) -> IsoFlop:
    """The line through the parabolas' optima of runs with `params`, `tokens` and `loss`, budgets being `per_token` N D.

    Curves that open downwards or whose vertex lies outside their tokens are listed as not interior, and not used.

    Raises:
        InputError: for missing columns, or fewer than two budgets with an interior optimum.
    """
    for name in ("params", "tokens", "loss"):
        require(
            name in frame.columns, f"column {name} is missing: the columns are {', '.join(map(str, frame.columns))}"
        )
    values = frame[["params", "tokens", "loss"]].to_numpy(float)
    values = values[np.isfinite(values).all(axis=1) & (np.nan_to_num(values) > 0).all(axis=1)]
    flops = np.log10(per_token * values[:, 0] * values[:, 1])
    order = np.argsort(flops, kind="stable")
    starts = np.flatnonzero(np.diff(flops[order]) > SAME) + 1
    curves = [part for part in np.split(order, starts) if len(part) >= 3]
    rows = [_optimum(np.log10(values[part, 1]), values[part, 2], flops[part], per_token) for part in curves]
    optima = pd.DataFrame(rows, columns=["flops", "tokens", "params", "loss", "interior"])
    used = optima[optima["interior"]]
    require(len(used) > 1, f"{len(used)} budgets have an optimum inside their runs: two make a line, so give more runs")
    x, y = np.log10(used["flops"].to_numpy(float)), np.log10(used["tokens"].to_numpy(float))
    slope = float((x - x.mean()) @ (y - y.mean()) / ((x - x.mean()) @ (x - x.mean())))
    return IsoFlop(slope, float(y.mean() - slope * x.mean()), optima)


def _optimum(
    x: np.ndarray, y: np.ndarray, flops: np.ndarray, per_token: float
) -> tuple[float, float, float, float, bool]:
    """(budget, D*, N*, loss, whether it lies inside) of one curve of losses y over x = log10 D."""
    budget = float(10 ** flops.mean())
    centre = x.mean()
    level, tilt, bend = np.polynomial.polynomial.polyfit(x - centre, y, 2)
    if bend <= 0:
        return budget, np.nan, np.nan, np.nan, False
    vertex = -tilt / (2 * bend)
    tokens = float(10 ** (vertex + centre))
    inside = bool(x.min() < vertex + centre < x.max())
    return budget, tokens, budget / per_token / tokens, float(level + tilt * vertex / 2), inside
