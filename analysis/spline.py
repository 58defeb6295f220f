"""A curve between its points: draws of what it may be, from its noise and from how far its curvature may vary.

Over x = log2 lr the loss is a parabola with unknown coefficients plus an integrated Wiener process, the prior whose
mean is a smoothing spline (Wahba 1978; Rasmussen and Williams 2006, section 6.3): from x to x + d its second
derivative changes by a normal number of variance `tau^2 d`.  So `tau = gamma k` says how much of the curvature k may
change within an octave.  gamma is one of 0.25, 0.5, 1 and 2, by prior weights and the likelihood of the points (the
coefficients integrated out): smooth curves put it low, a cliff puts it high.

k is the largest curvature that the points show: of a parabola through the window of `analysis.optimum`, or its standard
error where that is larger, and of parabolas through the best point and as many on either side, up to two octaves, less
half of their standard errors.  A valley that is narrow at the bottom and straight beyond has its curvature in few of
the window's points.
"""

import functools

import numpy as np

from analysis.optimum import WINDOW

GAMMAS = (0.25, 0.5, 1.0, 2.0)
WEIGHTS = (0.42, 0.42, 0.12, 0.04)
DRAWS = 2000
REACH = 2.0  # octaves from the best point
_CLOSE = 1e-9


def drawn(x_P: np.ndarray, y_P: np.ndarray, sd_P: np.ndarray, x_G: np.ndarray) -> np.ndarray:
    """Draws `[G, DRAWS]` of the loss at `x_G` from means `y_P` with standard deviations `sd_P`, three points or more.

    The draws are the same for the same input.
    """
    origin = x_P[0]
    z_P, z_G = x_P - origin, x_G - origin
    design_P, design_G = (np.stack([np.ones_like(z), z, z**2], axis=1) for z in (z_P, z_G))
    k = _curvature(x_P, y_P, sd_P)
    noise_PP = np.diag(np.maximum(sd_P, 1e-5 * abs(y_P.min())) ** 2)
    fits = []
    for gamma in GAMMAS:
        tau2 = (gamma * k) ** 2
        inverse_PP = np.linalg.inv(tau2 * _kernel(z_P, z_P) + noise_PP)
        information = design_P.T @ inverse_PP @ design_P
        covariance = np.linalg.inv(information)
        coefficients = covariance @ design_P.T @ inverse_PP @ y_P
        residual_P = y_P - design_P @ coefficients
        gain_GP = tau2 * _kernel(z_G, z_P) @ inverse_PP
        left_G3 = design_G - gain_GP @ design_P
        mean_G = design_G @ coefficients + gain_GP @ residual_P
        spread_GG = tau2 * (_kernel(z_G, z_G) - gain_GP @ _kernel(z_P, z_G)) + left_G3 @ covariance @ left_G3.T
        fit = (
            np.linalg.slogdet(inverse_PP)[1] - np.linalg.slogdet(information)[1] - residual_P @ inverse_PP @ residual_P
        )
        fits.append((0.5 * fit, mean_G, spread_GG))
    likelihood = np.exp(np.array([fit for fit, *_ in fits]) - max(fit for fit, *_ in fits))
    share = np.cumsum(likelihood * WEIGHTS)
    ends = np.round(DRAWS * share / share[-1]).astype(int)
    normal_GD = _normal(len(x_G))
    parts = []
    for (_, mean_G, spread_GG), start, end in zip(fits, [0, *ends[:-1]], ends, strict=True):
        values, vectors = np.linalg.eigh(spread_GG)
        parts.append(mean_G[:, None] + vectors * np.sqrt(np.maximum(values, 0)) @ normal_GD[:, start:end])
    return np.concatenate(parts, axis=1)


def _curvature(x_P: np.ndarray, y_P: np.ndarray, sd_P: np.ndarray) -> float:
    """k of the module, in loss per squared octave."""
    best = int(y_P.argmin())
    near = y_P <= y_P[best] + max(WINDOW * y_P[best], 4 * float(sd_P[best]))
    first = min(max(0, best - 1), len(x_P) - 3)
    near[first : first + 3] = True
    bend, error = _bend(x_P[near], y_P[near], sd_P[near])
    found = max(bend, error, 1e-6 * abs(float(y_P[best])))
    for width in range(1, min(best, len(x_P) - 1 - best) + 1):
        around = slice(best - width, best + width + 1)
        if max(x_P[best + width] - x_P[best], x_P[best] - x_P[best - width]) > REACH + _CLOSE:
            break
        bend, error = _bend(x_P[around], y_P[around], sd_P[around])
        found = max(found, bend - error / 2)
    return found


def _bend(x_P: np.ndarray, y_P: np.ndarray, sd_P: np.ndarray) -> tuple[float, float]:
    """(second derivative of the parabola by least squares, its standard error)."""
    x_P = x_P - x_P.mean()
    inverse_3P = np.linalg.pinv(np.stack([np.ones_like(x_P), x_P, 0.5 * x_P**2], axis=1))
    return float(inverse_3P[2] @ y_P), float(np.linalg.norm(inverse_3P[2] * sd_P))


def _kernel(a_A: np.ndarray, b_B: np.ndarray) -> np.ndarray:
    """Covariance `[A, B]` of an integrated Wiener process of unit strength that starts at 0."""
    low = np.minimum(a_A[:, None], b_B)
    low = np.maximum(low, 0)
    return np.abs(a_A[:, None] - b_B) * low**2 / 2 + low**3 / 3


@functools.cache
def _normal(rows: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, DRAWS))
