"""Regret: what a size loses by training at the rate that is best at the smallest size.

The regret is the loss at that rate above the cell's fitted minimum, relative to it.  Inside the window of the fit the
loss is the parabola's, elsewhere a monotone cubic through the measured means in log2 rate (Fritsch and Carlson 1980);
it is never extrapolated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from analysis.drift import Cell
from analysis.optimum import Optimum


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
    close = 1e-9  # octaves: a rate of the grid is itself, whatever the last digit of its logarithm
    if not len(x) or at < x[0] - close:
        return None, "below the grid"
    if at > x[-1] + close:
        return None, "above the grid"
    at = min(max(at, x[0]), x[-1])
    near = np.abs(x - at) <= close
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


def _minimum(found: Optimum) -> float | None:
    """The fitted minimum; `loss` of a cell without an interior optimum is its best run's, which is none."""
    return found.loss if found.quality == "interior" else None
