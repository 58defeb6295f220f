"""The optimum of every cell of a table of runs: learning rates, or rates and batches together.

A cell is the runs of one (params, tokens), or of one (params, tokens, batch) where the rate alone is optimised; where a
table has a column `variant`, the runs of one variant.  One dimension: `analysis.optimum`.  Two:
`analysis.runs.surface`, over the cell's nodes near its best loss; a cell without an acceptable surface falls back to
its batches, one curve each, and tells the best of them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import optimum
from analysis.dither import SEEDS
from analysis.noise import Noise, pooled_noise, replicate_noise
from analysis.optimum import Optimum, Points
from analysis.runs import surface
from analysis.runs.node import Cell, Edge, axis_of, cells_of, edge_of, frame_of, keys_of
from analysis.runs.source import Runs
from analysis.runs.surface import Nodes, Quadratic, Surface
from analysis.target import Censored
from lab.check import require

BOTH = ("lr", "batch")
# A window is widened by half until it holds this many nodes, as long as it stays below WIDEST of the lowest loss.
LEAST_NODES = 8
WIDEST = 0.08
_AXES = 3  # values of each axis that a quadratic needs


@dataclass(frozen=True)
class Located:
    """A fitted optimum of one axis with its 95 % interval, in the axis' unit; `sd` is that of its natural log."""

    value: float
    low: float
    high: float
    sd: float


@dataclass(frozen=True)
class CellOptimum:
    """The optimum of a cell, or why there is none.

    `at` holds params and tokens as counts, and batch in tokens per update where the rate alone is optimised.  `lr` and,
    over both axes, `batch` (tokens per update) are there of an interior cell only, as is `surface`; `edge` says on
    which side of its grid the best node of another lies, with the bound that this gives.  `loss` in nats per token,
    nan without an optimum; `curvature` in nats per squared natural log; `stable`, the largest rate that did not
    diverge; `next_lrs` to run next; `argmin` the best node's rate, batch and loss; `curve` of a cell without a surface
    the batch whose own curve goes lowest, with its optimum and quality.
    """

    at: Mapping[str, float]
    variant: str | None
    quality: str
    lr: Located | None
    batch: Located | None
    loss: float
    curvature: float
    surface: Surface | None
    edge: Edge
    points: int
    diverged: int
    stable: float
    next_lrs: tuple[float, ...]
    argmin: tuple[float, float, float]
    curve: tuple[float, float, str] | None

    @property
    def interior(self) -> bool:
        """Whether the cell has an optimum."""
        return self.quality == "interior"

    def record(self, *, joint: bool) -> dict[str, Any]:
        """The row of `find_optima`."""
        found = {} if self.variant is None else {"variant": self.variant}
        found |= dict(self.at) | _axis("lr", self.lr)
        if joint:
            found |= _axis("batch", self.batch) | _shape(self.surface)
        batch_edge = {"batch_edge": self.edge.batch} if joint else {}
        lr, batch, loss = self.argmin
        found |= {"loss": self.loss, "curvature": self.curvature, "quality": self.quality, "points": self.points}
        found |= {"diverged": self.diverged, "stable": self.stable, "next_lrs": self.next_lrs}
        found |= {"lr_edge": self.edge.lr, "lr_bound": self.edge.bound} | batch_edge
        found |= {"argmin_lr": lr} | ({"argmin_batch": batch} if joint else {}) | {"argmin_loss": loss}
        if joint:
            curve = self.curve or (math.nan, math.nan, "")
            found |= dict(zip(("slice_batch", "slice_lr", "slice_quality"), curve, strict=True))
        return found


