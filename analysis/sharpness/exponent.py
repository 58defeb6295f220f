"""The exponent beta of `g(t) = |S_N(t) - S_inf(t)| = a t^beta`, from runs of several seeds.

beta is the slope of log g on log t over the steps t > 0 by least squares, one per size, and a pooled one with a level a
of each size (arXiv 2402.17457, section 4: a large beta is a finite-size error that accumulates).  g is the distance of
the seed means, so that noise averages out before the absolute value is taken.

The interval is from a bootstrap over seeds: whole curves of seeds are drawn with replacement, means, distances and fits
made again.  Steps of a curve move together that way, as they do in truth.  Of a few seeds percentiles are too short, so
it is Student's interval with the deviation of the draws (`analysis.horizon_law.interval`).

Where nothing but noise is left, g is the noise, |mean| of about 0.8 standard errors, and beta is the exponent of the
noise, near 0 if the noise is steady: a small beta alone shows no consistency.  So `above` counts the share of steps at
which the distance is above the noise (at 95 %), and a beta with half of its steps or fewer above it is not to be read.

Suffixes of arrays: R the estimate and its draws, N sizes without the largest, S seeds, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.horizon_law import Estimate, interval, least_squares

LEAST_STEPS = 3
DRAWS = 400


@dataclass(frozen=True)
class Exponent:
    """beta with its 95 % interval, the level a (geometric mean of the sizes' for a pooled one), and what it rests on.

    `above` is the share of the steps at which the distance is above the noise; see the module.
    """

    beta: Estimate
    level: float
    steps: int
    above: float

    @property
    def readable(self) -> bool:
        """Whether the distance is above the noise at most of the steps."""
        return self.above > 0.5


def exponents(
    steps_T: np.ndarray,
    values: Sequence[np.ndarray],
    proxy_ST: np.ndarray,
    above_NT: np.ndarray,
    *,
    paired: bool = False,
    draws: int = DRAWS,
) -> tuple[list[Exponent | None], Exponent | None]:
    """(beta of each size, the pooled one); `values` holds [seeds, steps] of each size but the largest.

    `above_NT` marks distances above the noise.  `paired` draws the same seeds for every size.  None with fewer than
    three steps t > 0 at which the distance is not 0.
    """
    later_T = steps_T > 0
    log_T = np.log(np.where(later_T, steps_T, 1))[later_T]
    gap_RNT = _gaps(values, proxy_ST, paired, draws)[:, :, later_T]
    with np.errstate(divide="ignore"):
        log_RNT = np.log(gap_RNT)
    log_RNT = np.where(np.isfinite(log_RNT), log_RNT, np.nan)
    seeds = [min(len(one), len(proxy_ST)) for one in values]
    shares = above_NT[:, later_T].mean(axis=1) if later_T.any() else np.zeros(len(values))
    found = [_exponent(log_RNT[:, [place]], log_T, seeds[place], float(shares[place])) for place in range(len(values))]
    pooled = _exponent(log_RNT, log_T, min(seeds, default=0), float(shares.mean())) if len(values) > 1 else None
    return found, pooled


def _gaps(values: Sequence[np.ndarray], proxy_ST: np.ndarray, paired: bool, draws: int) -> np.ndarray:
    """[R, N, T] distances of the seed means: as measured, then of drawn seeds, always the same ones."""
    rng = np.random.default_rng(0)
    weights: dict[int, np.ndarray] = {}

    def means_RT(rows_ST: np.ndarray) -> np.ndarray:
        seeds = len(rows_ST)
        if not (paired and seeds in weights):
            drawn_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
            weights[seeds] = np.vstack([np.ones(seeds), drawn_RS]) / seeds
        return weights[seeds] @ rows_ST

    proxy_RT = means_RT(proxy_ST)
    return np.abs(np.stack([means_RT(one) - proxy_RT for one in values], axis=1))


def _exponent(log_RNT: np.ndarray, log_T: np.ndarray, seeds: int, above: float) -> Exponent | None:
    """Least squares with a level of each size; the levels are columns of the design."""
    _, sizes, steps = log_RNT.shape
    if np.isfinite(log_RNT[0]).sum(axis=1).min(initial=steps) < LEAST_STEPS:
        return None
    levels = [np.repeat(np.arange(sizes) == size, steps).astype(float) - 1 / sizes for size in range(1, sizes)]
    rows_RC = log_RNT.reshape(len(log_RNT), -1)
    fit_RP = least_squares([np.tile(log_T, sizes), *levels], rows_RC, np.ones(rows_RC.shape[1]))
    beta = interval(fit_RP[:, 1], seeds)
    if beta is None:
        return None
    return Exponent(beta, float(np.exp(fit_RP[0, 0])), int(np.isfinite(log_RNT[0]).sum()), above)
