"""The objective of the loss law: a sum of Huber losses of log residuals, with derivatives, for many problems at once.

With r = ln L - ln L(N, D; theta), weights w (how often a resample holds a row) and a penalty v for over-prediction,

    F = sum_c w_c v_c huber(r_c),  huber(r) = r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2),

v_c = `over` where the law lies above the measurement (r < 0) and 1 elsewhere (a lower envelope for `over` > 1).
With `raw` residuals r = L - L(N, D; theta) instead, in nats per token, and L(theta) = exp(m) below.
delta = inf gives least squares and delta = 0 stands for least absolute deviations, F = sum w v |r|, which `values`
knows and `analysis.loss.deviation` minimises.  It is the sum of Hoffmann et al. (arXiv 2203.15556, Eq. 3), never a
mean.  For the soft sum of `analysis.loss.form`, p_k = softmax(t_k / tau), z_k = dt_k/dtheta - (t_k / tau) dtau/dtheta,

    m = tau LSE(t / tau),  dm = g = sum_k p_k z_k + LSE dtau,  d2m = (sum_k p_k z_k z_k' - zbar zbar') / tau,

so gradient and Hessian of F are exact: dF = -sum psi g and d2F = sum h g g' - sum psi d2m, psi and h being the first
and second derivative of the weighted Huber loss.

Suffixes of arrays: M problems, C rows, K terms, P fitted numbers.
"""

from dataclasses import dataclass

import numpy as np

from analysis.loss.form import Surface


@dataclass(frozen=True)
class Objective:
    """What is minimised over one data set: the form, ln L of the rows, delta and the penalty of over-prediction."""

    shape: Surface
    y_C: np.ndarray
    delta: float
    over: float = 1.0
    raw: bool = False

    @property
    def floor(self) -> float:
        """The objective of rows that fit to rounding, per unit of weight: smaller differences mean nothing."""
        size = float(np.exp(self.y_C.max())) if self.raw else float(np.abs(self.y_C).max())
        return 0.5 * (4e-16 * max(1.0, size)) ** 2

    def gaps(self, m_MC: np.ndarray, y_MC: np.ndarray) -> np.ndarray:
        """The residuals that are minimised: of log losses m and y, or of the losses themselves."""
        return np.exp(y_MC) - np.exp(m_MC) if self.raw else y_MC - m_MC


@dataclass(frozen=True)
class Point:
    """F [M], its gradient [M, P], its Hessian and the majorising matrix [M, P, P] at some theta.

    The majoriser is `sum w v min(1, delta / |r|) g g'`: of least squares reweighted for Huber's loss.  It is at least
    as large as the Hessian without second derivatives of m, and never indefinite.
    """

    value_M: np.ndarray
    gradient_MP: np.ndarray
    hessian_MPP: np.ndarray
    majoriser_MPP: np.ndarray

    def where(self, chosen_M: np.ndarray, other: "Point") -> "Point":
        """This point for the chosen problems and `other` for the rest."""
        pick_MP, pick_MPP = chosen_M[:, None], chosen_M[:, None, None]
        return Point(
            np.where(chosen_M, self.value_M, other.value_M),
            np.where(pick_MP, self.gradient_MP, other.gradient_MP),
            np.where(pick_MPP, self.hessian_MPP, other.hessian_MPP),
            np.where(pick_MPP, self.majoriser_MPP, other.majoriser_MPP),
        )

    def some(self, chosen_M: np.ndarray) -> "Point":
        """The chosen problems only."""
        parts = (self.value_M, self.gradient_MP, self.hessian_MPP, self.majoriser_MPP)
        return Point(*(part[chosen_M] for part in parts))


