"""Which runs to make next: what a cell lacks for an optimum, and which new cell narrows a prediction most per FLOP.

A cell whose best rate is on the edge of its grid needs the next rates beyond it; one with an optimum and few rates
around it, the rates half a step on either side.  Both come from `analysis.optimum`.

A new cell at x (the law's regressors, centred logs, with a constant) adds one observation of ln lr* with variance
s^2 = within^2 + the usual error of a cell (+ between^2 of a new size), so the covariance V of the law's coefficients
becomes

    V' = V - V x x' V / (s^2 + x' V x),

and the predictive variance at the target t, t' V t + between^2 + within^2, shrinks to the same with V'.  The gain is
the share by which the standard deviation falls; cells are taken one after another by gain per FLOP (sequential optimal
design, Fedorov 1972, chapter 4).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.drift import Cell
from analysis.power.law import PowerLaw

ENOUGH = 5  # rates in a window that need no more


@dataclass(frozen=True)
class Place:
    """A cell that could be run: its values on the sweep's axes, the law's regressors there, and the FLOPs of its runs.

    `new_size` says whether the law has seen its size.
    """

    values: Mapping[str, Any]
    at: Mapping[str, float]
    flops: float
    new_size: bool


@dataclass(frozen=True)
class Suggestion:
    """Rates to run in a cell, why, and for a new cell by which share the prediction's deviation at the target falls."""

    values: Mapping[str, Any]
    rates: tuple[float, ...]
    reason: str
    gain: float | None = None
    flops: float | None = None


def repairs(cells: Sequence[Cell]) -> list[Suggestion]:
    """What the cells that exist lack for an optimum, the worst first."""
    words = {
        "edge-low": "the optimum lies below the lowest rate",
        "edge-high": "the optimum lies above the highest rate",
        "flat": "no curvature shows: a wider grid",
        "too-few": "too few finite rates for an optimum",
    }
    found = [
        Suggestion(cell.values, cell.optimum.next_rates, words[cell.optimum.quality])
        for cell in cells
        if cell.optimum.quality in words and cell.optimum.next_rates and not cell.pending
    ]
    found += [
        Suggestion(cell.values, cell.optimum.next_rates, "few rates around the optimum: half a step on either side")
        for cell in cells
        if cell.optimum.quality == "interior" and cell.optimum.points < ENOUGH and not cell.pending
    ]
    return found


def chosen(
    law: PowerLaw,
    places: Sequence[Place],
    target: Mapping[str, float],
    *,
    count: int,
    error: float,
    grid: Sequence[float],
) -> list[Suggestion]:
    """Up to `count` new cells, one after another, each the best per FLOP given those before it.

    Args:
        error: variance of ln lr* that a cell's own noise has.
        grid: the rates to run, as ratios to the law's rate in the cell.

    A law whose runs bound no prediction has no gains: the cheapest new sizes come first.
    """
    if not law.nodes:
        cheapest = sorted(places, key=lambda place: (not place.new_size, place.flops))
        return [_suggested(law, place, None, grid) for place in cheapest[:count]]
    weight_K = np.array([node.weight for node in law.nodes])
    covariance_PP = np.einsum("k,kpq->pq", weight_K, np.array([node.covariance for node in law.nodes]))
    goal_P, left, found = law.row(target), list(places), []
    rest = law.between**2 + law.within**2
    while left and len(found) < count:
        before = float(goal_P @ covariance_PP @ goal_P) + rest
        gains = []
        for place in left:
            moved_P, variance = _observed(law, covariance_PP, place, error)
            after = before - float(moved_P @ goal_P) ** 2 / variance
            gains.append(1 - math.sqrt(max(after, 0.0) / before) if before > 0 else 0.0)
        best = max(range(len(left)), key=lambda number: gains[number] / left[number].flops)
        moved_P, variance = _observed(law, covariance_PP, left[best], error)
        covariance_PP = covariance_PP - np.outer(moved_P, moved_P) / variance
        found.append(_suggested(law, left.pop(best), gains[best], grid))
    return found


def _observed(law: PowerLaw, covariance_PP: np.ndarray, place: Place, error: float) -> tuple[np.ndarray, float]:
    """(V x, s^2 + x' V x) of a cell that would be run."""
    x_P = law.row(place.at)
    noise = error + law.within**2 + (law.between**2 if place.new_size else 0.0)
    moved_P = covariance_PP @ x_P
    return moved_P, noise + float(x_P @ moved_P)


def _suggested(law: PowerLaw, place: Place, gain: float | None, grid: Sequence[float]) -> Suggestion:
    middle = law.predict(place.at).value
    told = "a size that the law lacks" if gain is None else f"narrows the prediction at the target by {gain:.1%}"
    reason = f"{told}, for {place.flops:.3g} FLOPs"
    return Suggestion(place.values, tuple(middle * ratio for ratio in grid), reason, gain, place.flops)
