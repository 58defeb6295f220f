"""Size and power of `lrlab compare` by simulation: how often its one-sided 95 % bounds hold, and what a margin needs.

Every truth has a rival with some settings per cell and six cells, a level of 0.1 nat per seed, noise of 0.004 nat per
run, and a challenger that gives up exactly nothing to the rival's best setting.
"""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.inferiority import LEVEL, bounds, cross_fitted, judge_margin, seeds_needed
from benchmarks.inferiority import differences, limits, truths

pytestmark = pytest.mark.host

CELLS, NOISE, DRAWS = 6, 0.004, 500
SEEDS = (2, 3, 4, 8)
STEPS = np.arange(7) - 2.7
TRUTHS = {
    "seven rates, all alike": np.full(7, 2.0),
    "seven rates, nearly alike": 2 * (1 + 0.0001 * STEPS**2),
    "seven rates, 0.1 % a step": 2 * (1 + 0.001 * STEPS**2),
    "seven rates, 0.6 % a step": 2 * (1 + 0.006 * STEPS**2),
    "two settings, 0.1 % apart": 2 + np.array([0, 0.002, 0.02, 0.03]),
    "28 settings": 2 * (1 + 0.001 * np.add.outer(STEPS**2, 2 * np.arange(4.0)).ravel()),
}


def drawn(truth_J: np.ndarray, seeds: int, draws: int, given_up: float = 0.0) -> np.ndarray:
    """(mean, low, high) of simulated sweeps, [draws, 3]; `given_up` is the challenger's share above the best."""
    rng, found = np.random.default_rng(seeds), []
    for _ in range(draws):
        level_S = rng.normal(0, 0.1, seeds)
        other_CS, own_CS = np.empty((2, CELLS, seeds))
        for cell in range(CELLS):
            loss_JS = truth_J[:, None] + level_S + rng.normal(0, NOISE, (len(truth_J), seeds))
            mine_S = truth_J.min() * (1 + given_up) + level_S + rng.normal(0, NOISE, seeds)
            other_CS[cell] = mine_S / cross_fitted(loss_JS)[1] - 1
            own_CS[cell] = mine_S / loss_JS[loss_JS.mean(axis=1).argmin()] - 1
        found.append(bounds(other_CS.mean(axis=0), own_CS.mean(axis=0)))
    return np.array(found)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", TRUTHS)
def test_either_bound_holds_as_often_as_it_says(name: str, seeds: int) -> None:
    """Nominal 95 %; 0.91 is the level less twice the error of 500 draws and what the worst truth is known to lack."""
    found = drawn(TRUTHS[name], seeds, DRAWS)
    assert np.mean(found[:, 2] >= 0) >= 0.91
    assert np.mean(found[:, 1] <= 0) >= 0.91


def test_the_choice_by_the_judging_seeds_would_call_equals_inferior_and_the_other_choice_the_worse_one_as_good() -> (
    None
):
    """The controls: bounds from one choice alone are broken on one side each."""
    truth = TRUTHS["28 settings"]
    rng, high, low = np.random.default_rng(0), 0, 0
    for _ in range(DRAWS):
        level_S = rng.normal(0, 0.1, 8)
        other_CS, own_CS = np.empty((2, CELLS, 8))
        for cell in range(CELLS):
            loss_JS = truth[:, None] + level_S + rng.normal(0, NOISE, (len(truth), 8))
            mine_S = truth.min() + level_S + rng.normal(0, NOISE, 8)
            other_CS[cell] = mine_S / cross_fitted(loss_JS)[1] - 1
            own_CS[cell] = mine_S / loss_JS[loss_JS.mean(axis=1).argmin()] - 1
        high += bounds(other_CS.mean(0), other_CS.mean(0))[2] >= 0
        low += bounds(own_CS.mean(0), own_CS.mean(0))[1] <= 0
    assert high / DRAWS < 0.8
    assert low / DRAWS < 0.95


