"""Laws judged on cells they have not seen: fit some sizes or budgets, predict the others.

Three protocols: every size left out once, laws of the smaller sizes asked for all larger ones, and laws of the shorter
budgets asked for the longest.  Errors are in octaves (log2).  An interval [l, h] of level 1 - a scores

    (h - l) + 2/a max(l - y, 0) + 2/a max(y - h, 0)

against the outcome y (Winkler 1972; Gneiting and Raftery 2007, section 6): narrow and right is small, and no width can
buy coverage.  The law is that of `fit_power_law` for the rows left, with their bounds where these enter it; what is
predicted, and what the rivals see, are optima only.  Rivals: `iid`, ordinary least squares with its prediction interval
for independent cells; `iid mean`, its confidence interval of the mean taken for one of predictions, a known mistake;
`nearest`, the value of the nearest smaller cell seen; `constant`, the geometric mean of the cells seen.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.power.fit import Weights, fit_power_law
from analysis.target import COLUMNS, Target, Targets, read
from lab.check import require

LEAST_SIZES = 3  # that a law of sizes is fitted to

Rows = Targets | pd.DataFrame  # typed rows, or a table as `analysis.target.read` takes it
Split = tuple[Targets, Targets]  # cells fitted, cells predicted


@dataclass(frozen=True)
class Holdout:
    """What a protocol found.

    `cells` has a row per predicted cell and method: `method`, `params`, `tokens`, `actual`, `predicted`, `low`, `high`
    (nan without an interval), `largest` (of the cells predicted, one of the largest size).  `summary` has a row per
    method, the law first: `rms_log2`, `coverage`, `coverage_largest`, `winkler` (mean, octaves), `ratio` (of `winkler`
    to that of `iid`), `width` (median, octaves), `cells`.
    """

    protocol: str
    cells: pd.DataFrame
    summary: pd.DataFrame


def leave_one_size_out(
    rows: Rows,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    weights: Weights | None = None,
    level: float = 0.95,
) -> Holdout:
    """Every size predicted by the law of the others; rows as `fit_power_law` takes them.

    Raises:
        InputError: fewer than four sizes.
    """
    targets = _targets(rows, response, regressors)
    sizes = _sizes(targets, response, LEAST_SIZES + 1)
    splits = (_split(targets, "params", lambda n, size=size: n == size) for size in sizes)
    return _judged("leave one size out", splits, response, regressors, weights, level)


def rolling(
    rows: Rows,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    weights: Weights | None = None,
    level: float = 0.95,
) -> Holdout:
    """All larger sizes predicted by the law of the smallest three, four, ... sizes.

    Raises:
        InputError: fewer than four sizes.
    """
    targets = _targets(rows, response, regressors)
    sizes = _sizes(targets, response, LEAST_SIZES + 1)
    last = sizes[LEAST_SIZES - 1 : -1]
    splits = (_split(targets, "params", lambda n, size=size: n > size) for size in last)
    return _judged("rolling, larger sizes", splits, response, regressors, weights, level)


def leave_largest_tokens_out(
    rows: Rows,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    share: float = 0.3,
    weights: Weights | None = None,
    level: float = 0.95,
) -> Holdout:
    """The largest budgets, `share` of their number, predicted by the law of the others.

    Raises:
        InputError: fewer than three budgets, fewer than three sizes below them, or a share not between 0 and 1.
    """
    require(0 < share < 1, f"share={share} is not between 0 and 1")
    targets = _targets(rows, response, regressors)
    budgets = np.unique([row.at["tokens"] for row in targets.points(response)])
    require(len(budgets) >= 3, f"{len(budgets)} token budgets: holding out the largest needs three")
    first = budgets[-max(1, round(share * len(budgets)))]
    below, above = _split(targets, "tokens", lambda tokens: tokens >= first)
    _sizes(below, response, LEAST_SIZES)
    return _judged("largest budgets", iter([(below, above)]), response, regressors, weights, level)


def winkler(y: np.ndarray, low: np.ndarray, high: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The interval score of each outcome, in the unit of `y`; see the module."""
    price = 2 / (1 - level)
    return (high - low) + price * (np.maximum(low - y, 0) + np.maximum(y - high, 0))


def _judged(
    protocol: str,
    splits: Iterator[Split],
    response: str,
    regressors: Sequence[str],
    weights: Weights | None,
    level: float,
) -> Holdout:
    methods: dict[str, Callable[[Targets, _Table], np.ndarray]] = {
        "law": lambda seen, new: _law(seen, new, response, regressors, weights, level),
        "iid": lambda seen, new: _least_squares(_table(seen, response, regressors), new, level, 1.0),
        "iid mean": lambda seen, new: _least_squares(_table(seen, response, regressors), new, level, 0.0),
        "nearest": lambda seen, new: _nearest(_table(seen, response, regressors), new),
        "constant": lambda seen, new: _constant(_table(seen, response, regressors), new),
    }
    parts = []
    for seen, left in splits:
        new = _table(left, response, regressors)
        if not new.rows:
            continue
        place = {"params": new.where_CS[:, 0], "tokens": new.where_CS[:, 1], "actual": new.value_C}
        for name, method in methods.items():
            predicted, low, high = method(seen, new).T
            parts.append(pd.DataFrame({"method": name, **place, "predicted": predicted, "low": low, "high": high}))
    cells = pd.concat(parts, ignore_index=True)
    cells["largest"] = cells["params"] == cells["params"].max()
    rows = [_summary(name, cells[cells["method"] == name], level) for name in methods]
    summary = pd.DataFrame(rows).set_index("method")
    summary.insert(4, "ratio", summary["winkler"] / summary.loc["iid", "winkler"])
    return Holdout(protocol, cells, summary)


