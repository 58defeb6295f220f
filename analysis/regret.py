"""Regret: what a size loses by training at the rate that is best at the smallest size.

The regret is the loss at that rate above the cell's fitted minimum, relative to it.  Inside the window of the fit the
loss is the parabola's, elsewhere a monotone cubic through the measured means in log2 rate (Fritsch and Carlson 1980);
it is never extrapolated.

Its bounds at 95 %, each one-sided, take the noise and the unknown shape between the rates into account: the regret of
every draw of `analysis.spline` at the rate, above that draw's lowest value within two octaves of the best run; the
bounds are the draws' 5 and 95 % quantiles.  The lower one is never above what the measured rates around it say: beyond
two rates on the same side of the minimum a curve is no lower than the line through them.  A cell whose best run is at
an end of its rates has no upper bound, since its minimum may lie beyond.

The verdict on carrying the rate to the larger sizes is `keeps` where the upper bound of each of them is at most 1 % of
the loss, `loses` where a lower bound is above it, else `undecided`.  The bounds are of the very rate that is carried,
whatever the error of the smallest size's optimum; where that is flat, its best run's rate is carried.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special
from scipy.interpolate import PchipInterpolator

from analysis.drift import Cell
from analysis.noise import Noise
from analysis.optimum import Optimum
from analysis.results import axis_label
from analysis.spline import drawn

Kept = Literal["keeps", "loses", "undecided"]

KEEPS = 1.0  # per cent of the loss: what a rate that keeps may cost at a larger size
TAIL = 0.05
REACH = 2.0  # octaves from the best run within which a draw's minimum is looked for
SPAN = 0.1  # of the lowest loss, or eight standard deviations: points above it are left out, but for two on either side
SIDE = 2
STEPS = 33
_CLOSE = 1e-9  # octaves: a rate of the grid is itself, whatever the last digit of its logarithm


@dataclass(frozen=True)
class Carried:
    """A rate carried from the smallest size to the larger ones: per size the bounds of its regret, and the verdict.

    `bounds` holds (size, low, high) in per cent of the loss; None where there is none to give.  `sentence` says the
    verdict with the bound that it rests on.
    """

    lr: float | None
    bounds: tuple[tuple[Any, float | None, float | None], ...]
    verdict: Kept
    sentence: str


@dataclass(frozen=True)
class Regret:
    """The loss of a cell at the rate `lr`, in nats per token, and by how much it exceeds the cell's fitted minimum.

    `percent` is `100 (loss / optimum_loss - 1)`, `nats` the difference.  None where there is nothing to give; `note`
    says how the loss was found, or why it was not.
    """

    size: Any
    lr: float | None
    loss: float | None
    optimum_loss: float | None
    percent: float | None
    nats: float | None
    note: str


def regrets(cells: Sequence[Cell], axis: str) -> list[Regret]:
    """The regret at each of the cells, which stand in the order of the axis, of the rate that is best at the first."""
    first = cells[0].optimum
    if first.lr is None:
        why = f"the smallest size is {first.quality}"
        return [Regret(cell.values[axis], None, None, _minimum(cell.optimum), None, None, why) for cell in cells]
    return [_regret(cell, axis, first.lr) for cell in cells]


def carried(cells: Sequence[Cell], axis: str, noise: Noise) -> Carried:
    """The verdict by regret on the rate of the first of the cells, which stand in the order of the axis."""
    first = cells[0].optimum
    lr = first.lr or (first.best_lr if first.quality == "flat" else None)
    if lr is None:
        sentence = f"undecided: {axis_label(axis)} {cells[0].values[axis]} gives no rate to carry ({first.quality})"
        return Carried(None, (), "undecided", sentence)
    found = tuple((cell.values[axis], *regret_bounds(cell, lr, noise)) for cell in cells[1:])
    lows = [(low, size) for size, low, _ in found if low is not None]
    highs = [(high, size) for size, _, high in found if high is not None]
    name = axis_label(axis)
    if lows and max(lows)[0] > KEEPS:
        low, size = max(lows)
        what = "runs at its rate diverged" if low == math.inf else f"at least {_percent(low)}"
        return Carried(lr, found, "loses", f"loses: {what} at {name} {size}, 95 %")
    if len(highs) < len(found):
        beyond = ", ".join(str(size) for size, _, high in found if high is None)
        return Carried(lr, found, "undecided", f"undecided: {name} {beyond} gives no bound: take more rates there")
    high, size = max(highs)
    if high <= KEEPS:
        return Carried(lr, found, "keeps", f"keeps: at most {_percent(high)} at {name} {size}, 95 %")
    told = f"undecided: at most {_percent(high)} at {name} {size}, 95 %, which is more than {KEEPS:g} %"
    return Carried(lr, found, "undecided", told)


def regret_bounds(cell: Cell, lr: float, noise: Noise) -> tuple[float | None, float | None]:
    """(low, high) of the regret of a rate in per cent, one-sided 95 % each; see the module.

    Where every run at the rate or below it diverged in fact, both are infinite.
    """
    table = cell.points
    x, y = np.log2(table["lr"].to_numpy(float)), table["loss"].to_numpy(float)
    at, finite = math.log2(lr), np.isfinite(y)
    if not finite.any():
        return None, None
    sd = noise.at(float(np.nanmin(y))) / np.sqrt(np.maximum(table["seeds"].to_numpy(float), 1))
    best = int(np.nanargmin(y))
    lost = x[best:][~finite[best:]]
    if len(lost) and at >= lost[0] - _CLOSE:
        return math.inf, math.inf
    if len(lost) and at > x[finite][-1] + _CLOSE:
        return None, None
    x, y, sd = x[finite], y[finite], sd[finite]
    if len(x) < 3 or not x[0] - _CLOSE <= at <= x[-1] + _CLOSE:
        return None, None
    at = min(max(at, x[0]), x[-1])
    best = int(y.argmin())
    right = min(max(1, int(np.searchsorted(x, at))), len(x) - 1)
    left, end = _near(y, sd[best], best)
    left, end = min(left, right - 1), max(end, right + 1)
    grid = np.linspace(max(x[left], x[best] - REACH), min(x[end - 1], x[best] + REACH), STEPS)
    draws = drawn(x[left:end], y[left:end], sd[left:end], np.append(grid, at))
    regret = 100 * (draws[-1] / draws.min(axis=0) - 1)
    low, high = (float(value) for value in np.quantile(regret, [TAIL, 1 - TAIL]))
    low = min(low, 100 * max(0.0, _least(x, y, sd, at) / float(y[best]) - 1))
    return low, high if 0 < best < len(x) - 1 else None


def _least(x: np.ndarray, y: np.ndarray, sd: np.ndarray, at: float) -> float:
    """What the loss at a rate is at least, less its noise at 95 %: by the nearest two rates towards the lowest one.

    0 where there are not two: between the lowest one and its neighbours the minimum may lie anywhere.
    """
    best, z = int(y.argmin()), -float(special.ndtri(TAIL))
    side = 1 if at > x[best] else -1
    i = int(np.searchsorted(x, at + _CLOSE)) - 1 if side > 0 else int(np.searchsorted(x, at - _CLOSE))
    if abs(x[i] - at) <= _CLOSE:
        return float(y[i] - z * math.hypot(sd[i], sd[best])) if i != best else 0.0
    if i == best:
        return 0.0
    beyond = (at - x[i]) / (x[i] - x[i - side])
    noise = math.sqrt(((1 + beyond) * sd[i]) ** 2 + (beyond * sd[i - side]) ** 2 + sd[best] ** 2)
    return float(y[i] + max(0.0, beyond * (y[i] - y[i - side])) - z * noise)


def loss_at(cell: Cell, lr: float) -> tuple[float | None, str]:
    """(loss of a cell at a rate, how it was found); None outside the measured rates and next to diverged runs.

    A mean whose runs are all finite counts, also where it is judged diverged for being high: it is what a person who
    took the rate would get.
    """
    found = cell.optimum
    if found.lr and found.loss and found.curvature and found.window and found.window[0] <= lr <= found.window[1]:
        return found.loss + 0.5 * found.curvature * math.log(lr / found.lr) ** 2, "parabola of the fit"
    x, y = np.log2(cell.points["lr"].to_numpy(float)), cell.points["loss"].to_numpy(float)
    at = math.log2(lr)
    if not len(x) or at < x[0] - _CLOSE:
        return None, "below the grid"
    if at > x[-1] + _CLOSE:
        return None, "above the grid"
    at = min(max(at, x[0]), x[-1])
    near = np.abs(x - at) <= _CLOSE
    if not near.any():
        right = int(np.searchsorted(x, at))
        near[right - 1 : right + 1] = True
    if not np.isfinite(y[near]).all():
        return None, "diverged"
    finite = np.isfinite(y)
    value = float(PchipInterpolator(x[finite], y[finite])(at)) if finite.sum() > 1 else float(y[near][0])
    judged = bool(cell.points["diverged"].to_numpy(bool)[near].any())
    return value, "between measured rates" + (", next to one judged diverged" if judged else "")


def _regret(cell: Cell, axis: str, lr: float) -> Regret:
    size, least = cell.values[axis], _minimum(cell.optimum)
    if least is None:
        return Regret(size, lr, None, None, None, None, f"no interior optimum ({cell.optimum.quality})")
    loss, note = loss_at(cell, lr)
    if loss is None:
        return Regret(size, lr, None, least, None, None, note)
    return Regret(size, lr, loss, least, 100 * (loss / least - 1), loss - least, note)


def _near(y: np.ndarray, sd: float, best: int) -> tuple[int, int]:
    """[left, end) around the lowest point: contiguous and not far above it, two points on either side at least."""
    limit = y[best] + max(SPAN * y[best], 8 * sd)
    left = end = best
    while left > 0 and (y[left - 1] <= limit or best - left < SIDE):
        left -= 1
    while end + 1 < len(y) and (y[end + 1] <= limit or end - best < SIDE):
        end += 1
    return left, end + 1


def _percent(value: float) -> str:
    return f"{value:.2f} %" if value < 10 else f"{value:.0f} %"


def _minimum(found: Optimum) -> float | None:
    """The fitted minimum; `loss` of a cell without an interior optimum is its best run's, which is none."""
    return found.loss if found.quality == "interior" else None
