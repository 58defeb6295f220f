"""Laws judged on cells they have not seen: fit some sizes or budgets, predict the others.

Three protocols: every size left out once, laws of the smaller sizes asked for all larger ones, and laws of the shorter
budgets asked for the longest.  Errors are in octaves (log2).  An interval [l, h] of level 1 - a scores

    (h - l) + 2/a max(l - y, 0) + 2/a max(y - h, 0)

against the outcome y (Winkler 1972; Gneiting and Raftery 2007, section 6): narrow and right is small, and no width can
buy coverage.  Rivals: `iid`, ordinary least squares with its prediction interval for independent cells; `iid mean`,
its confidence interval of the mean taken for one of predictions, a known mistake; `nearest`, the value of the nearest
smaller cell seen; `constant`, the geometric mean of the cells seen.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.power.cells import COLUMNS
from analysis.power.fit import Weights, fit_power_law
from lab.check import require

LEAST_SIZES = 3  # that a law of sizes is fitted to

Split = tuple[pd.DataFrame, pd.DataFrame]  # cells fitted, cells predicted


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
    frame: pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    weights: Weights = "mixed",
    level: float = 0.95,
) -> Holdout:
    """Every size predicted by the law of the others; the frame has the columns of `fit_power_law`.

    Raises:
        InputError: fewer than four sizes.
    """
    sizes = _sizes(frame, response, LEAST_SIZES + 1)
    splits = ((frame[frame["params"] != size], frame[frame["params"] == size]) for size in sizes)
    return _judged("leave one size out", splits, response, regressors, weights, level)


def rolling(
    frame: pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    weights: Weights = "mixed",
    level: float = 0.95,
) -> Holdout:
    """All larger sizes predicted by the law of the smallest three, four, ... sizes.

    Raises:
        InputError: fewer than four sizes.
    """
    sizes = _sizes(frame, response, LEAST_SIZES + 1)
    last = sizes[LEAST_SIZES - 1 : -1]
    splits = ((frame[frame["params"] <= size], frame[frame["params"] > size]) for size in last)
    return _judged("rolling, larger sizes", splits, response, regressors, weights, level)


def leave_largest_tokens_out(
    frame: pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    share: float = 0.3,
    weights: Weights = "mixed",
    level: float = 0.95,
) -> Holdout:
    """The largest budgets, `share` of their number, predicted by the law of the others.

    Raises:
        InputError: fewer than three budgets, fewer than three sizes below them, or a share not between 0 and 1.
    """
    require(0 < share < 1, f"share={share} is not between 0 and 1")
    frame = _usable(frame, response)
    budgets = np.unique(frame["tokens"].to_numpy(float))
    require(len(budgets) >= 3, f"{len(budgets)} token budgets: holding out the largest needs three")
    edge = budgets[-max(1, round(share * len(budgets)))]
    below = frame[frame["tokens"] < edge]
    _sizes(below, response, LEAST_SIZES)
    return _judged(
        "largest budgets", iter([(below, frame[frame["tokens"] >= edge])]), response, regressors, weights, level
    )


def winkler(y: np.ndarray, low: np.ndarray, high: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The interval score of each outcome, in the unit of `y`; see the module."""
    price = 2 / (1 - level)
    return (high - low) + price * (np.maximum(low - y, 0) + np.maximum(y - high, 0))


def _judged(
    protocol: str, splits: Iterator[Split], response: str, regressors: Sequence[str], weights: Weights, level: float
) -> Holdout:
    methods: dict[str, Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]] = {
        "law": lambda seen, new: _law(seen, new, response, regressors, weights, level),
        "iid": lambda seen, new: _least_squares(seen, new, response, regressors, level, 1.0),
        "iid mean": lambda seen, new: _least_squares(seen, new, response, regressors, level, 0.0),
        "nearest": lambda seen, new: _nearest(seen, new, response),
        "constant": lambda seen, new: _constant(seen, new, response),
    }
    parts = []
    for seen, new in splits:
        seen, new = _usable(seen, response), _usable(new, response)
        place = {"params": new["params"], "tokens": new["tokens"], "actual": new[COLUMNS[response]]}
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


