"""Fit of a power law to the optima of cells: `ln y = c + sum_i b_i ln x_i` with honest intervals.

Regressors are centred logs.  Cells of one size share a deviation, and every cell has one of its own beside the known
error of its optimum; both variances are estimated by restricted likelihood (`analysis.power.reml`), which weighs the
cells (`weights="mixed"`) or only makes the intervals (`weights="equal"`: ordinary least squares, as published laws are
fitted).  Exponents get cluster-robust intervals over sizes (`analysis.power.cluster`), predictions the predictive
distribution of a new size.  What cannot be known is said in `notes`.

Optima at an edge of their grid are left out and counted, or enter as bounds (`analysis.power.censor`).  With bounds
there are R completed rows of cells instead of one: coefficients are medians over rows and the predictive distribution
the mean over rows.  The covariance of exponents is that of multiple imputation, `W + (1 + 1/R) B` with W the mean
robust covariance and B the covariance of the rows' exponents (Rubin 1987), by the central 68 % since rows with a large
S lie far out, with Student's t of `1 / (l^2 / (R - 1) + 1 / (f (1 - l)))`
degrees of freedom, l the share of B and f those of complete cells; but never fewer than the optima alone have.  That
is Barnard and Rubin's (1999) number without their factor (f + 1)/(f + 3), which would take a third from the two or
three degrees of freedom of a few sizes even where nothing is missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.edges import DEFAULT, Edges
from analysis.power import censor, reml
from analysis.power import cluster as clusters
from analysis.power.cells import Cells, gather, identified, ranges, tempered
from analysis.power.law import Curvature, Exponent, Node, PowerLaw, mixture_quantile
from analysis.target import COLUMNS, Targets, read
from lab.check import require

Weights = Literal["mixed", "equal"]

_NODES = 48
_BOOTED = 16  # completed rows that share the draws of the bootstrap


@dataclass(frozen=True)
class Solved:
    """The cells that a law is fitted to and their model, rows of y with a value drawn for every bound, and the
    posterior of the two variances; `edges` is what became of bounds."""

    cells: Cells
    model: reml.Model
    centre_I: np.ndarray
    y_RC: np.ndarray
    held: reml.Posterior
    condition: float
    edges: Edges

    @property
    def sizes(self) -> tuple[float, ...]:
        """What names the groups of the model, in their order."""
        return self.cells.groups

    @property
    def bounded(self) -> bool:
        """Whether the cells bound the prediction of a new size, or of another cell of the only one."""
        free = reml.freedom(self.model)
        return free.between > 0 or (free.within > 0 and len(self.sizes) == 1)

    @property
    def coefficients_P(self) -> np.ndarray:
        """The constant and the exponents."""
        return np.median(np.einsum("rk,rkp->rp", self.held.weight_RK, self.held.mean_RKP), axis=0)

    def row(self, at: Mapping[str, float]) -> np.ndarray:
        """[P] 1 and the centred logs of the regressors."""
        logs = np.log([at[name] for name in self.cells.regressors])
        return np.concatenate([[1.0], logs - self.centre_I])


def weights_of(targets: Targets) -> Weights:
    """How the rows of an estimator weigh in a law: those beside `surface` tell no variances, and their authors fit by
    ordinary least squares."""
    return "equal" if targets.estimator.startswith(("near-optimal", "argmin")) else "mixed"


def fit_power_law(
    rows: Targets | pd.DataFrame,
    response: str = "lr",
    regressors: Sequence[str] = ("params", "tokens"),
    *,
    variance: str | None = None,
    cluster: str = "params",
    weights: Weights | None = None,
    huber: float | None = None,
    draws: int = 400,
    seed: int = 0,
    estimator: str = "",
    edges: Edges | None = None,
    curved: bool = True,
) -> PowerLaw:
    """The law of `response` ("lr", or "batch" from the column best_batch) over rows, one per cell.

    Args:
        rows: from `analysis.runs.target.targets`, or a table as `analysis.target.read` takes it.
        response, regressors, cluster: names of the law's parts; cells of one `cluster` are a size.
        variance: the column of a table with the variance of ln y (default: `lr_variance` or `batch_variance` where
            there is one, else 0).
        weights: by default what the estimator of the rows wants (`weights_of`).
        huber: bounds the influence of cells whose residual is above that many robust standard deviations (1.345 is
            usual); bounds of optima are not touched.
        draws, seed: of the cluster bootstrap; the seed also of the values drawn for bounds.
        estimator, edges: the rule behind a table's rows, and what becomes of bounds; typed rows have both, and `edges`
            changes theirs.
        curved: adds the test of (ln N)^2.

    Raises:
        InputError: a column is missing, no cell is left, or an option is not known.
    """
    require(response in COLUMNS, f"response={response} is not one of {', '.join(COLUMNS)}")
    require(weights in (None, "mixed", "equal"), f"weights={weights} is not one of mixed, equal")
    require(draws >= 0, f"draws={draws} is below 0")
    require(huber is None or huber > 0, f"huber={huber} is not above 0")
    require(edges in (None, "drop", "censor", "keep"), f"edges={edges} is not one of drop, censor")
    if isinstance(rows, pd.DataFrame):
        way = edges or DEFAULT
        rows = read(rows, response, regressors, variance=variance, cluster=cluster, edges=way, estimator=estimator)
    elif edges is not None:
        rows = replace(rows, edges=edges)
    weights = weights or weights_of(rows)
    solved = solve(rows, response, regressors, cluster=cluster, weights=weights, huber=huber, seed=seed)
    cells, model, y_RC, held = solved.cells, solved.model, solved.y_RC, solved.held
    free, sizes = reml.freedom(model), len(solved.sizes)
    between, within = reml.estimate(model, y_RC, held) if free.between + free.within else (0.0, 0.0)
    coefficients_P = solved.coefficients_P
    spread, here = (between, within), cells.side_C == 0
    covariance_PP, exponents, draws_SP = _uncertainty(model, y_RC, here, spread, coefficients_P, draws, seed)
    return PowerLaw(
        response=response,
        regressors=cells.regressors,
        centre=_floats(solved.centre_I),
        coefficients=_floats(coefficients_P),
        covariance=tuple(_floats(row) for row in covariance_PP),
        intervals=exponents,
        between=math.sqrt(between),
        within=math.sqrt(within),
        nodes=_nodes(_collapsed(held)) if solved.bounded else (),
        draws=tuple(_floats(row) for row in draws_SP),
        ranges=ranges(rows if solved.edges == "censor" else replace(rows, rows=rows.points(response)), cells),
        cells=int((cells.side_C == 0).sum()),
        bounds=len(rows.bounds(response)),
        edges=solved.edges,
        sizes=sizes,
        weights=weights,
        estimator=rows.estimator,
        condition=solved.condition,
        curvature=_curvature(model, cells, seed) if curved else None,
        notes=(*cells.notes, *_limits(free, sizes, cells.regressors)),
    )


def solve(
    rows: Targets,
    response: str,
    regressors: Sequence[str],
    *,
    cluster: str = "params",
    weights: Weights = "mixed",
    huber: float | None = None,
    seed: int = 0,
) -> Solved:
    """What `fit_power_law` makes its law of."""
    gathered = gather(rows, response, regressors, cluster)
    cells, condition, way = _entering(gathered, rows.edges, weights == "equal")
    if huber is not None:
        cells = tempered(cells, huber)
    model, centre_I = _model(cells, weights == "equal")
    y_RC = cells.y_C[None]
    if (cells.side_C != 0).any():
        y_RC = censor.completed(model, cells.y_C, cells.side_C, seed)
    return Solved(cells, model, centre_I, y_RC, reml.posterior(model, y_RC), condition, way)


def _entering(cells: Cells, edges: Edges, equal: bool) -> tuple[Cells, float, Edges]:
    """The cells that are fitted with the regressors they can tell, their condition number, and the way that is left.

    Bounds are left out where the optima cannot carry them.
    """
    points, condition = identified(cells.points)
    if edges != "censor" or not (cells.side_C != 0).any():
        return points, condition, edges
    whole = identified(cells)[0]
    if set(whole.regressors) == set(points.regressors):
        found = replace(cells.of(points.regressors), notes=points.notes)
        if censor.enters(_model(found, equal)[0], found.side_C):
            return found, condition, edges
    count, sizes = int((cells.side_C != 0).sum()), len(np.unique(points.group_C))
    note = (
        f"{count} bounds left out: {len(points.y_C)} optima of {sizes} sizes do not determine exponents and scatter, "
        "and a bound tells one side only"
    )
    return replace(points, notes=(*points.notes, note)), condition, "drop"


def _model(cells: Cells, equal: bool) -> tuple[reml.Model, np.ndarray]:
    """The model of cells, and the centre of their regressors."""
    centre_I = cells.logs_CI.mean(axis=0)
    design_CP = np.column_stack([np.ones(len(cells.y_C)), cells.logs_CI - centre_I])
    return reml.Model(design_CP, cells.variance_C, cells.group_C, equal), centre_I


def _uncertainty(
    model: reml.Model,
    y_RC: np.ndarray,
    here_C: np.ndarray,
    spread: tuple[float, float],
    beta_P: np.ndarray,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, tuple[Exponent, ...], np.ndarray]:
    """(robust covariance, exponents with their intervals, bootstrap draws); `here_C` tells which cells are optima."""
    least_P = np.zeros(len(beta_P)) if here_C.all() else _freedom(reml.some(model, here_C), spread)
    optimistic_P = _independent(model.design_CP, y_RC)
    rows_CP, y_RC = (model.design_CP, y_RC) if model.equal else _whitened(model, y_RC, spread)
    found = clusters.robust(rows_CP, y_RC, model.group_C)
    covariance_PP, freedom_P = _imputed(found, y_RC @ np.linalg.pinv(rows_CP).T, least_P)
    draws_SP = _resampled(rows_CP, y_RC, model.group_C, draws, seed)
    ends_EP = None
    if draws and len(y_RC) == 1:
        ends_EP = clusters.percentiles(rows_CP, y_RC[0], model.group_C, (0.025, 0.975), seed)
    elif len(draws_SP):
        ends_EP = np.quantile(draws_SP, (0.025, 0.975), axis=0)
    exponents = []
    for place in range(1, len(beta_P)):
        value, freedom = float(beta_P[place]), float(freedom_P[place])
        sd = math.sqrt(max(covariance_PP[place, place], 0.0))
        known = math.isfinite(freedom) and freedom > 0.99
        wide, close = (float(stats.t.ppf(share, freedom)) * sd if known else math.nan for share in (0.975, 0.9))
        low, high, low80, high80 = (value + half if known else None for half in (-wide, wide, -close, close))
        half = float(optimistic_P[place])
        optimistic = (value - half, value + half) if math.isfinite(half) else None
        percentile = (float(ends_EP[0, place]), float(ends_EP[1, place])) if ends_EP is not None else None
        counted = freedom if known else None
        exponents.append(Exponent(value, low, high, low80, high80, counted, percentile, optimistic))
    return covariance_PP, tuple(exponents), draws_SP


def _freedom(model: reml.Model, spread: tuple[float, float]) -> np.ndarray:
    """[P] degrees of freedom of robust variances, 0 where there are none."""
    zeros_1C = np.zeros((1, len(model.group_C)))
    rows_CP = model.design_CP if model.equal else _whitened(model, zeros_1C, spread)[0]
    return np.nan_to_num(clusters.robust(rows_CP, zeros_1C, model.group_C).freedom_P)


def _imputed(found: clusters.Robust, beta_RP: np.ndarray, least_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(covariance, degrees of freedom [P]) of multiple imputation; of one row those of complete cells."""
    rows = len(beta_RP)
    if rows == 1:
        return found.covariance_PP, found.freedom_P
    low_P, high_P = np.quantile(beta_RP, stats.norm.cdf((-1, 1)), axis=0)
    added_PP = (1 + 1 / rows) * np.corrcoef(beta_RP, rowvar=False) * np.outer(high_P - low_P, high_P - low_P) / 4
    added_PP = np.nan_to_num(added_PP).reshape(len(low_P), -1)
    total_PP = found.covariance_PP + added_PP
    share_P = np.clip(np.diag(added_PP) / np.maximum(np.diag(total_PP), 1e-300), 1e-9, 1.0)
    seen_P = np.maximum(found.freedom_P * (1 - share_P), np.minimum(least_P, found.freedom_P))
    return total_PP, 1 / (share_P**2 / (rows - 1) + 1 / np.maximum(seen_P, 1e-300))


