"""Which runs to make next: what a cell lacks for an optimum, and which new cell narrows a prediction most per FLOP.

A cell whose best rate is on the edge of its grid needs the next rates beyond it; one with an optimum and few rates
around it, the rates half a step on either side.  Both come from `analysis.optimum`.

A new cell adds one observation of ln lr*, and every node of the law's posterior is updated and weighed anew
(`analysis.power.belief`).  The gain is the share by which the width of the prediction interval at the target falls, the
one that `lrlab predict` prints, averaged over what the cell may turn out to be.  Cells are taken one after another by
gain per FLOP (sequential optimal design, Fedorov 1972, chapter 4); within a budget also by gain alone, and the list
that narrows more is told, since many cheap cells can be worth less than the one that they leave no room for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.drift import Cell
from analysis.power import belief
from analysis.power.fit import Solved

ENOUGH = 5  # rates in a window that need no more
SCENARIOS = 64  # of what cells turn out to be


@dataclass(frozen=True)
class Place:
    """A cell that could be run: its values on the sweep's axes, the law's regressors there, its size (N), and the FLOPs
    of its runs."""

    values: Mapping[str, Any]
    at: Mapping[str, float]
    size: float
    flops: float


@dataclass(frozen=True)
class Suggestion:
    """Rates to run in a cell, why, and for a new cell by which share the prediction interval at the target narrows."""

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
        "flat": "the noise hides one side of the valley: more seeds, or rates beyond it",
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
    solved: Solved,
    places: Sequence[Place],
    target: Mapping[str, float],
    *,
    count: int,
    error: float,
    grid: Sequence[float],
    budget: float | None = None,
) -> list[Suggestion]:
    """Up to `count` new cells, one after another, each the best given those before it.

    Args:
        solved: what the law is made of (`analysis.power.fit.solve`).
        error: variance of ln lr* that a cell's own noise has.
        grid: the rates to run, as ratios to the law's rate in the cell.
        budget: FLOPs of all cells together; None for any.

    A law whose runs bound no prediction has no gains: the cheapest new sizes come first.
    """
    if not solved.bounded:
        return [_suggested(solved, place, None, grid) for place in _cheapest(solved, places, count, budget)]
    ways = (True, False) if budget is not None else (True,)
    found = [_taken(solved, places, target, count, error, budget, per_flop) for per_flop in ways]
    best = min(found, key=lambda one: one[1])[0]
    return [_suggested(solved, place, gain, grid) for place, gain in best]


def _cheapest(solved: Solved, places: Sequence[Place], count: int, budget: float | None) -> list[Place]:
    found: list[Place] = []
    for place in sorted(places, key=lambda place: (place.size in solved.sizes, place.flops)):
        spent = sum(one.flops for one in found)
        if len(found) < count and (budget is None or spent + place.flops <= budget):
            found.append(place)
    return found


def _taken(
    solved: Solved,
    places: Sequence[Place],
    target: Mapping[str, float],
    count: int,
    error: float,
    budget: float | None,
    per_flop: bool,
) -> tuple[list[tuple[Place, float]], float]:
    """(places with their gains, the width that they leave), greedily by gain per FLOP or by gain."""
    now, goal_P, left = belief.begin(solved, SCENARIOS), solved.row(target), list(places)
    found: list[tuple[Place, float]] = []
    before = belief.width(now, goal_P)
    while left and len(found) < count:
        spent = sum(place.flops for place, _ in found)
        left = [place for place in left if budget is None or spent + place.flops <= budget]
        # The same draws for every place, so that chance does not choose among them.
        tried = [belief.after(now, solved.row(place.at), place.size, error, len(found)) for place in left]
        widths = [belief.width(one, goal_P) for one in tried]
        gains = [1 - width / before for width in widths]
        if not left:
            break
        worth = [gain / place.flops if per_flop else gain for gain, place in zip(gains, left, strict=True)]
        best = int(np.argmax(worth))
        found.append((left.pop(best), gains[best]))
        now, before = tried[best], widths[best]
    return found, before


def together(gains: Sequence[float]) -> float:
    """What gains that come one after another amount to."""
    return 1 - float(np.prod([1 - gain for gain in gains]))


def _suggested(solved: Solved, place: Place, gain: float | None, grid: Sequence[float]) -> Suggestion:
    middle = float(np.exp(solved.row(place.at) @ solved.coefficients_P))
    told = "a size that the law lacks"
    if gain is not None:
        told = f"narrows the prediction interval at the target by {max(gain, 0.0):.1%}"
    reason = f"{told}, for {place.flops:.3g} FLOPs"
    return Suggestion(place.values, tuple(middle * ratio for ratio in grid), reason, gain, place.flops)
