"""Pictures of a fit: every cell's curve with its optimum, the law with its intervals, residuals, and profiles.

A law is drawn against each of its regressors with the others held at their centre; every optimum is moved there along
the law, so that its distance to the line is its residual.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.calculator import Fit
from analysis.loss.law import LossLaw
from analysis.power.law import PowerLaw
from analysis.runs.optima import CellOptimum, Optima
from analysis.runs.source import Runs
from analysis.target import Target, Targets
from lab import disk

_MOST_CELLS = 60  # panels of one picture
_COLUMNS = 6
_POINTS = 60
_WORDS = {"params": "parameters", "tokens": "tokens", "batch": "tokens per update", "lr": "learning rate"}


def draw(found: Fit, runs: Runs, folder: Path) -> list[Path]:
    """Write the pictures of a fit and give their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    if found.optima is not None:
        figures["cells"] = cells(found.optima, runs.frame)
        for part in (found.law.lr, found.law.batch):
            if part is not None and part.regressors and found.rows is not None:
                figures[f"law_{part.response}"] = power(part, found.rows)
                figures[f"residuals_{part.response}"] = residuals(part, found.rows)
    if found.law.loss is not None:
        assert found.runs is not None
        figures["loss_residuals"] = loss_residuals(found.law.loss, found.runs)
        figures["loss_profile"] = profile(found.law.loss)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        with disk.whole(paths[-1]) as path:
            figure.savefig(path, dpi=120)
    return paths


def cells(optima: Optima, frame: pd.DataFrame) -> Figure:
    """Loss against rate in every cell, one line per batch, with the optimum and its 95 % interval, or with its bound:
    the side on which the optimum lies is shaded."""
    shown = optima.cells[:_MOST_CELLS]
    figure, axes = _panels(len(shown))
    for place, cell in zip(axes, shown, strict=False):
        same = np.logical_and.reduce(
            [np.isclose(frame[key].to_numpy(float), value, rtol=1e-9) for key, value in cell.at.items()]
        )
        part = frame[same & (frame["status"] == "done")]
        for _, curve in part.groupby("batch") if "batch" in part else [(None, part)]:
            curve = curve.sort_values("lr")
            place.plot(curve["lr"], curve["loss"], ".-", lw=0.6, ms=2, color="tab:blue", alpha=0.5)
        least = part["loss"].min() if len(part) else math.nan
        if cell.lr is not None:
            place.axvspan(cell.lr.low, cell.lr.high, color="tab:orange", alpha=0.2)
            place.plot([cell.lr.value], [cell.loss], "*", color="tab:red", ms=7)
        elif math.isfinite(cell.edge.bound):
            rates = part["lr"].to_numpy(float)
            end = rates.min() / 2 if cell.edge.lr == "low" else rates.max() * 2
            place.axvspan(*sorted((cell.edge.bound, end)), color="tab:gray", alpha=0.3)
        if math.isfinite(least):
            place.set_ylim(least - 0.01 * least, least * 1.1)
        place.set_xscale("log", base=2)
        place.set_title(_title(cell), fontsize=6)
        place.tick_params(labelsize=5)
    if len(optima.cells) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(optima.cells)} cells", fontsize=7)
    return figure


def power(law: PowerLaw, rows: Targets) -> Figure:
    """The law against each regressor: its line, the confidence interval of its mean, the prediction interval; optima as
    points, bounds as triangles that show to the side of the optimum."""
    figure, axes = _panels(len(law.regressors), width=4.2, height=3.4)
    centre = {name: math.exp(m) for name, m in zip(law.regressors, law.centre, strict=True)}
    for place, name in zip(axes, law.regressors, strict=False):
        low, high = next((low, high) for one, low, high in law.ranges if one == name)
        grid = np.geomspace(low / 1.5, high * 4, _POINTS)
        found = [law.predict(centre | {name: float(x)}) for x in grid]
        place.plot(grid, [one.value for one in found], color="tab:blue", label="law")
        bands = (
            ("mean_low", "mean_high", "tab:blue", 0.3, "95 % of the mean"),
            ("low", "high", "tab:blue", 0.12, "95 % of a new size"),
        )
        for first, last, color, alpha, label in bands:
            ends = np.array([[getattr(one, first), getattr(one, last)] for one in found])
            if np.isfinite(ends).all() and (ends > 0).all():
                place.fill_between(grid, ends[:, 0], ends[:, 1], color=color, alpha=alpha, label=label, lw=0)
        for drawn in marks(law, rows):
            line = np.array([law.predict(centre | {name: float(x)}).value for x in drawn.at[name]])
            place.plot(drawn.at[name], line * np.exp(drawn.residual), **drawn.style, label=drawn.label)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xlabel(_WORDS[name])
        place.set_ylabel(_WORDS[law.response])
        place.grid(alpha=0.3)
    axes[0].legend(fontsize=6, title=law.counts, title_fontsize=6)
    return figure


