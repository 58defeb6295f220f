"""What a setting costs in a measured cell: its loss above the cell's minimum, read in three named ways.

A cell is the runs of one (N, D), with one batch or several.  The regret of a rate (and batch) is `L(setting)/L* - 1`:

* nearest: the run with the least squared distance in log2 lr and log2 B, against the best run;
* linear: piecewise linear in ln lr, or on the Delaunay triangles of (ln lr, ln B), against the best run;
* quadratic: a parabola or quadratic surface through the runs within a window of the minimum, against its vertex.

None of them looks beyond the grid unless told to: linear and quadratic give nothing outside the hull of the runs, and
nearest says how far the run is.  On a regular grid the two diagonals of a square are equally good triangles, and
which one is taken depends on rounding; the difference is within the noise.

Suffixes of arrays: P points (replicates averaged), K coefficients.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay, QhullError

from analysis.noise import FALLBACK_SEED_SD
from lab.check import InputError, require

Protocol = Literal["nearest", "linear", "quadratic"]
PROTOCOLS: dict[Protocol, str] = {
    "nearest": "nearest run",
    "linear": "log-log linear interpolation",
    "quadratic": "local quadratic",
}
WINDOW = 0.01  # of the minimum: what the local quadratic is fitted to
SAME = 0.01  # values closer than this share a node: published grids store one in several roundings
LEAST_REPLICATES = 3  # degrees of freedom from which replicates give the noise
_CLOSE = 1e-9
_Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True)
class Noise:
    """Standard deviation of a run's loss in nats, and where it comes from."""

    sd: float
    source: str


@dataclass(frozen=True)
class MeasuredCell:
    """Points of a cell: `x_P` ln lr, `z_P` ln batch (None: one batch, or unknown), `loss_P` (nan: a run diverged)."""

    x_P: np.ndarray
    z_P: np.ndarray | None
    loss_P: np.ndarray
    batch: float | None  # of a cell with one
    noise: Noise

    @property
    def best(self) -> int:
        """The point of the lowest loss."""
        return int(np.nanargmin(self.loss_P))

    @property
    def minimum(self) -> float:
        """Loss of the best run."""
        return float(self.loss_P[self.best])

    @property
    def best_setting(self) -> tuple[float, float | None]:
        """(lr, batch) of the best run."""
        lr = math.exp(self.x_P[self.best])
        return lr, self.batch if self.z_P is None else math.exp(self.z_P[self.best])

    @property
    def places(self) -> np.ndarray:
        """Coordinates of the points, [P, 1] or [P, 2]."""
        return np.stack([self.x_P] if self.z_P is None else [self.x_P, self.z_P], axis=1)

    @cached_property
    def triangles(self) -> Delaunay | None:
        """Delaunay triangles of the places; None for a curve, for fewer than three points, and for points on a line."""
        try:
            return None if self.z_P is None else Delaunay(self.places)
        except QhullError:
            return None


@dataclass(frozen=True)
class Reading:
    """A regret (a ratio, not per cent) by one protocol; None with the reason in `note` where there is none."""

    protocol: Protocol
    regret: float | None
    loss: float | None
    minimum: float | None
    note: str = ""


@dataclass(frozen=True)
class Discrimination:
    """Which settings a cell can tell apart: regrets that differ by less than `threshold` (a ratio) are one group."""

    threshold: float
    can: bool
    best: tuple[str, ...]
    worse: tuple[str, ...]
    statement: str


def measured(rows: pd.DataFrame) -> MeasuredCell:
    """A cell from runs with `lr`, `loss` and, where known, `batch`, `status`; replicates are averaged.

    Raises:
        InputError: no run with a finite loss, or a rate or batch that is not above 0.
    """
    rows = rows[rows["status"].isin(["done", "diverged"])] if "status" in rows else rows
    loss = rows["loss"].to_numpy(float, copy=True)
    lost = ~np.isfinite(loss)
    if "status" in rows:
        lost |= (rows["status"] == "diverged").to_numpy(bool)
    loss[lost] = np.nan
    require(bool(np.isfinite(loss).any()), "no run of this cell has a finite loss: nothing to compare with")
    x = _nodes(rows["lr"], "lr")
    known = "batch" in rows and bool(rows["batch"].notna().all())
    z = _nodes(rows["batch"], "batch") if known else np.zeros(len(rows))
    frame = pd.DataFrame({"x": x, "z": z, "loss": loss, "lost": lost})
    points = frame.groupby(["x", "z"], as_index=False).agg({"loss": "mean", "lost": "any"})
    loss_P = np.where(points["lost"], np.nan, points["loss"].to_numpy(float))
    require(bool(np.isfinite(loss_P).any()), "every node of this cell has a diverged run: nothing to compare with")
    several = known and points["z"].nunique() > 1
    x_P, z_P = points["x"].to_numpy(float), points["z"].to_numpy(float)
    batch = math.exp(z_P[0]) if known and not several else None
    cell = MeasuredCell(x_P, z_P if several else None, loss_P, batch, Noise(math.nan, "not estimated"))
    return replace(cell, noise=_noise(cell, frame))


