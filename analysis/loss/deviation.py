"""Least absolute deviations of the loss law: the limit delta -> 0 of Huber's objective, to its exact optimum.

The objective has a kink at every row, so the smooth search follows Huber's optimum down to delta = 1e-11, a decade at a
time.  Linear programs finish and judge it: with residuals r and slopes J at theta, the step d minimises
`sum w v |r - J d|` within the bounds and a trust region, exactly; at an optimum no step promises a fall.  Where it
passes through as many rows as it has numbers, as most do, one such step reaches it to rounding.

Suffixes of arrays: M problems, C rows, P fitted numbers.
"""

import dataclasses

import numpy as np
from scipy.optimize import linprog

from analysis.loss.newton import Minima, minimise
from analysis.loss.objective import Objective, jacobian, residuals, values

PATH = tuple(10.0**-power for power in range(2, 12))  # of delta, in log loss
SMOOTH = 1e-5  # delta that stands for 0 where thousands of fits are wanted
_FOLLOWED = 16  # of the ends of the first delta
_POLISHED = 6  # of those of the last
_STEPS = 8


def minimise_deviation(goal: Objective, start_MP: np.ndarray, weight_C: np.ndarray) -> Minima:
    """Optima of `sum w v |r|` from the best of the smooth path's ends; the decrement is what a last step promises."""
    theta_MP = start_MP
    for delta in PATH:
        found = minimise(dataclasses.replace(goal, delta=delta), theta_MP, weight_C[None])
        theta_MP = found.theta_MP[np.argsort(found.value_M, kind="stable")[:_FOLLOWED]]
    order_M = np.argsort(values(goal, theta_MP, weight_C[None]), kind="stable")[:_POLISHED]
    ends = [_polish(goal, theta_MP[place], weight_C) for place in order_M]
    theta_MP = np.array([theta_P for theta_P, _ in ends])
    return Minima(
        theta_MP,
        values(goal, theta_MP, weight_C[None]),
        np.array([promise for _, promise in ends]),
        np.full(len(ends), _STEPS),
        (theta_MP <= goal.shape.lower_P) | (theta_MP >= goal.shape.upper_P),
    )


def promised(goal: Objective, theta_P: np.ndarray, weight_C: np.ndarray) -> float:
    """Share of the objective that the best small step promises; 0 at an optimum."""
    value = float(values(goal, theta_P[None], weight_C[None])[0])
    step_P, fall = _step(goal, theta_P, weight_C, 1e-2)
    return 0.0 if value <= _floor(goal, weight_C) or not step_P.any() else fall / value


def _floor(goal: Objective, weight_C: np.ndarray) -> float:
    """The objective of rows that fit to rounding."""
    return float(np.sqrt(2 * goal.floor) * weight_C.sum())


def _polish(goal: Objective, theta_P: np.ndarray, weight_C: np.ndarray) -> tuple[np.ndarray, float]:
    """(theta, share of the objective still promised) after linear programs in a shrinking trust region."""
    radius, fall = 1e-2, 0.0
    value = float(values(goal, theta_P[None], weight_C[None])[0])
    for _ in range(_STEPS):
        step_P, fall = _step(goal, theta_P, weight_C, radius)
        if value <= _floor(goal, weight_C):
            return theta_P, 0.0
        if fall <= 1e-13 * value:
            break
        trial_P = np.clip(theta_P + step_P, goal.shape.lower_P, goal.shape.upper_P)
        there = float(values(goal, trial_P[None], weight_C[None])[0])
        if there < value:
            radius = 2 * radius if value - there > 0.5 * fall else radius
            theta_P, value = trial_P, there
        else:
            radius /= 8
    return theta_P, promised(goal, theta_P, weight_C)


def _step(goal: Objective, theta_P: np.ndarray, weight_C: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
    """(step, fall of the objective that the linearised law promises) by a linear program.

    It is solved in its dual, which has one condition for each fitted number instead of one for each row: with
    multipliers -over w <= y <= w of the rows, maximise r'y - high's + low't where J'y = s - t, s and t not negative;
    the step is the conditions' multiplier.  Units are the residuals' median and numbers that move them by one, for
    the solver's absolute tolerances.
    """
    r_C = residuals(goal, theta_P[None])[0]
    slope_PC = jacobian(goal.shape, theta_P[None])[0]
    unit = max(float(np.median(np.abs(r_C))), 1e-15)
    scale_P = unit / np.maximum(np.sqrt((slope_PC**2).mean(axis=1)), 1e-12)
    low_P = np.maximum(-radius, goal.shape.lower_P - theta_P) / scale_P
    high_P = np.minimum(radius, goal.shape.upper_P - theta_P) / scale_P
    size = len(theta_P)
    equal = np.concatenate([slope_PC * scale_P[:, None] / unit, -np.eye(size), np.eye(size)], axis=1)
    rows = np.stack([-goal.over * weight_C, weight_C], axis=1)
    bounds = np.concatenate([rows, np.tile([0.0, np.inf], (2 * size, 1))])
    cost = np.concatenate([-r_C / unit, high_P, -low_P])
    found = linprog(cost, A_eq=equal, b_eq=np.zeros(size), bounds=bounds, method="highs-ds")
    if found.x is None:
        return np.zeros(size), 0.0
    step_P = np.clip(-found.eqlin.marginals, low_P, high_P) * scale_P
    now = float(values(goal, theta_P[None], weight_C[None])[0])
    left_C = r_C - slope_PC.T @ step_P
    after = float((np.abs(left_C) * np.where(left_C < 0, goal.over, 1.0) * weight_C).sum())
    return step_P, max(now - after, 0.0)
