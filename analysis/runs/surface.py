"""The joint optimum of a cell in learning rate and batch: a quadratic in x = ln lr and z = ln batch.

Letters: P nodes (different pairs of rate and batch), K = 6 coefficients, S draws.

`y = a + g.u + u.H.u / 2` with u = (x - mean x, z - mean z), by least squares over nodes weighted by their runs: what
ordinary least squares over all runs gives.  The stationary point is `u* = -H^-1 g`.  It is an optimum only where H is
positive definite and u* lies inside the convex hull of the fitted nodes; everything else has a label and no point.

Errors.  A node's variance is `noise^2 / runs + misfit^2`; without replicates both together are the residual variance.
That of a cell has few degrees of freedom, so it is drawn towards the variance pooled over all cells (a scaled inverse
chi-squared prior worth `PRIOR` degrees of freedom, after Smyth 2004, doi 10.2202/1544-6115.1027).  u* is a ratio, whose
linear propagation is too short where H is uncertain: coefficients are drawn from their normal distribution, and u* is
kept of each draw that would have been accepted as an optimum.  Widths are those of the kept draws over their share,
as Porian et al. (arXiv 2406.19146) inflate theirs by the replicas that fall on an edge; the correlation of ln lr* and
ln batch* is that of the kept draws.

A quadratic is symmetric and a loss is not (the side of high rates is steeper).  A cubic through the same windows of
Step Law's cells puts the optimum 0.25 +- 0.13 octaves of rate higher and 0.0 +- 0.1 octaves of batch away.  Intervals
hold both numbers, variances for a law neither: what all cells share moves a law's constant and leaves its exponents,
and what differs between cells is misfit, which the law finds for itself.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import spatial

from analysis.noise import FALLBACK_SEED_SD, Z95, Noise

Quality = Literal["interior", "indefinite", "outside", "edge", "too-few"]

WINDOW = 0.02  # of the lowest loss: Step Law's surfaces (law_fitting.md 4.4 of the specification)
PRIOR = 4.0
# Octaves by which a quadratic misses, rate and batch: what cells share, and their scatter; see above.
SHARED_BIAS = np.array([0.25, 0.0])
BIAS_SCATTER = np.array([0.13, 0.1])
COEFFICIENTS = 6
_DRAWS = 1000


@dataclass(frozen=True)
class Nodes:
    """A cell's nodes: ln lr, ln batch, mean loss and number of runs; diverged ones are left out beforehand."""

    x_P: np.ndarray
    z_P: np.ndarray
    y_P: np.ndarray
    runs_P: np.ndarray


@dataclass(frozen=True)
class Quadratic:
    """A fitted quadratic: value a, gradient g and Hessian H at `centre`; `nodes` are the ones it was fitted to.

    `full` tells whether the nodes determine all six coefficients.  `squares` is the residual sum of squares over
    nodes, with `freedom` degrees of freedom; `rise_KP` maps node losses to the coefficients (a, gx, gz, Hxx, Hxz, Hzz).
    """

    nodes: Nodes
    centre: np.ndarray
    coefficients_K: np.ndarray
    full: bool
    squares: float
    freedom: int
    rise_KP: np.ndarray

    @property
    def gradient(self) -> np.ndarray:
        return self.coefficients_K[1:3]

    @property
    def hessian(self) -> np.ndarray:
        _, _, _, xx, xz, zz = self.coefficients_K
        return np.array([[xx, xz], [xz, zz]])


@dataclass(frozen=True)
class Surface:
    """The joint optimum of a cell, or why there is none.

    `lr`, `batch` (tokens) and `loss` belong to the stationary point, whatever the quality: an optimum only where that
    is `interior`.  The 95 % intervals are (low, high), and `covariance` that of (ln lr*, ln batch*), nan where there is
    no optimum; `accepted` is the share of draws that were one.  `hessian` is in nats per squared natural log, `cross`
    its normalised mixed term `H_xz / sqrt(H_xx H_zz)`, `rmse` the residual root mean square over `points` nodes.
    """

    quality: Quality
    lr: float
    batch: float
    loss: float
    lr_interval: tuple[float, float]
    batch_interval: tuple[float, float]
    covariance: np.ndarray
    accepted: float
    hessian: np.ndarray
    cross: float
    rmse: float
    points: int
    runs: int

    @property
    def valley_slope(self) -> float:
        """d ln eta* / d ln B along the conditional minimum: `-H_xz / H_xx`."""
        return float(-self.hessian[0, 1] / self.hessian[0, 0])

    def valley(self, batch: np.ndarray | float) -> np.ndarray:
        """eta*(B), the minimising rate at each given batch (tokens): `ln lr* - H_xz / H_xx (ln B - ln batch*)`."""
        return self.lr * (np.asarray(batch, float) / self.batch) ** self.valley_slope


