"""Optima of a cell under redrawn seeds: the definition of `analysis.optimum`, for many draws at once.

A draw takes S seeds with replacement and is a row of weights: how often each seed came.  Everything that
`analysis.optimum` computes from a table of runs depends on the seeds through sums, so a seed that came twice is a seed
of weight 2, and no table is built.  With weights of one the result is that of `find_optimum`, to rounding
(`tests/test_horizon.py`).  The noise that sets the window and the test for flatness stays the sweep's own.

Suffixes of arrays: R draws, S seeds, N learning rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.dither import NEAR, SEEDS, dithered
from analysis.noise import Z95


@dataclass(frozen=True)
class Curves:
    """A cell's runs by seed: `x_N` = ln rate, losses (nan where no finished run), who diverged, and how rates lie."""

    x_N: np.ndarray
    loss_SN: np.ndarray
    diverged_SN: np.ndarray
    dithered: bool


@dataclass(frozen=True)
class Minima:
    """The minimum of each draw: place, height and quality; nan where it is not interior.

    Qualities are those of `analysis.optimum`, but a best rate below a diverged one is `edge-high` here, not `too-few`.
    """

    x_R: np.ndarray
    y_R: np.ndarray
    quality_R: np.ndarray


def seeds_of(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The seeds that have at least one run behind them."""
    return sorted(set(rows.loc[rows["status"] != "pending", SEEDS].itertuples(index=False, name=None)))


def read_curves(rows: pd.DataFrame, axis: str, seeds: Sequence[tuple[Any, ...]]) -> Curves:
    """A cell's runs in the order of `seeds`; seeds that the cell lacks have no losses."""
    tried = rows[rows["status"] != "pending"]
    rates = np.unique(tried[axis].to_numpy(float))
    loss_SN = np.full((len(seeds), len(rates)), np.nan)
    diverged_SN = np.zeros(loss_SN.shape, bool)
    place = {seed: number for number, seed in enumerate(seeds)}
    at_S = [place[seed] for seed in tried[SEEDS].itertuples(index=False, name=None)]
    at_N = np.searchsorted(rates, tried[axis].to_numpy(float))
    lost = (tried["status"] == "diverged").to_numpy(bool)
    loss_SN[at_S, at_N] = np.where(lost, np.nan, tried["loss"].to_numpy(float))
    diverged_SN[at_S, at_N] = lost
    return Curves(np.log(rates), loss_SN, diverged_SN, dithered(rows, axis))


def draws(seeds: int, count: int) -> np.ndarray:
    """[count, seeds] how often each seed comes in `count` draws of `seeds` seeds with replacement; always the same."""
    return np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=count).astype(float)


def minima(curves: Curves, weight_RS: np.ndarray, sd: float) -> Minima:
    """The optimum of every draw, `x_R` being ln lr*; `sd` is the noise of the sweep."""
    finite_SN = np.isfinite(curves.loss_SN)
    runs_RN = weight_RS @ finite_SN
    total_RN = weight_RS @ np.where(finite_SN, curves.loss_SN, 0.0)
    if curves.dithered:
        total_RN = total_RN - (weight_RS * _levels(curves, weight_RS)) @ finite_SN
    usable_RN = (runs_RN > 0) & (weight_RS @ curves.diverged_SN == 0)
    y_RN = np.where(usable_RN, total_RN / np.maximum(runs_RN, 1), np.inf)
    best_R1 = y_RN.argmin(axis=1, keepdims=True) if y_RN.shape[1] else np.zeros((len(y_RN), 1), int)
    lowest_R1 = y_RN.min(axis=1, keepdims=True, initial=np.inf)
    # Losses far above the best one, at rates above it, count as diverged: the rule of `analysis.optimum.curve`.
    high_RN = (np.arange(y_RN.shape[1]) > best_R1) & (y_RN > lowest_R1 + np.maximum(0.3, 0.1 * lowest_R1))
    ran_S = (finite_SN | curves.diverged_SN).any(axis=1)
    several_R = ((weight_RS > 0) & ran_S).sum(axis=1) > 1
    grids_R = np.where(several_R & curves.dithered, weight_RS @ ran_S, 1).astype(int)
    return valleys(curves.x_N, np.where(high_RN, np.inf, y_RN), runs_RN, sd, certain=True, grids_R=grids_R)


