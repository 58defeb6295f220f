"""What a law would know after cells that nobody has run: every node of its posterior updated and reweighted.

At a node (S_k, T_k) of the variances between sizes and between cells, coefficients beta and the deviations u_g of the
sizes seen are normal.  A cell at x of size g, measured with variance v, gives y ~ N(a . z, a' C_k a + T_k + v) with
z = (beta, u) and a = (x, e_g); a size that nobody has seen adds a deviation of variance S_k to z.  Then

    C_k' = C_k - C_k a a' C_k / var_k,    m_k' = m_k + C_k a (y - a . m_k) / var_k,    w_k' ~ w_k N(y; a . m_k, var_k),

and the interval of a new size at a target is that of the mixture with these.  It depends on y, so it is averaged over
scenarios, each with its own y from the present mixture (a preposterior analysis: Raiffa and Schlaifer 1961).  The last
line is what a single covariance cannot do: that few nodes of small weight and enormous variance dominate it says
nothing of the interval, and a y that is not surprising takes their weight away.

Suffixes: M scenarios, K nodes, P coefficients, Z coefficients and deviations, C cells, R completed rows of cells.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from analysis.power.fit import Solved, slices

_HALVINGS = 40
_LEAST = 1e-12  # a variance between sizes that counts as none


@dataclass(frozen=True)
class Belief:
    """See the module.  `sizes` are the values (of params) whose deviations stand in z after the coefficients."""

    weight_MK: np.ndarray
    mean_MKZ: np.ndarray
    covariance_KZZ: np.ndarray
    between_K: np.ndarray
    within_K: np.ndarray
    sizes: tuple[float, ...]


def begin(solved: Solved, scenarios: int) -> Belief:
    """What is known before any new cell, in equal scenarios."""
    model, weight_K = solved.model, solved.held.weight_RK.mean(axis=0)
    between_K, within_K = solved.held.between_K, solved.held.within_K
    parts = slices(weight_K, between_K + within_K)
    share_N = np.array([weight_K[part].sum() for part in parts])
    between_N, within_N = (
        np.array([weight_K[part] @ values_K[part] for part in parts]) / share_N for values_K in (between_K, within_K)
    )
    design_CZ = np.column_stack([model.design_CP, model.group_C[:, None] == np.unique(model.group_C)])
    size, count = model.design_CP.shape[1], design_CZ.shape[1]
    mean_NRZ, covariance_NZZ = [], []
    for between, within in zip(between_N, within_N, strict=True):
        own_C = 1 / np.maximum(model.variance_C + within, _LEAST)
        prior_Z = np.where(np.arange(count) < size, 0.0, 1 / max(between, _LEAST))
        covariance_ZZ = np.linalg.inv((design_CZ.T * own_C) @ design_CZ + np.diag(prior_Z))
        mean_NRZ.append((solved.y_RC * own_C) @ design_CZ @ covariance_ZZ)
        covariance_NZZ.append(covariance_ZZ)
    mean_NRZ = np.array(mean_NRZ)
    mean_NZ = mean_NRZ.mean(axis=1)
    off_NRZ = mean_NRZ - mean_NZ[:, None]
    spread_NZZ = np.einsum("nrz,nry->nzy", off_NRZ, off_NRZ) / off_NRZ.shape[1]
    return Belief(
        np.tile(share_N / share_N.sum(), (scenarios, 1)),
        np.tile(mean_NZ, (scenarios, 1, 1)),
        np.array(covariance_NZZ) + spread_NZZ,
        between_N,
        within_N,
        solved.sizes,
    )


def after(now: Belief, x_P: np.ndarray, size: float, error: float, seed: int) -> Belief:
    """With one more cell at `x_P` of a size, whose optimum is measured with variance `error`: y drawn anew in each
    scenario, as evenly as their number allows."""
    now = now if size in now.sizes else _with_size(now, size)
    a_Z = np.zeros(now.mean_MKZ.shape[2])
    a_Z[: len(x_P)] = x_P
    a_Z[len(x_P) + now.sizes.index(size)] = 1.0
    along_KZ = now.covariance_KZZ @ a_Z
    variance_K = along_KZ @ a_Z + now.within_K + error
    middle_MK = now.mean_MKZ @ a_Z
    y_M = _drawn(now.weight_MK, middle_MK, np.sqrt(variance_K), np.random.default_rng(seed))
    miss_MK = y_M[:, None] - middle_MK
    log_MK = np.log(np.maximum(now.weight_MK, 1e-300)) - 0.5 * (np.log(variance_K) + miss_MK**2 / variance_K)
    weight_MK = np.exp(log_MK - log_MK.max(axis=1, keepdims=True))
    gain_KZ = along_KZ / variance_K[:, None]
    return replace(
        now,
        weight_MK=weight_MK / weight_MK.sum(axis=1, keepdims=True),
        mean_MKZ=now.mean_MKZ + miss_MK[:, :, None] * gain_KZ,
        covariance_KZZ=now.covariance_KZZ - gain_KZ[:, :, None] * along_KZ[:, None, :],
    )


def width(now: Belief, x_P: np.ndarray, level: float = 0.95) -> float:
    """Width in ln y of the prediction interval of a new size at `x_P`, the mean over scenarios."""
    size = len(x_P)
    middle_MK = now.mean_MKZ[:, :, :size] @ x_P
    own_K = np.einsum("p,kpq,q->k", x_P, now.covariance_KZZ[:, :size, :size], x_P)
    sd_K = np.sqrt(np.maximum(own_K + now.between_K + now.within_K, 1e-30))
    tail = (1 - level) / 2
    low_M, high_M = (_quantiles(np.full(len(middle_MK), p), now.weight_MK, middle_MK, sd_K) for p in (tail, 1 - tail))
    return float((high_M - low_M).mean())


def _with_size(now: Belief, size: float) -> Belief:
    """With the deviation of a size that nobody has seen."""
    scenarios, nodes, count = now.mean_MKZ.shape
    covariance_KZZ = np.zeros((nodes, count + 1, count + 1))
    covariance_KZZ[:, :count, :count] = now.covariance_KZZ
    covariance_KZZ[:, count, count] = now.between_K
    mean_MKZ = np.concatenate([now.mean_MKZ, np.zeros((scenarios, nodes, 1))], axis=2)
    return replace(now, mean_MKZ=mean_MKZ, covariance_KZZ=covariance_KZZ, sizes=(*now.sizes, size))


def _drawn(weight_MK: np.ndarray, middle_MK: np.ndarray, sd_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[M] one draw from each scenario's mixture, at shares that together are spread evenly."""
    count = len(weight_MK)
    share_M = rng.permutation((np.arange(count) + 0.5) / count)
    return _quantiles(share_M, weight_MK, middle_MK, sd_K)


def _quantiles(share_M: np.ndarray, weight_MK: np.ndarray, middle_MK: np.ndarray, sd_K: np.ndarray) -> np.ndarray:
    """[M] the points below which mixtures of normals have these shares of their mass, by halving."""
    reach_K = 8 * sd_K
    kept_MK = weight_MK > 1e-9
    low_M = np.where(kept_MK, middle_MK - reach_K, np.inf).min(axis=1)
    high_M = np.where(kept_MK, middle_MK + reach_K, -np.inf).max(axis=1)
    for _ in range(_HALVINGS):
        half_M = (low_M + high_M) / 2
        below_M = (weight_MK * special.ndtr((half_M[:, None] - middle_MK) / sd_K)).sum(axis=1)
        low_M, high_M = np.where(below_M < share_M, half_M, low_M), np.where(below_M < share_M, high_M, half_M)
    return (low_M + high_M) / 2
