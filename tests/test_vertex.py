"""Vertices of fitted polynomials: exact ones, and their standard deviation against drawn noise."""

import math

import numpy as np
import pytest

from analysis.vertex import vertex

pytestmark = pytest.mark.host


def test_the_minimum_of_an_exact_cubic() -> None:
    x = np.linspace(-1, 1, 7)
    found = vertex(x, 2 + 0.5 * (x - 0.2) ** 2 + 0.1 * (x - 0.2) ** 3, np.full(7, 0.01), 3)
    assert found is not None
    assert (found.x, found.y, found.bend) == pytest.approx((0.2, 2.0, 1.0), abs=1e-9)
    assert found.misfit == pytest.approx(1.0) and found.within(0.1, 0.3) and not found.within(0.3, 1)


@pytest.mark.parametrize("degree", [2, 3])
def test_the_standard_deviation_is_that_of_drawn_vertices(degree: int) -> None:
    x, rng = np.array([-1.0, -0.6, -0.1, 0.2, 0.7, 1.0]), np.random.default_rng(0)
    sd = np.array([0.01, 0.02, 0.01, 0.03, 0.01, 0.02])
    truth = 2 + 0.5 * (x - 0.1) ** 2 + (0.2 * (x - 0.1) ** 3 if degree == 3 else 0)
    exact = vertex(x, truth, sd, degree)
    drawn = [vertex(x, truth + rng.normal(size=6) * sd, sd, degree) for _ in range(2000)]
    assert exact is not None
    places = np.array([found.x for found in drawn if found is not None])
    assert places.std() == pytest.approx(exact.sd, rel=0.06)
    assert np.mean([found.misfit < 0.1 for found in drawn if found is not None]) == pytest.approx(0.1, abs=0.025)


def test_what_has_no_minimum_says_so() -> None:
    x, sd = np.linspace(-1, 1, 5), np.ones(5)
    assert vertex(x[:2], x[:2], sd[:2], 2) is None
    hill = vertex(x, -(x**2), sd, 2)
    assert hill is not None and math.isnan(hill.x) and not hill.within(-9, 9)
