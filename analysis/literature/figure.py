"""Pictures of published laws over scale: rate and batch against N at fixed tokens per parameter and at fixed D."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.literature.answer import Answer, answers
from lab.check import require

DECADES = 1.5  # of N, on either side of the given run
POINTS = 61
_FIXED = ("width", "depth", "sequence", "flops_per_token", "loss", "trained", "lr")  # what a scan over N cannot keep
_MARKERS = "os^Dv<>PX*hd"


def scale(inputs: Mapping[str, float | None]) -> Figure:
    """Four panels around the run that `inputs` names (`params` and `tokens` at least).

    The left ones keep the run's tokens per parameter, the right ones its tokens.  A line is full inside the range of
    the law's fit and dashed outside; where the range is unknown it is dotted.  A given batch stays as it is.  Laws
    that need a shape or a loss are left out: a scan over N would have to invent them.

    Raises:
        InputError: params or tokens are missing.
    """
    params, tokens = inputs.get("params"), inputs.get("tokens")
    require(params is not None and tokens is not None, "a picture over scale needs params and tokens: add both")
    assert params is not None and tokens is not None
    kept = {name: value for name, value in inputs.items() if name not in _FIXED}
    sizes = params * 10 ** np.linspace(-DECADES, DECADES, POINTS)
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    titles = (f"{tokens / params:.3g} tokens per parameter", f"{tokens:.3g} tokens")
    for column, title in enumerate(titles):
        scan = [
            answers(kept | {"params": float(size), "tokens": float(size / params * tokens) if column == 0 else tokens})
            for size in sizes
        ]
        for row, quantity in enumerate(("lr", "batch")):
            _lines(axes[row][column], sizes, scan, quantity)
            axes[row][column].axvline(params, color="0.7", linewidth=1, zorder=0)
        axes[0][column].set_title(title)
        axes[1][column].set_xlabel("parameters N, as each law counts them")
    axes[0][0].set_ylabel("peak learning rate")
    axes[1][0].set_ylabel("tokens per update")
    for plot in axes.flat:
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.grid(alpha=0.3)
    known: dict[str, Artist] = {}
    for plot in axes.flat:
        for handle, label in zip(*plot.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        note = "full: inside the fit\ndashed: outside\ndotted: range unknown"
        figure.legend(list(known.values()), list(known), loc="outside right upper", frameon=False, title=note)
    return figure


def _lines(plot: Axes, sizes: np.ndarray, scan: list[tuple[Answer, ...]], quantity: str) -> None:
    """One law after another; a law keeps its colour and marker in all panels."""
    palette = colormaps["tab20"]
    for number, column in enumerate(zip(*scan, strict=True)):
        values = np.array([np.nan if (found := getattr(one, quantity)) is None else found for one in column], float)
        if not np.isfinite(values).any():
            continue
        law = column[0].law
        colour, marker = palette(number % 20), _MARKERS[number % len(_MARKERS)]
        inside = np.array([not one.beyond for one in column])
        plain = ":" if not law.ranges else "--"
        every = (3 * number % 10, 10)
        plot.plot(sizes, values, plain, color=colour, marker=marker, markersize=4, markevery=every, label=law.name)
        if law.ranges:
            plot.plot(sizes, np.where(inside, values, np.nan), "-", color=colour, linewidth=2)
