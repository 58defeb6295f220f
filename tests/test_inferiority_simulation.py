"""Size and power of `lrlab compare` by simulation: how often its one-sided 95 % bounds hold, and what a margin needs.

Every truth has a rival with some settings per cell and six cells, a level of 0.1 nat per seed, noise of 0.004 nat per
run, and a challenger that gives up exactly nothing to the rival's best setting.
"""

import numpy as np
import pytest

from analysis.inferiority import bounds, cross_fitted, judge_margin

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
