"""The minimum of a polynomial that is fitted to points, with its standard deviation.

Of `p(x)` with coefficients c of covariance C and a minimum v, `sd(v)^2 = g' C g / p''(v)^2`, `g_k = k v^(k - 1)`: the
delta method on `p'(v) = 0`.  Where the curvature is uncertain the delta method is too short; `fieller` gives the limits
of a parabola's vertex as a ratio of two correlated normals (Fieller 1954).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial
from scipy import stats


@dataclass(frozen=True)
class Vertex:
    """A polynomial fitted with known standard deviations.

    `x` is its minimum, `y` its value and `bend` the second derivative there (nan: it has none), `sd` the standard
    deviation of x.  `t` is the last coefficient in its own standard deviations, `misfit` the probability of residuals
    as large as these, 1 where none are free.
    """

    x: float
    y: float
    sd: float
    bend: float
    t: float
    misfit: float

    def within(self, low: float, high: float) -> bool:
        return low <= self.x <= high


def vertex(x_P: np.ndarray, y_P: np.ndarray, sd_P: np.ndarray, degree: int) -> Vertex | None:
    """The polynomial of this degree by weighted least squares; None for too few points."""
    if len(x_P) <= degree:
        return None
    centre = float(x_P.mean())
    rows_PC = np.vander(x_P - centre, degree + 1, increasing=True) / sd_P[:, None]
    covariance_CC = np.linalg.inv(rows_PC.T @ rows_PC)
    c_C = covariance_CC @ rows_PC.T @ (y_P / sd_P)
    squares = float(np.sum((y_P / sd_P - rows_PC @ c_C) ** 2))
    free = len(x_P) - degree - 1
    misfit = float(stats.chi2.sf(squares, free)) if free else 1.0
    t = float(c_C[-1] / math.sqrt(covariance_CC[-1, -1]))
    at = _minimum(c_C)
    if at is None:
        return Vertex(math.nan, math.nan, math.nan, math.nan, t, misfit)
    bend = float(polynomial.polyval(at, polynomial.polyder(c_C, 2)))
    powers_C = np.array([0.0, *(k * at ** (k - 1) for k in range(1, degree + 1))])
    sd = math.sqrt(max(0.0, float(powers_C @ covariance_CC @ powers_C))) / bend
    return Vertex(at + centre, float(polynomial.polyval(at, c_C)), sd, bend, t, misfit)


def _minimum(c_C: np.ndarray) -> float | None:
    """The lowest of a polynomial's local minima."""
    places = polynomial.polyroots(polynomial.polyder(c_C))
    real = places[np.abs(places.imag) < 1e-9].real
    slope_C, bend_C = polynomial.polyder(c_C), polynomial.polyder(c_C, 2)
    minima = real[polynomial.polyval(real, bend_C) > 0]
    if not len(minima):
        return None
    at = float(minima[polynomial.polyval(minima, c_C).argmin()])
    for _ in range(2):  # a leading coefficient of about 0 costs the roots their digits; Newton gives them back
        at -= float(polynomial.polyval(at, slope_C) / polynomial.polyval(at, bend_C))
    return at


def fieller(b: float, k: float, covariance_22: np.ndarray, z: float) -> tuple[float, float]:
    """Limits of -b/k at z standard deviations, of coefficients (b, k) with this covariance.

    The roots of `(k^2 - z^2 v_kk) r^2 - 2 (b k - z^2 v_bk) r + b^2 - z^2 v_bb`, r = b/k.  The caller has checked that
    the interval of k excludes 0, so the roots are real and bound the ratio.
    """
    p = k**2 - z**2 * covariance_22[1, 1]
    q = b * k - z**2 * covariance_22[0, 1]
    r = b**2 - z**2 * covariance_22[0, 0]
    root = math.sqrt(max(0.0, q**2 - p * r))
    return -(q + root) / p, -(q - root) / p
