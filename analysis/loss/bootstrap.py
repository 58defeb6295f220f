"""Resamples of the rows behind a loss law, all refitted at once.

A resample is a weight per row, how often it was drawn: by cases every row is a draw of its own; by clusters (all
checkpoints of a run, all runs of a size) whole clusters are drawn and their rows share a weight.  With a seed standard
deviation instead, every row stays and its loss moves by a normal error: what other seeds would have given, for a law
taken as right.  Every resample is searched from the law's optimum and from three others, and the best end is kept.
Beyond 2000 rows, where that takes minutes and resamples differ little, each takes the one step of Newton's method from
the optimum that a large sample needs (the one-step bootstrap of M-estimators), with the mean second derivative of the
Huber loss for each row's own: theta - (mean(psi') sum g g')^-1 sum w (-psi g).

Suffixes of arrays: R resamples, S starts, C rows, P fitted numbers.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from analysis.loss.deviation import SMOOTH
from analysis.loss.newton import minimise
from analysis.loss.objective import Objective, jacobian, residuals
from analysis.loss.profile import inner
from analysis.loss.start import MANY
from lab.check import require

CONVERGED = 1e-8  # of F: a search that could still gain more has not converged


@dataclass(frozen=True)
class Refits:
    """Fitted vectors [R, P] of the resamples that converged, the bounds they rest on [R, P], and how many failed.

    `resampling` says what was resampled.
    """

    theta_RP: np.ndarray
    bound_RP: np.ndarray
    failed: int
    resampling: str


def refit(goal: Objective, start_SP: np.ndarray, weight_RC: np.ndarray, y_RC: np.ndarray | None = None) -> Refits:
    """Optima of every resample: the best over the starts.  delta = 0 is taken as Huber's at 1e-5.

    `y_RC` replaces the rows' log losses, one set for each resample.
    """
    if goal.delta == 0:
        goal = dataclasses.replace(goal, delta=SMOOTH)
    best = minimise(goal, np.repeat(start_SP[:1], len(weight_RC), axis=0), weight_RC, y_RC)
    theta_RP, value_R = best.theta_MP.copy(), best.value_M.copy()
    decrement_R, bound_RP = best.decrement_M.copy(), best.bound_MP.copy()
    for start_P in start_SP[1:]:
        other = minimise(goal, np.repeat(start_P[None], len(weight_RC), axis=0), weight_RC, y_RC)
        lower_R = (other.value_M < value_R) | ((decrement_R > CONVERGED) & (other.decrement_M <= CONVERGED))
        lower_R &= other.value_M <= value_R * (1 + 1e-9)
        theta_RP[lower_R], value_R[lower_R] = other.theta_MP[lower_R], other.value_M[lower_R]
        decrement_R[lower_R], bound_RP[lower_R] = other.decrement_M[lower_R], other.bound_MP[lower_R]
    sound_R = decrement_R <= CONVERGED
    return Refits(theta_RP[sound_R], bound_RP[sound_R], int((~sound_R).sum()), "")


def one_step(goal: Objective, start_SP: np.ndarray, weight_RC: np.ndarray, y_RC: np.ndarray | None = None) -> Refits:
    """Resamples by one step each from the first start, the law's optimum; within the bounds."""
    if goal.delta == 0:
        goal = dataclasses.replace(goal, delta=SMOOTH)
    theta_P, shape = start_SP[0], goal.shape
    slope_PC, fitted_C = jacobian(shape, theta_P[None])[0], goal.y_C - residuals(goal, theta_P[None])[0]
    if goal.raw:
        slope_PC = slope_PC * np.exp(fitted_C)
    inner_C = inner(goal, goal.gaps(fitted_C, goal.y_C))
    r_RC = goal.gaps(fitted_C, goal.y_C[None] if y_RC is None else y_RC)
    psi_RC = np.where(r_RC < 0, goal.over, 1.0) * np.clip(r_RC, -goal.delta, goal.delta)
    free_P = (theta_P > shape.lower_P) & (theta_P < shape.upper_P)
    slope_PC = slope_PC[free_P]
    step_RP = np.linalg.solve(inner_C.mean() * slope_PC @ slope_PC.T, slope_PC @ (weight_RC * psi_RC).T).T
    theta_RP = np.tile(theta_P, (len(weight_RC), 1))
    theta_RP[:, free_P] += step_RP
    theta_RP = np.clip(theta_RP, shape.lower_P, shape.upper_P)
    return Refits(theta_RP, (theta_RP <= shape.lower_P) | (theta_RP >= shape.upper_P), 0, "")


def resamples(cluster_C: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """[R, C] how often each row was drawn when clusters are drawn with replacement, as many as there are."""
    clusters = int(cluster_C.max()) + 1
    counts = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    return counts[:, cluster_C].astype(float)


def bootstrap(
    goal: Objective,
    start_SP: np.ndarray,
    cluster_C: np.ndarray,
    *,
    cluster: str | None,
    draws: int,
    seed: int,
    seed_sd: float | None = None,
) -> Refits:
    """Refits to `draws` resamples: by cases, by the clusters of a column, or with seed noise `seed_sd`, nats per token.

    Raises:
        InputError: for a negative number of draws, or a seed noise that is not above 0 or given with clusters.
    """
    require(draws >= 0, f"draws={draws} is below 0: give 1000, or 0 for no intervals")
    rows = len(cluster_C)
    refitted = refit if rows <= MANY else one_step
    rng = np.random.default_rng(seed)
    if seed_sd is None:
        clusters = int(cluster_C.max()) + 1
        words = f"{rows} rows" if cluster is None else f"{clusters} clusters of {cluster}"
        found = refitted(goal, start_SP, resamples(cluster_C, draws, rng))
        return dataclasses.replace(found, resampling=words)
    require(cluster is None, f"seed_sd={seed_sd} and cluster={cluster} exclude each other: leave one out")
    require(
        0 < seed_sd < np.inf, f"seed_sd={seed_sd} is not above 0: give the seeds' standard deviation in nats per token"
    )
    noise_RC = seed_sd * rng.standard_normal((draws, rows))
    loss_RC = np.maximum(np.exp(goal.y_C) + noise_RC, 0.5 * np.exp(goal.y_C))
    found = refitted(goal, start_SP, np.ones((draws, rows)), np.log(loss_RC))
    return dataclasses.replace(found, resampling=f"seed noise of {seed_sd:g} nats per token")
