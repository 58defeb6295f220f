"""Pictures of a fit: every cell's curve with its optimum, the law with its intervals, residuals, and profiles.

A law is drawn against each of its regressors with the others held at their centre; every optimum is moved there along
the law, so that its distance to the line is its residual.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.calculator import Fit
from analysis.loss.law import LossLaw
from analysis.power.fit import COLUMNS
from analysis.power.law import PowerLaw
from analysis.runs.source import Runs

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
            if part is not None and part.regressors:
                figures[f"law_{part.response}"] = power(part, found.rows)
                figures[f"residuals_{part.response}"] = residuals(part, found.rows)
    if found.law.loss is not None:
        figures["loss_residuals"] = loss_residuals(found.law.loss, found.rows)
        figures["loss_profile"] = profile(found.law.loss)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def cells(optima: pd.DataFrame, frame: pd.DataFrame) -> Figure:
    """Loss against rate in every cell, one line per batch, with the optimum and its 95 % interval."""
    shown = optima.head(_MOST_CELLS).to_dict("records")
    figure, axes = _panels(len(shown))
    joint = "log_covariance" in optima
    for place, row in zip(axes, shown, strict=False):
        keys = ["params", "tokens", *(["batch"] if "batch" in frame and not joint else [])]
        same = np.logical_and.reduce([np.isclose(frame[key].to_numpy(float), row[key], rtol=1e-9) for key in keys])
        part = frame[same & (frame["status"] == "done")]
        for _, curve in part.groupby("batch") if "batch" in part else [(None, part)]:
            curve = curve.sort_values("lr")
            place.plot(curve["lr"], curve["loss"], ".-", lw=0.6, ms=2, color="tab:blue", alpha=0.5)
        least = part["loss"].min() if len(part) else math.nan
        if row["quality"] == "interior":
            place.axvspan(row["lr_low"], row["lr_high"], color="tab:orange", alpha=0.2)
            place.plot([row["lr"]], [row["loss"]], "*", color="tab:red", ms=7)
        if math.isfinite(least):
            place.set_ylim(least - 0.01 * least, least * 1.1)
        place.set_xscale("log", base=2)
        place.set_title(_title(row, keys), fontsize=6)
        place.tick_params(labelsize=5)
    if len(optima) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(optima)} cells", fontsize=7)
    return figure


def power(law: PowerLaw, rows: pd.DataFrame) -> Figure:
    """The law against each regressor: its line, the confidence interval of its mean, the prediction interval."""
    figure, axes = _panels(len(law.regressors), width=4.2, height=3.4)
    points = _points(law, rows)
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
        line = np.array([law.predict(centre | {name: float(x)}).value for x in points[name]])
        place.plot(points[name], line * np.exp(points["residual"]), ".", color="tab:red", ms=4, label="optima")
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xlabel(_WORDS[name])
        place.set_ylabel(_WORDS[law.response])
        place.grid(alpha=0.3)
    axes[0].legend(fontsize=6)
    return figure


def residuals(law: PowerLaw, rows: pd.DataFrame) -> Figure:
    """Residuals of ln y against every regressor: a drift is a misfit that no interval tells."""
    figure, axes = _panels(len(law.regressors), width=4.2, height=3.0)
    points = _points(law, rows)
    for place, name in zip(axes, law.regressors, strict=False):
        _scatter(place, points[name], points["residual"], _WORDS[name], f"residual of ln {law.response}")
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


def _points(law: PowerLaw, rows: pd.DataFrame) -> Mapping[str, Any]:
    """Regressors and residuals of the rows that took part."""
    column = COLUMNS[law.response]
    kept = rows[(rows["censored"] == "") & (rows[column] > 0)]
    value = [law.predict({name: float(row[name]) for name in law.regressors}).value for _, row in kept.iterrows()]
    logs = np.log(kept[column].to_numpy(float) / np.array(value))
    return {name: kept[name].to_numpy(float) for name in law.regressors} | {"residual": logs}


def _scatter(place: Axes, x: Any, y: Any, x_label: str, y_label: str) -> None:
    place.plot(x, y, ".", color="tab:red", ms=4)
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


def _title(row: Mapping[Any, Any], keys: Sequence[str]) -> str:
    short = {"params": "N", "tokens": "D", "batch": "B"}
    return " ".join(f"{short[key]} {row[key]:.3g}" for key in keys) + f"\n{row['quality']}"
