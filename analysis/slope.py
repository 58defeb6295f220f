"""Slopes of sizes over widths or depths: how a quantity grows, as an exponent with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Slope:
    """Exponent e of `y ~ size^e` with its 95 % interval."""

    value: float
    low: float
    high: float


def slope(sizes: Sequence[float], values: np.ndarray) -> Slope:
    """Least squares of log2(values) on log2(sizes); `values` is [sizes, replicates], all above zero.

    The interval is Student's with the residual variance of all points, so a curve that is no power law widens it.

    Raises:
        ValueError: fewer than two sizes, or values that are not positive numbers.
    """
    if len(sizes) < 2 or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("a slope needs two sizes and positive values")
    x = np.repeat(np.log2(np.asarray(sizes, float)), values.shape[1])
    y = np.log2(values).reshape(-1)
    centred = x - x.mean()
    spread = float(centred @ centred)
    value = float(centred @ y) / spread
    residuals = y - y.mean() - value * centred
    freedom = len(x) - 2
    if freedom == 0:
        return Slope(value, -math.inf, math.inf)
    error = math.sqrt(float(residuals @ residuals) / freedom / spread)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Slope(value, value - half, value + half)