@dataclass(frozen=True)
class Optima:
    """The optima of all cells; `joint` of those over both axes, `noise` says what the intervals rest on."""

    cells: tuple[CellOptimum, ...]
    joint: bool
    noise: str

    @property
    def interior(self) -> tuple[CellOptimum, ...]:
        """The cells that have an optimum."""
        return tuple(cell for cell in self.cells if cell.interior)

    @property
    def qualities(self) -> dict[str, int]:
        """How many cells have each quality, the most frequent first."""
        names = [cell.quality for cell in self.cells]
        return {name: names.count(name) for name in sorted(dict.fromkeys(names), key=names.count, reverse=True)}

    def frame(self) -> pd.DataFrame:
        """The table of `find_optima`."""
        return pd.DataFrame([cell.record(joint=self.joint) for cell in self.cells])


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
    nan.

    Args:
        runs: from `analysis.runs.source.load`, or a frame in its columns.
        over: ("lr",) or ("lr", "batch").
        window: of surfaces, the loss above the lowest up to which nodes count, relative; None for all nodes.  Curves
            have the window of `analysis.optimum`.

    Raises:
        InputError: a column is missing; `over` is neither.
    """
    return locate(runs, over=over, window=window).frame()


def locate(
    runs: Runs | pd.DataFrame,
    *,
    over: Sequence[str] = ("lr",),
    window: float | None = surface.WINDOW,
    noise: Noise | None = None,
) -> Optima:
    """The optima that `find_optima` shows as a table; `noise` takes the place of what repeated runs show."""
    frame = frame_of(runs)
    axes = tuple(over)
    require(axes in (("lr",), BOTH), f"over={axes}: optima are found over ('lr',) or ('lr', 'batch')")
    for name in ("params", "tokens", "loss", "status", *axes):
        require(name in frame, f"optima over {' and '.join(axes)} need the column {name}: load the runs with it")
    require(
        window is None or window > 0, f"window={window} is not above 0: give a share of the lowest loss, as in 0.02"
    )
    noise = noise or _noise(frame)
    return _joint(frame, window, noise) if axes == BOTH else _curves(frame, noise)


def _curves(frame: pd.DataFrame, noise: Noise) -> Optima:
    """The one-dimensional optimum of each cell."""
    if set(SEEDS) <= set(frame):  # seeds may have rates of their own, whose levels `curve` takes out
        keys = keys_of(frame, joint=False)
        groups = frame.groupby(keys, dropna=False)
        curves = [
            (dict(zip(keys, values, strict=True)), Points.of(optimum.curve(rows, axis_of(rows))))
            for values, rows in groups
        ]
    else:
        curves = [(cell.keys, _points(cell)) for cell in cells_of(frame, joint=False)]
    found = (_of_curve(keys, optimum.find_optimum(points, noise), points) for keys, points in curves)
    return Optima(tuple(found), False, noise.source)


def _points(cell: Cell) -> Points:
    """The nodes of one curve as `analysis.optimum.find_optimum` takes them."""
    return Points(cell.lr_P, cell.loss_P, cell.runs_P, np.ones(len(cell.lr_P), int), cell.diverged_P)


def _noise(frame: pd.DataFrame) -> Noise:
    """Seed noise pooled over curves."""
    axis, keys = axis_of(frame), keys_of(frame, joint=False)
    if not set(SEEDS) <= set(frame):
        return replicate_noise(frame, keys, axis)
    return pooled_noise([(rows, axis) for _, rows in frame.groupby(keys, dropna=False)])


def _of_curve(keys: Mapping[str, Any], best: Optimum, points: Points) -> CellOptimum:
    side = best.quality.removeprefix("edge-") if best.quality.startswith("edge-") else ""
    fitted = points.fitted
    ends = fitted.lr_P[:2] if side == "low" else fitted.lr_P[-2:]
    lr = None
    quality = best.quality
    if quality == "interior" and best.vertex_sd is None:
        quality = "flat"  # a bracket of rates is no point of a law
    if quality == "interior":
        assert best.lr and best.low and best.high and best.vertex_sd
        lr = Located(best.lr, best.low, best.high, best.vertex_sd * math.log(2))
    at, variant = _place(keys)
    return CellOptimum(
        at=at,
        variant=variant,
        quality=quality,
        lr=lr,
        batch=None,
        loss=best.loss if lr is not None and best.loss is not None else math.nan,
        curvature=math.nan if best.curvature is None else best.curvature,
        surface=None,
        edge=Edge(_edge_side(side), "", math.sqrt(ends[0] * ends[1]) if side else math.nan),
        points=best.points,
        diverged=best.diverged + best.far,
        stable=math.nan if best.stable is None else best.stable,
        next_lrs=best.next_rates,
        argmin=(
            math.nan if best.best_lr is None else best.best_lr,
            math.nan,
            float(fitted.loss_P.min()) if len(fitted.loss_P) else math.nan,
        ),
        curve=None,
    )


def _edge_side(word: str) -> Censored:
    return "low" if word == "low" else "high" if word == "high" else ""


def _place(keys: Mapping[str, Any]) -> tuple[dict[str, float], str | None]:
    """(regressors, variant) of a cell's keys."""
    return {name: value for name, value in keys.items() if name != "variant"}, keys.get("variant")


