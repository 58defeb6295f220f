"""How far the data pin down E, alpha and beta: refits with one of them held fixed.

Along a profile the objective F rises from its minimum by dF(v).  With psi and psi' the derivatives of the Huber loss at
the optimum, 2 dF mean(psi') / mean(psi^2) (n - P) / n is about chi-squared with one degree of freedom (Schrader and
Hettmansperger 1980; for least squares the usual likelihood ratio), so the limits lie where it is 3.84.  A side that
never reaches it is open: there the data do not bound the number.  Rows count as independent.

Suffixes of arrays: M problems, C rows, P fitted numbers, V values held fixed.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.loss.deviation import SMOOTH
from analysis.loss.form import fitted_vector
from analysis.loss.law import LossLaw
from analysis.loss.newton import minimise
from analysis.loss.objective import Objective, gaps, jacobian, point, residuals
from analysis.loss.search import prepared
from analysis.loss.start import MANY

CHI2 = 3.841458820694124  # 95 % of chi-squared with one degree of freedom
_POINTS = 12  # held values on each side
_INSIDE = 20  # rows from which the share within delta is known
_STEPS, _ENOUGH = 60, 1e-8  # of refits to more than MANY rows: the limit lies where F has risen by far more


@dataclass(frozen=True)
class Profile:
    """Values of E, alpha or beta held fixed [V], the statistic there [V], and 95 % limits (None: open)."""

    name: str
    value_V: np.ndarray
    statistic_V: np.ndarray
    low: float | None
    high: float | None


def condition(goal: Objective, theta_P: np.ndarray) -> float:
    """Condition number of J'J over all rows, columns of J = d ln L / d theta of unit length; inf where singular."""
    slope_PC = jacobian(goal.shape, theta_P[None])[0]
    length_P = np.sqrt((slope_PC**2).sum(axis=1))
    if not length_P.all():
        return float("inf")
    singular_P = np.linalg.svd(slope_PC / length_P[:, None], compute_uv=False)
    smallest = float(singular_P[-1])
    return float((singular_P[0] / smallest) ** 2) if smallest > 1e-8 * singular_P[0] else float("inf")


def profiles_of(frame: pd.DataFrame, law: LossLaw) -> list[Profile]:
    """The profiles of a law fitted to `frame`, with the values behind its limits: what a picture needs.

    Raises:
        InputError: for columns or rows that cannot be.
    """
    _, goal = prepared(frame, law.delta, law.form, None, law.fixed_E, law.over, law.raw)
    return profiles(goal, fitted_vector(goal.shape, law.values()))


def profiles(goal: Objective, theta_P: np.ndarray) -> list[Profile]:
    """Profiles of E, alpha and beta, those that are fitted, around the optimum `theta_P`; delta 0 is taken as 1e-5."""
    if goal.delta == 0:
        goal = dataclasses.replace(goal, delta=SMOOTH)
    names = [name for name in ("e", "alpha", "beta") if goal.shape.place(name) is not None]
    ones_1C = np.ones((1, goal.shape.rows))
    best = point(goal, theta_P[None], ones_1C, goal.y_C[None])
    if _exact(goal, theta_P):
        return [Profile(_name(name), np.empty(0), np.empty(0), *_point(goal, theta_P, name)) for name in names]
    factor = _factor(goal, theta_P)
    held = {name: _held(goal, theta_P, name) for name in names}
    start_MP = np.concatenate([np.tile(theta_P, (len(held[name]), 1)) for name in names])
    lower_MP, upper_MP = (
        np.tile(goal.shape.lower_P, (len(start_MP), 1)),
        np.tile(goal.shape.upper_P, (len(start_MP), 1)),
    )
    first = 0
    for name in names:
        part, place = slice(first, first + len(held[name])), goal.shape.place(name)
        for array_MP in (start_MP, lower_MP, upper_MP):
            array_MP[part, place] = held[name]
        first += len(held[name])
    limits = {} if goal.shape.rows <= MANY else {"steps": _STEPS, "enough": _ENOUGH}
    found = minimise(goal, start_MP, ones_1C, lower_MP=lower_MP, upper_MP=upper_MP, **limits)
    rise_M = np.maximum(found.value_M - best.value_M[0], 0) * factor
    ends = np.cumsum([len(held[name]) for name in names])
    rises = np.split(rise_M, ends[:-1])
    return [_limits(goal, theta_P, name, held[name], rise_V) for name, rise_V in zip(names, rises, strict=True)]


