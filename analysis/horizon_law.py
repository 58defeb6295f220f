"""Power laws of the optimum over cells, for an estimate and its redrawn copies at once.

Over cells with tokens D, tokens per batch B and width w,

    ln lr* = c + p ln D + q ln B + r ln w,

by weighted least squares; regressors that do not vary are left out.  p is the exponent at a fixed batch.  The best
batch B*(D) is the vertex of a parabola through the cells' fitted minimal losses against ln B, in the window that
`analysis.optimum` defines; beta is its exponent in `ln B* = d + beta ln D (+ s ln w)`.  Along the best batch the rate
goes with D^(p + q beta).  The interaction k is the coefficient of (ln D - mean)(ln B - mean) added to the law: above
0, p rises with tokens per batch.

Suffixes of arrays: R rows, the first of which is the estimate and the others its redrawn copies; C cells.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from analysis.redraw import valleys

LEAST_SHARE = 0.5  # of the draws that have to give a number, or it gets no interval


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where one seed, or too few draws, give none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Grid:
    """Where the cells of a law stand: tokens, batch, width [C, 3], the budget each belongs to, and their weights."""

    places_C3: np.ndarray
    budget_C: np.ndarray
    weight_C: np.ndarray


def laws(grid: Grid, x_RC: np.ndarray, loss_RC: np.ndarray, sd: float) -> dict[tuple[Any, ...], np.ndarray]:
    """Everything that is fitted, for every row of optima `x_RC` = ln lr* and minimal losses (nan: no optimum).

    Cells of weight 0 take no part.
    Keys are `(name,)` for exponents, `("lr",)` the law's ln rate at its centre, `("at batch", B)` the exponent of
    tokens at a batch, `("batch", D, w)` ln B*, `("rate", D, w)` the law's ln rate there, `("quality", D, w)` labels.
    """
    logs_C3 = np.log(grid.places_C3)
    used_C = grid.weight_C > 0
    x_RC, loss_RC = np.where(used_C, x_RC, np.nan), np.where(used_C, loss_RC, np.nan)
    mean_3 = logs_C3[used_C].mean(axis=0)
    d_C3 = logs_C3 - mean_3
    varies = [len(np.unique(part)) > 1 for part in (grid.budget_C[used_C], *grid.places_C3[used_C].T[1:])]
    columns = [column for column, some in zip(d_C3.T, varies, strict=True) if some]
    law_RP = least_squares(columns, x_RC, grid.weight_C)
    found: dict[tuple[Any, ...], np.ndarray] = {("lr",): law_RP[:, 0]}
    slope_R3 = np.zeros((len(x_RC), 3))
    slope_R3[:, varies] = law_RP[:, 1:]
    for place, name in enumerate(("tokens", "batch", "width")):
        if varies[place]:
            found[(name,)] = slope_R3[:, place]
    if not (varies[0] and varies[1]):
        return found
    product_C = d_C3[:, 0] * d_C3[:, 1]
    found["interaction",] = least_squares([*columns, product_C], x_RC, grid.weight_C)[:, -1]
    for batch in np.unique(grid.places_C3[used_C, 1]):
        here_C = used_C & (grid.places_C3[:, 1] == batch)
        if len(np.unique(grid.budget_C[here_C])) > 1:
            wide = [d_C3[:, 2]] if len(np.unique(grid.places_C3[here_C, 2])) > 1 else []
            fit_RP = least_squares([d_C3[:, 0], *wide], np.where(here_C, x_RC, np.nan), grid.weight_C)
            found["at batch", int(batch)] = fit_RP[:, 1]
    spots = sorted(set(zip(grid.budget_C[used_C].tolist(), grid.places_C3[used_C, 2].tolist(), strict=True)))
    vertices_VR = np.full((len(spots), len(x_RC)), np.nan)
    for number, (budget, width) in enumerate(spots):
        here_C = used_C & (grid.budget_C == budget) & (grid.places_C3[:, 2] == width)
        order = np.flatnonzero(here_C)[np.argsort(logs_C3[here_C, 1])]
        heights_RC = np.where(np.isnan(loss_RC[:, order]), np.inf, loss_RC[:, order])
        valley = valleys(logs_C3[order, 1], heights_RC, np.ones_like(heights_RC), sd, certain=False)
        place_3 = np.array([math.log(budget), 0.0, math.log(width)]) - mean_3
        found["quality", budget, width] = valley.quality_R
        found["batch", budget, width] = valley.x_R
        found["rate", budget, width] = law_RP[:, 0] + slope_R3 @ place_3 + slope_R3[:, 1] * valley.x_R
        vertices_VR[number] = valley.x_R
    spots_V2 = np.log(np.array(spots, dtype=float))
    kept_V = np.isfinite(vertices_VR[:, 0])  # a budget whose best batch the estimate lacks takes no part in any row
    wide = [spots_V2[:, 1]] if len(np.unique(spots_V2[kept_V, 1])) > 1 else []
    beta_R = least_squares([spots_V2[:, 0], *wide], vertices_VR.T, kept_V.astype(float))[:, 1]
    found["best_batch",] = beta_R
    found["tokens_along_best_batch",] = slope_R3[:, 0] + slope_R3[:, 1] * beta_R
    return found


def least_squares(columns: Sequence[np.ndarray], y_RC: np.ndarray, weight_C: np.ndarray) -> np.ndarray:
    """[R, 1 + P] weighted least squares of each row on a constant and `columns`; nan where they are not determined."""
    design_CP = np.column_stack([np.ones(y_RC.shape[1]), *columns])
    spread_P = np.maximum(np.abs(design_CP).max(axis=0), 1e-300)
    design_CP = design_CP / spread_P
    weight_RC = np.where(np.isfinite(y_RC), weight_C / max(weight_C.max(initial=0), 1e-300), 0.0)
    normal_RPP = np.einsum("rc,ci,cj->rij", weight_RC, design_CP, design_CP)
    right_RP = np.einsum("rc,ci,rc->ri", weight_RC, design_CP, np.nan_to_num(y_RC))
    sound_R = np.linalg.matrix_rank(normal_RPP, tol=1e-9, hermitian=True) == design_CP.shape[1]
    found_RP = np.full(right_RP.shape, np.nan)
    if sound_R.any():
        found_RP[sound_R] = np.linalg.solve(normal_RPP[sound_R], right_RP[sound_R][..., None])[..., 0]
    return found_RP / spread_P


def interval(rows_R: np.ndarray, seeds: int) -> Estimate | None:
    """An estimate, the first row, with its 95 % interval from the others, redrawn seeds; None where there is none.

    The resampled variance of a mean is (S - 1)/S of the true one, and percentiles of so few seeds are too short
    (Davison and Hinkley 1997, chapter 2), so it is `estimate +- t(S - 1, 97.5 %) sd sqrt(S / (S - 1))`.
    """
    value, draws_R = float(rows_R[0]), rows_R[1:]
    if not math.isfinite(value):
        return None
    finite_R = draws_R[np.isfinite(draws_R)]
    if seeds < 2 or len(finite_R) < max(2, LEAST_SHARE * len(draws_R)):
        return Estimate(value)
    half = float(stats.t.ppf(0.975, seeds - 1) * finite_R.std() * math.sqrt(seeds / (seeds - 1)))
    return Estimate(value, value - half, value + half)
