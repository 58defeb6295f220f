"""Newton's method inside bounds for many small problems at once: the loss law's starts, resamples and profiles.

A step solves `(H + lambda J) s = -gradient`, H the exact Hessian and J the majoriser of `analysis.loss.objective`:
Newton's step for small lambda, a shortened step of reweighted least squares for large ones.  Both follow the scale of
the numbers, so that none is left to choose.  A step is taken when F falls; lambda follows the ratio of the fall to
the model's (Nielsen 1999).  Numbers on a bound that the gradient pushes outwards rest there.

A problem ends when its decrement, what another step could gain, is below 1e-13 F, or when no step helps; only the
decrement says whether that is a minimum.  F may have any size: no tolerance is absolute.

Suffixes of arrays: M problems, C rows, P fitted numbers.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from analysis.loss.objective import Objective, Point, point

ENOUGH = 1e-13  # of F: smaller gains end the search
# A start in a flat valley may need 300: one that is cut off ends where rounding, and so the shape of its batch, led it.
STEPS = 400
_BLOCK = 65536  # rows of all problems at a time: their arrays stay in the cache


@dataclass(frozen=True)
class Minima:
    """Where searches ended: theta [M, P], F [M], the decrement over F [M], steps [M], and which bounds hold [M, P]."""

    theta_MP: np.ndarray
    value_M: np.ndarray
    decrement_M: np.ndarray
    steps_M: np.ndarray
    bound_MP: np.ndarray


@dataclass
class _Search:
    """The unfinished searches of a block and the arrays that belong to them; `number_M` are their places in it."""

    number_M: np.ndarray
    theta_MP: np.ndarray
    weight_MC: np.ndarray
    y_MC: np.ndarray
    lower_MP: np.ndarray
    upper_MP: np.ndarray
    floor_M: np.ndarray
    damping_M: np.ndarray
    growth_M: np.ndarray
    now: Point

    def keep(self, chosen_M: np.ndarray) -> None:
        """Drop the others."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            setattr(self, field.name, value.some(chosen_M) if isinstance(value, Point) else value[chosen_M])