def _exact(goal: Objective, theta_P: np.ndarray) -> bool:
    """Whether the law passes through every row, to rounding."""
    r_C = residuals(goal, theta_P[None])[0]
    return float((r_C**2).sum()) <= 2e4 * goal.floor * len(r_C)


def _factor(goal: Objective, theta_P: np.ndarray) -> float:
    """What turns a rise of F into the statistic."""
    r_C = gaps(goal, theta_P[None])[0]
    weight_C = np.where(r_C < 0, goal.over, 1.0)
    psi_C = weight_C * np.clip(r_C, -goal.delta, goal.delta)
    return 2 * float(inner(goal, r_C).sum()) / float((psi_C**2).sum()) * max(1 - len(theta_P) / len(r_C), 0.0)


def inner(goal: Objective, r_C: np.ndarray) -> np.ndarray:
    """psi' [C], weighted, of residuals: 1 for rows within delta of the law.

    Where they are fewer than 20 (or half of the rows), their density is taken from as many of the nearest rows instead.
    """
    weight_C = np.where(r_C < 0, goal.over, 1.0)
    size_C = np.sort(np.abs(r_C))
    reach = max(goal.delta, float(size_C[min(_INSIDE, (len(r_C) + 1) // 2) - 1]))
    share = 1.0 if goal.delta == np.inf else goal.delta / reach
    return share * weight_C * (np.abs(r_C) <= reach)


def _held(goal: Objective, theta_P: np.ndarray, name: str) -> np.ndarray:
    """Values of one number from its bounds to the optimum and on, closer together near the optimum."""
    place = goal.shape.place(name)
    assert place is not None
    low, middle, high = goal.shape.lower_P[place], theta_P[place], goal.shape.upper_P[place]
    share_V = (np.arange(1, _POINTS + 1) / _POINTS) ** 3
    return np.concatenate([(middle + (low - middle) * share_V)[::-1], middle + (high - middle) * share_V])


def _limits(goal: Objective, theta_P: np.ndarray, name: str, value_V: np.ndarray, rise_V: np.ndarray) -> Profile:
    """Where the signed root of the statistic, linear between held values, crosses the limit on either side."""
    place = goal.shape.place(name)
    assert place is not None
    middle, root = float(theta_P[place]), np.sqrt(CHI2)
    found = []
    for values, rises in ((value_V[:_POINTS][::-1], rise_V[:_POINTS][::-1]), (value_V[_POINTS:], rise_V[_POINTS:])):
        path, roots = np.concatenate([[middle], values]), np.sqrt(np.concatenate([[0.0], rises]))
        above = np.flatnonzero(roots > root)
        if not len(above):
            found.append(None)
            continue
        last = int(above[0])
        share = (root - roots[last - 1]) / (roots[last] - roots[last - 1])
        found.append(float(path[last - 1] + share * (path[last] - path[last - 1])))
    shown_V = np.exp(value_V) if name == "e" else value_V
    low, high = (None if end is None else float(np.exp(end)) if name == "e" else end for end in found)
    return Profile(_name(name), shown_V, rise_V, low, high)


def _name(name: str) -> str:
    return "E" if name == "e" else name


def _point(goal: Objective, theta_P: np.ndarray, name: str) -> tuple[float, float]:
    """The limits of an exact fit: its value twice."""
    place = goal.shape.place(name)
    assert place is not None
    value = float(np.exp(theta_P[place]) if name == "e" else theta_P[place])
    return value, value
