"""Figures: loss against learning rate with marked optima, and the optimum along an axis."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drift import Cell, others
from analysis.horizon import SAME_BUDGET, Horizon, Member
from analysis.inferiority import Comparison
from analysis.results import axis_label, describe
from analysis.transfer import Transfer
from lab import disk

# Sequential and colour-blind safe: a numeric axis reads as an order.
_COLOURS = "viridis"


def curves(cells: Sequence[Cell], optimum_axis: str) -> Figure:
    """Loss against the learning rate: one panel per parametrization (or other named axis), a colour per size.

    A ring and a bar mark a fitted optimum and its interval, a cross a diverged point (at its loss, or at the top where
    it has none or a higher one), an open triangle the best run of a cell without an interior optimum.
    """
    panels = _panels(cells)
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    lowest, highest = _loss_range(cells)
    for plot, (title, members) in zip(axes, panels.items(), strict=True):
        for cell, colour in zip(members, _colours(len(members)), strict=True):
            _curve(plot, cell, colour, highest)
        plot.set_xscale("log", base=2)
        plot.set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest))
        plot.set_title(title)
        plot.set_xlabel(f"{axis_label(optimum_axis)} (log2 scale)")
        plot.grid(alpha=0.3)
        if plot.get_legend_handles_labels()[0]:
            plot.legend(frameon=False)
    axes[0].set_ylabel("validation loss (nats per token)")
    return figure


def optima(cells: Sequence[Cell], axis: str, optimum_axis: str, transfers: Sequence[Transfer] = ()) -> Figure:
    """The optimum along one numeric axis with its intervals, a colour per group.

    A dashed line is a group's fitted slope; a group without one has its optima joined.
    """
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    plot = figure.subplots()
    fitted = {describe(found.group): found for found in transfers if found.axis == axis}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(describe(others(cell, axis)), []).append(cell)
    for number, (label, members) in enumerate(groups.items()):
        found = sorted(
            (cell.values[axis], cell.optimum.lr, cell.optimum.low, cell.optimum.high)
            for cell in members
            if cell.optimum.lr is not None
        )
        if not found:
            continue
        shift = 1.02**number  # coinciding points stay visible
        x = [size * shift for size, *_ in found]
        lr = [value for _, value, _, _ in found]
        below = [value - (low or 0) for _, value, low, _ in found]
        above = [(high or value) - value for _, value, _, high in found]
        transfer = fitted.get(label)
        line = transfer.line if transfer else None
        style = "none" if line else "-"
        drawn = plot.errorbar(x, lr, yerr=[below, above], marker="o", linestyle=style, capsize=4, label=label)
        if transfer and line:
            ends = (transfer.sizes[0], transfer.sizes[-1])
            heights = [2 ** (line.log2_lr + line.slope * math.log2(end / ends[0])) for end in ends]
            plot.plot([end * shift for end in ends], heights, linestyle="--", color=drawn[0].get_color())
    plot.set_xscale("log", base=2)
    plot.set_yscale("log", base=2)
    ticks = sorted({cell.values[axis] for cell in cells})
    plot.set_xticks(ticks, [str(tick) for tick in ticks])
    plot.minorticks_off()
    plot.set_xlabel(axis_label(axis))
    plot.set_ylabel(f"optimum {axis_label(optimum_axis)} (95 % interval)")
    plot.grid(alpha=0.3)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(frameon=False)
    return figure


def horizon(found: Horizon) -> Figure:
    """The optimum against tokens, a colour per batch, with the law; beside it the tuned loss against the batch.

    A marker per width.  A ring marks a best batch, at the height of the lowest cell of its budget.
    """
    members = [member for member in found.members if member.cell.optimum.lr is not None]
    batches = sorted({member.batch for member in members})
    widths = sorted({member.width for member in members})
    panels = 2 if len(batches) > 1 else 1
    figure = Figure(figsize=(5.2 * panels, 4.2), layout="constrained")
    plot, *second = figure.subplots(1, panels, squeeze=False)[0]
    for number, (batch, colour) in enumerate(zip(batches, _colours(len(batches)), strict=True)):
        for width, marker in zip(widths, _markers(len(widths)), strict=True):
            here = sorted((m for m in members if (m.batch, m.width) == (batch, width)), key=lambda m: m.tokens)
            if not here:
                continue
            x = [m.tokens * 1.02**number for m in here]  # coinciding points stay visible
            lr = [m.cell.optimum.lr or math.nan for m in here]
            below = [rate - (m.cell.optimum.low or 0) for m, rate in zip(here, lr, strict=True)]
            above = [(m.cell.optimum.high or rate) - rate for m, rate in zip(here, lr, strict=True)]
            label = f"{batch} per batch" + (f", width {width}" if len(widths) > 1 else "")
            plot.errorbar(
                x, lr, yerr=[below, above], marker=marker, linestyle="none", capsize=4, color=colour, label=label
            )
            if found.exponents["tokens"]:
                plot.plot(x, [found.rate(at, batch, width) or math.nan for at in x], linestyle="--", color=colour)
    plot.set_xscale("log", base=2)
    plot.set_yscale("log", base=2)
    plot.set_xlabel("tokens")
    plot.set_ylabel("optimum lr (95 % interval)")
    if second:
        _batches(second[0], found, members)
    for one in figure.axes:
        one.grid(alpha=0.3)
        if one.get_legend_handles_labels()[0]:
            one.legend(frameon=False, fontsize=7)
    if found.group:
        figure.suptitle(describe(found.group))
    return figure


def _batches(plot: Axes, found: Horizon, members: Sequence[Member]) -> None:
    for best, colour in zip(found.best, _colours(len(found.best)), strict=True):
        here = [m for m in members if m.width == best.width and best.tokens <= m.tokens <= SAME_BUDGET * best.tokens]
        heights = {m.batch: m.cell.optimum.loss or math.nan for m in sorted(here, key=lambda m: m.batch)}
        lowest = min(heights.values())
        label = f"{best.tokens} tokens" + (f", width {best.width}" if len({b.width for b in found.best}) > 1 else "")
        # Budgets lie far apart in loss: what each loses by another batch is what the picture is about.
        plot.plot(list(heights), [y - lowest for y in heights.values()], marker="o", color=colour, label=label)
        if best.batch:
            plot.plot([best.batch.value], [0.0], marker="o", markersize=9, fillstyle="none", color=colour)
    plot.set_xscale("log", base=2)
    plot.set_xlabel("tokens per batch")
    plot.set_ylabel("tuned loss above the budget's lowest (nats)")


def comparison(found: Comparison) -> Figure:
    """What the challenger gives up to each rival: a point per judged cell, a line for the mean with its bounds."""
    figure = Figure(figsize=(6.2, 4.2), layout="constrained")
    plot = figure.subplots()
    for difference, colour in zip(found.differences, _colours(len(found.differences)), strict=True):
        labels = [describe(cell) for cell, _ in difference.cells]
        plot.plot([100 * value for _, value in difference.cells], labels, "o", color=colour, label=difference.rival)
        plot.axvline(100 * difference.mean, color=colour, linewidth=1)
        plot.axvspan(100 * difference.low, 100 * difference.high, color=colour, alpha=0.15, linewidth=0)
    if found.margin is not None:
        plot.axvline(100 * found.margin, color="black", linestyle=":", label=f"margin, {100 * found.margin:g} %")
    plot.invert_yaxis()
    plot.set_xlabel(f"loss of {found.challenger} above a tuned rival (%)")
    plot.grid(alpha=0.3)
    plot.legend(frameon=False, fontsize="small")
    return figure


def coordinates(
    axis: str,
    sizes: Sequence[int],
    values: Mapping[str, np.ndarray],
    expected: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """A panel per statistic: its size over the axis, a line per update; `values` are [sizes, seeds, updates].

    Dashed and dotted lines have the `expected` slopes, from the geometric mean of what is shown at the smallest size.
    Every colour of any panel is in the legend.
    """
    columns = min(3, len(values))
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False).flat
    shown: dict[str, Any] = {}
    for plot, (name, table) in zip(plots, values.items(), strict=False):
        steps = table.shape[-1]
        starts = []
        for step, colour in zip(range(steps), _colours(steps), strict=True):
            middle = np.median(table[..., step], axis=1)
            if (middle > 0).all():
                (shown[f"{step}"],) = plot.plot(sizes, middle, marker="o", color=colour, label=f"{step}")
                starts.append(middle[0])
        for exponent, style in zip((expected or {}).get(name, ()) if starts else (), ("--", ":"), strict=False):
            heights = math.exp(np.mean(np.log(starts))) * (np.asarray(sizes, float) / sizes[0]) ** exponent
            label = "expected slope" if style == "--" else "expected without the rule"
            (shown[label],) = plot.plot(sizes, heights, linestyle=style, color="black", label=label)
        plot.set_xscale("log", base=2)
        plot.set_yscale("log", base=2)
        plot.set_xticks(list(sizes), [str(size) for size in sizes])
        plot.minorticks_off()
        plot.set_title(name)
        plot.set_xlabel(axis)
        plot.grid(alpha=0.3)
    for plot in list(plots):
        plot.set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("root mean square (median of seeds)")
    order = sorted(shown, key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0, label))
    figure.legend(
        [shown[label] for label in order], order, title="updates", loc="outside right upper", frameon=False, fontsize=7
    )
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the bytes depend on its content alone, and no name leaves the folder."""
    name = re.sub(r"[^\w.+=-]", "_", name)  # an axis may be called lr/width
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with matplotlib.rc_context({"svg.hashsalt": name}):
        with disk.whole(paths[0]) as path:
            figure.savefig(path, dpi=150, metadata={"Software": None})
        with disk.whole(paths[1]) as path:
            figure.savefig(path, metadata={"Date": None})
    return paths