def profile(cell: MeasuredCell) -> MeasuredCell:
    """The cell with the best batch at each rate: what a law of the rate alone can be asked for."""
    points = pd.DataFrame({"x": cell.x_P, "loss": cell.loss_P}).groupby("x", as_index=False)["loss"].min()
    return replace(cell, x_P=points["x"].to_numpy(float), z_P=None, loss_P=points["loss"].to_numpy(float))


def readings(
    cell: MeasuredCell, lr: float, batch: float | None = None, window: float = WINDOW, *, beyond: bool = False
) -> tuple[Reading, ...]:
    """The regret of a setting by every protocol; without a batch, at the best batch of each rate.

    `window` bounds the quadratic's runs, relative to the minimum; infinity takes all.  `beyond` lets the quadratic
    answer outside the grid.  In a cell with one batch the setting's own batch is not tested.

    Raises:
        InputError: a rate or batch that is not above 0.
    """
    require(math.isfinite(lr) and lr > 0, f"lr={lr} is not a rate above 0")
    require(batch is None or (math.isfinite(batch) and batch > 0), f"batch={batch} is not a batch above 0")
    at = [math.log(lr)]
    if cell.z_P is not None and batch is None:
        cell = profile(cell)
    elif cell.z_P is not None and batch is not None:
        at.append(math.log(batch))
    place = np.array(at)
    return nearest(cell, place), linear(cell, place), quadratic(cell, place, window, beyond=beyond)


def nearest(cell: MeasuredCell, place: np.ndarray) -> Reading:
    """Regret of the run nearest to (ln lr[, ln batch])."""
    distance_P = np.linalg.norm(cell.places - place, axis=1)
    at = int(distance_P.argmin())
    loss = float(cell.loss_P[at])
    if math.isnan(loss):
        return Reading("nearest", None, None, cell.minimum, "the nearest run diverged")
    away = f"outside the grid: the nearest run is {distance_P[at] / math.log(2):.1f} octaves away"
    return Reading("nearest", loss / cell.minimum - 1, loss, cell.minimum, "" if _inside(cell, place) else away)


def linear(cell: MeasuredCell, place: np.ndarray) -> Reading:
    """Regret by linear interpolation in the logs of rate and batch."""
    none = Reading("linear", None, None, cell.minimum, "outside the grid")
    distance_P = np.linalg.norm(cell.places - place, axis=1)
    if distance_P.min() <= _CLOSE:
        loss = float(cell.loss_P[distance_P.argmin()])
    elif not _inside(cell, place):
        return none
    elif cell.z_P is None:
        order = np.argsort(cell.x_P)
        loss = float(np.interp(place[0], cell.x_P[order], cell.loss_P[order]))
    else:
        loss = float(LinearNDInterpolator(cell.triangles, cell.loss_P)(place)[0])
    if math.isnan(loss):
        return Reading("linear", None, None, cell.minimum, "next to a diverged run")
    return Reading("linear", loss / cell.minimum - 1, loss, cell.minimum)


def quadratic(cell: MeasuredCell, place: np.ndarray, window: float = WINDOW, *, beyond: bool = False) -> Reading:
    """Regret by the quadratic through the runs within `window` of the minimum, against its vertex.

    It needs a positive definite Hessian and a vertex inside the grid.
    """
    kept_P = cell.loss_P <= cell.minimum * (1 + window)  # nan is not
    places, loss_P = cell.places[kept_P], cell.loss_P[kept_P]
    terms = 3 if cell.z_P is None else 6
    centre = places.mean(axis=0)
    design_PK = _design(places - centre)
    share = "" if math.isinf(window) else f" within {window:.3g} of the minimum"
    if np.linalg.matrix_rank(design_PK) < terms:
        return Reading("quadratic", None, None, None, f"{len(loss_P)} runs{share} do not fix a quadratic")
    solution_K = np.linalg.lstsq(design_PK, loss_P, rcond=None)[0]
    size = places.shape[1]
    hessian = np.diag(2 * solution_K[1 + size : 1 + 2 * size])
    if size == 2:
        hessian[0, 1] = hessian[1, 0] = solution_K[5]
    if np.linalg.eigvalsh(hessian)[0] <= 0:
        return Reading("quadratic", None, None, None, f"the quadratic{share} has no minimum")
    vertex = np.linalg.solve(hessian, -solution_K[1 : 1 + size])
    least = float((_design(vertex[None]) @ solution_K)[0])
    if not _inside(cell, vertex + centre):
        return Reading("quadratic", None, None, None, f"the vertex of the quadratic{share} is outside the grid")
    inside = _inside(cell, place)
    if not inside and not beyond:
        return Reading("quadratic", None, None, least, "outside the grid")
    loss = float((_design((place - centre)[None]) @ solution_K)[0])
    return Reading("quadratic", loss / least - 1, loss, least, "" if inside else "outside the grid: extrapolated")


