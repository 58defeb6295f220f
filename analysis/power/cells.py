"""The cells of a power law: which rows of a table can be fitted, and which regressors they can tell apart.

Rows whose optimum is at an edge of its grid, or missing, are left out and counted in `notes`.  A regressor of one
value has no exponent; regressors that move together (one tokens-per-parameter ratio) have none of their own, which the
condition number of their standardised columns tells (Belsley, Kuh and Welsch 1980).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lab.check import nearest, require

COLUMNS = {"lr": "lr", "batch": "best_batch"}  # the column of each response
_COLLINEAR = 300.0  # condition number of standardised regressors above which they are one
_SUSPECT = 30.0  # and above which their exponents depend on each other
_HUBER_ROUNDS = 1000


@dataclass(frozen=True)
class Cells:
    """What a law is fitted to: logs of the response [C] and of the regressors [C, I], known variances, sizes."""

    y_C: np.ndarray
    logs_CI: np.ndarray
    variance_C: np.ndarray
    group_C: np.ndarray
    regressors: tuple[str, ...]
    notes: tuple[str, ...] = ()


def gather(frame: pd.DataFrame, response: str, regressors: Sequence[str], variance: str | None, cluster: str) -> Cells:
    """Rows that can be fitted, in logs, with notes on the others."""
    column = COLUMNS[response]
    for name in (column, cluster, *regressors, *([variance] if variance else [])):
        known = f"it has {', '.join(map(str, frame.columns))}"
        close = nearest(name, [str(other) for other in frame.columns])
        require(name in frame.columns, f"no column {name} for the law of {response}: {known}{close}")
    require(len(set(regressors)) == len(regressors), f"regressors={', '.join(regressors)} name one twice")
    notes = []
    if "censored" in frame.columns:
        edge = frame["censored"].eq(True).to_numpy(bool)
        if edge.any():
            notes.append(f"{int(edge.sum())} of {len(frame)} cells left out: their optimum is at an edge of the grid")
        frame = frame.loc[~edge]
    numbers = frame[[column, *regressors]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    sound = np.isfinite(numbers).all(axis=1) & (numbers > 0).all(axis=1)
    if not sound.all():
        notes.append(f"{int((~sound).sum())} cells left out: a value is missing or not above 0")
    require(bool(sound.any()), f"no cell has an optimum for the law of {response}: {'; '.join(notes) or 'no rows'}")
    frame, logs = frame.iloc[np.flatnonzero(sound)], np.log(numbers[sound])
    name = variance or f"{response}_variance"
    errors = np.zeros(len(frame))
    if name in frame.columns:
        errors = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
        known = np.isfinite(errors) & (errors >= 0)
        if not known.all():
            worst = float(errors[known].max()) if known.any() else 0.0
            notes.append(f"{int((~known).sum())} cells have no {name}: the largest known, {worst:.3g}, stands for it")
            errors = np.where(known, errors, worst)
    group = np.unique(frame[cluster].to_numpy(), return_inverse=True)[1]
    return Cells(logs[:, 0], logs[:, 1:], errors, group, tuple(regressors), tuple(notes))


def identified(cells: Cells) -> tuple[Cells, float]:
    """The cells with only those regressors whose exponents they can tell, and the condition number of these."""
    kept, notes = list(range(len(cells.regressors))), list(cells.notes)
    for place, name in enumerate(cells.regressors):
        values = cells.logs_CI[:, place]
        if np.ptp(values) < 1e-9:
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
    """The cells with residuals beyond `bound` robust standard deviations pulled in to that.

    The scale is 1.4826 times the median absolute residual.  Least squares of the pulled-in values is Huber's estimate,
    by iteration (Huber 1981, section 7.8: modified residuals).
    """
    design = np.column_stack([np.ones(len(cells.y_C)), cells.logs_CI - cells.logs_CI.mean(axis=0)])
    pulled = cells.y_C
    for _ in range(_HUBER_ROUNDS):
        fitted = design @ np.linalg.lstsq(design, pulled, rcond=None)[0]
        residual = cells.y_C - fitted
        limit = bound * 1.4826 * float(np.median(np.abs(residual)))
        moved = fitted + np.clip(residual, -limit, limit)
        step, pulled = float(np.abs(moved - pulled).max()), moved
        if step < 1e-10:
            break
    count = int((np.abs(pulled - cells.y_C) > 1e-9).sum())
    notes = (*cells.notes, f"Huber {bound:g}: {count} of {len(pulled)} cells pulled in") if count else cells.notes
    return replace(cells, y_C=pulled, notes=notes)


def ranges(frame: pd.DataFrame, cells: Cells) -> tuple[tuple[str, float, float], ...]:
    """Least and largest value of each regressor, and of params and tokens where the frame has them."""
    found = {
        name: (math.exp(float(cells.logs_CI[:, place].min())), math.exp(float(cells.logs_CI[:, place].max())))
        for place, name in enumerate(cells.regressors)
    }
    for name in ("params", "tokens"):
        if name in frame.columns and name not in found:
            values = pd.to_numeric(frame[name], errors="coerce").dropna()
            values = values[(values > 0) & np.isfinite(values)]
            if len(values):
                found[name] = (float(values.min()), float(values.max()))
    return tuple((name, low, high) for name, (low, high) in found.items())