def valleys(
    x_N: np.ndarray,
    y_RN: np.ndarray,
    weight_RN: np.ndarray,
    sd: float,
    *,
    certain: bool,
    grids_R: np.ndarray | None = None,
) -> Minima:
    """The vertex of a parabola in the window around the lowest point of each row of `y_RN` (inf: no point).

    Window, weights and vertex are those of `analysis.optimum.find_optimum`; a cell of which that knows only between
    which rates its minimum lies is `flat` here.  `certain` also asks that the curvature's 95 % interval, by the noise
    `sd` of one run and the misfit, leaves 0 out; `grids_R` counts interleaved grids.
    """
    count, width = y_RN.shape
    if width < 3:
        nothing_R = np.full(count, np.nan)
        return Minima(nothing_R, nothing_R, np.full(count, "too-few", dtype="<U9"))
    order_RN = np.argsort(np.isinf(y_RN), axis=1, kind="stable")  # absent points go to the end
    x_RN = x_N[order_RN]
    y_RN, weight_RN = (np.take_along_axis(array_RN, order_RN, axis=1) for array_RN in (y_RN, weight_RN))
    points_R = np.isfinite(y_RN).sum(axis=1)
    best_R = y_RN.argmin(axis=1)
    quality_R = np.full(count, "interior", dtype="<U9")
    quality_R[best_R == points_R - 1] = "edge-high"
    quality_R[best_R == 0] = "edge-low"
    quality_R[points_R < 3] = "too-few"

    at_N = np.arange(width)
    left_R1, right_R1 = _window(y_RN, points_R, best_R, sd, np.ones(count, int) if grids_R is None else grids_R)
    inside_RN = (at_N >= left_R1) & (at_N < right_R1) & np.isfinite(y_RN) & (quality_R == "interior")[:, None]
    size_R = np.maximum(inside_RN.sum(axis=1), 1)
    centre_R = np.where(inside_RN, x_RN, 0).sum(axis=1) / size_R
    d_RN = np.where(inside_RN, x_RN - centre_R[:, None], 0.0)
    y_RN = np.where(inside_RN, y_RN, 0.0)
    basis_RN3 = np.stack([np.ones_like(d_RN), d_RN, 0.5 * d_RN**2], axis=2)
    spare_R33 = np.where((quality_R == "interior")[:, None, None], 0.0, np.eye(3))  # rows without a fit stay solvable
    weight_RN = np.where(inside_RN, weight_RN, 0.0)
    normal_R33 = np.einsum("rn,rni,rnj->rij", weight_RN, basis_RN3, basis_RN3) + spare_R33
    found_R3 = np.linalg.solve(normal_R33, np.einsum("rn,rni,rn->ri", weight_RN, basis_RN3, y_RN)[..., None])[..., 0]
    a_R, b_R, k_R = found_R3.T
    vertex_R = -b_R / np.where(k_R > 0, k_R, np.nan)
    low_R, high_R = (np.where(inside_RN, x_RN, end).T for end in (np.inf, -np.inf))
    flat_R = ~((vertex_R + centre_R >= low_R.min(axis=0)) & (vertex_R + centre_R <= high_R.max(axis=0)))
    if certain:
        noise_RN = np.where(inside_RN, sd**2 / np.maximum(weight_RN, 1), 0.0)
        residual_RN = np.where(inside_RN, y_RN - np.einsum("rni,ri->rn", basis_RN3, found_R3), 0.0)
        beyond_R = (residual_RN**2).sum(axis=1) / np.maximum(size_R - 3, 1) - noise_RN.sum(axis=1) / size_R
        misfit_R = np.maximum(0.0, beyond_R) * (size_R > 3)
        variance_RN = np.where(inside_RN, noise_RN + misfit_R[:, None], 1.0)
        information_R33 = np.einsum("rn,rni,rnj->rij", inside_RN / variance_RN, basis_RN3, basis_RN3) + spare_R33
        flat_R |= k_R**2 <= Z95**2 * np.linalg.inv(information_R33)[:, 2, 2]
    quality_R[(quality_R == "interior") & flat_R] = "flat"
    kept_R = quality_R == "interior"
    return Minima(
        np.where(kept_R, vertex_R + centre_R, np.nan),
        np.where(kept_R, a_R + b_R * vertex_R + 0.5 * k_R * vertex_R**2, np.nan),
        quality_R,
    )


