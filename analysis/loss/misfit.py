"""What a loss law misses, and how far off it may be at sizes and budgets that no run had.

A law is never the truth.  Its misfit is taken as a smooth random surface over the sizes and tokens, estimated from the
residuals and carried on to new places (universal kriging; Kennedy and O'Hagan 2001, "Bayesian calibration of computer
models").  With u and v the logs of N and D, centred and over their standard deviations, and J = d ln L / d theta,

    ln L = ln L(theta) + J b + misfit + noise,   noise ~ s^2,   cov(misfit) = s^2 g K,
    K = (u^2 u'^2 + u v u' v' + v^2 v'^2) / 3 + w(u, u') + w(v, v'),   w(u, u') = (|u| + |u'| - |u - u'|) / 2.

The first part of K is a quadratic with random coefficients, which grows beyond the runs, the second a random walk along
each axis.  b is free: what is left of theta's uncertainty, at first order, is that of least squares.  For every g of a
grid, 0 among them, b and s^2 follow from the contrasts that J leaves (restricted likelihood), the best linear
prediction and its variance from the kriging equations; these are averaged with the restricted likelihoods as weights,
and Student's t of the contrasts' degrees of freedom gives the limits.  A place whose J is no combination of the runs'
has none.  The kernel was chosen among nine on public runs (docs/laws_coverage.md).  numpy only.

Suffixes of arrays: C rows (or groups of rows), P fitted numbers, Q the contrasts, G values of g, X new places.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

RATIOS = np.concatenate([[0.0], 10.0 ** np.arange(-3, 6.01, 0.5)])  # g
MOST = 250  # rows, or groups of neighbouring rows, that the misfit is estimated from
SINGULAR = 1e-8  # of the largest singular value of J with columns of unit length
_LEAST = 1e-30  # variance, in squared logs


@dataclass(frozen=True)
class Misfit:
    """The residuals of a law: one row for each run, or for each group of near ones where runs are many.

    `log_params`, `log_tokens` [C] are the places, `residual` [C] their mean ln measured - ln predicted, `count` [C] how
    many runs they are; `within` is the sum of squares within groups, `freedom` the degrees of freedom that the law
    leaves and `quantile` Student's at 97.5 % for them.  `fixed_E` says that E was not fitted.
    """

    log_params: tuple[float, ...]
    log_tokens: tuple[float, ...]
    residual: tuple[float, ...]
    count: tuple[float, ...]
    within: float
    freedom: int
    quantile: float
    fixed_E: bool

    def limits(
        self, form: str, values: Mapping[str, float | None], params_X: np.ndarray, tokens_X: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """95 % limits of ln measured - ln predicted of a new run at each place, [X] each; infinite where unbounded.

        The law's own prediction, 0, is always inside.
        """
        return _Kriging(self, form, dict(values)).limits(np.log(params_X), np.log(tokens_X))


@dataclass(frozen=True)
class _Kriging:
    misfit: Misfit
    form: str
    values: Mapping[str, float | None]

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.misfit.log_params), np.array(self.misfit.log_tokens)

    def scaled(self, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v); an axis without spread stays at 0."""
        count_C = np.array(self.misfit.count)
        found = []
        for own_C, new in zip(self.places, (n, d), strict=True):
            middle = np.average(own_C, weights=count_C)
            sd = float(np.sqrt(np.average((own_C - middle) ** 2, weights=count_C)))
            found.append((new - middle) / sd if sd > 1e-6 else np.zeros_like(new))
        return found[0], found[1]

    def slopes(self, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """J [P, rows], in units in which the runs' columns have length 1."""
        own_C, other_C = self.places
        centre = float(own_C.mean()), float(other_C.mean())
        root_C = np.sqrt(np.array(self.misfit.count))
        unit_P = np.linalg.norm(
            slopes(self.form, self.values, centre, own_C, other_C, self.misfit.fixed_E) * root_C, axis=1
        )
        found = slopes(self.form, self.values, centre, n, d, self.misfit.fixed_E)
        return found / np.maximum(unit_P, 1e-300)[:, None]

    def limits(self, n_X: np.ndarray, d_X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root_C = np.sqrt(np.array(self.misfit.count))
        r_C = root_C * np.array(self.misfit.residual)
        own, new = self.scaled(*self.places), self.scaled(n_X, d_X)
        cov_CC = root_C[:, None] * covariance(own, own) * root_C
        cov_CX = root_C[:, None] * covariance(own, new)
        self_X = np.array(
            [float(covariance((u, v), (u, v))[0, 0]) for u, v in zip(*(x[:, None] for x in new), strict=True)]
        )
        slope_PC, slope_PX = self.slopes(*self.places) * root_C, self.slopes(n_X, d_X)
        left_CS, size_S, right_SP = np.linalg.svd(slope_PC.T, full_matrices=True)
        rank = int((size_S > SINGULAR * size_S[0]).sum())
        range_CS, contrast_CQ = left_CS[:, :rank], left_CS[:, rank:]
        inside_SX = right_SP[:rank] @ slope_PX
        lost_X = np.linalg.norm(slope_PX - right_SP[:rank].T @ inside_SX, axis=0) > 1e-6 * np.linalg.norm(
            slope_PX, axis=0
        )
        base_CX = range_CS @ (inside_SX / size_S[:rank, None])
        value_Q, turn_QQ = np.linalg.eigh(contrast_CQ.T @ cov_CC @ contrast_CQ)
        contrast_CQ, value_Q = contrast_CQ @ turn_QQ, np.maximum(value_Q, 0.0)
        z_Q = contrast_CQ.T @ r_C
        likelihood, mean, variance = [], [], []
        for ratio in RATIOS:
            v_Q = 1 + ratio * value_Q
            s2 = max((float((z_Q**2 / v_Q).sum()) + self.misfit.within) / self.misfit.freedom, _LEAST)
            likelihood.append(-0.5 * float(np.log(v_Q).sum()) - 0.5 * self.misfit.freedom * np.log(s2))
            off_CX = base_CX + ratio * (cov_CC @ base_CX - cov_CX)
            weight_CX = base_CX - contrast_CQ @ ((contrast_CQ.T @ off_CX) / v_Q[:, None])
            mean.append(weight_CX.T @ r_C)
            spread_X = (weight_CX * (weight_CX + ratio * (cov_CC @ weight_CX) - 2 * ratio * cov_CX)).sum(axis=0)
            variance.append(s2 * np.maximum(1 + ratio * self_X + spread_X, 1.0))
        weight_G = np.exp(np.array(likelihood) - max(likelihood))
        weight_G /= weight_G.sum()
        mean_X = weight_G @ np.array(mean)
        total_X = weight_G @ np.array(variance) + weight_G @ (np.array(mean) - mean_X) ** 2
        half_X = np.where(lost_X, np.inf, self.misfit.quantile * np.sqrt(total_X))
        return np.minimum(mean_X - half_X, 0.0), np.maximum(mean_X + half_X, 0.0)


def covariance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """K of the module between places (u, v)."""
    (u, v), (w, x) = first, second
    square = np.multiply.outer(u**2, w**2) + np.multiply.outer(u * v, w * x) + np.multiply.outer(v**2, x**2)
    return square / 3 + _walk(u, w) + _walk(v, x)


def _walk(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The covariance of a random walk that is 0 at 0."""
    return (np.add.outer(np.abs(u), np.abs(w)) - np.abs(np.subtract.outer(u, w))) / 2


def slopes(
    form: str,
    values: Mapping[str, float | None],
    centre: tuple[float, float],
    n: np.ndarray,
    d: np.ndarray,
    fixed_E: bool,
) -> np.ndarray:
    """d ln L / d theta [P, rows] of a form of `analysis.loss.form` at ln N = n, ln D = d."""
    logs = {name: None if value is None or value <= 0 else float(np.log(value)) for name, value in values.items()}
    alpha, beta = values["alpha"], values["beta"]
    terms: dict[str, np.ndarray] = {}
    if logs["A"] is not None and alpha is not None:
        terms["A"] = logs["A"] - alpha * n
    if logs["B"] is not None and beta is not None:
        terms["B"] = logs["B"] - beta * d
    if logs["E"] is not None:
        terms["E"] = np.full(n.shape, logs["E"])
    tau = beta if form == "kaplan" and beta is not None else 1.0
    top = np.maximum.reduce(list(terms.values()))
    share = {name: np.exp((term - top) / tau) for name, term in terms.items()}
    total = np.add.reduce(list(share.values()))
    share = {name: part / total for name, part in share.items()}
    found = [share[name] for name in terms if name != "E" or not fixed_E]
    of_params = -share["A"] * (n - centre[0]) if "A" in terms else 0.0
    of_tokens = -share["B"] * (d - centre[1]) if "B" in terms else 0.0
    if form == "kaplan":
        mean = np.add.reduce([share[name] * terms[name] for name in terms])
        of_tokens = of_tokens + np.log(total) + (top - mean) / tau
    if form == "tied":
        return np.stack([*found, of_params + of_tokens])
    return np.stack([*found, *(part for name, part in (("A", of_params), ("B", of_tokens)) if name in terms)])


def grouped(
    n_C: np.ndarray, d_C: np.ndarray, r_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """(ln N, ln D, residual, count, sum of squares within) of at most MOST groups of neighbouring rows."""
    if len(n_C) <= MOST:
        return n_C, d_C, r_C, np.ones(len(n_C)), 0.0
    parts, group_C = 8 * int(np.sqrt(MOST)), np.arange(len(n_C))
    while group_C.max() >= MOST:
        parts, key_C = parts - 1, np.zeros(len(n_C), dtype=np.int64)
        for own_C in (n_C, d_C):
            width = max(float(np.ptp(own_C)), 1e-9) / parts
            key_C = key_C * (parts + 1) + np.round((own_C - own_C.min()) / width).astype(np.int64)
        group_C = np.unique(key_C, return_inverse=True)[1]
    count = np.bincount(group_C).astype(float)
    means = [np.bincount(group_C, one_C) / count for one_C in (n_C, d_C, r_C)]
    within = float(((r_C - means[2][group_C]) ** 2).sum())
    return means[0], means[1], means[2], count, within