def _curve(plot: Axes, cell: Cell, colour: Any, top: float) -> None:
    points = cell.points
    kept = points[points["loss"].notna() & ~points["diverged"]]
    label = describe({name: value for name, value in cell.values.items() if not isinstance(value, str)})
    plot.plot(kept["lr"], kept["loss"], marker=".", color=colour, label=label)
    lost = points[points["diverged"]]
    heights = [min(loss, top) if math.isfinite(loss) else top for loss in lost["loss"]]
    plot.plot(lost["lr"], heights, linestyle="none", marker="x", color=colour)
    found = cell.optimum
    if found.lr is not None and found.low is not None and found.high is not None and found.loss is not None:
        error = [[found.lr - found.low], [found.high - found.lr]]
        plot.errorbar(
            [found.lr], [found.loss], xerr=error, marker="o", markersize=9, fillstyle="none", color=colour, capsize=4
        )
    elif found.best_lr is not None and found.loss is not None:
        plot.plot([found.best_lr], [found.loss], marker="v", markersize=9, fillstyle="none", color=colour)


def _panels(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    panels: dict[str, list[Cell]] = {}
    for cell in cells:
        named = {name: value for name, value in cell.values.items() if isinstance(value, str)}
        panels.setdefault(describe(named), []).append(cell)
    return panels


def _loss_range(cells: Sequence[Cell]) -> tuple[float, float]:
    """Lowest loss, and a top that shows the basin: a curve's far ends may lie above it."""
    found = [
        float(loss)
        for cell in cells
        for loss, lost in zip(cell.points["loss"], cell.points["diverged"], strict=True)
        if not lost and math.isfinite(loss)
    ]
    if not found:
        return 0.0, 1.0
    return min(found), max(max(found), min(found) + 0.1)


def _colours(count: int) -> list[Any]:
    palette = matplotlib.colormaps[_COLOURS]
    return [palette(0.85 * i / max(1, count - 1)) for i in range(count)]


def _markers(count: int) -> list[str]:
    return [("o", "s", "^", "D", "v", "P", "X")[i % 7] for i in range(count)]