def minimise(
    goal: Objective,
    start_MP: np.ndarray,
    weight_MC: np.ndarray,
    y_MC: np.ndarray | None = None,
    *,
    lower_MP: np.ndarray | None = None,
    upper_MP: np.ndarray | None = None,
    steps: int = STEPS,
    enough: float = ENOUGH,
) -> Minima:
    """Minima of F from every start, for a delta above 0.

    Weights, log losses (the goal's unless given) and bounds (the form's unless given) may have one row for all.  A
    search ends after `steps`, or where the next one promises less than `enough` of F.
    """
    size = start_MP.shape
    given = {
        "weight_MC": (weight_MC, (size[0], goal.shape.rows)),
        "y_MC": (goal.y_C if y_MC is None else y_MC, (size[0], goal.shape.rows)),
        "lower_MP": (goal.shape.lower_P if lower_MP is None else lower_MP, size),
        "upper_MP": (goal.shape.upper_P if upper_MP is None else upper_MP, size),
    }
    whole = {name: np.broadcast_to(values, full) for name, (values, full) in given.items()}
    ended = Minima(np.empty(size), np.empty(size[0]), np.empty(size[0]), np.empty(size[0], int), np.empty(size, bool))
    count = max(1, _BLOCK // goal.shape.rows)
    for first in range(0, size[0], count):
        part = slice(first, first + count)
        block = {name: values[part] for name, values in whole.items()}
        _block(goal, start_MP[part], block, Minima(*(value[part] for value in vars(ended).values())), steps, enough)
    return ended


def _block(
    goal: Objective, start_MP: np.ndarray, block: dict[str, np.ndarray], ended: Minima, steps: int, enough: float
) -> None:
    """The searches of one block, written into the views `ended`; those that have ended leave the work."""
    theta_MP = np.clip(start_MP, block["lower_MP"], block["upper_MP"])
    count = len(theta_MP)
    search = _Search(
        number_M=np.arange(count),
        theta_MP=theta_MP,
        floor_M=goal.floor * block["weight_MC"].sum(axis=1),
        damping_M=np.full(count, 1e-2),
        growth_M=np.full(count, 2.0),
        now=point(goal, theta_MP, block["weight_MC"], block["y_MC"]),
        **block,
    )
    for step in range(steps + 1):
        rest_MP = _resting(search)
        decrement_M = _decrement(search.now, rest_MP)
        done_M = (decrement_M <= enough * search.now.value_M + search.floor_M) | (search.damping_M > 1e12)
        if step == steps:
            done_M[:] = True
        if done_M.any():
            _record(search, decrement_M, rest_MP, done_M, step, ended)
            search.keep(~done_M)
            rest_MP = rest_MP[~done_M]
        if not len(search.number_M):
            return
        _advance(goal, search, rest_MP)


def _record(
    search: _Search, decrement_M: np.ndarray, rest_MP: np.ndarray, done_M: np.ndarray, step: int, ended: Minima
) -> None:
    """Write the searches that are done to their places."""
    left_M = np.maximum(decrement_M - search.floor_M, 0) / (search.now.value_M + search.floor_M)
    gone_M = search.number_M[done_M]
    ended.theta_MP[gone_M] = search.theta_MP[done_M]
    ended.value_M[gone_M] = search.now.value_M[done_M]
    ended.decrement_M[gone_M] = left_M[done_M]
    ended.steps_M[gone_M] = step
    ended.bound_MP[gone_M] = rest_MP[done_M]


def _advance(goal: Objective, search: _Search, rest_MP: np.ndarray) -> None:
    """Try one step of every search, and take those that lower F."""
    now, theta_MP = search.now, search.theta_MP
    trial_MP = np.clip(theta_MP + _step(now, rest_MP, search.damping_M), search.lower_MP, search.upper_MP)
    move_MP = trial_MP - theta_MP
    there = point(goal, trial_MP, search.weight_MC, search.y_MC)
    model_M = -_dot(move_MP, now.gradient_MP) - 0.5 * _dot(move_MP, _times(now.hessian_MPP, move_MP))
    fall_M = now.value_M - there.value_M
    better_M = fall_M > 0
    ratio_M = np.where(model_M > 0, fall_M / np.where(model_M > 0, model_M, 1.0), 1.0)
    shrink_M = np.clip(1 - (2 * ratio_M - 1) ** 3, 0.05, 2.0)
    search.damping_M = np.maximum(search.damping_M * np.where(better_M, shrink_M, search.growth_M), 1e-10)
    search.growth_M = np.where(better_M, 2.0, 2 * search.growth_M)
    search.theta_MP = np.where(better_M[:, None], trial_MP, theta_MP)
    search.now = there.where(better_M, now)


def _resting(search: _Search) -> np.ndarray:
    """Which numbers lie on a bound and would leave the box by descent."""
    theta_MP, gradient_MP = search.theta_MP, search.now.gradient_MP
    below_MP = (theta_MP <= search.lower_MP) & (gradient_MP >= 0)
    return below_MP | ((theta_MP >= search.upper_MP) & (gradient_MP <= 0))


def _free(matrix_MPP: np.ndarray, rest_MP: np.ndarray) -> np.ndarray:
    """The matrix with the resting numbers' rows and columns replaced by those of the identity."""
    kept_MPP = np.where(rest_MP[:, :, None] | rest_MP[:, None, :], 0.0, matrix_MPP)
    diagonal = np.arange(rest_MP.shape[1])
    kept_MPP[:, diagonal, diagonal] += rest_MP
    return kept_MPP


def _ridged(matrix_MPP: np.ndarray) -> np.ndarray:
    """The matrix with a hardly visible diagonal added: regular, however collinear its columns are."""
    diagonal = np.arange(matrix_MPP.shape[1])
    lifted_MPP = matrix_MPP.copy()
    own_MP = np.abs(matrix_MPP[:, diagonal, diagonal])
    lifted_MPP[:, diagonal, diagonal] += 1e-13 * own_MP + 1e-16 * own_MP.max(axis=1, keepdims=True) + 1e-280
    return lifted_MPP


def _decrement(now: Point, rest_MP: np.ndarray) -> np.ndarray:
    """gradient' J^-1 gradient / 2 [M]: what a step of reweighted least squares promises."""
    gradient_MP = np.where(rest_MP, 0.0, now.gradient_MP)
    return 0.5 * _dot(gradient_MP, _solve(_ridged(_free(now.majoriser_MPP, rest_MP)), gradient_MP))


def _step(now: Point, rest_MP: np.ndarray, damping_M: np.ndarray) -> np.ndarray:
    """The damped step; where it would climb, a shortened one of reweighted least squares."""
    gradient_MP = np.where(rest_MP, 0.0, now.gradient_MP)
    majoriser_MPP = _ridged(_free(now.majoriser_MPP, rest_MP))
    hessian_MPP = _free(now.hessian_MPP, rest_MP)
    move_MP = -_solve(_ridged(hessian_MPP + damping_M[:, None, None] * majoriser_MPP), gradient_MP)
    climbs_M = ~(_dot(move_MP, gradient_MP) < 0)
    if climbs_M.any():
        plain_MP = _solve(majoriser_MPP[climbs_M], gradient_MP[climbs_M])
        move_MP[climbs_M] = -plain_MP / (1 + damping_M[climbs_M, None])
    return move_MP


def _solve(matrix_MPP: np.ndarray, right_MP: np.ndarray) -> np.ndarray:
    return np.linalg.solve(matrix_MPP, right_MP[:, :, None])[:, :, 0]


def _times(matrix_MPP: np.ndarray, vector_MP: np.ndarray) -> np.ndarray:
    return np.matmul(matrix_MPP, vector_MP[:, :, None])[:, :, 0]


def _dot(left_MP: np.ndarray, right_MP: np.ndarray) -> np.ndarray:
    return np.einsum("mp,mp->m", left_MP, right_MP)