def window(nodes: Nodes, share: float | None, noise: Noise) -> Nodes:
    """The nodes with loss <= lowest + max(share x lowest, 4 noise sds); all of them where `share` is None."""
    if share is None or len(nodes.y_P) == 0:
        return nodes
    least = float(nodes.y_P.min())
    near = nodes.y_P <= least + max(share * least, 4 * noise.at(float(least)))
    return Nodes(nodes.x_P[near], nodes.z_P[near], nodes.y_P[near], nodes.runs_P[near])


def fit_quadratic(nodes: Nodes) -> Quadratic:
    """Weighted least squares of the module's quadratic.

    Nodes that do not determine it (fewer than six, or two batches only) give the least-norm solution in
    (log2 lr, log2 batch), which is what a general solver returns for such cells; `full` is then false.
    """
    x, z = nodes.x_P, nodes.z_P
    root_P = np.sqrt(nodes.runs_P)
    centre = np.array([x.mean(), z.mean()])
    # Columns of similar size, or the rank would depend on the grid's width.
    scale = np.array([max(float(np.ptp(x)), 1e-12), max(float(np.ptp(z)), 1e-12)])
    design_PK = _design((x - centre[0]) / scale[0], (z - centre[1]) / scale[1])
    left, sizes, right = np.linalg.svd(design_PK * root_P[:, None], full_matrices=False)
    full = len(sizes) == COEFFICIENTS and bool(sizes[-1] > 1e-8 * sizes[0])
    units_K = np.array([1.0, *scale, scale[0] ** 2, scale[0] * scale[1], scale[1] ** 2])
    if full:
        rise_KP = (right.T / sizes) @ left.T * root_P / units_K[:, None]
    else:
        octaves = math.log(2)
        solved_KP = np.linalg.pinv(_monomials(x / octaves, z / octaves) * root_P[:, None], rcond=1e-13) * root_P
        rise_KP = solved_KP * np.array([1, 1, 1, 2, 1, 2])[:, None] / octaves ** np.array([0, 1, 1, 2, 2, 2])[:, None]
        centre = np.zeros(2)
    coefficients_K = rise_KP @ nodes.y_P
    residual_P = nodes.y_P - _design(x - centre[0], z - centre[1]) @ coefficients_K
    return Quadratic(
        nodes, centre, coefficients_K, full, float(residual_P @ residual_P), len(x) - COEFFICIENTS, rise_KP
    )


def pooled_variance(fits: Sequence[Quadratic]) -> float:
    """Residual variance of a node pooled over cells, with the fallback noise worth `PRIOR` degrees of freedom."""
    used = [fit for fit in fits if fit.full and fit.freedom > 0]
    squares = PRIOR * FALLBACK_SEED_SD**2 + sum(fit.squares for fit in used)
    return squares / (PRIOR + sum(fit.freedom for fit in used))


def find_surface(fit: Quadratic, noise: Noise, pooled: float, *, edge: bool = False) -> Surface:
    """Stationary point, errors and quality of a fitted quadratic.

    Args:
        fit: from `fit_quadratic`.
        noise: seed noise of one run (`analysis.noise.pooled_noise`).
        pooled: residual variance of a node over all cells (`pooled_variance`).
        edge: whether the cell's best node is on the edge of its grid: an optimum outside is then one beyond the edge.
    """
    gradient, hessian = fit.gradient, fit.hessian
    step = np.linalg.lstsq(hessian, -gradient, rcond=None)[0]
    point = fit.centre + step
    loss = float(fit.coefficients_K[0] + 0.5 * gradient @ step)
    definite = hessian[0, 0] > 0 and np.linalg.det(hessian) > 0
    hull = hull_of(fit.nodes.x_P, fit.nodes.z_P)
    quality: Quality = "interior"
    if not definite:
        quality = "indefinite"
    elif not inside(point[None], hull)[0]:
        quality = "edge" if edge else "outside"
    elif not fit.full:
        quality = "too-few"
    covariance, half, accepted = np.full((2, 2), np.nan), np.full((2, 2), np.nan), math.nan
    if quality == "interior":
        covariance, half, accepted = _errors(fit, step, _variances(fit, noise, pooled), hull)
    low, high = point - half[0], point + half[1]
    diagonal = hessian[0, 0] * hessian[1, 1]
    return Surface(
        quality=quality,
        lr=_exp(point[0]),
        batch=_exp(point[1]),
        loss=loss,
        lr_interval=(_exp(low[0]), _exp(high[0])),
        batch_interval=(_exp(low[1]), _exp(high[1])),
        covariance=covariance,
        accepted=accepted,
        hessian=hessian,
        cross=float(hessian[0, 1] / math.sqrt(diagonal)) if diagonal > 0 else math.nan,
        rmse=math.sqrt(fit.squares / max(len(fit.nodes.y_P), 1)),
        points=len(fit.nodes.y_P),
        runs=int(fit.nodes.runs_P.sum()),
    )


