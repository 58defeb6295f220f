"""The optimum of a cell: a local quadratic in log learning rate, with an interval and a quality label.

Let x = log2 lr and y the loss averaged over seeds, with standard deviations `s / sqrt(seeds)`.  Runs that diverged, in
fact or by their loss, are shown and never fitted.  The window holds the points with `y <= y_min + max(0.02 y_min, 4 s)`
next to the lowest one on both sides, at least three (of interleaved grids, running means over one point of each); there
the vertex of a parabola by least squares is the optimum, if its curvature differs from 0 and the vertex lies inside.

No narrow interval is right on every curve: an asymmetry too small to be seen moves the parabola's vertex by more than
its standard error.  So the interval asks first what the data show.

1. A parabola (d = 2), or a cubic (d = 3), is believed where its residuals are not too large (`MISFIT`) and the next
   coefficient is not seen: below `SEEN` of its standard deviations in a window 1.5 times as high, where a change of
   shape is easier to see; the window itself needs d + 2 points.  The interval is the hull of the vertices of degrees d
   and d + 1 and `z sqrt((m_d sd_d)^2 + (f h)^2)` on either side: sd_d is the standard deviation of the vertex of degree
   d, h the spacing of rates, m_3 = 1.8, f = 0.02, m_2 = 1.5, and 1.25 in windows of five points or fewer, where the
   cubic's vertex alone makes the hull wide.  What is not seen is covered by the hull and m.
2. Elsewhere only what every curve with one valley has in common is believed: the interval is where the minimum of a
   curve can be that falls before it and rises after it (`analysis.unimodal`).
The first is cut to the second where that is narrower.  Coverage on truths that are neither: docs/optimum.md.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.dither import SEEDS, dithered, levelled
from analysis.noise import Z95, Noise
from analysis.unimodal import gaps
from analysis.vertex import fieller, vertex

Quality = Literal["interior", "edge-low", "edge-high", "flat", "too-few"]

SEEN = 1.05
MISFIT = 0.05
WINDOW, WIDE = 0.02, 1.5
FEW = 5  # points of a window
_WIDER = {2: 1.5, 3: 1.8}
_WIDER_OF_FEW = _WIDER | {2: 1.25}
_STEP = 0.02
_BIAS = 0.17


@dataclass(frozen=True)
class Optimum:
    """The minimising learning rate of a cell; None where there is none to give.

    `low` and `high` bound it at 95 % (None: unbounded); `loss` is the fitted minimum, `curvature` k in nats per squared
    natural log, `stable` the largest rate that did not diverge; `next_rates` are worth running next.  `diverged` counts
    rates with a run that became non-finite, `far` those whose runs ended with a loss too high to be fitted.  `noise_sd`
    and `floor_sd`, in octaves, are the two parts of the interval's standard deviation (half of log2(high / low) / 1.96,
    in quadrature): what falls as 1/sqrt(seeds), and what seeds leave as it is.  `degree` is that of the polynomial that
    the interval believes, None where it only believes in one valley.  `window` holds the smallest and the largest rate
    of the fit.  `vertex_sd`, in octaves, is that of the parabola's vertex as a point of a law, None where lr is only
    the best rate that was run: from the noise and the misfit, and 0.17 octave per octave of spacing, by which vertices
    on published curves err whatever their noise.
    """

    lr: float | None
    low: float | None
    high: float | None
    loss: float | None
    quality: Quality
    curvature: float | None
    asymmetry: float | None
    best_lr: float | None
    stable: float | None
    seeds: int
    points: int
    diverged: int
    next_rates: tuple[float, ...]
    noise_sd: float | None = None
    floor_sd: float | None = None
    window: tuple[float, float] | None = None
    far: int = 0
    degree: int | None = None
    vertex_sd: float | None = None


class Believed(NamedTuple):
    """The degree of a polynomial that the data do not contradict, and the interval that it gives, in octaves."""

    degree: int
    low: float
    high: float


class Parabola(NamedTuple):
    """A window's vertex: place and standard deviation in octaves, height, curvature in squared natural logs.

    Where there is none, the lowest run: no curvature and no deviation.
    """

    x: float
    y: float
    curvature: float | None
    sd: float | None


@dataclass(frozen=True)
class Points:
    """A curve's points in the order of their rates: `curve`'s columns as arrays."""

    lr_P: np.ndarray
    loss_P: np.ndarray
    seeds_P: np.ndarray
    grids_P: np.ndarray
    diverged_P: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Points":
        kinds = {"lr": float, "loss": float, "seeds": float, "grids": int, "diverged": bool}
        return cls(*(table[name].to_numpy(kind) for name, kind in kinds.items()))

    @property
    def far(self) -> int:
        """Excluded rates whose runs ended: those with a loss."""
        return int((self.diverged_P & ~np.isnan(self.loss_P)).sum())

    @property
    def fitted(self) -> "Points":
        """Those that have a loss and are not diverged."""
        kept = ~self.diverged_P & ~np.isnan(self.loss_P)
        parts = (self.lr_P, self.loss_P, self.seeds_P, self.grids_P, self.diverged_P)
        return Points(*(part[kept] for part in parts))


def curve(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """A cell's points: one row per learning rate with `lr`, `loss` (mean over seeds), `seeds`, `grids` and `diverged`.

    A point is diverged if any of its runs is not finite, or if its loss, at a rate above the best one, exceeds the
    best by max(0.3, 10 %).  Low rates are undertrained, not diverged, whatever their loss.  Where every seed has rates
    of its own, the seeds' levels are taken out first (`analysis.dither`), and `grids` counts the interleaved grids.
    """
    grids = 1
    if dithered(rows, axis):
        grids = rows[rows["status"] != "pending"].groupby(SEEDS).ngroups
        rows = levelled(rows, axis)[0]
    ended = rows[rows["status"] != "pending"]
    grouped = ended.assign(_lost=ended["status"] == "diverged").groupby(axis)
    points = pd.DataFrame(
        {
            "lr": grouped[axis].first(),
            "loss": grouped["loss"].mean(),
            "seeds": grouped["loss"].count(),
            "grids": grids,
            "diverged": grouped["_lost"].any(),
        }
    ).reset_index(drop=True)
    points = points.astype({"lr": float, "loss": float, "seeds": int, "grids": int, "diverged": bool})
    points.loc[points["diverged"], "loss"] = np.nan
    if points["loss"].notna().any():
        best = int(np.nanargmin(points["loss"].to_numpy(float)))
        limit = divergence_limit(points["loss"].to_numpy(float)[best])
        points["diverged"] |= (points.index > best) & (points["loss"] > limit)
    return points


def divergence_limit(best: np.ndarray | float) -> np.ndarray:
    """The loss above which a run at a higher rate than the best counts as diverged: best + max(0.3, 10 %)."""
    return best + np.maximum(0.3, 0.1 * np.asarray(best))


def find_optimum(points: pd.DataFrame | Points, noise: Noise) -> Optimum:
    """The optimum of one curve (`curve`'s columns)."""
    points = points if isinstance(points, Points) else Points.of(points)
    fitted = points.fitted
    if len(fitted.lr_P) == 0:
        return _without("too-few", points, fitted)
    x, y = np.log2(fitted.lr_P), fitted.loss_P
    best = int(y.argmin())
    if len(x) < 3:
        return _without("too-few", points, fitted)
    if best == 0:
        return _without("edge-low", points, fitted)
    if best == len(x) - 1:
        beyond = points.lr_P > fitted.lr_P[best]
        return _without("too-few" if beyond.any() else "edge-high", points, fitted)
    grids, sd = int(fitted.grids_P[best]), noise.at(float(y[best]))
    left, right = _window(y, best, sd, grids)
    sd_P = sd / np.sqrt(fitted.seeds_P)
    spacing = float(np.median(np.diff(x[left:right]))) * grids
    if not noise.measured:
        sd_P = sd_P * _excess(x[left:right], y[left:right], sd_P[left:right])
    plain = _parabola(x[left:right], y[left:right], sd_P[left:right], spacing)
    low, high = _valley(x, y, sd_P, points)
    wide = _window(y, best, sd, grids, WIDE)
    believed = _believed(x, y, sd_P, (left, right), wide, spacing)
    if believed is not None:
        low, high = max(low, believed.low), min(high, believed.high)
    if plain is not None:  # what a parabola shows to be a minimum lies in the grid
        low, high = max(low, float(x[0])), min(high, float(x[-1]))
    if not math.isfinite(low) or not math.isfinite(high) or not low < high:
        return _without("flat", points, fitted, (low, high))
    plain = plain or Parabola(float(x[best]), float(y[best]), None, None)
    at = min(max(plain.x, low), high)
    sd_all = (high - low) / (2 * Z95)
    floor_sd = sd_all if believed is None else min(_STEP * spacing, sd_all)
    return Optimum(
        lr=2.0**at,
        low=2.0**low,
        high=2.0**high,
        loss=plain.y,
        quality="interior",
        curvature=plain.curvature,
        asymmetry=_cubic(x[left:right], y[left:right]),
        best_lr=float(fitted.lr_P[best]),
        stable=float(fitted.lr_P[-1]),
        seeds=int(fitted.seeds_P[best]) * grids,
        points=right - left,
        diverged=int(points.diverged_P.sum()) - points.far,
        next_rates=_between(2.0**at, 2.0 ** float(x[left + 1] - x[left])),
        noise_sd=math.sqrt(max(0.0, sd_all**2 - floor_sd**2)),
        floor_sd=floor_sd,
        window=(float(fitted.lr_P[left]), float(fitted.lr_P[right - 1])),
        far=points.far,
        degree=believed.degree if believed else None,
        vertex_sd=plain.sd,
    )


def _parabola(x: np.ndarray, y: np.ndarray, sd_P: np.ndarray, spacing: float) -> Parabola | None:
    """The window's parabola, with `s^2 / seeds + misfit^2` as the variance of its points.

    None where the curvature may be 0 or the vertex lies outside the window.
    """
    centre = x.mean()
    rows_P3 = np.stack([np.ones_like(x), x - centre, 0.5 * (x - centre) ** 2], axis=1)
    (a, b, k), *_ = np.linalg.lstsq(rows_P3 / sd_P[:, None], y / sd_P, rcond=None)
    residual, free = y - rows_P3 @ np.array([a, b, k]), len(x) - 3
    misfit = max(0.0, float(np.mean(residual**2 * len(x) - sd_P**2 * free)) / free) if free else 0.0
    covariance_33 = np.linalg.inv((rows_P3 / (sd_P**2 + misfit)[:, None]).T @ rows_P3)
    at = -b / k if k > 0 else math.inf
    if k**2 <= Z95**2 * covariance_33[2, 2] or not x[0] <= at + centre <= x[-1]:
        return None
    low, high = fieller(float(b), float(k), covariance_33[1:, 1:], Z95)
    bias = Z95 * _BIAS * spacing
    sd = (math.hypot(at - low, bias) + math.hypot(high - at, bias)) / (2 * Z95)
    return Parabola(float(at + centre), float(a + b * at + 0.5 * k * at**2), float(k) / math.log(2) ** 2, sd)


def _valley(x: np.ndarray, y: np.ndarray, sd_P: np.ndarray, points: Points) -> tuple[float, float]:
    """Where the minimum can lie if the curve has one valley; an excluded rate above the fitted ones ends it."""
    first, last = gaps(y, sd_P)
    beyond = points.lr_P[points.lr_P > 2.0 ** x[-1] * (1 + 1e-9)]
    end = float(np.log2(beyond[0])) if len(beyond) else math.inf
    return float(x[first - 1]) if first else -math.inf, float(x[last]) if last < len(x) else end


def _believed(
    x: np.ndarray, y: np.ndarray, sd_P: np.ndarray, window: tuple[int, int], wide: tuple[int, int], spacing: float
) -> Believed | None:
    """The polynomial that can be believed; see the module."""
    here, far = slice(*window), slice(*wide)
    x_W, y_W, sd_W = x[here], y[here], sd_P[here]
    low, high = float(x_W[0]) - spacing / 2, float(x_W[-1]) + spacing / 2
    fits = [vertex(x_W, y_W, sd_W, degree) for degree in (2, 3, 4)]
    plain = fits[0]
    if plain is None or plain.t <= Z95:
        return None
    for degree, found, more in zip((2, 3), fits, fits[1:], strict=False):
        if found is None or more is None:
            return None
        judge = vertex(x[far], y[far], sd_P[far], degree + 1) or more
        if abs(judge.t) > SEEN or found.misfit < MISFIT or not (found.within(low, high) and more.within(low, high)):
            continue
        wider = (_WIDER if len(x_W) > FEW else _WIDER_OF_FEW)[degree]
        half = Z95 * math.hypot(wider * found.sd, _STEP * spacing)
        return Believed(degree, min(found.x, more.x) - half, max(found.x, more.x) + half)
    return None


def _excess(x: np.ndarray, y: np.ndarray, sd_P: np.ndarray) -> float:
    """How much larger than an assumed noise the residuals of a parabola are, at least 1 (Birge ratio)."""
    free = len(x) - 3
    if free < 1:
        return 1.0
    rows_P3 = np.vander(x - x.mean(), 3) / sd_P[:, None]
    squares = np.linalg.lstsq(rows_P3, y / sd_P, rcond=None)[1]
    return max(1.0, math.sqrt(float(squares[0]) / free)) if len(squares) else 1.0


def _window(y: np.ndarray, best: int, sd: float, grids: int = 1, height: float = 1.0) -> tuple[int, int]:
    """[left, right) around the lowest point, `height` times as high as the module says: contiguous, with neighbours.

    Of interleaved grids, running means over one point of each count instead of points, and 4 of their sds: seeds
    differ in shape as well as in level, and one that stands out would end the window.
    """
    size = min(grids, len(y))
    means = np.convolve(y, np.full(size, 1 / size), "valid")
    lowest = int(means.argmin())
    limit = means[lowest] + height * max(WINDOW * means[lowest], 4 * sd / math.sqrt(size))
    left = right = lowest
    while left > 0 and means[left - 1] <= limit:
        left -= 1
    while right + 1 < len(means) and means[right + 1] <= limit:
        right += 1
    return min(left, best - 1), max(right + size, best + 2)


def _cubic(x: np.ndarray, y: np.ndarray) -> float | None:
    """Third-order coefficient of a cubic through the window, in natural logs: above 0 the right side is steeper."""
    if len(x) < 5:
        return None
    return float(np.polynomial.polynomial.polyfit(x - x.mean(), y, 3)[3]) / math.log(2) ** 3


def _between(lr: float, ratio: float) -> tuple[float, ...]:
    """Rates half a step on either side of an optimum."""
    return (lr / math.sqrt(ratio), lr * math.sqrt(ratio))


def unknown(points: pd.DataFrame) -> Optimum:
    """What stands for the optimum of runs that were not meant to show one; nothing is to be tried next."""
    kept = Points.of(points)
    return dataclasses.replace(_without("too-few", kept, kept.fitted), next_rates=())


def _without(
    quality: Quality, points: Points, fitted: Points, valley: tuple[float, float] = (-math.inf, math.inf)
) -> Optimum:
    """An optimum that the data do not give, with the best rate seen and the rates to try next.

    Those of a flat cell lie beyond the ends that its `valley` leaves open.
    """
    diverged = int(points.diverged_P.sum()) - points.far
    if len(fitted.lr_P) == 0:
        lowest = float(points.lr_P.min()) if len(points.lr_P) else None
        tries = (lowest / 4, lowest / 2) if lowest else ()
        return Optimum(None, None, None, None, quality, None, None, None, None, 0, 0, diverged, tries, far=points.far)
    best = int(fitted.loss_P.argmin())
    lr, ends = float(fitted.lr_P[best]), (float(fitted.lr_P[0]), float(fitted.lr_P[-1]))
    ratio = float(points.lr_P[1] / points.lr_P[0]) if len(points.lr_P) > 1 else 2.0
    low = () if math.isfinite(valley[0]) else (ends[0] / ratio**2, ends[0] / ratio)
    high = () if math.isfinite(valley[1]) else (ends[1] * ratio, ends[1] * ratio**2)
    tries = {
        "edge-low": (lr / ratio**2, lr / ratio),
        "edge-high": (lr * ratio, lr * ratio**2),
        "flat": (*low, *high),
        "too-few": (lr / ratio if best == 0 else lr / 2, lr * math.sqrt(2)),
        "interior": (),
    }[quality]
    return Optimum(
        lr=None,
        low=None,
        high=None,
        loss=float(fitted.loss_P[best]),
        quality=quality,
        curvature=None,
        asymmetry=None,
        best_lr=lr,
        stable=float(fitted.lr_P[-1]),
        seeds=int(fitted.seeds_P[best] * fitted.grids_P[best]),
        points=len(fitted.lr_P),
        diverged=diverged,
        next_rates=tries,
        far=points.far,
    )
