"""Fit of a power law to the optima of cells: `ln y = c + sum_i b_i ln x_i` with honest intervals.

Regressors are centred logs.  Cells of one size share a deviation, and every cell has one of its own beside the known
error of its optimum; both variances are estimated by restricted likelihood (`analysis.power.reml`), which weighs the
cells (`weights="mixed"`) or only makes the intervals (`weights="equal"`: ordinary least squares, as published laws are
fitted).  Exponents get cluster-robust intervals over sizes (`analysis.power.cluster`), predictions the predictive
distribution of a new size.  What cannot be known is said in `notes`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.power import cluster as clusters
from analysis.power import reml
from analysis.power.cells import COLUMNS, Cells, gather, identified, ranges, tempered
from analysis.power.law import Curvature, Exponent, Node, PowerLaw, mixture_quantile
from lab.check import require

Weights = Literal["mixed", "equal"]

_NODES = 48


def fit_power_law(
    frame: pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    variance: str | None = None,
    cluster: str = "params",
    weights: Weights = "mixed",
    huber: float | None = None,
    draws: int = 400,
    seed: int = 0,
    estimator: str = "",
    curved: bool = True,
) -> PowerLaw:
    """The law of `response` ("lr", or "batch" from the column best_batch) over the rows of `frame`, one per cell.

    `variance` names the column with the variance of ln y (default: `lr_variance` or `batch_variance` where there is
    one, else 0).  Rows of a true `censored` are left out and counted.  `huber` bounds the influence of cells whose
    residual is above that many robust standard deviations (1.345 is usual).  `draws` of the cluster bootstrap;
    `curved` adds the test of (ln N)^2.

    Raises:
        InputError: a column is missing, no cell is left, or an option is not known.
    """
    require(response in COLUMNS, f"response={response} is not one of {', '.join(COLUMNS)}")
    require(weights in ("mixed", "equal"), f"weights={weights} is not one of mixed, equal")
    require(draws >= 0, f"draws={draws} is below 0")
    require(huber is None or huber > 0, f"huber={huber} is not above 0")
    cells, condition = identified(gather(frame, response, regressors, variance, cluster))
    if huber is not None:
        cells = tempered(cells, huber)
    centre_I = cells.logs_CI.mean(axis=0)
    design_CP = np.column_stack([np.ones(len(cells.y_C)), cells.logs_CI - centre_I])
    model = reml.Model(design_CP, cells.variance_C, cells.group_C, weights == "equal")
    free, sizes = reml.freedom(model), len(np.unique(cells.group_C))
    held = reml.posterior(model, cells.y_C[None])
    between, within = reml.estimate(model, cells.y_C, held) if free.between + free.within else (0.0, 0.0)
    bounded = free.between > 0 or (free.within > 0 and sizes == 1)
    coefficients_P = held.weight_RK[0] @ held.mean_RKP[0]
    covariance_PP, exponents, draws_SP = _uncertainty(model, cells.y_C, (between, within), coefficients_P, draws, seed)
    return PowerLaw(
        response=response,
        regressors=cells.regressors,
        centre=_floats(centre_I),
        coefficients=_floats(coefficients_P),
        covariance=tuple(_floats(row) for row in covariance_PP),
        intervals=exponents,
        between=math.sqrt(between),
        within=math.sqrt(within),
        nodes=_nodes(held) if bounded else (),
        draws=tuple(_floats(row) for row in draws_SP),
        ranges=ranges(frame, cells),
        cells=len(cells.y_C),
        sizes=sizes,
        weights=weights,
        estimator=estimator,
        condition=condition,
        curvature=_curvature(model, cells) if curved else None,
        notes=(*cells.notes, *_limits(free, sizes, cells.regressors)),
    )


def _uncertainty(
    model: reml.Model, y_C: np.ndarray, spread: tuple[float, float], beta_P: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, tuple[Exponent, ...], np.ndarray]:
    """(robust covariance, exponents with their intervals, bootstrap draws)."""
    optimistic_P = _independent(model.design_CP, y_C)
    rows_CP, y_C = (model.design_CP, y_C) if model.equal else _whitened(model, y_C, spread)
    found = clusters.robust(rows_CP, y_C, model.group_C)
    draws_SP = clusters.bootstrap(rows_CP, y_C, model.group_C, draws, seed)
    draws_SP = draws_SP if len(draws_SP) > draws / 2 else draws_SP[:0]
    ends_EP = clusters.percentiles(rows_CP, y_C, model.group_C, (0.025, 0.975), seed) if draws else None
    exponents = []
    for place in range(1, len(beta_P)):
        value, freedom = float(beta_P[place]), float(found.freedom_P[place])
        sd = math.sqrt(max(found.covariance_PP[place, place], 0.0))
        known = math.isfinite(freedom) and freedom > 0.99
        wide, close = (float(stats.t.ppf(share, freedom)) * sd if known else math.nan for share in (0.975, 0.9))
        low, high, low80, high80 = (value + half if known else None for half in (-wide, wide, -close, close))
        half = float(optimistic_P[place])
        optimistic = (value - half, value + half) if math.isfinite(half) else None
        percentile = (float(ends_EP[0, place]), float(ends_EP[1, place])) if ends_EP is not None else None
        counted = freedom if known else None
        exponents.append(Exponent(value, low, high, low80, high80, counted, percentile, optimistic))
    return found.covariance_PP, tuple(exponents), draws_SP


def _independent(design_CP: np.ndarray, y_C: np.ndarray) -> np.ndarray:
    """[P] half-widths of the 95 % intervals of ordinary least squares with independent cells; nan without residuals."""
    free = len(y_C) - design_CP.shape[1]
    if free < 1:
        return np.full(design_CP.shape[1], math.nan)
    plain_PC = np.linalg.pinv(design_CP)
    residual_C = y_C - design_CP @ (plain_PC @ y_C)
    sd_P = np.sqrt((plain_PC**2).sum(axis=1) * float(residual_C @ residual_C) / free)
    return float(stats.t.ppf(0.975, free)) * sd_P


def _whitened(model: reml.Model, y_C: np.ndarray, spread: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Regressors and y in rows of unit covariance: their least squares are the generalised ones.

    Of a size's covariance `diag(a) + S 11'` the inverse root is `(I + (1/sqrt(1 + S w'w) - 1) ww'/w'w) diag(w)`,
    w = 1/sqrt(a).
    """
    between, own_C = spread[0], model.variance_C + spread[1]
    if own_C.min() < 1e-12 * max(own_C.max(), between, 1e-8):  # an exact law, or an exact cell: weights say nothing
        return model.design_CP, y_C
    w_C = 1 / np.sqrt(own_C)
    rows_CQ = np.column_stack([model.design_CP, y_C]) * w_C[:, None]
    for group in np.unique(model.group_C):
        here = model.group_C == group
        w_H, square = w_C[here], float(w_C[here] @ w_C[here])
        factor = (1 / math.sqrt(1 + between * square) - 1) / square
        rows_CQ[here] += factor * np.outer(w_H, w_H @ rows_CQ[here])
    return rows_CQ[:, :-1], rows_CQ[:, -1]


