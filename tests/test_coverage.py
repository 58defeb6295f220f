"""Coverage of prediction intervals over simulated laws, with controls that must fail."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.power.fit import fit_power_law
from analysis.power.simulation import Setting, Wrong, coverage, simulate

pytestmark = pytest.mark.host


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [5, 6, 8])
@pytest.mark.parametrize(("between", "within"), [(0.22, 0.17), (0.14, 0.11), (0.07, 0.05), (0.3, 0.1), (0.1, 0.1)])
def test_prediction_intervals_cover(sizes: int, between: float, within: float) -> None:
    """2,000 laws each: a new size twice the largest, and one inside; the iid and the normal interval must fail."""
    found = coverage(simulate(Setting(sizes, between, within), 2000, seed=sizes))
    assert ((0.935 <= found["law"]) & (found["law"] <= 0.975)).all(), found["law"]
    assert found["iid"][0] < 0.935
    assert found["iid mean"][1] < 0.4
    assert found["reml-z"][0] < 0.935


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [5, 6, 8])
def test_uneven_cells(sizes: int) -> None:
    found = coverage(simulate(Setting(sizes, 0.14, 0.11, balanced=False), 2000, seed=sizes))
    assert ((0.935 <= found["law"]) & (found["law"] <= 0.975)).all(), found["law"]


@pytest.mark.slow
def test_without_deviations_of_sizes_it_is_cautious() -> None:
    found = coverage(simulate(Setting(5, 0.0, 0.1), 2000))
    assert (found["law"] >= 0.94).all() and (found["law"] <= 0.99).all()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["heavy tails", "trunks"])
def test_wrong_deviations_do_little_harm(wrong: Wrong) -> None:
    found = coverage(simulate(Setting(6, 0.14, 0.11, wrong=wrong), 2000))
    assert (found["law"] >= 0.92).all()


@pytest.mark.slow
def test_curvature_defeats_extrapolation() -> None:
    """A control: a law that is not straight is not covered beyond its sizes, however honest the intervals."""
    found = coverage(simulate(Setting(8, 0.14, 0.11, wrong="curvature"), 1000))
    assert found["law"][0] < 0.9 < found["law"][1]


def test_quick_coverage() -> None:
    """300 laws: within the band's binomial error, so that a fast suite sees a gross fault."""
    found = coverage(simulate(Setting(6, 0.14, 0.11), 300))
    assert (found["law"] > 0.92).all() and (found["iid"] < 0.93).all() and (found["iid mean"] < 0.5).all()


@pytest.mark.slow
def test_exponents_are_unbiased_and_covered() -> None:
    """200 laws through the whole fit: robust intervals hold at their rate, the optimistic ones and raw percentiles of
    N's exponent do not."""
    laws = simulate(Setting(6, 0.15, 0.1, balanced=False), 200, seed=4)
    design, truth = laws.model.design_CP, np.array([-0.6, 0.25])
    values, hits = [], []
    for y in laws.y_RC:
        places = {"params": np.exp(design[:, 1] + 19), "tokens": np.exp(design[:, 2] + 23)}
        frame = pd.DataFrame({**places, "lr": np.exp(y), "lr_variance": laws.model.variance_C})
        law = fit_power_law(frame, draws=1, curved=False)
        values.append([found.value for found in law.intervals])
        hits.append([])
        for found, true in zip(law.intervals, truth, strict=True):
            assert found.low is not None and found.high is not None and found.percentile and found.optimistic
            hits[-1].append(
                [low <= true <= high for low, high in ((found.low, found.high), found.percentile, found.optimistic)]
            )
    values, rate = np.array(values), np.array(hits).mean(axis=0)
    error = values.std(axis=0) / math.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - truth) < 2 * error).all()
    low, high = stats.binom.ppf([0.005, 0.995], 200, 0.95) / 200
    assert ((low <= rate[:, 0]) & (rate[:, 0] <= high + 0.01)).all(), rate
    assert rate[0, 1] < 0.93 and rate[0, 2] < 0.85, rate


def test_designs_are_as_described() -> None:
    for balanced in (True, False):
        laws = simulate(Setting(5, 0.0, 0.0, vertex_sd=0.0, balanced=balanced), 3)
        assert np.abs(laws.model.design_CP[:, 2].mean()) < 1e-12
        line = laws.model.design_CP @ np.array([-6.5, -0.6, 0.25])
        assert laws.y_RC == pytest.approx(np.tile(line, (3, 1)))
        sizes = np.unique(laws.model.design_CP[:, 1])
        assert laws.target_TP[0, 1] == pytest.approx(sizes[-1] + math.log(2))
        assert sizes[0] < laws.target_TP[1, 1] < sizes[-1]
        assert np.abs(sizes - laws.target_TP[1, 1]).min() == pytest.approx(math.log(2) / 2)