def test_size_and_power_at_a_margin() -> None:
    """A challenger that is worse by the margin passes in 5 % of sweeps, and one that gives up nothing nearly always."""
    truth, margin = TRUTHS["seven rates, 0.1 % a step"], 0.003
    verdicts = [
        [judge_margin(low, high, margin) for _, low, high in drawn(truth, 4, DRAWS, given_up)]
        for given_up in (margin, 0.0, 3 * margin)
    ]
    shares = [verdict.count("non-inferior") / DRAWS for verdict in verdicts]
    assert shares[0] <= 0.08
    assert shares[1] >= 0.9
    assert verdicts[0].count("inferior") / DRAWS <= 0.08
    assert verdicts[2].count("inferior") / DRAWS >= 0.9


def test_the_arrays_of_the_benchmark_are_the_bounds() -> None:
    """Its table is of the bounds that are printed: an independent draw of both, and the same sums."""
    other_RS, own_RS = np.random.default_rng(0).normal(0, 0.01, (2, 5, 4))
    several = np.stack(limits(other_RS, own_RS), axis=1)
    assert several == pytest.approx(np.array([bounds(o, w) for o, w in zip(other_RS, own_RS, strict=True)]), abs=1e-15)
    rng = np.random.default_rng(1)
    held = limits(*differences(TRUTHS["28 settings"], "normal", CELLS, 4, DRAWS, rng))[2] >= 0
    assert np.mean(held) == pytest.approx(np.mean(drawn(TRUTHS["28 settings"], 4, DRAWS)[:, 2] >= 0), abs=0.03)


@pytest.mark.parametrize("seeds", [4, 8])
@pytest.mark.parametrize("name", ["seven rates, 0.3 %", "seven rates, two sides"])
def test_the_upper_bound_holds_where_bad_settings_are_noisier(name: str, seeds: int) -> None:
    other_RS, own_RS = differences(truths()[name], "grows with the loss", CELLS, seeds, DRAWS, np.random.default_rng(2))
    assert np.mean(limits(other_RS, own_RS)[2] >= 0) >= 0.93
    between_RS = (other_RS + 2 * own_RS) / 3  # the control: a fixed share of the way between the two choices
    quantile = stats.t.ppf(LEVEL, seeds - 1) / math.sqrt(seeds)
    upper_R = between_RS.mean(axis=1) + quantile * between_RS.std(axis=1, ddof=1)
    if seeds == 8:
        assert np.mean(np.maximum(upper_R, other_RS.mean(axis=1)) >= 0) < 0.9


@pytest.mark.parametrize("seeds", [4, 8])
def test_the_upper_bound_holds_where_a_rate_fails_with_every_third_seed(seeds: int) -> None:
    """That rate wins 0.2 % with the others.  The control is the choice by the other half of the seeds alone."""
    rng, found = np.random.default_rng(4), []
    truth_J = np.append(2 * (1 + 0.001 * np.arange(4.0) ** 2), 2 * 0.998)
    for _ in range(DRAWS):
        other_CS, own_CS = np.empty((2, CELLS, seeds))
        for cell in range(CELLS):
            loss_JS = truth_J[:, None] + rng.normal(0, NOISE, (len(truth_J), seeds))
            loss_JS[-1] += 0.1 * (rng.random(seeds) < 1 / 3)
            mine_S = 2 + rng.normal(0, NOISE, seeds)
            other_CS[cell] = mine_S / cross_fitted(loss_JS)[1] - 1
            own_CS[cell] = mine_S / loss_JS[loss_JS.mean(axis=1).argmin()] - 1
        found.append([bounds(other_CS.mean(0), own)[2] for own in (own_CS.mean(0), other_CS.mean(0))])
    held, other = np.mean(np.array(found) >= 0, axis=0)
    assert held >= 0.95
    assert other < 0.85


def test_the_seeds_that_a_refusal_asks_for_find_an_equal_challenger() -> None:
    """Through the choice among settings: a sweep of four seeds is refused, one of the seeds that it names decides."""
    truth_J, rng = truths()["seven rates, 0.3 %"], np.random.default_rng(3)
    mean, _, high = limits(*differences(truth_J, "normal", CELLS, 4, DRAWS, rng))
    half = float(np.median(high - mean))
    seeds = seeds_needed(half, 4, half / 2)
    passed = limits(*differences(truth_J, "normal", CELLS, seeds, DRAWS, rng))[2] < half / 2
    few = limits(*differences(truth_J, "normal", CELLS, seeds // 2, DRAWS, rng))[2] < half / 2
    assert np.mean(passed) >= 0.75
    assert np.mean(few) < 0.75