def _summary(name: str, cells: pd.DataFrame, level: float) -> dict[str, float | str | int]:
    logs = np.log2(cells[["actual", "predicted", "low", "high"]].to_numpy(float))
    actual, predicted, low, high = logs.T
    inside = np.where(np.isfinite(low) | np.isfinite(high), (low <= actual) & (actual <= high), np.nan)
    unbounded = np.isneginf(low) | np.isposinf(high)
    inside = np.where(unbounded, 1.0, inside)
    largest = cells["largest"].to_numpy(bool)
    return {
        "method": name,
        "rms_log2": float(np.sqrt(np.mean((predicted - actual) ** 2))),
        "coverage": float(inside.mean()),
        "coverage_largest": float(inside[largest].mean()),
        "winkler": float(np.where(unbounded, np.inf, winkler(actual, low, high, level)).mean()),
        "width": float(np.median(high - low)),
        "cells": len(cells),
    }


@dataclass(frozen=True)
class _Table:
    """The optima of some rows: values, their variances in ln, regressors [C, I], and (params, tokens) [C, 2]."""

    rows: tuple[Target, ...]
    value_C: np.ndarray
    variance_C: np.ndarray
    at_CI: np.ndarray
    where_CS: np.ndarray


def _table(targets: Targets, response: str, regressors: Sequence[str]) -> _Table:
    rows = targets.points(response)
    levels = [level for level in (row.level(response) for row in rows) if level is not None]
    at_CI = np.array([[row.at[name] for name in regressors] for row in rows], float).reshape(len(rows), -1)
    where_CS = np.array([[row.at["params"], row.at["tokens"]] for row in rows], float).reshape(len(rows), 2)
    value_C, variance_C = np.array([[level.value, level.variance] for level in levels], float).reshape(-1, 2).T
    return _Table(rows, value_C, np.nan_to_num(variance_C), at_CI, where_CS)


def _targets(rows: Rows, response: str, regressors: Sequence[str]) -> Targets:
    require(response in COLUMNS, f"response={response} is not one of {', '.join(COLUMNS)}")
    if isinstance(rows, pd.DataFrame):
        for name in (COLUMNS[response], "params", "tokens"):
            require(name in rows.columns, f"no column {name} to hold out cells by")
        rows = read(rows, response, regressors)
    return rows


def _split(targets: Targets, name: str, new: Callable[[float], bool]) -> Split:
    """(rows to fit, rows to predict): the rows whose `name` is `new` are predicted."""
    return targets.where(lambda row: not new(row.at[name])), targets.where(lambda row: new(row.at[name]))


def _sizes(targets: Targets, response: str, least: int) -> list[float]:
    sizes = sorted({row.at["params"] for row in targets.points(response)})
    require(len(sizes) >= least, f"{len(sizes)} sizes with an optimum: this hold-out needs {least}")
    return sizes


def _law(
    seen: Targets, new: _Table, response: str, regressors: Sequence[str], weights: Weights | None, level: float
) -> np.ndarray:
    law = fit_power_law(seen, response, regressors, weights=weights, draws=0, curved=False)
    rows = []
    # What is held out is a measured optimum, so its own error belongs to what is predicted.
    for row, error in zip(new.rows, new.variance_C.tolist(), strict=True):
        found = law.predict({name: row.at[name] for name in regressors}, level, error)
        rows.append((found.value, found.low, found.high))
    return np.array(rows)


def _least_squares(seen: _Table, new: _Table, level: float, own: float) -> np.ndarray:
    """Ordinary least squares with independent cells; `own` 1 for the interval of a cell, 0 for that of the mean."""
    logs, y = np.log(seen.at_CI), np.log(seen.value_C)
    centre = logs.mean(axis=0)
    design = np.column_stack([np.ones(len(y)), logs - centre])
    places = np.column_stack([np.ones(len(new.rows)), np.log(new.at_CI) - centre])
    plain = np.linalg.pinv(design)
    beta, free = plain @ y, len(y) - int(np.linalg.matrix_rank(design))
    half = np.full(len(new.rows), math.inf)
    if free > 0:
        variance = float(((y - design @ beta) ** 2).sum()) / free
        spread = own + ((places @ plain) ** 2).sum(axis=1)
        half = float(stats.t.ppf((1 + level) / 2, free)) * np.sqrt(variance * spread)
    middle = places @ beta
    return np.exp(np.column_stack([middle, middle - half, middle + half]))


def _nearest(seen: _Table, new: _Table) -> np.ndarray:
    """The value of the cell seen that is nearest in logs among those not larger in any way, else among all."""
    where = np.log(seen.where_CS)
    found = []
    for place in np.log(new.where_CS):
        distance = ((where - place) ** 2).sum(axis=1)
        below = (where <= place + 1e-9).all(axis=1)
        found.append(seen.value_C[int(np.where(below, distance, math.inf if below.any() else distance).argmin())])
    return _alone(np.array(found))


def _constant(seen: _Table, new: _Table) -> np.ndarray:
    return _alone(np.full(len(new.rows), math.exp(float(np.log(seen.value_C).mean()))))


def _alone(values: np.ndarray) -> np.ndarray:
    """Values without intervals."""
    return np.column_stack([values, np.full(len(values), math.nan), np.full(len(values), math.nan)])
