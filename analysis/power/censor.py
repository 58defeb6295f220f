"""Bounds in a power law: optima that are only known to lie beyond an edge of their grid.

Of a censored cell the likelihood holds the probability that its optimum lies beyond the bound b, under the law's own
normal distribution (Tobit 1958),

    P(y_c > b),    y_c = x_c . beta + u_g(c) + e_c,    u_g ~ N(0, S),    e_c ~ N(0, v + T),

with u_g shared by all cells of a size, so that the probabilities of one size are not independent.  The unknown y_c
are drawn (data augmentation: Tanner and Wong 1987; Chib 1992): given completed rows the posterior of (S, T, beta) is
that of `analysis.power.reml`, and given these u has one dimension and y_c is a normal cut off at b.
Chains go round in parallel, one row of completed cells each, from the posterior of the optima alone.  What is kept are
multiple imputations: the mean of their posteriors is the posterior given optima and bounds, under the same prior and
the same model as without bounds.

A bound gives one side only, so by itself it never makes an interval finite: bounds enter where the optima alone
determine every exponent and leave a contrast for every variance (`enters`).

Suffixes: C cells, G sizes, P coefficients, K nodes of the grid, R chains.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.power import reml

CHAINS = 48
ROUNDS = 36
_BURNT = 12  # rounds before the first that is kept
_EVERY = 6
_COARSE = 2.0  # steps of the grid that chains draw from; what is told has the usual ones
_REGRID = (0, 2, 6, 12)  # rounds whose rows give the next grid
_GRID_U = np.linspace(-9.0, 9.0, 109)  # in standard deviations


@dataclass(frozen=True)
class _State:
    """What a chain knows beside the completed cells."""

    beta_RP: np.ndarray
    between_R: np.ndarray
    within_R: np.ndarray


def enters(model: reml.Model, side_C: np.ndarray) -> bool:
    """Whether the optima alone determine every coefficient and bound every variance that the cells together have."""
    points = reml.some(model, side_C == 0)
    if np.linalg.matrix_rank(points.design_CP) < points.design_CP.shape[1]:
        return False
    whole, seen = reml.freedom(model), reml.freedom(points)
    between = seen.between > 0 or whole.between == 0
    # A variance that nothing bounds from below needs the error of the optima for that.
    within = seen.within > 0 or whole.within == 0 or (seen.between > 0 and float(points.variance_C.min()) > 0)
    return between and within and seen.between + seen.within > 0


def completed(model: reml.Model, y_C: np.ndarray, side_C: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of cells with a value drawn for every bound, [R', C]: optima stay as they are.

    `y_C` holds optima and bounds, `side_C` 0 for an optimum and the sign of (optimum - bound) for a bound.
    """
    rng = np.random.default_rng(seed)
    y_RC = _drawn(model, y_C, side_C, _start(model, y_C, side_C, rng), rng)
    grid, kept = reml.grid(model, y_RC, _COARSE), []
    for number in range(ROUNDS):
        if number in _REGRID:
            grid = reml.grid(model, y_RC, _COARSE)
        y_RC = _drawn(model, y_C, side_C, _state(reml.on(grid, y_RC), rng), rng)
        if number >= _BURNT and (number - _BURNT) % _EVERY == 0:
            kept.append(y_RC)
    return np.concatenate(kept)


def _start(model: reml.Model, y_C: np.ndarray, side_C: np.ndarray, rng: np.random.Generator) -> _State:
    """Coefficients as the optima alone leave them, at their middle variances."""
    points = reml.some(model, side_C == 0)
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
    model: reml.Model, y_C: np.ndarray, side_C: np.ndarray, state: _State, rng: np.random.Generator
) -> np.ndarray:
    """Rows of cells with new values beyond the bounds, given (beta, S, T): u of each size, then y beyond its bound."""
    law_RC = state.beta_RP @ model.design_CP.T
    own_RC = np.maximum(model.variance_C + state.within_R[:, None], 1e-24)
    size_RG = _deviations(model, y_C - law_RC, own_RC, side_C, np.maximum(state.between_R, 1e-24), rng)
    mean_RC, sd_RC = law_RC + size_RG[:, model.group_C], np.sqrt(own_RC)
    beyond_RC = side_C * (y_C - mean_RC) / sd_RC  # how far the bound lies beyond the mean, in its own direction
    log_RC = special.log_ndtr(-beyond_RC) + np.log(rng.uniform(1e-300, 1.0, size=beyond_RC.shape))
    value_RC = mean_RC - side_C * sd_RC * special.ndtri_exp(log_RC)
    return np.where(side_C == 0, y_C, value_RC)


def _deviations(
    model: reml.Model,
    rest_RC: np.ndarray,
    own_RC: np.ndarray,
    side_C: np.ndarray,
    between_R: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """u [R, G] given optima and bounds, the unknown y integrated out: on a grid of the normal that the optima leave.

    Drawn given the y of the round before, u would hardly move where all cells of a size are bounds.
    """
    groups = int(model.group_C.max()) + 1
    found_RG = np.empty((len(rest_RC), groups))
    for group in range(groups):
        here = model.group_C == group
        seen, cut = here & (side_C == 0), here & (side_C != 0)
        precision_R = 1 / between_R + (1 / own_RC[:, seen]).sum(axis=1)
        middle_R = (rest_RC[:, seen] / own_RC[:, seen]).sum(axis=1) / precision_R
        sd_R = 1 / np.sqrt(precision_R)
        if not cut.any():
            found_RG[:, group] = middle_R + sd_R * rng.normal(size=len(sd_R))
            continue
        u_RU = middle_R[:, None] + sd_R[:, None] * _GRID_U
        off_RHU = (u_RU[:, None, :] - rest_RC[:, cut, None]) / np.sqrt(own_RC[:, cut, None])
        log_RU = special.log_ndtr(side_C[cut][:, None] * off_RHU).sum(axis=1) - 0.5 * _GRID_U**2
        below_RU = np.cumsum(np.exp(log_RU - log_RU.max(axis=1, keepdims=True)), axis=1)
        chosen_R = (below_RU < rng.uniform(size=(len(sd_R), 1)) * below_RU[:, -1:]).sum(axis=1)
        step_R = rng.uniform(-0.5, 0.5, size=len(sd_R)) * (_GRID_U[1] - _GRID_U[0])
        found_RG[:, group] = middle_R + sd_R * (_GRID_U[chosen_R] + step_R)
    return found_RG


def _normal(covariance_RPP: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Normal deviates [R, P] of each covariance."""
    values_RP, vectors_RPP = np.linalg.eigh(covariance_RPP)
    roots_RPP = vectors_RPP * np.sqrt(np.maximum(values_RP, 0.0))[:, None, :]
    return np.einsum(
        "rpq,rq->rp",
        np.broadcast_to(roots_RPP, (rows, *roots_RPP.shape[1:])),
        rng.normal(size=(rows, values_RP.shape[-1])),
    )