def _joint(frame: pd.DataFrame, share: float | None, noise: Noise) -> Optima:
    """The joint optimum of each cell."""
    cells = cells_of(frame, joint=True)
    fits = [_fit(cell.alive, share, noise) for cell in cells]
    pooled = surface.pooled_variance([fit for fit in fits if fit is not None])
    used = sum(max(fit.freedom, 0) for fit in fits if fit is not None and fit.full)
    source = f"{noise.source}; residual SD of surfaces {math.sqrt(pooled):.4f} nat, {used} degrees of freedom"
    found = (_of_surface(cell, fit, noise, pooled) for cell, fit in zip(cells, fits, strict=True))
    return Optima(tuple(found), True, source)


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


def _of_surface(cell: Cell, fit: Quadratic | None, noise: Noise, pooled: float) -> CellOptimum:
    edge, alive = edge_of(cell), cell.alive
    found = surface.find_surface(fit, noise, pooled, edge=bool(edge.lr or edge.batch)) if fit is not None else None
    interior = found is not None and found.quality == "interior"
    best = alive.best if len(alive.x_P) else None
    curve = None
    if found is not None and interior:
        half = math.exp(surface.spacing(cell.x_P) / 2)
        tries = (found.lr / half, found.lr * half)
    else:
        batch, slice_ = _best_slice(cell, noise)
        curve = (batch, math.nan if slice_.lr is None else slice_.lr, str(slice_.quality))
        tries = slice_.next_rates
    kept = found if interior else None
    at, variant = _place(cell.keys)
    return CellOptimum(
        at=at,
        variant=variant,
        quality=found.quality if found is not None else "too-few",
        lr=None if kept is None else Located(kept.lr, *kept.lr_interval, math.sqrt(kept.covariance[0, 0])),
        batch=None if kept is None else Located(kept.batch, *kept.batch_interval, math.sqrt(kept.covariance[1, 1])),
        loss=math.nan if kept is None else kept.loss,
        curvature=math.nan if kept is None else float(kept.hessian[0, 0]),
        surface=kept,
        edge=edge,
        points=found.points if found is not None else len(alive.x_P),
        diverged=int(cell.diverged_P.sum()),
        stable=float(alive.lr_P.max()) if best is not None else math.nan,
        next_lrs=tries,
        argmin=(math.nan, math.nan, math.nan)
        if best is None
        else (float(alive.lr_P[best]), math.exp(alive.z_P[best]), float(alive.loss_P[best])),
        curve=curve,
    )


def _best_slice(cell: Cell, noise: Noise) -> tuple[float, Optimum]:
    """(batch, optimum) of the batch whose curve goes lowest, by its fitted minimum or its best run."""
    found = [(math.exp(z), optimum.find_optimum(_points(cell.part(cell.z_P == z)), noise)) for z in np.unique(cell.z_P)]
    return min(found, key=lambda pair: math.inf if pair[1].loss is None else pair[1].loss)


def _axis(name: str, found: Located | None) -> dict[str, float]:
    """The columns of an axis, nan where there is no optimum."""
    values = (math.nan,) * 4 if found is None else dataclasses.astuple(found)
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_sd"), values, strict=True))


def _shape(found: Surface | None) -> dict[str, float]:
    """The columns that a surface fills beside its optimum, nan where there is none."""
    names = ("log_covariance", "batch_curvature", "cross", "valley_slope")
    if found is None:
        return dict.fromkeys(names, math.nan)
    values = (float(found.covariance[0, 1]), float(found.hessian[1, 1]), found.cross, found.valley_slope)
    return dict(zip(names, values, strict=True))
