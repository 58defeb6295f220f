"""Non-inferiority: what one schedule with fixed constants gives up against rivals tuned anew in every cell.

The challenger's constants are those with the lowest mean relative loss over the tuning cells, which are not judged.
In a judged cell a rival's optimum is the vertex of a parabola in ln lr through the mean over the seeds, which share
their rates; its loss for seed s is the parabola of that seed at the common vertex.  So rivals may tune between grid
points and see the judged runs, and the challenger may not: what noise there is favours the rivals.

The difference of a seed is the mean over the judged cells of (challenger - rival) / rival, both with that seed.  One
pooled test: with the mean m and the standard deviation s of the S seeds, the one-sided 95 % bounds are
`m +- t(S - 1, 0.95) s / sqrt(S)`.  Seeds are the clusters: the runs of a trunk, and all cells of a seed, move together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.results import TOKEN_AXES, Results
from lab.check import nearest, require

KIND = "schedule.kind"
LEVEL = 0.95
NEAR = 0.02  # relative to the best mean loss: what a rival's parabola is fitted to, and the best's neighbours

Verdict = Literal["non-inferior", "inferior", "undecided"]


@dataclass(frozen=True)
class Difference:
    """Relative loss of the challenger above a rival, as fractions; `low` and `high` are one-sided 95 % bounds.

    `cells` holds the mean over seeds of each judged cell.
    """

    rival: str
    mean: float
    low: float
    high: float
    verdict: Verdict
    seeds: int
    cells: tuple[tuple[dict[str, Any], float], ...]
    edges: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Comparison:
    """A challenger with the constants chosen on the tuning cells, and its differences to every rival.

    `tuning_excess` is the mean relative loss of the chosen constants above the best ones of each tuning cell;
    `hindsight` the same over the judged cells: what choosing elsewhere cost the challenger.
    """

    challenger: str
    constants: dict[str, Any]
    margin: float
    tuning_excess: float
    hindsight: float
    differences: tuple[Difference, ...]


def compare(results: Results, *, challenger: str, judge: Mapping[str, Sequence[Any]], margin: float) -> Comparison:
    """Compare the schedules of a sweep; `judge` gives the values of cell axes that make a cell a judged one.

    Raises:
        InputError: there is no such challenger, axis or cell, a rival has no curve, or seeds are missing.
    """
    frame = results.frame[results.frame["status"] == "done"].reset_index(drop=True)
    for name in judge:
        require(name in frame, f"--judge {name}: the sweep has no such setting{nearest(name, list(results.cell_axes))}")
    kinds = list(frame[KIND].unique()) if KIND in frame else []
    require(
        challenger in kinds and len(kinds) > 1,
        f"--challenger {challenger}: the finished runs have schedule.kind={', '.join(map(str, kinds)) or 'none'}; it "
        "must be one of several",
    )
    judged = np.logical_and.reduce([frame[name].isin(list(values)) for name, values in judge.items()])
    require(bool(judged.any()), f"--judge {dict(judge)} matches no finished run")
    mine = frame[KIND] == challenger
    require(bool((mine & ~judged).any()), f"--judge {dict(judge)} leaves no cell to choose {challenger}'s constants on")
    constants = _constants(frame[mine], results)
    cells = [
        name for name in results.cell_axes if name in TOKEN_AXES or not name.startswith(("schedule.", "optimizer."))
    ]
    tuning = _excess(frame[mine & ~judged], constants, cells)
    chosen: Any = tuning.idxmin()
    setting = dict(zip(constants, chosen if isinstance(chosen, tuple) else (chosen,), strict=True))
    with_them = np.logical_and.reduce([frame[name] == value for name, value in setting.items()])
    return Comparison(
        challenger=challenger,
        constants=setting,
        margin=margin,
        tuning_excess=float(tuning.min()),
        hindsight=float(_excess(frame[mine & judged], constants, cells).loc[chosen]),
        differences=tuple(
            _difference(
                frame[mine & judged & with_them], frame[(frame[KIND] == rival) & judged], rival, cells, margin, results
            )
            for rival in kinds
            if rival != challenger
        ),
    )


def tuned_loss(rows: pd.DataFrame, axis: str) -> tuple[pd.Series, bool]:
    """(loss of every seed at the fitted optimum, whether it is interior) of a rival's cell; see the module.

    Without an interior minimum the best measured rate stands for the optimum.

    Raises:
        InputError: not every seed ran at every rate.
    """
    table = rows.pivot_table(index=axis, columns="seed_init", values="loss")
    means = table.mean(axis=1).to_numpy(float)
    near, best = means <= (1 + NEAR) * means.min(), int(means.argmin())
    near[max(0, best - 1) : best + 2] = True  # as in `analysis.optimum`: both neighbours, whatever their loss
    table = table[near]
    require(
        bool(np.isfinite(table.to_numpy(float)).all()),
        "not every seed ran at every rate near the optimum: finish the sweep, and give all seeds the same rates",
    )
    x = np.log(table.index.to_numpy(float))
    if len(x) >= 3:
        x = x - x.mean()
        by_seed = np.polynomial.polynomial.polyfit(x, table.to_numpy(float), 2)
        _, b, k = by_seed.mean(axis=1)
        vertex = -b / (2 * k) if k > 0 else math.inf
        if x[0] <= vertex <= x[-1]:
            return pd.Series(np.polynomial.polynomial.polyval(vertex, by_seed), index=table.columns), True
    return table.loc[table.mean(axis=1).idxmin()], False


def _constants(rows: pd.DataFrame, results: Results) -> list[str]:
    """The challenger's constants: settings of its schedule and optimizer that the sweep's axes name."""
    names = [name for name in results.sweep["axes"] if name.startswith(("schedule.", "optimizer."))]
    return [name for name in names if name not in (KIND, *TOKEN_AXES) and rows[name].notna().all()]


def _excess(rows: pd.DataFrame, constants: Sequence[str], cells: Sequence[str]) -> pd.Series:
    """Mean over cells of the relative loss above the cell's best constants, by constants."""
    mean = rows.groupby([*constants, *cells], dropna=False)["loss"].mean()
    best = mean.groupby(level=list(cells), dropna=False).transform("min")
    return (mean / best - 1).groupby(level=list(constants)).mean()


