"""Panels that the figures of sharpness share: grids of groups, colours of sizes, bands of seeds.

Suffixes of arrays: S seeds, T steps.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from analysis.results import describe
from analysis.sharpness.points import RATE_AXIS, Points
from analysis.sharpness.study import Study, rate
from analysis.sharpness.track import without

_COLOURS = "viridis"
_MANY_UPDATES = 256  # with ticks at every power of 2 their labels would touch
_WORDS = {
    "preconditioned": "sharpness",
    "hessian": "largest eigenvalue of H",
    "gauss_newton": "Gauss-Newton",
    "residual": "residual part",
    "tangent_kernel": "tangent kernel",
    "directional": "directional sharpness",
    "loss": "loss, measurement batch",
    "train_loss": "training loss",
}
Member = TypeVar("Member")


def word(points: Points, quantity: str) -> str:
    """A quantity in titles and tables; the one that stands for sharpness is called that."""
    return "sharpness" if quantity == points.sharpness else _WORDS.get(quantity, quantity)


def named(points: Points, one: Study) -> str:
    """What a study is of."""
    return word(points, one.track.quantity) + (", change" if one.since_start else "")


def rows_of(found: Iterable[Member], group: Callable[[Member], Mapping[str, Any]]) -> dict[str, list[Member]]:
    """Members by the words of their group without the rate, each row by ascending rate."""
    rows: dict[str, list[Member]] = {}
    for one in found:
        rows.setdefault(family(group(one)), []).append(one)
    return {label: sorted(members, key=lambda one: rate(group(one))) for label, members in rows.items()}


def family(group: Mapping[str, Any]) -> str:
    """A group in words, without its rate; nothing where the rate is all that it has."""
    rest = without(group, RATE_AXIS)
    return describe(rest) if rest else ""


def grid(rows: int, columns: int, sharey: bool | Literal["row"] = False) -> tuple[Figure, np.ndarray]:
    """A figure with [rows, columns] panels."""
    figure = Figure(figsize=(3.9 * columns + 1.2, 3.1 * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey)


def colours_of(values: Iterable[Any]) -> dict[Any, Any]:
    """A colour for each distinct value, in their order: sizes and rates read as an order."""
    distinct = sorted(set(values))
    palette = matplotlib.colormaps[_COLOURS]
    return {value: palette(0.85 * i / max(1, len(distinct) - 1)) for i, value in enumerate(distinct)}


def title(*words: str) -> str:
    return "\n".join(one for one in words if one)


def rate_words(value: float) -> str:
    """`lr 0.0078125`, or nothing where the rate is no axis."""
    return "" if np.isnan(value) else f"lr {value:.5g}"


def band(plot: Axes, steps_T: np.ndarray, values_ST: np.ndarray, colour: Any, label: str) -> None:
    """The mean of the seeds where all were measured, and their range."""
    values_ST = values_ST[np.isfinite(values_ST).any(axis=1)]
    if not len(values_ST):
        return
    here_T = np.isfinite(values_ST).all(axis=0)
    x_T, values_ST = steps_T[here_T], values_ST[:, here_T]
    plot.plot(x_T, values_ST.mean(axis=0), color=colour, label=label, linewidth=1.4)
    if len(values_ST) > 1:
        plot.fill_between(x_T, values_ST.min(axis=0), values_ST.max(axis=0), color=colour, alpha=0.2, linewidth=0)


def steps_axis(plot: Axes, scale: str) -> None:
    """Updates made: `linear`, `log`, or `symlog`, which has a place for step 0; call it when everything is drawn."""
    if scale == "symlog":
        plot.set_xscale("symlog", base=4 if plot.dataLim.x1 > _MANY_UPDATES else 2, linthresh=1)
        plot.set_xlim(left=0)
    elif scale == "log":
        plot.set_xscale("log", base=2)
    if scale != "linear":
        _plain_ticks(plot.xaxis)
    plot.grid(alpha=0.3)


def log_values(plot: Axes) -> None:
    """A logarithmic axis of values with ticks at 1, 2 and 5 of each decade."""
    plot.set_yscale("log")
    plot.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    _plain_ticks(plot.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """Ticks as `64` and `0.002`: quicker to read, and to draw, than powers."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def finish(figure: Figure, plots: np.ndarray, y_label: str, *, shared_legend: bool) -> None:
    """Labels on the outer panels, empty panels hidden, and one legend for all or one in each."""
    known: dict[str, Artist] = {}
    for plot in plots.flat:
        handles, labels = plot.get_legend_handles_labels()
        plot.set_visible(bool(plot.lines))
        if shared_legend:
            for handle, label in zip(handles, labels, strict=True):
                known.setdefault(label, handle)
        elif handles:
            plot.legend(frameon=False, fontsize=7)
    for line in plots:
        line[0].set_ylabel(y_label)
    for column in plots.T:
        shown = [plot for plot in column if plot.get_visible()]
        if shown:
            shown[-1].set_xlabel("updates")
    if known:
        figure.legend(list(known.values()), list(known), loc="outside right upper", frameon=False, fontsize=9)
