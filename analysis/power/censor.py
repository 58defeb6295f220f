"""Bounds in a power law: optima that are only known to lie beyond an edge of their grid.

Of a censored cell the likelihood holds the probability that its optimum lies beyond the bound b, under the law's own
normal distribution (Tobit 1958),

    P(y_c > b),    y_c = x_c . beta + u_g(c) + e_c,    u_g ~ N(0, S),    e_c ~ N(0, v + T),

with u_g shared by all cells of a size, so that the probabilities of one size are not independent.  No integral over u
is needed when the unknown y_c are drawn (data augmentation: Tanner and Wong 1987; Chib 1992): given completed rows the
posterior of (S, T, beta) is that of `analysis.power.reml`, and given these u is normal and y_c a normal cut off at b.
Chains go round in parallel, one row of completed cells each, from the posterior of the optima alone.  What is kept are
multiple imputations: the mean of their posteriors is the posterior given optima and bounds, under the same prior and
the same model as without bounds.

A bound gives one side only, so by itself it never makes an interval finite: bounds enter where the optima alone
determine every exponent and leave a contrast for every variance (`enters`).

Suffixes: C cells, G sizes, P coefficients, K nodes of the grid, R chains.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from analysis.power import reml

CHAINS = 48
ROUNDS = 60
_BURNT = 28  # rounds before the first that is kept
_EVERY = 8
_REGRID = (0, 2, 6, 16)  # rounds whose rows give the next grid


@dataclass(frozen=True)
class _State:
    """What a chain knows beside the completed cells."""

    beta_RP: np.ndarray
    between_R: np.ndarray
    within_R: np.ndarray


def points_of(model: reml.Model, side_C: np.ndarray) -> reml.Model:
    """The model of the optima alone; its sizes are numbered anew."""
    here = side_C == 0
    group_H = np.unique(model.group_C[here], return_inverse=True)[1]
    return replace(model, design_CP=model.design_CP[here], variance_C=model.variance_C[here], group_C=group_H)


def enters(model: reml.Model, side_C: np.ndarray) -> bool:
    """Whether the optima alone determine every coefficient and bound every variance that the cells together have."""
    points = points_of(model, side_C)
    if np.linalg.matrix_rank(points.design_CP) < points.design_CP.shape[1]:
        return False
    whole, seen = reml.freedom(model), reml.freedom(points)
    between = seen.between > 0 or whole.between == 0
    # A variance that nothing bounds from below needs the error of the optima for that.
    within = seen.within > 0 or whole.within == 0 or (seen.between > 0 and float(points.variance_C.min()) > 0)
    return between and within and seen.between + seen.within > 0


def completed(model: reml.Model, y_C: np.ndarray, side_C: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of cells with a value drawn for every bound, [R', C]: optima stay as they are.

    `y_C` holds optima and bounds, `side_C` 0 for an optimum and the sign of (optimum - bound) for a bound.  The same
    cells give the same rows, in whatever order they come.
    """
    order = np.lexsort((*model.design_CP.T[1:], y_C, side_C))
    model = replace(
        model,
        design_CP=model.design_CP[order],
        variance_C=model.variance_C[order],
        group_C=np.unique(model.group_C[order], return_inverse=True)[1],
    )
    y_C, side_C = y_C[order], side_C[order]
    rng = np.random.default_rng(seed)
    y_RC = np.tile(y_C, (CHAINS, 1))
    y_RC = _drawn(model, y_RC, y_C, side_C, _start(model, y_C, side_C, rng), rng)
    grid, kept = reml.grid(model, y_RC), []
    for number in range(ROUNDS):
        if number in _REGRID:
            grid = reml.grid(model, y_RC)
        y_RC = _drawn(model, y_RC, y_C, side_C, _state(reml.on(grid, y_RC), rng), rng)
        if number >= _BURNT and (number - _BURNT) % _EVERY == 0:
            kept.append(y_RC)
    found_RC = np.empty((len(kept) * CHAINS, len(y_C)))
    found_RC[:, order] = np.concatenate(kept)
    return found_RC


def _start(model: reml.Model, y_C: np.ndarray, side_C: np.ndarray, rng: np.random.Generator) -> _State:
    """Coefficients as the optima alone leave them, at their middle variances."""
    points = points_of(model, side_C)
    held = reml.posterior(points, y_C[side_C == 0][None])
    weight_K = held.weight_RK[0]
    order = np.argsort(held.between_K + held.within_K)
    middle = int(order[np.searchsorted(np.cumsum(weight_K[order]), 0.5)])
    beta_RP = held.mean_RKP[0, middle] + _normal(held.covariance_KPP[middle][None], CHAINS, rng)
    between, within = float(held.between_K[middle]), float(held.within_K[middle])
    return _State(beta_RP, np.full(CHAINS, between), np.full(CHAINS, within))


def _state(held: reml.Posterior, rng: np.random.Generator) -> _State:
    """(beta, S, T) drawn for each chain."""
    below_RK = np.cumsum(held.weight_RK, axis=1)
    chosen_R = (below_RK < rng.uniform(size=(len(below_RK), 1)) * below_RK[:, -1:]).sum(axis=1)
    mean_RP = held.mean_RKP[np.arange(len(chosen_R)), chosen_R]
    beta_RP = mean_RP + _normal(held.covariance_KPP[chosen_R], len(chosen_R), rng)
    return _State(beta_RP, held.between_K[chosen_R], held.within_K[chosen_R])


def _drawn(
    model: reml.Model, y_RC: np.ndarray, y_C: np.ndarray, side_C: np.ndarray, state: _State, rng: np.random.Generator
) -> np.ndarray:
    """The rows with new values beyond the bounds."""
    dummies_CG = (model.group_C[:, None] == np.unique(model.group_C)[None, :]).astype(float)
    law_RC = state.beta_RP @ model.design_CP.T
    own_RC = np.maximum(model.variance_C + state.within_R[:, None], 1e-24)
    inverse_R1 = 1 / np.maximum(state.between_R, 1e-24)[:, None]
    precision_RG = (1 / own_RC) @ dummies_CG + inverse_R1
    middle_RG = ((y_RC - law_RC) / own_RC) @ dummies_CG / precision_RG
    size_RG = middle_RG + rng.normal(size=middle_RG.shape) / np.sqrt(precision_RG)
    mean_RC, sd_RC = law_RC + size_RG @ dummies_CG.T, np.sqrt(own_RC)
    beyond_RC = side_C * (y_C - mean_RC) / sd_RC  # how far the bound lies beyond the mean, in its own direction
    log_RC = special.log_ndtr(-beyond_RC) + np.log(rng.uniform(1e-300, 1.0, size=beyond_RC.shape))
    value_RC = mean_RC - side_C * sd_RC * special.ndtri_exp(log_RC)
    return np.where(side_C == 0, y_C, value_RC)


def _normal(covariance_RPP: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Normal deviates [R, P] of each covariance."""
    values_RP, vectors_RPP = np.linalg.eigh(covariance_RPP)
    roots_RPP = vectors_RPP * np.sqrt(np.maximum(values_RP, 0.0))[:, None, :]
    return np.einsum(
        "rpq,rq->rp",
        np.broadcast_to(roots_RPP, (rows, *roots_RPP.shape[1:])),
        rng.normal(size=(rows, values_RP.shape[-1])),
    )
