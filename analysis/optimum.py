"""The optimum of a cell: a local quadratic in log learning rate, with an interval and a quality label.

Let x = ln lr and y the loss averaged over seeds.  Runs that diverged, in fact or by their loss, are shown and never
fitted.  The window holds the points with `y <= y_min + max(0.02 y_min, 4 s)` next to the lowest one on both sides, at
least three (of interleaved grids, running means over one point of each); there `y = a + b (x - c) + k/2 (x - c)^2` by
least squares, the optimum is `x* = c - b/k`.

The interval is Fieller's for the ratio b/k (Fieller 1954; the delta method fails where k is uncertain), from a noise
variance `s^2 / seeds + misfit^2`, widened in quadrature by the bias that a parabola has on a curve with a steeper right
side: 0.17 octave for grids of one octave, in proportion to the spacing (measured on published curves).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.dither import SEEDS, dithered, levelled

Quality = Literal["interior", "edge-low", "edge-high", "flat", "too-few"]

# Seed standard deviation of a small model's final loss where a sweep has no replicates, nats per token.
FALLBACK_SEED_SD = 0.004
BIAS_PER_OCTAVE = 0.17
Z95 = float(stats.norm.ppf(0.975))  # two-sided 95 %


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the loss between seeds, and where it comes from; not `measured`: assumed."""

    sd: float
    source: str
    measured: bool = True