def soft_sum(shape: Surface, theta_MP: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """(ln L predicted [M, C], p_k, t_k / tau for every term k, each [M, C])."""
    u = [theta_MP @ term_CP.T + offset for term_CP, offset in zip(shape.terms_KCP, shape.offset_K, strict=True)]
    tau_M1 = np.ones((len(theta_MP), 1)) if shape.hot is None else theta_MP[:, shape.hot, None]
    if shape.hot is not None:
        u = [part_MC / tau_M1 for part_MC in u]
    top_MC = u[0]
    for part_MC in u[1:]:
        top_MC = np.maximum(top_MC, part_MC)
    p = [np.exp(part_MC - top_MC) for part_MC in u]
    total_MC = sum(p[1:], start=p[0])
    p = [part_MC / total_MC for part_MC in p]
    return tau_M1 * (top_MC + np.log(total_MC)), p, u


def residuals(goal: Objective, theta_MP: np.ndarray) -> np.ndarray:
    """r = ln L - ln L(theta), [M, C]."""
    return goal.y_C - soft_sum(goal.shape, theta_MP)[0]


def gaps(goal: Objective, theta_MP: np.ndarray) -> np.ndarray:
    """The residuals that are minimised, [M, C]."""
    return goal.gaps(soft_sum(goal.shape, theta_MP)[0], goal.y_C)


def values(goal: Objective, theta_MP: np.ndarray, weight_MC: np.ndarray) -> np.ndarray:
    """F [M]."""
    r_MC = gaps(goal, theta_MP)
    if goal.delta == 0:
        return (np.abs(r_MC) * np.where(r_MC < 0, goal.over, 1.0) * weight_MC).sum(axis=1)
    return _huber(goal, r_MC, weight_MC)[0]


def jacobian(shape: Surface, theta_MP: np.ndarray) -> np.ndarray:
    """g = d ln L(theta) / d theta, [M, P, C]."""
    _, p, u = soft_sum(shape, theta_MP)
    return _slopes(shape, p, u)[0]


def point(goal: Objective, theta_MP: np.ndarray, weight_MC: np.ndarray, y_MC: np.ndarray) -> Point:
    """F and its derivatives at every theta, with log losses `y_MC`; these and the weights may have one row for all."""
    shape = goal.shape
    m_MC, p, u = soft_sum(shape, theta_MP)
    value_M, psi_MC, inner_MC, outer_MC = _huber(goal, goal.gaps(m_MC, y_MC), weight_MC)
    if goal.raw:  # dL = L dm and d2L = L (dm dm' + d2m)
        loss_MC = np.exp(m_MC)
        psi_MC = psi_MC * loss_MC
        inner_MC, outer_MC = inner_MC * loss_MC**2 - psi_MC, outer_MC * loss_MC**2
    g_MPC, zbar_MPC = _slopes(shape, p, u)
    tau_M = np.ones(len(theta_MP)) if shape.hot is None else theta_MP[:, shape.hot]
    bend_MPP = _curvature(shape, p, u, psi_MC) - _outer(zbar_MPC, psi_MC)
    hessian_MPP = _outer(g_MPC, inner_MC) - bend_MPP / tau_M[:, None, None]
    gradient_MP = -np.matmul(g_MPC, psi_MC[:, :, None])[:, :, 0]
    return Point(value_M, gradient_MP, hessian_MPP, _outer(g_MPC, outer_MC))


def _huber(goal: Objective, r_MC: np.ndarray, weight_MC: np.ndarray) -> tuple[np.ndarray, ...]:
    """(F [M], psi, its derivative, and psi / r, each weighted [M, C])."""
    if goal.over != 1:
        weight_MC = np.where(r_MC < 0, goal.over, 1.0) * weight_MC
    size_MC = np.abs(r_MC)
    near_MC = np.minimum(size_MC, goal.delta)
    value_M = np.einsum("mc,mc->m", np.broadcast_to(weight_MC, r_MC.shape), near_MC * (size_MC - 0.5 * near_MC))
    inside_MC = size_MC <= goal.delta
    inner_MC = weight_MC * inside_MC
    outer_MC = weight_MC * np.where(inside_MC, 1.0, near_MC / np.maximum(size_MC, 1e-300))
    return value_M, outer_MC * r_MC, inner_MC, outer_MC


def _slopes(shape: Surface, p: list[np.ndarray], u: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(g, zbar), each [M, P, C]; the same where tau is 1."""
    problems, rows = p[0].shape
    zbar_MPC = np.zeros((problems, len(shape.names), rows))
    for p_MC, term_CP in zip(p, shape.terms_KCP, strict=True):
        for place in np.flatnonzero(term_CP.any(axis=0)):
            zbar_MPC[:, place] += p_MC * term_CP[:, place]
    if shape.hot is None:
        return zbar_MPC, zbar_MPC
    mean_MC = sum(p_MC * u_MC for p_MC, u_MC in zip(p, u, strict=True))
    g_MPC = zbar_MPC.copy()
    zbar_MPC[:, shape.hot] -= mean_MC
    # d(tau LSE(t/tau))/dtau = LSE - sum p u, the entropy of p.
    g_MPC[:, shape.hot] -= sum(p_MC * np.log(np.maximum(p_MC, 1e-300)) for p_MC in p)
    return g_MPC, zbar_MPC


def _curvature(shape: Surface, p: list[np.ndarray], u: list[np.ndarray], psi_MC: np.ndarray) -> np.ndarray:
    """sum_c psi sum_k p_k z_k z_k', [M, P, P]."""
    size = len(shape.names)
    total_MPP = np.zeros((len(psi_MC), size, size))
    for p_MC, u_MC, term_CP in zip(p, u, shape.terms_KCP, strict=True):
        share_MC = psi_MC * p_MC
        products_CQ = (term_CP[:, :, None] * term_CP[:, None, :]).reshape(len(term_CP), -1)
        total_MPP += (share_MC @ products_CQ).reshape(-1, size, size)
        if shape.hot is not None:
            cross_MP = (share_MC * u_MC) @ term_CP
            total_MPP[:, shape.hot, :] -= cross_MP
            total_MPP[:, :, shape.hot] -= cross_MP
            total_MPP[:, shape.hot, shape.hot] += np.einsum("mc,mc,mc->m", share_MC, u_MC, u_MC)
    return total_MPP


def _outer(g_MPC: np.ndarray, weight_MC: np.ndarray) -> np.ndarray:
    """sum_c weight g g', [M, P, P]."""
    return np.matmul(
        g_MPC * np.broadcast_to(weight_MC, (len(g_MPC), g_MPC.shape[2]))[:, None, :], g_MPC.transpose(0, 2, 1)
    )
