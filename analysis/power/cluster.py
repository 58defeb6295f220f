"""Uncertainty of regression coefficients when rows come in clusters: robust covariance, and the cluster bootstrap.

CR2 (Bell and McCaffrey 2002) multiplies the residuals of a cluster by (I - H_gg)^(-1/2), which makes the covariance
unbiased where rows are independent; the degrees of freedom of Student's t are Satterthwaite's for each coefficient's
variance (Imbens and Kolesar 2016).  With few clusters they are few, about clusters - 2 for a
regressor that only varies between clusters.

Suffixes: C rows (cells), H rows of one cluster, P coefficients, S draws, G clusters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_MOST_TRIES = 20  # times the draws asked for, before the resampling of clusters gives up
_ALL = 8  # clusters up to which every possible resample is counted: 6,435 at 8
_RESAMPLES = 4000  # drawn where there are more


@dataclass(frozen=True)
class Robust:
    """Cluster-robust covariance, and degrees of freedom of each coefficient (nan where clusters give none)."""

    covariance_PP: np.ndarray
    freedom_P: np.ndarray


def robust(design_CP: np.ndarray, y_C: np.ndarray, group_C: np.ndarray) -> Robust:
    """CR2 of ordinary least squares of `y_C`; rows are taken for independent where the degrees of freedom are counted.

    Of several y [R, C] the mean covariance; the degrees of freedom depend on the design alone.

    With M = (X'X)^-1 X' and A_g the inverse root of I - H_gg, the variance of a coefficient is the sum over clusters of
    (M_g A_g r_g)^2, a quadratic form with the matrix L_ab = M_a A_a (I - H)_ab A_b M_b'; Satterthwaite gives it
    trace(L)^2 / trace(L^2) degrees of freedom.
    """
    basis_CP, triangle_PP = np.linalg.qr(design_CP)
    inverse_PP = np.linalg.inv(triangle_PP)
    y_RC = np.atleast_2d(y_C)
    residual_RC = y_RC - y_RC @ basis_CP @ basis_CP.T
    covariance_PP = np.zeros_like(inverse_PP)
    own_GP, common_GPP = [], []
    for group in np.unique(group_C):
        here = group_C == group
        lever_PH = inverse_PP @ _corrected(basis_CP[here])
        score_RP = residual_RC[:, here] @ lever_PH.T
        covariance_PP += score_RP.T @ score_RP / len(y_RC)
        own_GP.append((lever_PH**2).sum(axis=1))
        common_GPP.append(lever_PH @ basis_CP[here])
    common_PGP = np.stack(common_GPP, axis=1)
    product_PGG = -common_PGP @ common_PGP.transpose(0, 2, 1)
    product_PGG += np.eye(len(own_GP)) * np.stack(own_GP, axis=1)[:, :, None]
    trace_P = np.trace(product_PGG, axis1=1, axis2=2)
    square_P = (product_PGG**2).sum(axis=(1, 2))
    known_P = trace_P > 1e-9 * (inverse_PP**2).sum(axis=1)
    return Robust(covariance_PP, np.where(known_P, trace_P**2 / np.where(known_P, square_P, 1.0), np.nan))


def bootstrap(design_CP: np.ndarray, y_C: np.ndarray, group_C: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[S, P] coefficients of least squares on clusters drawn with replacement; draws that leave a coefficient
    undetermined are drawn again, and fewer than asked for are given where most are so."""
    groups = len(np.unique(group_C))
    rng = np.random.default_rng(seed)
    found_SP = np.empty((0, design_CP.shape[1]))
    for _ in range(_MOST_TRIES):
        counts_SG = rng.multinomial(groups, np.full(groups, 1 / groups), size=max(draws, 1))
        new_SP = _refitted(design_CP, y_C, group_C, counts_SG)
        found_SP = np.concatenate([found_SP, new_SP[np.isfinite(new_SP[:, 0])]])
        if len(found_SP) >= draws:
            break
    return found_SP[:draws]


def percentiles(
    design_CP: np.ndarray, y_C: np.ndarray, group_C: np.ndarray, shares: tuple[float, float], seed: int
) -> np.ndarray | None:
    """[2, P] percentiles of the cluster bootstrap; None where fewer than half of the resamples determine every
    coefficient.  Up to eight clusters all resamples are counted with their probabilities, so no seed matters."""
    groups = len(np.unique(group_C))
    if groups > _ALL:
        found_SP = bootstrap(design_CP, y_C, group_C, _RESAMPLES, seed)
        return np.quantile(found_SP, shares, axis=0) if len(found_SP) >= _RESAMPLES else None
    counts_SG = np.array(list(_compositions(groups, groups)))
    log_S = math.lgamma(groups + 1) - np.array([sum(math.lgamma(n + 1) for n in row) for row in counts_SG.tolist()])
    weight_S = np.exp(log_S - groups * math.log(groups))
    found_SP = _refitted(design_CP, y_C, group_C, counts_SG)
    sound_S = np.isfinite(found_SP[:, 0])
    if weight_S[sound_S].sum() < 0.5:
        return None
    columns = []
    for values_S in found_SP[sound_S].T:
        order = np.argsort(values_S)
        mass_S = np.cumsum(weight_S[sound_S][order])
        columns.append(values_S[order[np.searchsorted(mass_S, np.array(shares) * mass_S[-1])]])
    return np.stack(columns, axis=1)


def _refitted(design_CP: np.ndarray, y_C: np.ndarray, group_C: np.ndarray, counts_SG: np.ndarray) -> np.ndarray:
    """[S, P] least squares with every cluster counted so often; nan where that leaves a coefficient undetermined."""
    parts = [group_C == group for group in np.unique(group_C)]
    normal_GPP = np.stack([design_CP[part].T @ design_CP[part] for part in parts])
    right_GP = np.stack([design_CP[part].T @ y_C[part] for part in parts])
    normal_SPP = np.tensordot(counts_SG, normal_GPP, axes=1)
    scale_SP = np.sqrt(np.einsum("spp->sp", normal_SPP))
    unit_SPP = normal_SPP / np.maximum(scale_SP[:, :, None] * scale_SP[:, None, :], 1e-300)
    sound_S = np.linalg.eigvalsh(unit_SPP)[:, 0] > 1e-9
    found_SP = np.full((len(counts_SG), design_CP.shape[1]), np.nan)
    found_SP[sound_S] = np.linalg.solve(normal_SPP[sound_S], (counts_SG @ right_GP)[sound_S][:, :, None])[:, :, 0]
    return found_SP


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` whole numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _corrected(basis_HP: np.ndarray) -> np.ndarray:
    """[P, H] Q'(I - QQ')^(-1/2) for a cluster's rows Q of the basis; directions without a residual become 0."""
    left_HP, singular_P, right_PP = np.linalg.svd(basis_HP, full_matrices=False)
    rest_P = 1 - singular_P**2
    kept_P = rest_P > 1e-9
    factor_P = np.where(kept_P, singular_P / np.sqrt(np.where(kept_P, rest_P, 1.0)), 0.0)
    return (right_PP.T * factor_P) @ left_HP.T
