"""Laws with a known truth, and how often the intervals of a new size's optimum hold it.

A simulated law has G sizes a factor of two apart, each with six token budgets a factor of two apart (`balanced`), or
with three to eight of eleven (not balanced: as uneven as Step Law's cells).  The optimum of a cell is

    ln lr* = -6.5 - 0.6 (ln N - mean) + 0.25 (ln D - mean) + u_size + e_cell,

u ~ N(0, between^2), e ~ N(0, within^2), and it is measured with a known error of `vertex_sd` times 0.6 to 1.6.  The
targets are true optima of new sizes, with a u and an e of their own: one twice as large as the largest size, and one
half-way between the two middle sizes (or at the middle, where G is odd), both at the middle budget.

Suffixes: C cells, P coefficients, K nodes, R laws, T targets.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special, stats

from analysis.power import reml

Wrong = Literal["nothing", "curvature", "heavy tails", "trunks"]
TRUTH_P = np.array([-6.5, -0.6, 0.25])
_CURVATURE = 0.05  # of ln lr* in (ln N - mean)^2
_TRUNK = 0.7  # correlation of neighbouring budgets' deviations
_TAILS = 3  # degrees of freedom of Student's t


@dataclass(frozen=True)
class Setting:
    """Standard deviations in ln lr; `wrong` names what the model of the fit does not know about."""

    sizes: int
    between: float
    within: float
    vertex_sd: float = 0.04
    balanced: bool = True
    wrong: Wrong = "nothing"


@dataclass(frozen=True)
class Laws:
    """Simulated laws: the model of their cells, what was measured, and where and what the targets are."""

    model: reml.Model
    y_RC: np.ndarray
    target_TP: np.ndarray
    truth_RT: np.ndarray


def simulate(setting: Setting, laws: int, seed: int = 0) -> Laws:
    """`laws` laws of one setting and one design."""
    rng = np.random.default_rng(seed)
    step = np.log(2)
    size_G = (np.arange(setting.sizes) - (setting.sizes - 1) / 2) * step
    group_C, budget_C = _cells(setting, rng)
    centre = budget_C.mean()
    design_CP = np.column_stack([np.ones(len(group_C)), size_G[group_C], budget_C - centre])
    error_C = setting.vertex_sd * np.exp(rng.uniform(np.log(0.6), np.log(1.6), len(group_C)))
    inside = 0.0 if setting.sizes % 2 == 0 else step / 2
    target_TP = np.array([[1.0, size_G[-1] + step, 0.0], [1.0, inside, 0.0]])
    own_RG = setting.between * _draw(rng, (laws, setting.sizes + 2), setting)
    cell_RC = setting.within * _draw(rng, (laws, len(group_C)), setting)
    if setting.wrong == "trunks":
        for place in np.flatnonzero(group_C[1:] == group_C[:-1]):
            cell_RC[:, place + 1] = _TRUNK * cell_RC[:, place] + np.sqrt(1 - _TRUNK**2) * cell_RC[:, place + 1]
    y_RC = design_CP @ TRUTH_P + own_RG[:, group_C] + cell_RC + error_C * rng.normal(size=(laws, len(group_C)))
    truth_RT = target_TP @ TRUTH_P + own_RG[:, -2:] + setting.within * _draw(rng, (laws, 2), setting)
    if setting.wrong == "curvature":
        y_RC = y_RC + _CURVATURE * size_G[group_C] ** 2
        truth_RT = truth_RT + _CURVATURE * target_TP[:, 1] ** 2
    return Laws(reml.Model(design_CP, error_C**2, group_C), y_RC, target_TP, truth_RT)


def coverage(laws: Laws, level: float = 0.95) -> dict[str, np.ndarray]:
    """Share of laws whose interval holds each target [T]: `law` (the prediction interval of the fit), its `mean`
    interval, `reml-z` (normal quantile at the estimated variances' best node), and `iid` (ordinary least squares)."""
    tail = (1 - level) / 2
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("law", "mean", "reml-z")}
    for start in range(0, len(laws.y_RC), 250):
        rows = slice(start, start + 250)
        held = reml.posterior(laws.model, laws.y_RC[rows])
        own_KT = np.einsum("tp,kpq,tq->kt", laws.target_TP, held.covariance_KPP, laws.target_TP)
        new_KT = own_KT + (held.between_K + held.within_K)[:, None]
        miss_RKT = laws.truth_RT[rows, None, :] - held.mean_RKP @ laws.target_TP.T
        for name, variance_KT in (("law", new_KT), ("mean", own_KT)):
            below_RT = np.einsum("rk,rkt->rt", held.weight_RK, special.ndtr(miss_RKT / np.sqrt(variance_KT)))
            found[name].append((below_RT > tail) & (below_RT < 1 - tail))
        best_R = reml.likelihood(laws.model, laws.y_RC[rows], held).argmax(axis=1)
        miss_RT = miss_RKT[np.arange(len(best_R)), best_R]
        found["reml-z"].append(np.abs(miss_RT) < stats.norm.ppf(1 - tail) * np.sqrt(new_KT[best_R]))
    shares = {name: np.concatenate(parts).mean(axis=0) for name, parts in found.items()}
    return shares | {"iid": _iid(laws, tail, 1.0), "iid mean": _iid(laws, tail, 0.0)}


def _cells(setting: Setting, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(size number, ln budget) of the cells, in order."""
    if setting.balanced:
        budgets = np.arange(6) * np.log(2)
        return np.repeat(np.arange(setting.sizes), 6), np.tile(budgets, setting.sizes)
    groups, budgets = [], []
    for size in range(setting.sizes):
        chosen = np.sort(rng.choice(11, size=rng.integers(3, 9), replace=False))
        groups.append(np.full(len(chosen), size))
        budgets.append(chosen * np.log(1.5))
    return np.concatenate(groups), np.concatenate(budgets)


def _draw(rng: np.random.Generator, shape: tuple[int, int], setting: Setting) -> np.ndarray:
    """Deviations of standard deviation 1."""
    if setting.wrong == "heavy tails":
        return rng.standard_t(_TAILS, size=shape) / np.sqrt(_TAILS / (_TAILS - 2))
    return rng.normal(size=shape)


def _iid(laws: Laws, tail: float, own: float) -> np.ndarray:
    """Coverage [T] of least squares' interval of a cell (`own` 1) or of the mean (0)."""
    design_CP = laws.model.design_CP
    plain_PC = np.linalg.pinv(design_CP)
    beta_RP = laws.y_RC @ plain_PC.T
    free = len(design_CP) - design_CP.shape[1]
    variance_R = ((laws.y_RC - beta_RP @ design_CP.T) ** 2).sum(axis=1) / free
    spread_T = own + ((laws.target_TP @ plain_PC) ** 2).sum(axis=1)
    half_RT = stats.t.ppf(1 - tail, free) * np.sqrt(variance_R[:, None] * spread_T)
    return (np.abs(laws.truth_RT - beta_RP @ laws.target_TP.T) < half_RT).mean(axis=0)