def residuals(law: PowerLaw, rows: Targets) -> Figure:
    """Residuals of ln y against every regressor: a drift is a misfit that no interval tells."""
    figure, axes = _panels(len(law.regressors), width=4.2, height=3.0)
    for place, name in zip(axes, law.regressors, strict=False):
        for drawn in marks(law, rows):
            place.plot(drawn.at[name], drawn.residual, **drawn.style, label=drawn.label)
        _framed(place, _WORDS[name], f"residual of ln {law.response}")
    return figure


def loss_residuals(law: LossLaw, rows: pd.DataFrame) -> Figure:
    """ln measured - ln predicted against parameters and tokens."""
    figure, axes = _panels(2, width=4.2, height=3.0)
    value, _, _ = law.predict(rows["params"].to_numpy(float), rows["tokens"].to_numpy(float))
    left = np.log(rows["loss"].to_numpy(float) / value)
    for place, name in zip(axes, ("params", "tokens"), strict=False):
        _scatter(place, rows[name], left, _WORDS[name], "residual of ln loss")
    return figure


def profile(law: LossLaw) -> Figure:
    """The bootstrap's distribution of every number, with the fitted value and its profile limits."""
    values = {name: value for name, value in law.values().items() if value is not None}
    figure, axes = _panels(len(values), width=2.6, height=2.4)
    names = list(law.values())
    drawn = np.array(law.draws, float).reshape(-1, len(names))
    for place, (name, value) in zip(axes, values.items(), strict=False):
        if len(drawn):
            place.hist(drawn[:, names.index(name)], bins=30, color="tab:blue", alpha=0.5)
        place.axvline(value, color="tab:red", lw=1)
        for limit in law.profile.get(name, ()):
            if limit is not None:
                place.axvline(limit, color="tab:red", lw=0.8, ls="--")
        place.set_xlabel(name)
        place.set_yticks([])
    return figure


@dataclass(frozen=True)
class Marks:
    """Optima, or bounds of one side: regressors [C] by name, residuals of ln y, and how they are drawn."""

    at: Mapping[str, np.ndarray]
    residual: np.ndarray
    style: Mapping[str, Any]
    label: str


def marks(law: PowerLaw, rows: Targets) -> list[Marks]:
    """What the law is about, the bounds apart from the optima on whichever way they were taken."""
    bounds = [] if law.edges == "keep" else rows.bounds(law.response)
    parts: list[tuple[Sequence[Target], dict[str, Any], str]] = [
        (rows.points(law.response), {"marker": ".", "color": "tab:red", "ms": 4}, "optima")
    ]
    for side, marker, words in (("low", "v", "optimum below"), ("high", "^", "optimum above")):
        here = [row for row in bounds if (level := row.level(law.response)) is not None and level.censored == side]
        parts.append((here, {"marker": marker, "color": "tab:gray", "ms": 4, "mfc": "none"}, words))
    found = []
    for here, style, words in parts:
        at = {name: np.array([row.at[name] for row in here], float) for name in law.regressors}
        levels = [level.value for row in here if (level := row.level(law.response)) is not None]
        value = [law.predict({name: row.at[name] for name in law.regressors}).value for row in here]
        if here:
            found.append(Marks(at, np.log(np.array(levels) / np.array(value)), style | {"ls": ""}, words))
    return found


def _scatter(place: Axes, x: Any, y: Any, x_label: str, y_label: str) -> None:
    place.plot(x, y, ".", color="tab:red", ms=4)
    _framed(place, x_label, y_label)


def _framed(place: Axes, x_label: str, y_label: str) -> None:
    place.axhline(0, color="tab:blue", lw=0.8)
    place.set_xscale("log")
    place.set_xlabel(x_label)
    place.set_ylabel(y_label)
    place.grid(alpha=0.3)


def _panels(count: int, *, width: float = 1.9, height: float = 1.6) -> tuple[Figure, Sequence[Axes]]:
    """A figure with so many panels, at most six in a row."""
    columns = max(1, min(count, _COLUMNS))
    lines = max(1, -(-count // columns))
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for place in axes[count:]:
        place.set_visible(False)
    return figure, axes


def _title(cell: CellOptimum) -> str:
    short = {"params": "N", "tokens": "D", "batch": "B"}
    return " ".join(f"{short[key]} {value:.3g}" for key, value in cell.at.items()) + f"\n{cell.quality}"