def _window(
    y_RN: np.ndarray, points_R: np.ndarray, best_R: np.ndarray, sd: float, grids_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[left, right) of each row as columns: `analysis.optimum._window`, its running means from cumulative sums."""
    width = y_RN.shape[1]
    at_N, size_R1 = np.arange(width), np.minimum(grids_R, np.maximum(points_R, 1))[:, None]
    sums_RN = np.pad(np.where(np.isfinite(y_RN), y_RN, 0.0).cumsum(axis=1), ((0, 0), (1, 0)))
    ends_RN = np.minimum(at_N + size_R1, width)
    means_RN = (np.take_along_axis(sums_RN, ends_RN, axis=1) - sums_RN[:, :-1]) / size_R1
    means_RN = np.where(at_N + size_R1 <= points_R[:, None], means_RN, np.inf)
    lowest_R1 = means_RN.argmin(axis=1, keepdims=True)
    floor_R1 = np.take_along_axis(means_RN, lowest_R1, axis=1)
    far_RN = ~(means_RN <= floor_R1 + np.maximum(0.02 * floor_R1, 4 * sd / np.sqrt(size_R1)))
    left_R1 = np.where(far_RN & (at_N < lowest_R1), at_N, -1).max(axis=1, keepdims=True) + 1
    right_R1 = np.where((far_RN | np.isinf(means_RN)) & (at_N > lowest_R1), at_N, width).min(axis=1, keepdims=True)
    last_R1 = np.minimum(right_R1 - 1 + size_R1, width)
    return np.minimum(left_R1, best_R[:, None] - 1), np.maximum(last_R1, best_R[:, None] + 2)


def _levels(curves: Curves, weight_RS: np.ndarray) -> np.ndarray:
    """[R, S] the seeds' levels about their mean: the joint fit of `analysis.dither.levelled`, its levels eliminated.

    With each seed's own means taken out, slope and curvature follow from sums over the seeds, weighted by the draw.
    """
    with np.errstate(invalid="ignore"):
        lowest_S1 = np.where(np.isfinite(curves.loss_SN), curves.loss_SN, np.inf).min(axis=1, keepdims=True)
        near_SN = curves.loss_SN <= (1 + NEAR) * lowest_S1
    x_N = curves.x_N - curves.x_N.mean()
    z_N2 = np.stack([x_N, 0.5 * x_N**2], axis=1)
    y_SN = np.where(near_SN, curves.loss_SN, 0.0)
    points_S = near_SN.sum(axis=1)
    safe_S = np.maximum(points_S, 1)
    z_S2, y_S = near_SN @ z_N2 / safe_S[:, None], y_SN.sum(axis=1) / safe_S
    z_SN2 = np.where(near_SN[..., None], z_N2 - z_S2[:, None], 0.0)
    squares_S22 = np.einsum("sni,snj->sij", z_SN2, z_SN2)
    products_S2 = np.einsum("sni,sn->si", z_SN2, y_SN)
    squares_R22 = np.einsum("rs,sij->rij", weight_RS, squares_S22)
    found_R2 = (np.linalg.pinv(squares_R22, rcond=1e-12) @ (weight_RS @ products_S2)[..., None])[..., 0]
    level_RS = y_S - found_R2 @ z_S2.T
    present_RS = weight_RS * (points_S > 0)
    present_R1 = present_RS.sum(axis=1, keepdims=True)
    mean_R1 = (present_RS * level_RS).sum(axis=1, keepdims=True) / np.maximum(present_R1, 1)
    enough_R1 = weight_RS @ points_S[:, None] - present_R1 - 2 >= 1  # degrees of freedom
    return np.where(enough_R1 & (points_S > 0), level_RS - mean_R1, 0.0)
