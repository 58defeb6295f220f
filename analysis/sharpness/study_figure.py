"""Figures of statistics: consistency over sizes with its exponents, and growth with the size.

Suffixes of arrays: T steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.results import axis_label
from analysis.sharpness.exponent import Exponent
from analysis.sharpness.panel import (
    colours_of,
    finish,
    grid,
    log_values,
    named,
    rate_words,
    rows_of,
    steps_axis,
    title,
    word,
)
from analysis.sharpness.points import Points
from analysis.sharpness.study import Study, rate

# What is drawn beside the sharpness, where it was measured.
_CONSISTENCY = ("tangent_kernel", "loss")
_GROWTH = ("tangent_kernel", "trace", "loss")
_DOT = 3.5


def figures(points: Points, found: Sequence[Study]) -> dict[str, Figure]:
    """A figure of consistency per parametrization and one of growth, by file name; none with one size."""
    made = {}
    trained = (one for one in found if one.distances and one.track.steps_T[-1] > 0)
    rows = rows_of(trained, lambda one: one.track.group)
    for label, members in rows.items():
        if any(one.name in _consistent(points) for one in members):
            name = "_".join(["sharpness_consistency", *_words(label)])
            made[name] = consistency(points, members, label)
    if any(one.growth for one in found):
        made["sharpness_growth"] = growth(points, found)
    return made


def consistency(points: Points, found: Sequence[Study], label: str = "") -> Figure:
    """Distance to the largest size against updates, both logarithmic: a row per quantity, a column per rate.

    Dots are |S_N - S_inf| of the seed means, filled where above the noise at 95 %; dotted is the standard error, dashed
    the fit a t^beta.  `found` are studies of one parametrization, by rate.
    """
    names = _consistent(points)
    rows = {name: [one for one in found if one.name == name and one.distances] for name in names}
    rows = {name: members for name, members in rows.items() if members}
    colours = colours_of(size for one in found for size in one.track.sizes)
    figure, plots = grid(len(rows), max(map(len, rows.values())))
    for line, members in zip(plots, rows.values(), strict=True):
        for plot, one in zip(line, members, strict=False):
            for size in one.distances:
                _distance(plot, one, size, colours[size], f"{axis_label(points.size_axis)} {size}")
            plot.set_title(title(named(points, one), rate_words(rate(one.track.group))), fontsize=10)
            steps_axis(plot, "log")
            log_values(plot)
    finish(figure, plots, "distance to the largest size", shared_legend=False)
    if label:
        figure.suptitle(label, fontsize=11)
    return figure


def growth(points: Points, found: Sequence[Study]) -> Figure:
    """Slope d log S / d log N against updates with 95 % bands over seeds: a row per quantity, a column per rate.

    A colour per parametrization; rates of which parametrizations have each their own are matched by their order.
    """
    rows = {}
    for name in (points.sharpness, *_GROWTH):
        members = [one for one in found if one.name == name and one.growth]
        if members:
            rows[name] = rows_of(members, lambda one: one.track.group)
    colours = colours_of(label for row in rows.values() for label in row)
    figure, plots = grid(len(rows), max(len(members) for row in rows.values() for members in row.values()))
    for line, (name, row) in zip(plots, rows.items(), strict=True):
        for column, plot in enumerate(line):
            here = {label: members[column] for label, members in row.items() if column < len(members)}
            rates = {rate(one.track.group) for one in here.values()}
            for label, one in here.items():
                own = rate_words(rate(one.track.group)) if len(rates) > 1 else ""
                _growth(plot, one, colours[label], ", ".join(part for part in (label or "all runs", own) if part))
            same = rates.pop() if len(rates) == 1 else np.nan
            plot.set_title(title(word(points, name), rate_words(same)), fontsize=10)
            steps_axis(plot, "symlog")
    finish(figure, plots, f"d log S / d log {axis_label(points.size_axis)}", shared_legend=True)
    return figure


def _consistent(points: Points) -> tuple[str, ...]:
    return (points.sharpness, f"{points.sharpness}, change", *_CONSISTENCY)


def _distance(plot: Axes, one: Study, size: Any, colour: Any, words: str) -> None:
    found, fit = one.distances[size], one.exponents[size]
    later_T = (found.steps_T > 0) & (found.signed_T != 0)
    if not later_T.any():
        return
    x_T, gap_T = found.steps_T[later_T], np.abs(found.signed_T[later_T])
    above_T = gap_T > found.threshold_T[later_T]
    plot.plot(x_T[above_T], gap_T[above_T], "o", color=colour, markersize=_DOT)
    plot.plot(x_T[~above_T], gap_T[~above_T], "o", color=colour, markersize=_DOT, fillstyle="none", markeredgewidth=0.7)
    if np.isfinite(found.error_T).any():
        plot.plot(x_T, found.error_T[later_T], ":", color=colour, linewidth=1)
    ends = np.array([x_T[0], x_T[-1]], float)
    heights = np.full(2, np.nan) if fit is None else fit.level * ends**fit.beta.value
    plot.plot(ends, heights, "--", color=colour, linewidth=1.2, label=words + _beta(fit))


def _beta(fit: Exponent | None) -> str:
    if fit is None:
        return ""
    half = "" if fit.beta.low is None else f" +- {fit.beta.value - fit.beta.low:.2f}"
    return f": beta {fit.beta.value:.2f}{half}" + ("" if fit.readable else " (noise)")


def _growth(plot: Axes, one: Study, colour: Any, label: str) -> None:
    found = one.growth
    assert found
    plot.axhline(0.0, color="black", linewidth=0.8)
    plot.plot(found.steps_T, found.value_T, color=colour, label=label, linewidth=1.4)
    if np.isfinite(found.low_T).any():
        plot.fill_between(found.steps_T, found.low_T, found.high_T, color=colour, alpha=0.2, linewidth=0)


def _words(label: str) -> list[str]:
    """What of a label may stand in a file name."""
    kept = "".join(letter if letter.isalnum() or letter in ".-" else " " for letter in label)
    return kept.split()