def _difference(
    mine: pd.DataFrame, theirs: pd.DataFrame, rival: str, cells: Sequence[str], margin: float, results: Results
) -> Difference:
    by_cell: list[tuple[dict[str, Any], pd.Series]] = []
    edges = []
    for values, rows in mine.groupby(list(cells), dropna=False):
        cell = dict(zip(cells, values, strict=True))
        same = np.logical_and.reduce([theirs[name] == value for name, value in cell.items()])
        require(bool(np.any(same)), f"{rival} has no finished run at {cell}: finish the sweep")
        tuned, interior = tuned_loss(theirs[same], results.optimum_axis)
        own = rows.set_index("seed_init")["loss"]
        require(
            set(own.index) == set(tuned.index), f"seeds differ at {cell}: finish the sweep, or give all the same seeds"
        )
        by_cell.append((cell, (own - tuned) / tuned))
        edges += [] if interior else [cell]
    per_seed = pd.concat([series for _, series in by_cell], axis=1).mean(axis=1)
    seeds, mean = len(per_seed), float(per_seed.mean())
    require(seeds > 1, "one seed gives no interval: run the sweep with several")
    half = float(stats.t.ppf(LEVEL, seeds - 1)) * float(per_seed.std(ddof=1)) / math.sqrt(seeds)
    return Difference(
        rival=rival,
        mean=mean,
        low=mean - half,
        high=mean + half,
        verdict=judge_margin(mean - half, mean + half, margin),
        seeds=seeds,
        cells=tuple((cell, float(series.mean())) for cell, series in by_cell),
        edges=tuple(edges),
    )


def judge_margin(low: float, high: float, margin: float) -> Verdict:
    """`non-inferior` where the upper bound is below the margin, `inferior` where the lower one is above it."""
    if high < margin:
        return "non-inferior"
    return "inferior" if low > margin else "undecided"
