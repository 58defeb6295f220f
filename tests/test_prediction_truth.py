"""What a prediction tells of its regret and of divergence, against simulated laws whose truth is known."""

import numpy as np
import pytest

from analysis.power.simulation import Setting
from benchmarks.campaigns import campaign
from benchmarks.predictions import divergence, regret

pytestmark = pytest.mark.host


@pytest.mark.parametrize("sizes", [4, 6])
def test_the_regret_that_is_told_is_the_mean_of_what_happens(sizes: int) -> None:
    found = regret(Setting(sizes, 0.1, 0.05), laws=100, seed=1)
    assert 1 / 1.5 < found.told / found.true < 1.5
    assert found.held > 0.82


def test_three_sizes_make_the_middle_of_the_mixture_no_estimate_of_the_regret() -> None:
    """The control: what version 0.1.0 told."""
    found = regret(Setting(3, 0.1, 0.05), laws=100, seed=1)
    assert found.old / found.true > 2 > found.told / found.true


@pytest.mark.parametrize(("gap", "slope"), [(0.3, 0.0), (0.9, -0.3)])
def test_runs_diverge_as_often_as_is_told(gap: float, slope: float) -> None:
    found = divergence(Setting(5, 0.08, 0.05), gap, slope, (0.0, 0.15), laws=100, seed=2)
    assert 0.5 < found.told / found.true < 2
    if not slope:
        assert found.old / found.true > 2  # the control: the largest stable rate is half a step below the edge


@pytest.mark.nightly
def test_suggestions_stay_ahead_of_other_ways_to_spend_as_much() -> None:
    """200 campaigns, docs/laws_coverage.md."""
    found = [campaign(seed) for seed in range(200)]
    error = {name: np.sqrt(np.mean([one[name][0] ** 2 for one in found])) for name in found[0]}
    for name in ("random places", "largest affordable", "more seeds", "nothing"):
        assert error["suggested"] < error[name], name
    _, told, came = np.mean([one["suggested"] for one in found], axis=0)
    assert told == pytest.approx(came, abs=0.1)