def _nodes(held: reml.Posterior) -> tuple[Node, ...]:
    """The grid of a posterior in a few normals: slices of equal variance of a new size, finer in the upper tail, each
    with the moments of its nodes."""
    weight_K, mean_KP = held.weight_RK[0], held.mean_RKP[0]
    variance_K = held.between_K + held.within_K
    order = np.argsort(variance_K, kind="stable")
    below = np.cumsum(weight_K[order]) - weight_K[order] / 2
    slices = np.searchsorted(special.ndtr(np.linspace(-3.0, 4.5, _NODES - 1)), below)
    nodes = []
    for part in np.unique(slices):
        here = order[slices == part]
        share = float(weight_K[here].sum())
        if share < 1e-12:
            continue
        own = weight_K[here] / share
        middle_P = own @ mean_KP[here]
        off_HP = mean_KP[here] - middle_P
        covariance_PP = np.einsum("h,hpq->pq", own, held.covariance_KPP[here] + off_HP[:, :, None] * off_HP[:, None, :])
        rows = tuple(_floats(row) for row in covariance_PP)
        nodes.append(Node(share, _floats(middle_P), rows, float(own @ variance_K[here])))
    return tuple(nodes)


def _curvature(model: reml.Model, cells: Cells) -> Curvature | None:
    """The coefficient of (ln N - mean)^2, where params is a regressor and the sizes can tell it."""
    if "params" not in cells.regressors:
        return None
    column_C = model.design_CP[:, 1 + cells.regressors.index("params")]
    design_CP = np.column_stack([model.design_CP, column_C**2 - (column_C**2).mean()])
    if np.linalg.matrix_rank(design_CP) < design_CP.shape[1]:
        return None
    bent = replace(model, design_CP=design_CP)
    if reml.freedom(bent).between < 1:
        return None
    held = reml.posterior(bent, cells.y_C[None])
    weight_K, mean_K = held.weight_RK[0], held.mean_RKP[0, :, -1]
    kept = weight_K > 1e-9
    sd_K = np.sqrt(np.maximum(held.covariance_KPP[kept, -1, -1], 0.0))
    low, high = (mixture_quantile(share, weight_K[kept], mean_K[kept], sd_K) for share in (0.025, 0.975))
    return Curvature(float(weight_K @ mean_K), low, high)


def _limits(free: reml.Freedom, sizes: int, regressors: Sequence[str]) -> list[str]:
    """What the sizes and cells are too few for."""
    if free.between + free.within == 0:
        return ["as many coefficients as cells: no interval of any kind"]
    if sizes == 1:
        return ["one size: intervals are for other cells of this size, nothing is known about other sizes"]
    if free.between == 0:
        needed = "three" if "params" in regressors else "more"
        return [
            f"{sizes} sizes: how sizes deviate from a law cannot be seen, so intervals are unbounded; {needed} give one"
        ]
    if free.within == 0:
        return ["one cell per size: deviations of sizes and of cells cannot be told apart"]
    return [f"{sizes} sizes: intervals rest on one degree of freedom between sizes"] if free.between == 1 else []


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