def _usable(frame: pd.DataFrame, response: str) -> pd.DataFrame:
    """Rows with an optimum: censored ones are neither fitted nor predicted."""
    if "censored" in frame.columns:
        frame = frame.loc[~frame["censored"].fillna(False).astype(bool).to_numpy()]
    values = frame[COLUMNS[response]].to_numpy(float)
    return frame.loc[np.isfinite(values) & (values > 0)]


def _sizes(frame: pd.DataFrame, response: str, least: int) -> list[float]:
    require(response in COLUMNS, f"response={response} is not one of {', '.join(COLUMNS)}")
    for name in (COLUMNS[response], "params", "tokens"):
        require(name in frame.columns, f"no column {name} to hold out cells by")
    sizes = sorted(_usable(frame, response)["params"].unique().tolist())
    require(len(sizes) >= least, f"{len(sizes)} sizes with an optimum: this hold-out needs {least}")
    return sizes


def _law(
    seen: pd.DataFrame, new: pd.DataFrame, response: str, regressors: Sequence[str], weights: Weights, level: float
) -> np.ndarray:
    law = fit_power_law(seen, response, regressors, weights=weights, draws=0, curved=False)
    rows = []
    known = f"{response}_variance"
    # What is held out is a measured optimum, so its own error belongs to what is predicted.
    errors = new[known].fillna(0.0).to_numpy(float) if known in new.columns else np.zeros(len(new))
    for place, error in zip(new[list(regressors)].to_dict("records"), errors.tolist(), strict=True):
        found = law.predict({str(name): float(value) for name, value in place.items()}, level, error)
        rows.append((found.value, found.low, found.high))
    return np.array(rows)


def _least_squares(
    seen: pd.DataFrame, new: pd.DataFrame, response: str, regressors: Sequence[str], level: float, own: float
) -> np.ndarray:
    """Ordinary least squares with independent cells; `own` 1 for the interval of a cell, 0 for that of the mean."""
    logs, y = np.log(seen[list(regressors)].to_numpy(float)), np.log(seen[COLUMNS[response]].to_numpy(float))
    centre = logs.mean(axis=0)
    design = np.column_stack([np.ones(len(y)), logs - centre])
    places = np.column_stack([np.ones(len(new)), np.log(new[list(regressors)].to_numpy(float)) - centre])
    plain = np.linalg.pinv(design)
    beta, free = plain @ y, len(y) - int(np.linalg.matrix_rank(design))
    half = np.full(len(new), math.inf)
    if free > 0:
        variance = float(((y - design @ beta) ** 2).sum()) / free
        spread = own + ((places @ plain) ** 2).sum(axis=1)
        half = float(stats.t.ppf((1 + level) / 2, free)) * np.sqrt(variance * spread)
    middle = places @ beta
    return np.exp(np.column_stack([middle, middle - half, middle + half]))


def _nearest(seen: pd.DataFrame, new: pd.DataFrame, response: str) -> np.ndarray:
    """The value of the cell seen that is nearest in logs among those not larger in any way, else among all."""
    where = np.log(seen[["params", "tokens"]].to_numpy(float))
    values = seen[COLUMNS[response]].to_numpy(float)
    found = []
    for place in np.log(new[["params", "tokens"]].to_numpy(float)):
        distance = ((where - place) ** 2).sum(axis=1)
        below = (where <= place + 1e-9).all(axis=1)
        found.append(values[int(np.where(below, distance, math.inf if below.any() else distance).argmin())])
    return _alone(np.array(found))


def _constant(seen: pd.DataFrame, new: pd.DataFrame, response: str) -> np.ndarray:
    return _alone(np.full(len(new), math.exp(float(np.log(seen[COLUMNS[response]].to_numpy(float)).mean()))))


def _alone(values: np.ndarray) -> np.ndarray:
    """Values without intervals."""
    return np.column_stack([values, np.full(len(values), math.nan), np.full(len(values), math.nan)])
