"""The optimum of every cell of a table of runs: learning rates, or rates and batches together.

A cell is the runs of one (params, tokens), or of one (params, tokens, batch) where the rate alone is optimised; where a
table has a column `variant`, the runs of one variant.  One dimension: `analysis.optimum`.  Two:
`analysis.runs.surface`, over the cell's nodes near its best loss; a cell without an acceptable surface falls back to
its batches, one curve each, and tells the best of them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import optimum
from analysis.dither import SEEDS
from analysis.optimum import Noise, Optimum, Points
from analysis.runs import surface
from analysis.runs.node import Cell, axis_of, cells_of, edge_of, frame_of, keys_of
from analysis.runs.source import Runs
from analysis.runs.surface import Nodes, Quadratic, Surface
from lab.check import require

BOTH = ("lr", "batch")
# A window is widened by half until it holds this many nodes, as long as it stays below WIDEST of the lowest loss.
LEAST_NODES = 8
WIDEST = 0.08
_AXES = 3  # values of each axis that a quadratic needs


def swept(runs: Runs | pd.DataFrame) -> tuple[str, ...]:
    """What the runs were swept over: (lr, batch) where most sizes have three batches or more, else (lr,)."""
    frame = frame_of(runs)
    if "batch" not in frame:
        return ("lr",)
    counts = frame.groupby(keys_of(frame, joint=True), dropna=False)["batch"].nunique()
    return BOTH if bool((counts >= _AXES).mean() > 0.5) else ("lr",)


def find_optima(
    runs: Runs | pd.DataFrame, *, over: Sequence[str] = ("lr",), window: float | None = surface.WINDOW
) -> pd.DataFrame:
    """The optimum of every cell, one row each, sorted by its keys (`variant`, params, tokens, and batch if not swept).

    Columns: `lr` with `lr_low`, `lr_high` (95 %) and `lr_sd` (of ln lr, for a law); `loss` at the optimum;
    `curvature` in nats per squared natural log; `quality` (interior, edge-low, edge-high, flat, too-few; of surfaces
    interior, edge, outside, indefinite, too-few); `points`, `diverged`; `stable`, the largest rate that did not
    diverge; `next_lrs` to run next; `lr_edge` and `batch_edge` (low or high), where the best node is on the edge of its
    grid, and `lr_bound`, below or above which the optimum then lies (`analysis.runs.node.Edge`); `argmin_lr` and
    `argmin_loss` of the best node.  Over both axes also `batch` (tokens per update) with `batch_low`, `batch_high`,
    `batch_sd`, `batch_curvature`; `log_covariance` of (ln lr*, ln batch*); `cross` and `valley_slope`
    (`analysis.runs.surface.Surface`); `argmin_batch`; and, where the quality is not interior, `slice_batch`, `slice_lr`
    and `slice_quality` of the batch whose own curve goes lowest.  Only an interior cell has an optimum; the rest are
    nan.  `attrs["noise"]` says what the intervals rest on.

    Args:
        runs: from `analysis.runs.source.load`, or a frame in its columns.
        over: ("lr",) or ("lr", "batch").
        window: of surfaces, the loss above the lowest up to which nodes count, relative; None for all nodes.  Curves
            have the window of `analysis.optimum`.

    Raises:
        InputError: a column is missing; `over` is neither.
    """
    frame = frame_of(runs)
    axes = tuple(over)
    require(axes in (("lr",), BOTH), f"over={axes}: optima are found over ('lr',) or ('lr', 'batch')")
    for name in ("params", "tokens", "loss", "status", *axes):
        require(name in frame, f"optima over {' and '.join(axes)} need the column {name}: load the runs with it")
    require(
        window is None or window > 0, f"window={window} is not above 0: give a share of the lowest loss, as in 0.02"
    )
    return _joint(frame, window) if axes == BOTH else _curves(frame)


def _curves(frame: pd.DataFrame) -> pd.DataFrame:
    """The one-dimensional optimum of each cell."""
    noise = _noise(frame)
    if set(SEEDS) <= set(frame):  # seeds may have rates of their own, whose levels `curve` takes out
        keys = keys_of(frame, joint=False)
        groups = frame.groupby(keys, dropna=False)
        curves = [
            (dict(zip(keys, values, strict=True)), Points.of(optimum.curve(rows, axis_of(rows))))
            for values, rows in groups
        ]
    else:
        curves = [(cell.keys, _points(cell)) for cell in cells_of(frame, joint=False)]
    table = pd.DataFrame([keys | _curve_row(optimum.find_optimum(points, noise), points) for keys, points in curves])
    table.attrs["noise"] = noise.source
    return table


def _points(cell: Cell) -> Points:
    """The nodes of one curve as `analysis.optimum.find_optimum` takes them."""
    return Points(cell.lr_P, cell.loss_P, cell.runs_P, np.ones(len(cell.lr_P), int), cell.diverged_P)


def _noise(frame: pd.DataFrame) -> Noise:
    """Seed noise pooled over curves."""
    axis, keys = axis_of(frame), keys_of(frame, joint=False)
    if not set(SEEDS) <= set(frame):
        return optimum.replicate_noise(frame, keys, axis)
    return optimum.pooled_noise([(rows, axis) for _, rows in frame.groupby(keys, dropna=False)])


def _curve_row(best: Optimum, points: Points) -> dict[str, Any]:
    edge = best.quality.removeprefix("edge-") if best.quality.startswith("edge-") else ""
    fitted = points.fitted
    ends = fitted.lr_P[:2] if edge == "low" else fitted.lr_P[-2:]
    interior = best.lr is not None and best.low is not None and best.high is not None
    return {
        "lr": best.lr if interior else math.nan,
        "lr_low": best.low if interior else math.nan,
        "lr_high": best.high if interior else math.nan,
        "lr_sd": math.log(best.high / best.low) / (2 * optimum.Z95) if best.low and best.high else math.nan,
        "loss": best.loss if interior else math.nan,
        "curvature": math.nan if best.curvature is None else best.curvature,
        "quality": best.quality,
        "points": best.points,
        "diverged": best.diverged,
        "stable": math.nan if best.stable is None else best.stable,
        "next_lrs": best.next_rates,
        "lr_edge": edge,
        "lr_bound": math.sqrt(ends[0] * ends[1]) if edge else math.nan,
        "argmin_lr": math.nan if best.best_lr is None else best.best_lr,
        "argmin_loss": float(fitted.loss_P.min()) if len(fitted.loss_P) else math.nan,
    }


def _joint(frame: pd.DataFrame, share: float | None) -> pd.DataFrame:
    """The joint optimum of each cell."""
    noise = _noise(frame)
    cells = cells_of(frame, joint=True)
    fits = [_fit(cell.alive, share, noise) for cell in cells]
    pooled = surface.pooled_variance([fit for fit in fits if fit is not None])
    table = pd.DataFrame(
        [cell.keys | _joint_row(cell, fit, noise, pooled) for cell, fit in zip(cells, fits, strict=True)]
    )
    used = sum(max(fit.freedom, 0) for fit in fits if fit is not None and fit.full)
    table.attrs["noise"] = (
        f"{noise.source}; residual SD of surfaces {math.sqrt(pooled):.4f} nat, {used} degrees of freedom"
    )
    return table


def _fit(alive: Cell, share: float | None, noise: Noise) -> Quadratic | None:
    """The quadratic of a cell's window, widened where it holds too few nodes; None where the cell has too few."""
    nodes = Nodes(alive.x_P, alive.z_P, alive.loss_P, alive.runs_P)
    while True:
        near = surface.window(nodes, share, noise)
        last = share is None or 1.5 * share > WIDEST
        if len(near.y_P) >= surface.COEFFICIENTS:
            fit = surface.fit_quadratic(near)
            if last or (fit.full and len(near.y_P) >= LEAST_NODES):
                return fit
        elif last:
            return None
        assert share is not None
        share *= 1.5


