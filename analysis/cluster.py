"""Uncertainty of regression coefficients when rows come in clusters: robust covariance, and the cluster bootstrap.

CR2 (Bell and McCaffrey 2002) multiplies the residuals of a cluster by (I - H_gg)^(-1/2), which makes the covariance
unbiased where rows are independent; the degrees of freedom of Student's t are Satterthwaite's for each coefficient's
variance (Imbens and Kolesar 2016).  With few clusters they are few, about clusters - 2 for a
regressor that only varies between clusters.

Suffixes: C rows (cells), H rows of one cluster, P coefficients, S draws, G clusters.
"""

from dataclasses import dataclass

import numpy as np

_MOST_TRIES = 20  # times the draws asked for, before the resampling of clusters gives up


@dataclass(frozen=True)
class Robust:
    """Cluster-robust covariance, and degrees of freedom of each coefficient (nan where clusters give none)."""

    covariance_PP: np.ndarray
    freedom_P: np.ndarray


def robust(design_CP: np.ndarray, y_C: np.ndarray, group_C: np.ndarray) -> Robust:
    """CR2 of ordinary least squares of `y_C`; rows are taken for independent where the degrees of freedom are counted.

    With M = (X'X)^-1 X' and A_g the inverse root of I - H_gg, the variance of a coefficient is the sum over clusters of
    (M_g A_g r_g)^2, a quadratic form with the matrix L_ab = M_a A_a (I - H)_ab A_b M_b'; Satterthwaite gives it
    trace(L)^2 / trace(L^2) degrees of freedom.
    """
    basis_CP, triangle_PP = np.linalg.qr(design_CP)
    inverse_PP = np.linalg.inv(triangle_PP)
    residual_C = y_C - basis_CP @ (basis_CP.T @ y_C)
    covariance_PP = np.zeros_like(inverse_PP)
    own_GP, common_GPP = [], []
    for group in np.unique(group_C):
        here = group_C == group
        lever_PH = inverse_PP @ _corrected(basis_CP[here])
        score_P = lever_PH @ residual_C[here]
        covariance_PP += np.outer(score_P, score_P)
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
    groups = np.unique(group_C)
    normal_GPP = np.stack([design_CP[group_C == g].T @ design_CP[group_C == g] for g in groups])
    right_GP = np.stack([design_CP[group_C == g].T @ y_C[group_C == g] for g in groups])
    rng = np.random.default_rng(seed)
    found_SP = np.empty((0, design_CP.shape[1]))
    for _ in range(_MOST_TRIES):
        counts_SG = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=max(draws, 1))
        normal_SPP = np.tensordot(counts_SG, normal_GPP, axes=1)
        scale_SP = np.sqrt(np.einsum("spp->sp", normal_SPP))
        unit_SPP = normal_SPP / np.maximum(scale_SP[:, :, None] * scale_SP[:, None, :], 1e-300)
        sound_S = np.linalg.eigvalsh(unit_SPP)[:, 0] > 1e-9
        right_SP = (counts_SG @ right_GP)[sound_S]
        new_SP = np.linalg.solve(normal_SPP[sound_S], right_SP[:, :, None])[:, :, 0]
        found_SP = np.concatenate([found_SP, new_SP])
        if len(found_SP) >= draws:
            break
    return found_SP[:draws]


def _corrected(basis_HP: np.ndarray) -> np.ndarray:
    """[P, H] Q'(I - QQ')^(-1/2) for a cluster's rows Q of the basis; directions without a residual become 0."""
    left_HP, singular_P, right_PP = np.linalg.svd(basis_HP, full_matrices=False)
    rest_P = 1 - singular_P**2
    kept_P = rest_P > 1e-9
    factor_P = np.where(kept_P, singular_P / np.sqrt(np.where(kept_P, rest_P, 1.0)), 0.0)
    return (right_PP.T * factor_P) @ left_HP.T
