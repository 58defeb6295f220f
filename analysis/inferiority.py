"""Non-inferiority: what one schedule with fixed constants gives up against rivals tuned anew in every cell.

The challenger's constants are those with the lowest mean relative loss over the tuning cells, which are not judged.
A rival may take, in every judged cell, the best of all its settings that the sweep has measured: each combination of
its axes of schedule and optimizer, the learning rate among them.  Nothing is averaged over settings.

The seeds are cut in halves, every other one by their order.  Each half is judged at the setting that is best by the
mean of the other half, so no run is both chosen for its loss and judged by it (cross-fitting).  The difference d_s of a
seed is the mean over the judged cells of (challenger - rival) / rival, both with that seed: seeds are the clusters,
since the runs of a trunk, and all cells of a seed, move together.  `mean` and `low` are of the d_s of these settings:

    mean = sum(d_s) / S,   low = mean - t(S - 1, 0.95) sd(d_s) / sqrt(S)

A setting chosen by half of the seeds is a little worse than the rival's best, so that this mean favours the challenger.
Chosen by the very seeds that judge it, a setting looks a little better than it is, whatever its noise: with o_s for the
differences to it, the upper bound is the larger one of both choices,

    high = max over v = d, o of sum(v_s) / S + t(S - 1, 0.95) sd(v_s) / sqrt(S)

docs/schedules.md has how often either bound holds (`benchmarks/inferiority.py`).
`high - mean` is the attainable half-width.  A margin below it is refused: even a challenger that gives up nothing would
not be found non-inferior in most sweeps of this size.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.results import TOKEN_AXES, Results, describe
from lab.check import InputError, nearest, require

KIND = "schedule.kind"
KEY = ["seed_init", "seed_data"]  # what one run shares with another of the same seed
LEVEL = 0.95
POWER = 0.8  # how often the seeds that a refusal asks for find a challenger that gives up nothing non-inferior
NEAR = 0.02  # relative to the best mean loss: settings within it must be complete, and carry the parabola between rates
_MOST_SEEDS = 100_000

Verdict = Literal["non-inferior", "inferior", "undecided"]


@dataclass(frozen=True)
class Tuned:
    """A rival in one judged cell.

    `loss` has, per seed, the columns `other` (at the setting that the other half of the seeds chose) and `own` (at the
    one that all seeds chose).  `chosen` holds the settings of the two halves.  `edge` tells that one of them has the
    lowest or highest rate that was measured with the rest of its settings.  `between` is the share of the loss by which
    a parabola in ln lr has its vertex below the best measured mean: what rates between the measured ones might gain.
    """

    loss: pd.DataFrame
    chosen: tuple[dict[str, Any], ...]
    edge: bool
    between: float


@dataclass(frozen=True)
class Difference:
    """Relative loss of the challenger above a rival, as fractions; `low` and `high` are one-sided 95 % bounds.

    `half_width` is `high - mean`, `verdict` None where no margin was asked for.  `cells` holds the mean over seeds of
    each judged cell, `chosen` the rival's settings there, in the order of `cells`; `between` is the largest of
    `Tuned.between`.
    """

    rival: str
    mean: float
    low: float
    high: float
    half_width: float
    verdict: Verdict | None
    seeds: int
    cells: tuple[tuple[dict[str, Any], float], ...]
    chosen: tuple[tuple[dict[str, Any], ...], ...]
    edges: tuple[dict[str, Any], ...]
    between: float


@dataclass(frozen=True)
class Comparison:
    """A challenger with the constants chosen on the tuning cells, and its differences to every rival.

    `tuning_excess` is the mean relative loss of the chosen constants above the best ones of each tuning cell;
    `hindsight` the same over the judged cells: what choosing elsewhere cost the challenger.
    """

    challenger: str
    constants: dict[str, Any]
    margin: float | None
    tuning_excess: float
    hindsight: float
    differences: tuple[Difference, ...]


def compare(
    results: Results,
    *,
    challenger: str,
    judge: Mapping[str, Sequence[Any]],
    margin: float | None,
    rivals: Sequence[str] = (),
) -> Comparison:
    """Compare the schedules of a sweep; `judge` gives the values of cell axes that make a cell a judged one.

    `margin` is the relative loss that does not matter, None for intervals without verdicts; `rivals` are the schedules
    to judge against, all others if empty.

    Raises:
        InputError: there is no such challenger, rival, axis or cell, a rival has no curve, seeds are missing, a run is
            there twice, or the margin is below what the seeds can attain.
    """
    frame = results.frame[results.frame["status"] == "done"].reset_index(drop=True)
    for name in judge:
        require(name in frame, f"--judge {name}: the sweep has no such setting{nearest(name, list(results.cell_axes))}")
    kinds = list(frame[KIND].unique()) if KIND in frame else []
    have = f"the finished runs have schedule.kind={', '.join(map(str, kinds)) or 'none'}"
    require(challenger in kinds and len(kinds) > 1, f"--challenger {challenger}: {have}; it must be one of several")
    for rival in rivals:
        require(rival in kinds and rival != challenger, f"--rival {rival}: {have}; it must be one besides {challenger}")
    judged = _where(frame, judge)
    require(bool(judged.any()), f"--judge {dict(judge)} matches no finished run")
    mine = frame[KIND] == challenger
    require(bool((mine & ~judged).any()), f"--judge {dict(judge)} leaves no cell to choose {challenger}'s constants on")
    cells = [name for name in results.cell_axes if name not in (KIND, *_settings(results))]
    _refuse_duplicates(frame, [*cells, *_settings(results)])
    constants = _settings(results)
    tuning = _excess(frame[mine & ~judged], constants, cells)
    chosen = min(tuning, key=lambda setting: tuning[setting])
    own = frame[mine & judged & (_labels(frame, constants) == chosen)]
    elsewhere = _excess(frame[mine & judged], constants, cells)
    require(
        chosen in elsewhere,
        f"{challenger} with its constants {_named(chosen, constants)} did not finish in every judged cell with every "
        "seed: finish the sweep, or give it fewer constants to choose from",
    )
    differences = [
        _difference(own, results.frame[results.frame[KIND] == rival], rival, cells, results)
        for rival in rivals or kinds
        if rival != challenger
    ]
    return Comparison(
        challenger=challenger,
        constants=_named(chosen, constants),
        margin=margin,
        tuning_excess=tuning[chosen],
        hindsight=elsewhere[chosen],
        differences=tuple(_judged(found, margin) for found in differences),
    )


def tuned(rows: pd.DataFrame, names: Sequence[str], axis: str, seeds: pd.MultiIndex, what: str = "a rival") -> Tuned:
    """A rival's cell from its `rows`, planned ones included: the choice among the settings `names`; see the module.

    A setting at which a run diverged is no choice.  `seeds` are the pairs of `KEY` that judge.

    Raises:
        InputError: a seed, or a run at a setting that may be the best, is missing.
    """
    finished = rows[rows["status"] != "pending"]
    loss = finished["loss"].where(finished["status"] == "done", math.inf)
    table = _table(finished.assign(loss=loss), names).reindex(columns=seeds)
    planned = set(_labels(rows, names)) - set(table.dropna(how="all").index)
    full = table[table.notna().all(axis=1) & np.isfinite(table.mean(axis=1))]
    open_ = table[table.isna().any(axis=1) & table.notna().any(axis=1)]
    best = full.iloc[full.mean(axis=1).argmin()] if len(full) else pd.Series(math.inf, index=seeds)
    above = open_ / best.to_numpy(float) - 1  # with the seeds that are there
    close = above.T.mean() <= NEAR
    require(
        bool(len(full)) and not planned and not close.any(),
        f"not every seed ran at every setting near the optimum of {what}: finish the sweep, and give all "
        "seeds the same settings",
    )
    rows_of, other = cross_fitted(full.to_numpy(float))
    chosen = [full.index[row] for row in rows_of]
    return Tuned(
        loss=pd.DataFrame({"other": other, "own": best.to_numpy(float)}, index=seeds),
        chosen=tuple(_named(setting, names) for setting in dict.fromkeys(chosen)),
        edge=any(_at_edge(table.index, setting, list(names).index(axis)) for setting in chosen),
        between=_between(full.mean(axis=1), best.name, list(names).index(axis)),
    )


def cross_fitted(loss_JS: np.ndarray) -> tuple[tuple[int, int], np.ndarray]:
    """(the settings that either half of the seeds is judged at, every seed's loss at its setting) of J settings."""
    first = np.arange(loss_JS.shape[1]) % 2 == 0
    at = int(loss_JS[:, ~first].mean(axis=1).argmin()), int(loss_JS[:, first].mean(axis=1).argmin())
    return at, np.where(first, loss_JS[at[0]], loss_JS[at[1]])


def bounds(other_S: np.ndarray, own_S: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) from the seeds' differences d_s and o_s; see the module."""
    quantile = float(stats.t.ppf(LEVEL, len(other_S) - 1)) / math.sqrt(len(other_S))
    mean, half = float(other_S.mean()), quantile * float(other_S.std(ddof=1))
    return mean, mean - half, max(mean + half, float(own_S.mean()) + quantile * float(own_S.std(ddof=1)))


def judge_margin(low: float, high: float, margin: float) -> Verdict:
    """`non-inferior` where the upper bound is below the margin, `inferior` where the lower one is above it."""
    if high < margin:
        return "non-inferior"
    return "inferior" if low > margin else "undecided"


def seeds_needed(half_width: float, seeds: int, margin: float) -> int:
    """Seeds at which a challenger that gives up nothing is found non-inferior in 80 % of sweeps.

    All parts of the half-width fall as 1/sqrt(seeds), but for Student's quantile, which falls faster:
    `(t(n - 1, 0.95) + t(n - 1, 0.8)) half_width / t(S - 1, 0.95) sqrt(S / n) <= margin`.
    """

    def enough(n: int) -> bool:
        quantiles = float(stats.t.ppf(LEVEL, n - 1)) + float(stats.t.ppf(POWER, n - 1))
        return quantiles * half_width / float(stats.t.ppf(LEVEL, seeds - 1)) * math.sqrt(seeds / n) <= margin

    low, high = 1, _MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _settings(results: Results) -> list[str]:
    """What a schedule may tune: axes of schedule and optimizer, but not the kind and not how long a run is."""
    names = [name for name in results.sweep["axes"] if name.startswith(("schedule.", "optimizer."))]
    return [name for name in names if name not in (KIND, *TOKEN_AXES) and name in results.frame]


def _where(frame: pd.DataFrame, values: Mapping[str, Sequence[Any]]) -> pd.Series:
    """Rows that have one of the values of every name; None is a value like another."""
    kept = pd.Series(True, index=frame.index)
    for name, wanted in values.items():
        kept &= frame[name].isin(list(wanted)) | (frame[name].isna() & any(value is None for value in wanted))
    return kept


def _labels(rows: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """The values of some columns as one tuple per row, None where there is none: NaN is equal to nothing."""
    plain = [rows[name].astype(object).where(rows[name].notna(), None).tolist() for name in names]
    return pd.Series(list(zip(*plain, strict=True)) if names else [()] * len(rows), index=rows.index, dtype=object)


def _named(setting: tuple[Any, ...], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in zip(names, setting, strict=True) if value is not None}


def _table(rows: pd.DataFrame, names: Sequence[str], columns: Sequence[str] = KEY) -> pd.DataFrame:
    """Loss by setting (one row each, a tuple) and seed; a run that is not there is NaN."""
    table = rows.assign(_setting=_labels(rows, names)).set_index(["_setting", *columns])["loss"]
    return table.unstack(list(columns))


def _refuse_duplicates(frame: pd.DataFrame, names: Sequence[str]) -> None:
    twice = frame[_labels(frame, [KIND, *names, *KEY]).duplicated(keep=False)]
    if len(twice):
        first = twice.iloc[0]
        at = describe({name: first[name] for name in names if pd.notna(first[name])})
        raise InputError(
            f"{len(twice)} finished runs are there twice, as {first[KIND]} at {at}, seeds {first['seed_init']} and "
            f"{first['seed_data']}: they differ in something that is no axis of the sweep; keep them in two stores"
        )


def _excess(rows: pd.DataFrame, constants: Sequence[str], cells: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Mean over cells of the relative loss above the cell's best constants, by constants that ran everywhere."""
    rows = rows.assign(_cell=_labels(rows, cells))
    table = _table(rows, constants, ["_cell", *KEY]).dropna()
    require(bool(len(table)), "no constants of the challenger ran with every seed in every cell: finish the sweep")
    mean = table.T.groupby(level="_cell").mean().T
    excess = (mean / mean.min() - 1).mean(axis=1)
    return dict(zip(table.index, excess.tolist(), strict=True))


def _difference(
    mine: pd.DataFrame, theirs: pd.DataFrame, rival: str, cells: Sequence[str], results: Results
) -> Difference:
    names = [
        name for name in _settings(results) if name == results.optimum_axis or theirs[name].nunique(dropna=False) > 1
    ]
    found: list[tuple[dict[str, Any], pd.DataFrame, Tuned]] = []
    keys = pd.MultiIndex.from_frame(mine[KEY].drop_duplicates()).sort_values()
    require(len(keys) > 1, "one seed gives no interval: run the sweep with several")
    labels, at = _labels(theirs, cells), _labels(mine, cells)
    for label in dict.fromkeys(at):
        cell = dict(zip(cells, label, strict=True))
        rows = theirs[labels == label]
        require(
            bool((rows["status"] == "done").any()), f"{rival} has no finished run at {describe(cell)}: finish the sweep"
        )
        own = mine[at == label].set_index(KEY)["loss"]
        there = pd.MultiIndex.from_frame(rows.loc[rows["status"] == "done", KEY].drop_duplicates())
        require(
            set(own.index) == set(keys) and set(keys) <= set(there),
            f"seeds differ at {describe(cell)}: finish the sweep, or give all the same seeds",
        )
        one = tuned(rows, names, results.optimum_axis, keys, f"{rival} at {describe(cell)}")
        found.append((cell, one.loss.rdiv(own.reindex(keys), axis=0) - 1, one))
    other_CS, own_CS = (np.array([share[name] for _, share, _ in found]) for name in ("other", "own"))
    mean, low, high = bounds(other_CS.mean(axis=0), own_CS.mean(axis=0))
    return Difference(
        rival=rival,
        mean=mean,
        low=low,
        high=high,
        half_width=high - mean,
        verdict=None,
        seeds=len(keys),
        cells=tuple((cell, float(share["other"].mean())) for cell, share, _ in found),
        chosen=tuple(one.chosen for *_, one in found),
        edges=tuple(cell for cell, _, one in found if one.edge),
        between=max(one.between for *_, one in found),
    )


def _judged(found: Difference, margin: float | None) -> Difference:
    if margin is None:
        return found
    if margin < found.half_width:
        seeds = seeds_needed(found.half_width, found.seeds, margin)
        raise InputError(
            f"--margin {100 * margin:g}: {found.seeds} seeds tell the difference to {found.rival} to "
            f"+{100 * found.half_width:.2f} % only: give that or more, or about {seeds} seeds, which find a challenger "
            f"that gives up nothing non-inferior in {POWER:.0%} of sweeps; without --margin the interval is printed"
        )
    return dataclasses.replace(found, verdict=judge_margin(found.low, found.high, margin))


def _at_edge(measured: pd.Index, setting: tuple[Any, ...], at: int) -> bool:
    """Whether no lower, or no higher, rate was measured with the rest of a setting; diverged ones count."""
    rates = [other[at] for other in measured if _rest(other, at) == _rest(setting, at)]
    return bool(setting[at] <= min(rates) or setting[at] >= max(rates))


def _between(mean: pd.Series, best: Any, at: int) -> float:
    """See `Tuned.between`: through the points within `NEAR` of the best and its neighbours; 0 without a vertex."""
    curve = mean[[_rest(setting, at) == _rest(best, at) for setting in mean.index]]
    order = np.argsort([setting[at] for setting in curve.index])
    x, y = np.log([curve.index[i][at] for i in order]), curve.to_numpy(float)[order]
    lowest = int(y.argmin())
    near = y <= (1 + NEAR) * y.min()
    near[max(0, lowest - 1) : lowest + 2] = True
    if near.sum() < 3:
        return 0.0
    a, b, k = np.polynomial.polynomial.polyfit(x[near] - x[lowest], y[near], 2)
    inside = k > 0 and x[near][0] <= x[lowest] - b / (2 * k) <= x[near][-1]
    return max(0.0, 1 - float(a - b**2 / (4 * k)) / float(y.min())) if inside else 0.0


def _rest(setting: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    return setting[:at] + setting[at + 1 :]