def _resampled(rows_CP: np.ndarray, y_RC: np.ndarray, group_C: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Draws of the cluster bootstrap, dealt out over some of the rows; none where most do not determine a law."""
    chosen = np.unique(np.linspace(0, len(y_RC) - 1, min(_BOOTED, len(y_RC), max(draws, 1))).astype(int))
    parts, left = [], draws
    for number, row in enumerate(chosen.tolist()):
        share = left // (len(chosen) - number)
        left -= share
        parts.append(clusters.bootstrap(rows_CP, y_RC[row], group_C, share, seed + number))
    draws_SP = np.concatenate(parts)
    return draws_SP if len(draws_SP) > draws / 2 else draws_SP[:0]


def _independent(design_CP: np.ndarray, y_RC: np.ndarray) -> np.ndarray:
    """[P] half-widths of the 95 % intervals of ordinary least squares with independent cells; nan without residuals."""
    free = y_RC.shape[1] - design_CP.shape[1]
    if free < 1:
        return np.full(design_CP.shape[1], math.nan)
    plain_PC = np.linalg.pinv(design_CP)
    beta_RP = y_RC @ plain_PC.T
    variance_P = (plain_PC**2).sum(axis=1) * float(((y_RC - beta_RP @ design_CP.T) ** 2).sum()) / free / len(y_RC)
    return float(stats.t.ppf(0.975, free)) * np.sqrt(variance_P + beta_RP.var(axis=0))


def _whitened(model: reml.Model, y_RC: np.ndarray, spread: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Regressors and rows of y in cells of unit covariance: their least squares are the generalised ones.

    Of a size's covariance `diag(a) + S 11'` the inverse root is `(I + (1/sqrt(1 + S w'w) - 1) ww'/w'w) diag(w)`,
    w = 1/sqrt(a).
    """
    between, own_C = spread[0], model.variance_C + spread[1]
    if own_C.min() < 1e-12 * max(own_C.max(), between, 1e-8):  # an exact law, or an exact cell: weights say nothing
        return model.design_CP, y_RC
    w_C = 1 / np.sqrt(own_C)
    rows_CQ = np.column_stack([model.design_CP, y_RC.T]) * w_C[:, None]
    for group in np.unique(model.group_C):
        here = model.group_C == group
        w_H, square = w_C[here], float(w_C[here] @ w_C[here])
        factor = (1 / math.sqrt(1 + between * square) - 1) / square
        rows_CQ[here] += factor * np.outer(w_H, w_H @ rows_CQ[here])
    size = model.design_CP.shape[1]
    return rows_CQ[:, :size], rows_CQ[:, size:].T


def _collapsed(held: reml.Posterior) -> reml.Posterior:
    """The mean of the rows' posteriors as that of one row, each node with the moments of all rows there."""
    if len(held.weight_RK) == 1:
        return held
    weight_K = held.weight_RK.mean(axis=0)
    own_RK = held.weight_RK / np.maximum(held.weight_RK.sum(axis=0), 1e-300)
    middle_KP = np.einsum("rk,rkp->kp", own_RK, held.mean_RKP)
    off_RKP = held.mean_RKP - middle_KP
    covariance_KPP = held.covariance_KPP + np.einsum("rk,rkp,rkq->kpq", own_RK, off_RKP, off_RKP, optimize=True)
    return replace(held, weight_RK=weight_K[None], mean_RKP=middle_KP[None], covariance_KPP=covariance_KPP)


def slices(weight_K: np.ndarray, variance_K: np.ndarray) -> list[np.ndarray]:
    """Nodes [K] in a few slices of about equal variance, finer in the upper tail; those of no weight are left out."""
    order = np.argsort(variance_K, kind="stable")
    below = np.cumsum(weight_K[order]) - weight_K[order] / 2
    number = np.searchsorted(special.ndtr(np.linspace(-3.0, 4.5, _NODES - 1)), below)
    found = [order[number == one] for one in np.unique(number)]
    return [here for here in found if weight_K[here].sum() >= 1e-12]


def _nodes(held: reml.Posterior) -> tuple[Node, ...]:
    """The grid of a posterior in a few normals: slices of equal variance of a new size, each with the moments of its
    nodes."""
    weight_K, mean_KP = held.weight_RK[0], held.mean_RKP[0]
    variance_K = held.between_K + held.within_K
    nodes = []
    for here in slices(weight_K, variance_K):
        share = float(weight_K[here].sum())
        own = weight_K[here] / share
        middle_P = own @ mean_KP[here]
        off_HP = mean_KP[here] - middle_P
        covariance_PP = np.einsum("h,hpq->pq", own, held.covariance_KPP[here] + off_HP[:, :, None] * off_HP[:, None, :])
        rows = tuple(_floats(row) for row in covariance_PP)
        nodes.append(Node(share, _floats(middle_P), rows, float(own @ variance_K[here])))
    return tuple(nodes)


def _curvature(model: reml.Model, cells: Cells, seed: int) -> Curvature | None:
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
    y_RC = cells.y_C[None]
    if (cells.side_C != 0).any():
        if not censor.enters(bent, cells.side_C):
            return None
        y_RC = censor.completed(bent, cells.y_C, cells.side_C, seed)
    held = _collapsed(reml.posterior(bent, y_RC))
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
