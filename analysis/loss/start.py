"""Starting points of a loss law: a grid over the exponents, with the constants by variable projection.

At fixed exponents every form is linear in its constants after the power 1 / tau: with L^(1/tau) as the measure,
`sum_k x_k exp(t_k / tau) = L^(1/tau)`, x_k >= 0.  Divided by the right side this is least squares of the relative
error with at most three unknowns: all subsets of them are solved, and the best one without a negative number is the
answer, as non-negative least squares would find it, for the whole grid at once.

Suffixes of arrays: G grid points, C rows, K constants, P fitted numbers.
"""

import dataclasses
import itertools

import numpy as np

from analysis.loss.objective import Objective, values

GRID = np.geomspace(0.02, 1.9, 32)  # of each exponent
CONSTANTS = ("a", "b", "e")
MANY = 2000  # rows
_BEST = 16  # lowest grid points that become starts
_STRIDE = 4  # of the grid points that become starts wherever they are
_ROWS = 500
_LEAST = 1e-3  # share of the loss for a constant that projection puts at 0: an exact 0 would have no logarithm


def starts(goal: Objective) -> np.ndarray:
    """[M, P] the lowest 16 points of the grid, and every fourth of it in each direction, judged on at most 500 rows.

    Data of more than MANY rows, where a start costs more and local minima are fewer, get about a quarter of them.
    """
    best, stride = (_BEST, _STRIDE) if goal.shape.rows <= MANY else (_BEST // 4, 2 * _STRIDE)
    goal = thinned(goal)
    count = sum(name in goal.shape.names for name in ("alpha", "beta"))
    grid_GX = np.array(list(itertools.product(GRID, repeat=count)))
    theta_GP = projected(goal, grid_GX)
    value_G = values(goal, theta_GP, np.ones((1, goal.shape.rows)))
    number_G = np.arange(len(grid_GX)).reshape([len(GRID)] * count)
    spread = number_G[(slice(stride // 2, None, stride),) * count].ravel()
    return theta_GP[np.union1d(np.argsort(value_G, kind="stable")[:best], spread)]


def thinned(goal: Objective) -> Objective:
    """The objective over some of the rows, where there are many."""
    if goal.shape.rows <= _ROWS:
        return goal
    kept = np.random.default_rng(0).permutation(goal.shape.rows)[:_ROWS]
    shape = dataclasses.replace(goal.shape, terms_KCP=goal.shape.terms_KCP[:, kept])
    return dataclasses.replace(goal, shape=shape, y_C=goal.y_C[kept])


def projected(goal: Objective, exponents_GX: np.ndarray) -> np.ndarray:
    """[G, P] fitted vectors with given exponents (alpha, beta, those that the form has) and their best constants."""
    shape = goal.shape
    theta_GP = np.zeros((len(exponents_GX), len(shape.names)))
    exponents = [place for place, name in enumerate(shape.names) if name not in CONSTANTS]
    theta_GP[:, exponents] = exponents_GX
    tau_G1 = np.ones((len(theta_GP), 1)) if shape.hot is None else theta_GP[:, shape.hot, None]
    free = [name for name in CONSTANTS if name in shape.names]
    columns, tops = [], []
    for term_CP in shape.terms_KCP[: len(free)]:  # a fixed E, the last term, is no constant
        log_GC = (theta_GP @ term_CP.T - goal.y_C) / tau_G1
        tops.append(log_GC.max(axis=1))
        columns.append(np.exp(log_GC - tops[-1][:, None]))
    target_C = 1 - (shape.fixed_E or 0.0) * np.exp(-goal.y_C)
    x_GK = non_negative(np.stack(columns, axis=1), target_C)
    x_GK = np.maximum(x_GK, _LEAST)
    for number, name in enumerate(free):
        theta_GP[:, shape.names.index(name)] = tau_G1[:, 0] * (np.log(x_GK[:, number]) - tops[number])
    return np.clip(theta_GP, shape.lower_P, shape.upper_P)


def non_negative(columns_GKC: np.ndarray, target_C: np.ndarray) -> np.ndarray:
    """[G, K] the x >= 0 that minimise |columns' x - target|^2, by trying every subset of unknowns (K <= 3)."""
    gram_GKK = columns_GKC @ columns_GKC.transpose(0, 2, 1)
    right_GK = columns_GKC @ target_C
    unknowns = range(gram_GKK.shape[1])
    best_GK = np.zeros_like(right_GK)
    gain_G = np.zeros(len(right_GK))
    for size in range(1, gram_GKK.shape[1] + 1):
        for chosen in map(list, itertools.combinations(unknowns, size)):
            part_GKK = gram_GKK[:, chosen][:, :, chosen]
            part_GKK = part_GKK + 1e-12 * np.trace(part_GKK, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            x_GK = np.linalg.solve(part_GKK, right_GK[:, chosen][:, :, None])[:, :, 0]
            found_G = (x_GK * (2 * right_GK[:, chosen] - (part_GKK @ x_GK[:, :, None])[:, :, 0])).sum(axis=1)
            better_G = (x_GK >= 0).all(axis=1) & (found_G > gain_G)
            gain_G[better_G] = found_G[better_G]
            best_GK[better_G] = 0
            best_GK[np.ix_(better_G, chosen)] = x_GK[better_G]
    return best_GK