def discriminate(cell: MeasuredCell, regrets: Mapping[str, float]) -> Discrimination:
    """Whether a cell can tell rival settings apart, from their regrets (ratios) by one protocol.

    Two runs that differ by seed alone differ by less than `1.96 sqrt(2) sd / L*` in 95 of 100 cases; an interpolated
    loss scatters no more than a run does.  Regrets closer to the least than that are one group.
    """
    require(len(regrets) > 0, "no regrets to compare: no setting lies in this cell")
    threshold = _Z * math.sqrt(2) * cell.noise.sd / cell.minimum
    least = min(regrets.values())
    best = tuple(name for name, regret in regrets.items() if regret - least <= threshold)
    worse = tuple(name for name in regrets if name not in best)
    span = max(regrets.values()) - least
    noise = f"noise {1e3 * threshold:.2f} per mille for a difference ({cell.noise.source})"
    if not worse:
        what = "this cell cannot discriminate laws: their regrets"
        statement = f"{what} span {1e3 * span:.2f} per mille, {noise}"
    else:
        statement = f"this cell tells {', '.join(worse)} from the best; it cannot tell apart {', '.join(best)}; {noise}"
        if len(best) == 1:
            statement = f"this cell tells {best[0]} from {', '.join(worse)}; {noise}"
    return Discrimination(threshold, bool(worse), best, worse, statement)


def _design(places: np.ndarray) -> np.ndarray:
    """Columns 1, x, x^2 or 1, x, z, x^2, z^2, x z at places [P, 1] or [P, 2]."""
    columns = [np.ones(len(places)), *places.T, *(places.T**2)]
    if places.shape[1] == 2:
        columns.append(places[:, 0] * places[:, 1])
    return np.stack(columns, axis=1)


def _inside(cell: MeasuredCell, place: np.ndarray) -> bool:
    """Whether a place lies in the hull of the cell's points."""
    if cell.z_P is None:
        return bool(cell.x_P.min() - _CLOSE <= place[0] <= cell.x_P.max() + _CLOSE)
    return cell.triangles is not None and bool(cell.triangles.find_simplex(place, tol=_CLOSE)[()] >= 0)


def _nodes(values: pd.Series, name: str) -> np.ndarray:
    """Natural logs, values within `SAME` of the lowest of their node on the node's geometric mean."""
    given = values.to_numpy(float)
    wrong = given[~(np.isfinite(given) & (given > 0))]
    if len(wrong):
        raise InputError(f"{name} {wrong[0]:g} is not above 0: correct the run or leave it out")
    unique, inverse = np.unique(np.log(given), return_inverse=True)
    node, first = np.zeros(len(unique), int), unique[0]
    for place in range(1, len(unique)):
        new = unique[place] - first > SAME
        node[place] = node[place - 1] + new
        first = unique[place] if new else first
    means = np.bincount(node, unique) / np.bincount(node)
    return means[node][inverse]


def _noise(cell: MeasuredCell, frame: pd.DataFrame) -> Noise:
    """Seed noise of a cell: from replicates within 10 % of the minimum, else from the residuals of its quadratic."""
    done = frame[~frame["lost"]]
    near = done[done.groupby(["x", "z"])["loss"].transform("mean") <= 1.1 * cell.minimum]
    grouped = near.groupby(["x", "z"])["loss"]
    freedom = int((grouped.count() - 1).sum())
    if freedom >= LEAST_REPLICATES:
        squares = float((grouped.var() * (grouped.count() - 1)).sum())
        return Noise(math.sqrt(squares / freedom), f"replicates, {freedom} degrees of freedom")
    for window in (WINDOW, 2 * WINDOW):
        kept_P = cell.loss_P <= cell.minimum * (1 + window)
        places, loss_P = cell.places[kept_P], cell.loss_P[kept_P]
        design_PK = _design(places - places.mean(axis=0))
        left = len(loss_P) - design_PK.shape[1]
        if left >= LEAST_REPLICATES and np.linalg.matrix_rank(design_PK) == design_PK.shape[1]:
            residual_P = loss_P - design_PK @ np.linalg.lstsq(design_PK, loss_P, rcond=None)[0]
            sd = math.sqrt(float(residual_P @ residual_P) / left)
            return Noise(sd, f"residuals of the quadratic within {window:.0%}, misfit included")
    return Noise(FALLBACK_SEED_SD, f"assumed seed SD {FALLBACK_SEED_SD:g} nat")
