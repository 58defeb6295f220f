"""The search for a loss law's optimum over all starts, and the measures by which it has converged.

Suffixes of arrays: M starts, C rows, P fitted numbers.
"""

import math

import numpy as np
import pandas as pd

from analysis.loss.deviation import minimise_deviation, promised
from analysis.loss.form import FORMS, check_form, surface
from analysis.loss.newton import STEPS, Minima, minimise
from analysis.loss.objective import Objective
from analysis.loss.rows import Rows, rows_of
from analysis.loss.start import MANY, starts, thinned
from lab.check import require

DELTA = 1e-3  # Huber's threshold of Hoffmann et al.
AGREE = 1e-6  # relative difference of objectives that counts as the same
_KEPT = 4  # ends of a part of many rows that are searched on with all of them
_PART_STEPS, _PART_ENOUGH = 100, 1e-8
_MANY_STEPS = 150  # of searches over many rows: those that need more have no end that the rows determine


def prepared(
    frame: pd.DataFrame,
    delta: float,
    form: str,
    cluster: str | None,
    fixed_E: float | None,
    over: float,
    raw: bool = False,
) -> tuple[Rows, Objective]:
    """The usable rows of a frame and the objective over them.

    Raises:
        InputError: for columns, rows or options that cannot be.
    """
    check_form(form, fixed_E)
    require(delta >= 0, f"delta={delta} is not a threshold: give 0 (absolute deviations) to inf (least squares)")
    require(0 < over < math.inf, f"over={over} is not above 0: give 1 for a symmetric fit, 10 for a lower envelope")
    require(not raw or delta > 0, "delta=0 is for relative residuals: give a delta above 0, as in 1e-3")
    rows = rows_of(frame, cluster, len(FORMS[form]) - (fixed_E is not None), form)
    shape = surface(form, rows.params_C, rows.tokens_C, rows.loss_C, fixed_E)
    return rows, Objective(shape, np.log(rows.loss_C), float(delta), float(over), raw)


def search(goal: Objective, more_MP: np.ndarray | None = None) -> Minima:
    """The ends of all starts of `analysis.loss.start`, and of `more_MP`.

    Of more than MANY rows a part is searched from all starts first, and all rows from the lowest of its ends only.
    """
    start_MP = starts(goal)
    if goal.shape.rows > MANY and goal.delta > 0:
        part = thinned(goal)
        ends = minimise(part, start_MP, np.ones((1, part.shape.rows)), steps=_PART_STEPS, enough=_PART_ENOUGH)
        start_MP = ends.theta_MP[np.argsort(ends.value_M, kind="stable")[:_KEPT]]
    if more_MP is not None:
        start_MP = np.concatenate([more_MP, start_MP])
    ones_C = np.ones(goal.shape.rows)
    if goal.delta == 0:
        return minimise_deviation(goal, start_MP, ones_C)
    return minimise(goal, start_MP, ones_C[None], steps=STEPS if goal.shape.rows <= MANY else _MANY_STEPS)


def rounding(goal: Objective) -> float:
    """Objectives that differ by less are the same."""
    floor = math.sqrt(2 * goal.floor) if goal.delta == 0 else goal.floor
    return 100 * floor * goal.shape.rows


def same(goal: Objective, value_M: np.ndarray, lowest: float) -> np.ndarray:
    """Which objectives agree with the lowest, [M]."""
    return value_M <= lowest * (1 + AGREE) + rounding(goal)


def promise(goal: Objective, theta_P: np.ndarray) -> float:
    """Share of the objective that one more step from theta promises; 0 for an exact fit."""
    ones_C = np.ones(goal.shape.rows)
    if goal.delta == 0:
        return promised(goal, theta_P, ones_C)
    return float(minimise(goal, theta_P[None], ones_C[None], steps=0).decrement_M[0])
