"""The cells of a power law: which rows can be fitted, and which regressors they can tell apart.

Rows without a value are left out and counted in `notes`.  A regressor of one value has no exponent; regressors that
move together (one tokens-per-parameter ratio) have none of their own, which the condition number of their standardised
columns tells (Belsley, Kuh and Welsch 1980).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.runs.near import LIMITS
from analysis.target import UNKNOWN_SIDE, Target, Targets
from lab.check import nearest, require

_COLLINEAR = 300.0  # condition number of standardised regressors above which they are one
_SUSPECT = 30.0  # and above which their exponents depend on each other
_HUBER_ROUNDS = 1000
_SIGNS = {"": 0, "low": -1, "high": 1}


@dataclass(frozen=True)
class Cells:
    """What a law is fitted to: logs of the response [C] and of the regressors [C, I], known variances, sizes.

    `side_C` is 0 for an optimum, -1 where the optimum lies below y and 1 where above; `groups` names the sizes.
    """

    y_C: np.ndarray
    logs_CI: np.ndarray
    variance_C: np.ndarray
    group_C: np.ndarray
    side_C: np.ndarray
    regressors: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: tuple[float, ...] = ()

    @property
    def points(self) -> "Cells":
        """The cells with an optimum, their sizes numbered anew."""
        here = self.side_C == 0
        left, group_H = np.unique(self.group_C[here], return_inverse=True)
        return replace(
            self,
            y_C=self.y_C[here],
            logs_CI=self.logs_CI[here],
            variance_C=self.variance_C[here],
            group_C=group_H,
            side_C=self.side_C[here],
            groups=tuple(self.groups[group] for group in left),
        )

    def of(self, regressors: Sequence[str]) -> "Cells":
        """The cells with some of the regressors."""
        places = [self.regressors.index(name) for name in regressors]
        return replace(self, logs_CI=self.logs_CI[:, places], regressors=tuple(regressors))


def gather(targets: Targets, response: str, regressors: Sequence[str], cluster: str) -> Cells:
    """Optima and bounds in logs, with notes on rows that are neither.

    A bound has the usual error of an optimum, the median of the known ones.

    Raises:
        InputError: a regressor that no row has, or no optimum.
    """
    for name in (cluster, *regressors):
        known = list(dict.fromkeys(name for row in targets.rows for name in row.at))
        told = f"the rows have {', '.join(known)}{nearest(name, known)}"
        require(targets.has(name) or not targets.rows, f"no regressor {name} for the law of {response}: {told}")
    require(len(set(regressors)) == len(regressors), f"regressors={', '.join(regressors)} name one twice")
    notes, total = [], len(targets.rows)
    unknown = targets.left_out.get(UNKNOWN_SIDE, 0)
    points, bounds = targets.points(response), targets.bounds(response) if targets.edges != "keep" else ()
    rows = [row for row in (*points, *bounds) if _placed(row, cluster, regressors)]
    # In an order of their own: values drawn for bounds must not depend on how a table is sorted.
    rows.sort(key=lambda row: _order(row, response, (cluster, *regressors)))
    if unknown:
        notes.append(f"{unknown} of {total} cells left out: their optimum is at an edge of the grid")
    lost = sum(row.level(response) is not None for row in targets.rows) - len(rows)
    if lost:
        notes.append(f"{lost} cells left out: a value is missing or not above 0")
    levels = [level for level in (row.level(response) for row in rows) if level is not None]
    kept = targets.edges == "keep"
    side_C = np.array([0 if kept else _SIGNS[level.censored] for level in levels], int)
    missing = "; ".join(notes) or (f"{len(bounds)} bounds, no optimum" if bounds else "no rows")
    require(bool((side_C == 0).any()), f"no cell has an optimum for the law of {response}: {missing}")
    at_CI = np.log(np.array([[row.at[name] for name in regressors] for row in rows], float).reshape(len(rows), -1))
    variance_C = np.array([level.variance for level in levels], float)
    error_C = variance_C[side_C == 0]
    known_C = np.isfinite(error_C) & (error_C >= 0)
    if not known_C.all():
        worst = float(error_C[known_C].max()) if known_C.any() else 0.0
        notes.append(
            f"{int((~known_C).sum())} cells have no {response}_variance: the largest known, {worst:.3g}, stands for it"
        )
        error_C = np.where(known_C, error_C, worst)
    variance_C[side_C == 0], variance_C[side_C != 0] = error_C, float(np.median(error_C))
    groups, group_C = np.unique([row.at[cluster] for row in rows], return_inverse=True)
    y_C = np.log([level.value for level in levels])
    return Cells(y_C, at_CI, variance_C, group_C, side_C, tuple(regressors), tuple(notes), tuple(map(float, groups)))


def _order(row: Target, response: str, names: Sequence[str]) -> tuple[float | str, ...]:
    level = row.level(response)
    own = () if level is None else (level.censored, level.value, level.variance if level.variance >= 0 else -1.0)
    return (*(row.at[name] for name in names), *own)


def _placed(row: Target, cluster: str, names: Sequence[str]) -> bool:
    """Whether a row has every regressor, above 0, and its cluster, whatever number that is."""
    at = [row.at.get(name, math.nan) for name in names]
    return all(math.isfinite(value) and value > 0 for value in at) and math.isfinite(row.at.get(cluster, math.nan))


def identified(cells: Cells) -> tuple[Cells, float]:
    """The cells with only those regressors whose exponents they can tell, and the condition number of these."""
    kept, notes = list(range(len(cells.regressors))), list(cells.notes)
    for place, name in enumerate(cells.regressors):
        values = cells.logs_CI[:, place]
        if np.ptp(values) < math.log1p(LIMITS.get(name, 0.0)) + 1e-9:
            kept.remove(place)
            notes.append(f"{name} has one value, {math.exp(values[0]):.6g}: no exponent, the law holds there only")
    condition = _condition(cells.logs_CI[:, kept])
    while len(kept) > 1 and (condition > _COLLINEAR or len(cells.y_C) <= len(kept)):
        without = {place: [other for other in kept if other != place] for place in reversed(kept)}
        mends = [place for place, rest in without.items() if _condition(cells.logs_CI[:, rest]) <= _COLLINEAR]
        dropped = mends[0] if mends else kept[-1]
        kept = without[dropped]
        others = " and ".join(cells.regressors[place] for place in kept)
        notes.append(
            f"{cells.regressors[dropped]} moves with {others} in all {len(cells.y_C)} cells, so their exponents cannot "
            f"be told apart: the law is in {others} alone and holds along the cells' line only"
        )
        condition = _condition(cells.logs_CI[:, kept])
    if condition > _SUSPECT:
        notes.append(
            f"condition number {condition:.0f}: the exponents depend on each other, use the law near its cells"
        )
    names = tuple(cells.regressors[place] for place in kept)
    return replace(cells, logs_CI=cells.logs_CI[:, kept], regressors=names, notes=tuple(notes)), condition


def _condition(logs_CI: np.ndarray) -> float:
    """Condition number of the standardised columns; 1 for fewer than two."""
    if logs_CI.shape[1] < 2:
        return 1.0
    singular = np.linalg.svd((logs_CI - logs_CI.mean(axis=0)) / logs_CI.std(axis=0), compute_uv=False)
    return float(singular[0] / max(singular[-1], 1e-300)) if len(singular) == logs_CI.shape[1] else math.inf


def tempered(cells: Cells, bound: float) -> Cells:
    """The cells with residuals of optima beyond `bound` robust standard deviations pulled in to that.

    The scale is 1.4826 times the median absolute residual.  Least squares of the pulled-in values is Huber's estimate,
    by iteration (Huber 1981, section 7.8: modified residuals).
    """
    here = cells.side_C == 0
    y_H, logs_HI = cells.y_C[here], cells.logs_CI[here]
    design = np.column_stack([np.ones(len(y_H)), logs_HI - logs_HI.mean(axis=0)])
    pulled = y_H
    for _ in range(_HUBER_ROUNDS):
        fitted = design @ np.linalg.lstsq(design, pulled, rcond=None)[0]
        residual = y_H - fitted
        limit = bound * 1.4826 * float(np.median(np.abs(residual)))
        moved = fitted + np.clip(residual, -limit, limit)
        step, pulled = float(np.abs(moved - pulled).max()), moved
        if step < 1e-10:
            break
    count = int((np.abs(pulled - y_H) > 1e-9).sum())
    notes = (*cells.notes, f"Huber {bound:g}: {count} of {len(pulled)} cells pulled in") if count else cells.notes
    y_C = cells.y_C.copy()
    y_C[here] = pulled
    return replace(cells, y_C=y_C, notes=notes)


def ranges(targets: Targets, cells: Cells) -> tuple[tuple[str, float, float], ...]:
    """Least and largest value of each regressor, and of params and tokens where the rows have them."""
    found = {
        name: (math.exp(float(cells.logs_CI[:, place].min())), math.exp(float(cells.logs_CI[:, place].max())))
        for place, name in enumerate(cells.regressors)
    }
    for name in ("params", "tokens"):
        if targets.has(name) and name not in found:
            values = targets.column(name)
            values = values[np.isfinite(values) & (values > 0)]
            if len(values):
                found[name] = (float(values.min()), float(values.max()))
    return tuple((name, low, high) for name, (low, high) in found.items())