def _joint_row(cell: Cell, fit: Quadratic | None, noise: Noise, pooled: float) -> dict[str, Any]:
    edge, alive = edge_of(cell), cell.alive
    found = surface.find_surface(fit, noise, pooled, edge=bool(edge.lr or edge.batch)) if fit is not None else None
    interior = found is not None and found.quality == "interior"
    best = alive.best if len(alive.x_P) else None
    slices = {"slice_batch": math.nan, "slice_lr": math.nan, "slice_quality": ""}
    if found is not None and interior:
        half = math.exp(surface.spacing(cell.x_P) / 2)
        tries = (found.lr / half, found.lr * half)
    else:
        batch, curve = _best_slice(cell, noise)
        slices = {
            "slice_batch": batch,
            "slice_lr": math.nan if curve.lr is None else curve.lr,
            "slice_quality": curve.quality,
        }
        tries = curve.next_rates
    return {
        **_surface_columns(found if interior else None),
        "quality": found.quality if found is not None else "too-few",
        "points": found.points if found is not None else len(alive.x_P),
        "diverged": int(cell.diverged_P.sum()),
        "stable": float(alive.lr_P.max()) if best is not None else math.nan,
        "next_lrs": tries,
        "lr_edge": edge.lr,
        "lr_bound": edge.bound,
        "batch_edge": edge.batch,
        "argmin_lr": math.nan if best is None else float(alive.lr_P[best]),
        "argmin_batch": math.nan if best is None else math.exp(alive.z_P[best]),
        "argmin_loss": math.nan if best is None else float(alive.loss_P[best]),
        **slices,
    }


def _best_slice(cell: Cell, noise: Noise) -> tuple[float, Optimum]:
    """(batch, optimum) of the batch whose curve goes lowest, by its fitted minimum or its best run."""
    found = [(math.exp(z), optimum.find_optimum(_points(cell.part(cell.z_P == z)), noise)) for z in np.unique(cell.z_P)]
    return min(found, key=lambda pair: math.inf if pair[1].loss is None else pair[1].loss)


def _surface_columns(found: Surface | None) -> dict[str, float]:
    """The columns that a surface fills, nan where there is none."""
    names = (
        "lr lr_low lr_high lr_sd batch batch_low batch_high batch_sd log_covariance loss curvature batch_curvature "
        "cross valley_slope"
    ).split()
    if found is None:
        return dict.fromkeys(names, math.nan)
    values = (
        found.lr,
        *found.lr_interval,
        math.sqrt(found.covariance[0, 0]),
        found.batch,
        *found.batch_interval,
        math.sqrt(found.covariance[1, 1]),
        float(found.covariance[0, 1]),
        found.loss,
        float(found.hessian[0, 0]),
        float(found.hessian[1, 1]),
        found.cross,
        found.valley_slope,
    )
    return dict(zip(names, values, strict=True))
