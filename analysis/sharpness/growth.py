"""How a quantity grows with the size at a fixed step: the exponent `d log S / d log N`, for every step.

Each seed gives a slope over its sizes; the value is their mean, the interval Student's over the seeds' slopes.  Seeds
are the independent units, so the interval holds whether or not the sizes of a seed share its noise, and says how
certain the fitted exponent is.  It says nothing about whether the sizes lie on a power law: the pooled interval does,
of `analysis.slope` over all sizes and seeds as independent points, whose residuals hold the curvature too.

Suffixes of arrays: N sizes, S seeds, T steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.slope import slope


@dataclass(frozen=True)
class Growth:
    """Exponents with 95 % intervals at `steps_T`: over the seeds' slopes, and pooled (see the module).

    nan where a value is not positive; intervals are nan with one seed.  `seeds` have all sizes.
    """

    steps_T: np.ndarray
    value_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    pooled_low_T: np.ndarray
    pooled_high_T: np.ndarray
    seeds: int


def growth(sizes: Sequence[float], steps_T: np.ndarray, values_NST: np.ndarray) -> Growth | None:
    """The exponents of `values_NST`; None with fewer than two sizes, or no seed that has them all."""
    whole_S = np.isfinite(values_NST).all(axis=(0, 2))
    if len(sizes) < 2 or not whole_S.any() or min(sizes) <= 0 or not len(steps_T):
        return None
    values_NST = values_NST[:, whole_S]
    seeds = int(whole_S.sum())
    positive_T = np.asarray((values_NST > 0).all(axis=(0, 1)))
    x_N = np.log(np.asarray(sizes, float))
    x_N = x_N - x_N.mean()
    log_NST = np.log(np.where(positive_T, values_NST, 1.0))
    slope_ST = np.where(positive_T, np.einsum("n,nst->st", x_N, log_NST) / (x_N @ x_N), np.nan)
    value_T = slope_ST.mean(axis=0)
    half_T = np.full(len(steps_T), math.nan)
    if seeds > 1:
        half_T = stats.t.ppf(0.975, seeds - 1) * slope_ST.std(axis=0, ddof=1) / math.sqrt(seeds)
    pooled = [slope(sizes, values_NST[:, :, place]) if positive else None for place, positive in enumerate(positive_T)]
    ends = np.array([(one.low, one.high) if one else (math.nan, math.nan) for one in pooled])
    ends = np.where(np.isfinite(ends), ends, math.nan)
    return Growth(steps_T, value_T, value_T - half_T, value_T + half_T, ends[:, 0], ends[:, 1], seeds)
