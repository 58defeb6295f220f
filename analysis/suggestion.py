"""Which runs to make next: what a cell lacks for an optimum, and which new cell narrows a prediction most per FLOP.

A cell whose best rate is on the edge of its grid needs the next rates beyond it; one with an optimum and few rates
around it, the rates half a step on either side.  Both come from `analysis.optimum`.

A new cell at x (the law's regressors, centred logs, with a constant) adds one observation of ln lr* with variance
s^2 = within^2 + the usual error of a cell (+ between^2 of a new size), so the covariance V of the law's coefficients
becomes

    V' = V - V x x' V / (s^2 + x' V x),

and the predictive variance at the target t, t' V t + between^2 + within^2, shrinks to the same with V'.  The gain is
the share by which the standard deviation falls; candidates are ordered by gain per FLOP (one step of optimal design,
Fedorov 1972, chapter 2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.drift import Cell
from analysis.power_law import PowerLaw

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


def gains(law: PowerLaw, places: Sequence[Place], target: Mapping[str, float], error: float) -> list[float]:
    """The gain of each place; `error` is the variance of ln lr* that a cell's own noise has.

    Places beyond the data that bound no prediction have a gain of 0.
    """
    if not law.nodes:
        return [0.0] * len(places)
    weight_K = np.array([node.weight for node in law.nodes])
    covariance_PP = np.einsum("k,kpq->pq", weight_K, np.array([node.covariance for node in law.nodes]))
    goal_P = _row(law, target)
    rest = law.between**2 + law.within**2
    before = float(goal_P @ covariance_PP @ goal_P) + rest
    found = []
    for place in places:
        x_P = _row(law, place.at)
        noise = error + law.within**2 + (law.between**2 if place.new_size else 0.0)
        moved_P = covariance_PP @ x_P
        after = before - float(moved_P @ goal_P) ** 2 / (noise + float(x_P @ moved_P))
        found.append(1 - math.sqrt(max(after, 0.0) / before) if before > 0 else 0.0)
    return found


def ranked(
    law: PowerLaw, places: Sequence[Place], target: Mapping[str, float], error: float, grid: Sequence[float]
) -> list[Suggestion]:
    """New cells by gain per FLOP, the best first; `grid` are the rates to run as ratios to the law's rate there."""
    found = []
    for place, gain in zip(places, gains(law, places, target, error), strict=True):
        middle = law.predict(place.at).value
        rates = tuple(middle * ratio for ratio in grid)
        reason = f"narrows the prediction at the target by {gain:.1%} for {place.flops:.3g} FLOPs"
        found.append(Suggestion(place.values, rates, reason, gain, place.flops))
    return sorted(found, key=lambda one: -(one.gain or 0.0) / (one.flops or math.inf))


def _row(law: PowerLaw, at: Mapping[str, float]) -> np.ndarray:
    return np.array([1.0, *(math.log(at[n]) - m for n, m in zip(law.regressors, law.centre, strict=True))])
