"""Figures of sharpness along the updates, with the edge of stability, and of the ratio to it.

Suffixes of arrays: S seeds, T steps.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.results import axis_label, describe
from analysis.sharpness import study_figure
from analysis.sharpness.panel import (
    band,
    colours_of,
    finish,
    grid,
    log_values,
    rate_words,
    rows_of,
    steps_axis,
    title,
)
from analysis.sharpness.points import Points
from analysis.sharpness.study import Study, rate
from analysis.sharpness.track import Track, tracks


def figures(points: Points, found: Sequence[Study]) -> dict[str, Figure]:
    """Every figure that the points allow, by the name of its file; `found` are the studies of the points."""
    made = {}
    if tracks(points, points.sharpness):  # none where all runs diverged
        made["sharpness"] = sharpness(points)
    if tracks(points, "ratio"):
        made["sharpness_ratio"] = ratio(points)
    return made | study_figure.figures(points, found)


def sharpness(points: Points) -> Figure:
    """Sharpness against updates: a row per parametrization, a column per rate, a colour per size.

    Lines are means over seeds, bands their range; dashed is the edge, threshold / rate of the next update.
    """
    rows = rows_of(tracks(points, points.sharpness), lambda track: track.group)
    edges = {describe(track.group): track for track in tracks(points, "edge")}
    colours = colours_of(size for members in rows.values() for track in members for size in track.sizes)
    axis = axis_label(points.size_axis)
    figure, plots = grid(len(rows), max(map(len, rows.values())), sharey="row")
    for line, (label, members) in zip(plots, rows.items(), strict=True):
        for plot, track in zip(line, members, strict=False):
            for place, size in enumerate(track.sizes):
                band(plot, track.steps_T, track.values_NST[place], colours[size], f"{axis} {size}")
            edge = edges.get(describe(track.group))
            if edge is not None:
                _edge(plot, edge, colours)
            plot.set_title(title(label, rate_words(rate(track.group))), fontsize=10)
            steps_axis(plot, "symlog")
        if all(np.nanmin(track.values_NST) > 0 for track in members):
            for plot in line:
                log_values(plot)
    words = "sharpness, update metric" if points.sharpness == "preconditioned" else "largest eigenvalue of H"
    finish(figure, plots, words, shared_legend=True)
    return figure


def ratio(points: Points) -> Figure:
    """Sharpness over the edge against updates: a row per parametrization, a column per size, a colour per rate."""
    rows = rows_of(tracks(points, "ratio"), lambda track: track.group)
    members = [track for row in rows.values() for track in row]
    sizes = sorted({size for track in members for size in track.sizes})
    colours = colours_of(rate(track.group) for track in members)
    figure, plots = grid(len(rows), len(sizes), sharey=True)
    for line, (label, row) in zip(plots, rows.items(), strict=True):
        for plot, size in zip(line, sizes, strict=True):
            here = [track for track in row if size in track.sizes]
            for track in here:
                value = rate(track.group)
                values_ST = track.values_NST[track.sizes.index(size)]
                band(plot, track.steps_T, values_ST, colours[value], rate_words(value) or "ratio")
            if here:
                plot.axhline(1.0, color="black", linestyle="--", linewidth=1)
            plot.set_title(title(label, f"{axis_label(points.size_axis)} {size}"), fontsize=10)
            steps_axis(plot, "linear")
    if all(np.nanmin(track.values_NST) > 0 for track in members):
        for plot in plots.flat:
            log_values(plot)
    finish(figure, plots, "sharpness / edge", shared_legend=True)
    return figure


def _edge(plot: Axes, edge: Track, colours: dict[Any, Any]) -> None:
    """One black line where all sizes have the same edge, else one in the colour of each size."""
    heights: dict[Any, dict[int, float]] = {}
    for place, size in enumerate(edge.sizes):
        rows_ST = edge.seeds(place)
        known_T = np.isfinite(rows_ST).any(axis=0)
        medians_T = np.nanmedian(rows_ST[:, known_T], axis=0)
        heights[size] = dict(zip(edge.steps_T[known_T].tolist(), medians_T.tolist(), strict=True))
    whole = max(heights.values(), key=len)
    if all(np.isclose(whole.get(step, np.inf), y, rtol=1e-3) for line in heights.values() for step, y in line.items()):
        plot.plot(list(whole), list(whole.values()), color="black", linestyle="--", linewidth=1, label="edge")
        return
    for size, line in heights.items():
        plot.plot(list(line), list(line.values()), color=colours.get(size, "0.4"), linestyle="--", linewidth=1)
