"""Where one valley may have its minimum: against all monotone fits, and how often the truth is left in."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from analysis.unimodal import DEPTH, gaps

pytestmark = pytest.mark.host


def by_scipy(y: np.ndarray, sd: np.ndarray) -> tuple[int, int]:
    """The same gaps from scipy's monotone regression of every pair of sides."""
    weights, squares = sd**-2.0, []
    for gap in range(len(y) + 1):
        total = 0.0
        for part, rising in ((slice(0, gap), False), (slice(gap, None), True)):
            if len(y[part]):
                found = isotonic_regression(y[part], weights=weights[part], increasing=rising)
                total += float(weights[part] @ (y[part] - found.x) ** 2)
        squares.append(total)
    left = np.flatnonzero(np.array(squares) <= min(squares) + DEPTH)
    return int(left[0]), int(left[-1])


def test_gaps_are_those_of_monotone_regression() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 5, 9, 20):
        for _ in range(20):
            x, sd = np.linspace(-1, 1, size), rng.uniform(0.05, 0.2, size)
            y = (x - rng.uniform(-0.5, 0.5)) ** 2 + rng.normal(size=size) * sd
            assert gaps(y, sd) == by_scipy(y, sd)


def test_a_clear_valley_has_its_neighbours_and_a_flat_curve_has_no_end() -> None:
    sd = np.full(5, 0.01)
    assert gaps(np.array([3.0, 2.675, 2.524, 2.634, 3.0]), sd) == (2, 3)
    assert gaps(np.full(5, 2.0), sd) == (0, 5)
    assert gaps(np.array([2.0, 2.5, 3.0, 3.5, 4.0]), sd) == (0, 1)


@pytest.mark.parametrize("cut", [0.0, 0.5])
def test_the_truth_is_left_in(cut: float) -> None:
    """A valley with two different sides; the control's gaps are of half the depth in standard deviations."""
    rng, hits, close = np.random.default_rng(1), 0, 0
    for _ in range(400):
        x = np.arange(-3 + rng.uniform(0, 0.125), 3, 0.125)
        y = np.where(x > 0, 0.03 * x**2, 0.01 * x**2) + np.where(x > 0.75, cut * 0.1, 0) + rng.normal(0, 0.003, len(x))
        sd = np.full(len(x), 0.003)
        for depth in (DEPTH, 0.3):
            first, last = gaps(y, sd, depth)
            hit = (x[first - 1] if first else -math.inf) <= 0 <= (x[last] if last < len(x) else math.inf)
            hits, close = hits + (hit and depth == DEPTH), close + (hit and depth != DEPTH)
    assert hits >= 380
    assert close < 340