def hull_of(x_P: np.ndarray, z_P: np.ndarray) -> np.ndarray | None:
    """Half-planes (normal, offset) of the nodes' convex hull, [F, 3]; None where the nodes lie on a line."""
    try:
        return spatial.ConvexHull(np.stack([x_P, z_P], axis=1)).equations
    except (spatial.QhullError, ValueError):
        return None


def inside(points_S2: np.ndarray, hull: np.ndarray | None) -> np.ndarray:
    """Which points lie inside a hull, its border excluded."""
    if hull is None:
        return np.zeros(len(points_S2), bool)
    return np.all(points_S2 @ hull[:, :2].T + hull[:, 2] < -1e-12, axis=1)


def spacing(x_P: np.ndarray) -> float:
    """Median distance of neighbouring values; 0 of one value."""
    values = np.unique(np.round(x_P, 4))
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def _design(x_P: np.ndarray, z_P: np.ndarray) -> np.ndarray:
    """Columns of (a, gx, gz, Hxx, Hxz, Hzz)."""
    return np.stack([np.ones_like(x_P), x_P, z_P, 0.5 * x_P**2, x_P * z_P, 0.5 * z_P**2], axis=1)


def _monomials(x_P: np.ndarray, z_P: np.ndarray) -> np.ndarray:
    """Columns 1, x, z, x^2, xz, z^2, of which a least-norm solution depends on the factor before a square."""
    return np.stack([np.ones_like(x_P), x_P, z_P, x_P**2, x_P * z_P, z_P**2], axis=1)


def _variances(fit: Quadratic, noise: Noise, pooled: float) -> np.ndarray:
    """Variance of each node's loss about the quadratic; see the module."""
    own = (PRIOR * pooled + fit.squares) / (PRIOR + max(fit.freedom, 0))
    if not noise.measured:
        return np.full(len(fit.nodes.y_P), own)
    seeds_P = noise.sd**2 / fit.nodes.runs_P
    return seeds_P + max(0.0, own - float(seeds_P.mean()))


def _errors(
    fit: Quadratic, step: np.ndarray, variance_P: np.ndarray, hull: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """(covariance, half-widths [below or above, rate or batch], share of accepted draws) of u*."""
    covariance_KK = (fit.rise_KP * variance_P) @ fit.rise_KP.T
    draws_S2 = _drawn(fit.coefficients_K, covariance_KK)
    draws_S2 = draws_S2[inside(draws_S2 + fit.centre, hull)]
    accepted = len(draws_S2) / _DRAWS
    share = max(accepted, 0.01)
    if len(draws_S2) < 3:  # noise beyond all curvature: the optimum may be at any node
        draws_S2 = np.stack([fit.nodes.x_P, fit.nodes.z_P], axis=1) - fit.centre
    low_2, high_2 = np.quantile(draws_S2, [0.025, 0.975], axis=0)
    below_2, above_2 = np.maximum(step - low_2, 0) / share, np.maximum(high_2 - step, 0) / share
    deviation_2 = np.sqrt(np.mean((draws_S2 - step) ** 2, axis=0)) / share
    correlation = np.eye(2)
    if (deviation_2 > 0).all():
        product = float(np.mean(np.prod(draws_S2 - step, axis=1))) / share**2
        correlation[0, 1] = correlation[1, 0] = product / float(np.prod(deviation_2))
    octave = math.log(2)
    covariance = np.outer(deviation_2, deviation_2) * correlation
    bias_2 = Z95 * octave * np.hypot(SHARED_BIAS, BIAS_SCATTER)
    return covariance, np.stack([np.hypot(below_2, bias_2), np.hypot(above_2, bias_2)]), accepted


def _drawn(coefficients_K: np.ndarray, covariance_KK: np.ndarray) -> np.ndarray:
    """u* of each draw of the coefficients, from a fixed stream, of those whose H is positive definite."""
    # Cholesky's factor follows the coefficients smoothly; eigenvectors change sign with the last digit.
    sd_K = np.sqrt(np.diag(covariance_KK))
    factor_KK = np.linalg.cholesky(covariance_KK / np.outer(sd_K, sd_K) + 1e-12 * np.eye(COEFFICIENTS))
    _, gx, gz, xx, xz, zz = coefficients_K[:, None] + sd_K[:, None] * (factor_KK @ _normal_KS())
    determinant = xx * zz - xz**2
    definite = (xx > 0) & (determinant > 0)
    gx, gz, xx, xz, zz, determinant = (part[definite] for part in (gx, gz, xx, xz, zz, determinant))
    return np.stack([(xz * gz - zz * gx) / determinant, (xz * gx - xx * gz) / determinant], axis=1)


@functools.cache
def _normal_KS() -> np.ndarray:
    """Standard normal numbers, each with its negative."""
    half_KS = np.random.default_rng(0).standard_normal((COEFFICIENTS, _DRAWS // 2))
    return np.concatenate([half_KS, -half_KS], axis=1)


def _exp(value: float) -> float:
    """exp of an argument of any size: a rejected stationary point may lie anywhere."""
    return float(np.exp(np.clip(value, -700, 700)))
