"""Transfer: the slope of the log optimum along an axis with an equivalence verdict, and the regret of a small rate.

The slope s is that of `log2 lr* = c + s log2(size / size_0)` over the cells with an interior optimum, by least squares
with weights 1/sd^2.  A cell's sd, in octaves, is half the length of its 95 % interval (both sides averaged) over 1.96;
it holds seed noise, misfit and the grid's bias.  The cells' errors are taken as independent; a bias that all cells
share moves c and leaves s.

The interval is at 90 %: inside the bounds of equivalence it is a two one-sided test at 5 % (Schuirmann 1987).  Its
quantile is the normal one while the residuals scatter as the errors say.  Where they scatter more, the Birge ratio
`B = sqrt(chi^2 / (n - 2))` being above 1 (Birge 1932), the standard error is multiplied by B and the quantile is
Student's t with n - 2 degrees of freedom; the note of the transfer says so.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special, stats

from analysis.drift import Cell, lines, named, others
from analysis.noise import Noise
from analysis.regret import Carried, Regret, carried, regrets
from analysis.results import axis_label

Verdict = Literal["transfers", "moves", "undecided"]

# Bounds of the verdict, octaves of rate per doubling of size: at 0.1 the optimum moves by half an octave over five
# doublings, at 0.5 (a square-root rule) by a whole one over two.
TRANSFERS = 0.1
MOVES = 0.5
POWER = 0.8  # how often the seeds that an open verdict asks for are to decide it
LEAST_SIZES = 3
_MOST_SEEDS = 1_000_000
_TAIL = 0.95  # one-sided level of each end of the interval
_LEVELS = (np.arange(50) + 0.5) / 50


@dataclass(frozen=True)
class Line:
    """A fitted line: `slope` in octaves per doubling with its 90 % interval, `log2_lr` at the smallest size.

    `quantile` names the distribution of the interval, `birge` is the ratio that scaled the standard error if above 1.
    """

    slope: float
    low: float
    high: float
    log2_lr: float
    birge: float
    quantile: str


@dataclass(frozen=True)
class Transfer:
    """What the cells along an axis say about carrying a rate from the smallest size to larger ones.

    `group` holds the values of the other cell axes.  `line` and `verdict` are None for two sizes; `line` is None where
    fewer than three cells have an interior optimum.  `left_out` names the cells without one by (size, quality).
    `seeds_needed` is the number of seeds per rate at which 80 % of sweeps with the estimated slope decide, None where
    this one does or seeds cannot.  `carried` is the verdict by regret, None where no noise was given.
    """

    group: dict[str, Any]
    parametrization: str
    axis: str
    sizes: tuple[Any, ...]
    line: Line | None
    verdict: Verdict | None
    note: str
    seeds_needed: int | None
    used: int
    left_out: tuple[tuple[Any, str], ...]
    regrets: tuple[Regret, ...]
    carried: Carried | None = None


def transfers(cells: Sequence[Cell], noise: Noise | None = None) -> list[Transfer]:
    """The transfer along every numeric cell axis, for each combination of the others; by regret too, with a noise."""
    return [
        dataclasses.replace(_transfer(axis, members), carried=carried(members, axis, noise) if noise else None)
        for axis, members in lines(cells)
    ]


def fit_line(x: np.ndarray, y: np.ndarray, sd: np.ndarray) -> Line:
    """Weighted least squares of `y = c + s x` with standard deviations `sd`, three points or more; see the module."""
    centre, error = _error(x, sd)
    slope = float((x - centre) / sd**2 @ y) * error**2
    level = float(np.average(y, weights=sd**-2.0))
    freedom = len(x) - 2
    residuals = (y - level - slope * (x - centre)) / sd
    birge = math.sqrt(float(residuals @ residuals) / freedom)
    half = _half_width(error, birge, freedom)
    quantile = "normal" if birge <= 1 else f"Student's t (df {freedom})"
    return Line(slope, slope - half, slope + half, level - slope * centre, birge, quantile)


def judge(low: float, high: float) -> Verdict:
    """`transfers` where the interval lies within +-0.1, `moves` where it lies beyond -0.5 or +0.5, else `undecided`."""
    if -TRANSFERS <= low and high <= TRANSFERS:
        return "transfers"
    return "moves" if high < -MOVES or low > MOVES else "undecided"


def transfer_json(found: Transfer) -> dict[str, Any]:
    """A transfer as plain data."""
    line = found.line
    return {
        "parametrization": found.parametrization,
        **named(found.group),
        "axis": axis_label(found.axis),
        "slope": line.slope if line else None,
        "low": line.low if line else None,
        "high": line.high if line else None,
        "verdict": found.verdict,
        "note": found.note,
        "seeds_needed": found.seeds_needed,
        "cells": found.used,
        "left_out": [{"size": size, "quality": quality} for size, quality in found.left_out],
        "birge": line.birge if line else None,
        "quantile": line.quantile if line else None,
        "regret": [dataclasses.asdict(regret) for regret in found.regrets],
        "by_regret": _carried_json(found.carried) if found.carried else None,
    }


def _carried_json(found: Carried) -> dict[str, Any]:
    """Bounds in per cent; None too where they are infinite, since runs at the rate diverged."""
    finite = [(size, *(None if v is None or math.isinf(v) else v for v in ends)) for size, *ends in found.bounds]
    return {
        "verdict": found.verdict,
        "sentence": found.sentence,
        "lr": found.lr,
        "bounds": [{"size": size, "low": low, "high": high} for size, low, high in finite],
    }


def _transfer(axis: str, members: Sequence[Cell]) -> Transfer:
    sizes = tuple(cell.values[axis] for cell in members)
    used = [cell for cell in members if cell.optimum.quality == "interior"]
    left_out = tuple(
        (cell.values[axis], cell.optimum.quality) for cell in members if cell.optimum.quality != "interior"
    )
    line, verdict, seeds, notes = None, None, None, []
    if len(sizes) < LEAST_SIZES:
        notes.append("two sizes: a slope needs three")
    elif sizes[0] <= 0:
        notes.append("no slope: the axis has sizes that are not positive")
    elif len(used) < LEAST_SIZES:
        verdict = "undecided"
        notes.append(f"{len(used)} of {len(sizes)} cells have an interior optimum: a slope needs three")
    else:
        x = np.log2([cell.values[axis] / sizes[0] for cell in used])
        noise, floor, n = _errors(used)
        line = fit_line(x, _log2_lr(used), np.hypot(noise, floor))
        verdict = judge(line.low, line.high)
        if verdict == "undecided":
            seeds, why = _wanted(line, x, noise * np.sqrt(n), floor)
            notes.append(why)
        if line.birge > 1:
            notes.append(f"Birge ratio {line.birge:.2f}: standard error times it, {line.quantile}")
    if left_out:
        notes.append("left out: " + ", ".join(f"{axis_label(axis)} {size} ({quality})" for size, quality in left_out))
    return Transfer(
        group=others(members[0], axis),
        parametrization=members[0].parametrization,
        axis=axis,
        sizes=sizes,
        line=line,
        verdict=verdict,
        note="; ".join(notes),
        seeds_needed=seeds,
        used=len(used),
        left_out=left_out,
        regrets=tuple(regrets(members, axis)),
    )


def _wanted(line: Line, x: np.ndarray, noise: np.ndarray, floor: np.ndarray) -> tuple[int | None, str]:
    """(seeds per rate, in words) that would decide; `noise` is each cell's part for one seed, in octaves.

    A cell's variance at n seeds is `noise^2 / n + floor^2`.  The half-width of the interval has to fit between the
    estimate and the nearest bound on whose right side it is, with room for the next estimate: where the half-width
    only just fits, hardly a sweep with a slope of 0 is found within the bounds.  So n is what `_power` asks for.
    """
    size = abs(line.slope)
    if TRANSFERS <= size <= MOVES:
        return None, f"the estimate lies between the bounds {TRANSFERS:g} and {MOVES:g}: more seeds would not decide"

    def decides(seeds: int) -> bool:
        return _power(line, x, noise / math.sqrt(seeds), floor) >= POWER

    if not decides(_MOST_SEEDS):
        half = _half_width(_error(x, floor)[1], line.birge, len(x) - 2)
        room = TRANSFERS - size if size < TRANSFERS else size - MOVES
        return None, (
            f"seeds cannot decide: without seed noise the interval would be +-{half:.2f} and must be below "
            f"+-{room:.2f}; a finer grid of rates is needed"
        )
    low, high = 0, _MOST_SEEDS  # too few at low (0 stands for none), enough at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high, f"{high} seeds per rate would decide in {POWER:.0%} of sweeps with this slope"


def _power(line: Line, x: np.ndarray, noise: np.ndarray, floor: np.ndarray) -> float:
    """How often a sweep whose true slope is the estimate decides.

    Between sweeps on one grid the noise varies and the floor does not.  A Birge ratio above 1 is taken to stay; one
    below it is drawn anew, as it too can lengthen the next interval.
    """
    sd, freedom = np.hypot(noise, floor), len(x) - 2
    centre, error = _error(x, sd)
    spread = max(error**2 * float(np.linalg.norm((x - centre) / sd**2 * noise)) * max(1.0, line.birge), 1e-12)
    ratios = np.sqrt(np.mean((noise / sd) ** 2) * stats.chi2.ppf(_LEVELS, freedom) / freedom)
    ratios = [line.birge] if line.birge > 1 else ratios.tolist()
    half, size = np.array([_half_width(error, ratio, freedom) for ratio in ratios]), abs(line.slope)
    if size > MOVES:
        return float(stats.norm.cdf((size - half - MOVES) / spread).mean())
    below, above = (stats.norm.cdf((end - size) / spread) for end in (half - TRANSFERS, TRANSFERS - half))
    return float(np.maximum(0, above - below).mean())


def _log2_lr(cells: Sequence[Cell]) -> np.ndarray:
    return np.log2([cell.optimum.lr or math.nan for cell in cells])


def _errors(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(noise, floor, seeds) of interior cells: the parts of their standard deviations in octaves."""
    found = [(cell.optimum.noise_sd, cell.optimum.floor_sd, cell.optimum.seeds) for cell in cells]
    noise, floor, seeds = np.array(found, dtype=float).T
    return noise, floor, seeds


def _error(x: np.ndarray, sd: np.ndarray) -> tuple[float, float]:
    """(weighted mean of x, standard error of the slope `1 / sqrt(sum((x - mean)^2 / sd^2))`)."""
    centre = float(np.average(x, weights=sd**-2.0))
    return centre, float(np.sum(((x - centre) / sd) ** 2)) ** -0.5


def _half_width(error: float, birge: float, freedom: int) -> float:
    """Of the slope's interval, from its standard error by the errors of the cells; see the module."""
    if birge <= 1:
        return float(special.ndtri(_TAIL)) * error
    return float(special.stdtrit(freedom, _TAIL)) * error * birge