@dataclass(frozen=True)
class Optimum:
    """The minimising learning rate of a cell; None where there is none to give.

    `low` and `high` bound it at 95 % (None: unbounded); `loss` is the fitted minimum, `curvature` k in nats per squared
    natural log, `stable` the largest rate that did not diverge; `next_rates` are worth running next.  `noise_sd` and
    `floor_sd`, in octaves, are the two parts of the interval's standard deviation (half of log2(high / low) / 1.96, in
    quadrature): what falls as 1/sqrt(seeds), and what seeds leave as it is, the misfit and the bias of the parabola.
    `window` holds the smallest and the largest rate of the fit.
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


def pooled_noise(cells: Sequence[tuple[pd.DataFrame, str]]) -> Noise:
    """Seed standard deviation pooled over the replicated points near each cell's minimum.

    Where the same seeds run at every rate, each seed's mean over the cell is taken out first: it moves a whole curve
    up or down and leaves its minimum where it is.  Dithered cells give the residuals of their joint fit.  Points
    within 10 % of their cell's best loss count; far from it, seeds differ for other reasons.
    """
    squares, freedom, paired = 0.0, 0, True
    for rows, axis in cells:
        done = rows[rows["status"] == "done"]
        if done.empty:
            continue
        if dithered(rows, axis):
            _, residual, left = levelled(rows, axis)
            squares, freedom = squares + residual, freedom + left
            continue
        means = done.groupby(axis)["loss"].transform("mean")
        near = done[means <= 1.1 * means.min()]
        table = near.pivot_table(index=axis, columns=SEEDS, values="loss").to_numpy(float)
        residuals = table - np.nanmean(table, axis=1, keepdims=True)
        rates, seeds = table.shape
        if np.isfinite(table).all():
            residuals = residuals - residuals.mean(axis=0, keepdims=True)
            freedom += (rates - 1) * (seeds - 1)
        else:
            paired = False
            freedom += int(np.isfinite(table).sum()) - rates
        squares += float(np.nansum(residuals**2))
    return _named_noise(squares, freedom, paired)


def replicate_noise(rows: pd.DataFrame, keys: Sequence[str], axis: str) -> Noise:
    """`pooled_noise` of a table that does not name its seeds: runs of one curve (`keys`) and rate are replicates."""
    done = rows[rows["status"] == "done"]
    node = done.groupby([*keys, axis], dropna=False).ngroup().to_numpy()
    curve_of = done.groupby([*keys], dropna=False).ngroup()
    means = done["loss"].groupby(node).transform("mean")
    near = (means <= 1.1 * means.groupby(curve_of).transform("min")).to_numpy()
    squares = float(((done["loss"] - means)[near] ** 2).sum())
    return _named_noise(squares, int(near.sum()) - len(np.unique(node[near])), paired=False)


def _named_noise(squares: float, freedom: int, paired: bool) -> Noise:
    if freedom == 0:
        return Noise(FALLBACK_SEED_SD, f"assumed seed SD {FALLBACK_SEED_SD:g} nat: no replicates", measured=False)
    sd = max(math.sqrt(squares / freedom), 1e-6)
    what = "seed SD (beyond each seed's mean)" if paired else "seed SD"
    return Noise(sd, f"{what} {sd:.4f} nat, pooled over {freedom} degrees of freedom")


def find_optimum(points: pd.DataFrame | Points, noise: Noise) -> Optimum:
    """The optimum of one curve (`curve`'s columns)."""
    points = points if isinstance(points, Points) else Points.of(points)
    fitted = points.fitted
    diverged = int(points.diverged_P.sum())
    if len(fitted.lr_P) == 0:
        return _without("too-few", points, fitted, diverged)
    x, y = np.log(fitted.lr_P), fitted.loss_P
    best = int(y.argmin())
    if len(x) < 3:
        return _without("too-few", points, fitted, diverged)
    if best == 0:
        return _without("edge-low", points, fitted, diverged)
    if best == len(x) - 1:
        beyond = points.lr_P > fitted.lr_P[best]
        return _without("too-few" if beyond.any() else "edge-high", points, fitted, diverged)
    grids = int(fitted.grids_P[best])
    left, right = _window(y, best, noise.sd, grids)
    x, y, seeds = x[left:right], y[left:right], fitted.seeds_P[left:right]
    centre = x.mean()
    design = np.stack([np.ones_like(x), x - centre, 0.5 * (x - centre) ** 2], axis=1)
    weights = np.sqrt(seeds)
    (a, b, k), *_ = np.linalg.lstsq(design * weights[:, None], y * weights, rcond=None)
    misfit = _misfit(y - design @ np.array([a, b, k]), noise.sd)
    variance = noise.sd**2 / seeds + misfit**2
    information = (design / variance[:, None]).T @ design
    covariance = np.linalg.inv(information)
    # The bias follows the spacing of one seed's grid: its window is as wide.
    spacing = float(np.median(np.diff(x))) * grids / math.log(2)
    vertex = -b / k if k > 0 else math.inf
    if k**2 <= Z95**2 * covariance[2, 2] or not x[0] <= vertex + centre <= x[-1]:
        return _without("flat", points, fitted, diverged)
    low, high = _fieller(b, k, covariance[1:, 1:])
    bias = BIAS_PER_OCTAVE * spacing * math.log(2)
    low = vertex - math.hypot(vertex - low, Z95 * bias)
    high = vertex + math.hypot(high - vertex, Z95 * bias)
    share = float(np.mean(noise.sd**2 / seeds / variance))
    noise_sd, floor_sd = _parts((high - low) / (2 * Z95), bias, share)
    return Optimum(
        lr=math.exp(vertex + centre),
        low=math.exp(low + centre),
        high=math.exp(high + centre),
        loss=float(a + b * vertex + 0.5 * k * vertex**2),
        quality="interior",
        curvature=float(k),
        asymmetry=_cubic(x - centre, y) if len(x) >= 5 else None,
        best_lr=float(fitted.lr_P[best]),
        stable=float(fitted.lr_P[-1]),
        seeds=int(fitted.seeds_P[best]) * grids,
        points=len(x),
        diverged=diverged,
        next_rates=_between(float(np.exp(vertex + centre)), float(np.exp(x[1] - x[0]))),
        noise_sd=noise_sd / math.log(2),
        floor_sd=floor_sd / math.log(2),
        window=(float(fitted.lr_P[left]), float(fitted.lr_P[right - 1])),
    )


def _window(y: np.ndarray, best: int, sd: float, grids: int = 1) -> tuple[int, int]:
    """[left, right) around the lowest point: contiguous, both neighbours always inside.

    Of interleaved grids, running means over one point of each count instead of points, and 4 of their sds: seeds
    differ in shape as well as in level, and one that stands out would end the window.
    """
    size = min(grids, len(y))
    means = np.convolve(y, np.full(size, 1 / size), "valid")
    lowest = int(means.argmin())
    limit = means[lowest] + max(0.02 * means[lowest], 4 * sd / math.sqrt(size))
    left = right = lowest
    while left > 0 and means[left - 1] <= limit:
        left -= 1
    while right + 1 < len(means) and means[right + 1] <= limit:
        right += 1
    return min(left, best - 1), max(right + size, best + 2)


def _misfit(residuals: np.ndarray, sd: float) -> float:
    """Root of the residual variance beyond the noise, 0 where three points leave none to see."""
    freedom = len(residuals) - 3
    if freedom < 1:
        return 0.0
    return math.sqrt(max(0.0, float(residuals @ residuals) / freedom - sd**2))


def _fieller(b: float, k: float, covariance: np.ndarray) -> tuple[float, float]:
    """95 % limits of -b/k: the roots of `(k^2 - z^2 v_kk) r^2 - 2 (b k - z^2 v_bk) r + b^2 - z^2 v_bb`, r = b/k.

    The caller has checked that the interval of k excludes 0, so the roots are real and bound the ratio.
    """
    p = k**2 - Z95**2 * covariance[1, 1]
    q = b * k - Z95**2 * covariance[0, 1]
    r = b**2 - Z95**2 * covariance[0, 0]
    root = math.sqrt(max(0.0, q**2 - p * r))
    return -(q + root) / p, -(q - root) / p


def _parts(sd: float, bias: float, share: float) -> tuple[float, float]:
    """(part that falls with the seeds, part that does not) of a standard deviation; `share` of what is not bias."""
    noise = math.sqrt(share * max(0.0, sd**2 - bias**2))
    return noise, math.sqrt(sd**2 - noise**2)


def _cubic(x: np.ndarray, y: np.ndarray) -> float:
    """Third-order coefficient of a cubic through the window: above 0 the right side is steeper."""
    return float(np.polynomial.polynomial.polyfit(x, y, 3)[3])


def _between(lr: float, ratio: float) -> tuple[float, ...]:
    """Rates half a step on either side of an optimum."""
    return (lr / math.sqrt(ratio), lr * math.sqrt(ratio))


def _without(quality: Quality, points: Points, fitted: Points, diverged: int) -> Optimum:
    """An optimum that the data do not give, with the best rate seen and the rates to try next."""
    if len(fitted.lr_P) == 0:
        lowest = float(points.lr_P.min()) if len(points.lr_P) else None
        tries = (lowest / 4, lowest / 2) if lowest else ()
        return Optimum(None, None, None, None, quality, None, None, None, None, 0, 0, diverged, tries)
    best = int(fitted.loss_P.argmin())
    lr = float(fitted.lr_P[best])
    ratio = float(points.lr_P[1] / points.lr_P[0]) if len(points.lr_P) > 1 else 2.0
    tries = {
        "edge-low": (lr / ratio**2, lr / ratio),
        "edge-high": (lr * ratio, lr * ratio**2),
        "flat": (lr / ratio**2, lr * ratio**2),
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
    )
