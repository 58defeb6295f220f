"""What counts as diverged and what counts as noise: the limits themselves, from both sides."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.noise import Noise, pooled_noise, replicate_noise
from analysis.optimum import curve, divergence_limit, find_optimum
from analysis.redraw import minima, read_curves, seeds_of
from analysis.sharpness.growth import growth
from analysis.sharpness.late import late
from analysis.slope import slope

pytestmark = pytest.mark.host
OCTAVES = np.arange(-10.0, -4.9)


def rows(losses: np.ndarray, seed: int = 0, octaves: np.ndarray = OCTAVES) -> pd.DataFrame:
    about = {"status": "done", "seed_init": seed, "seed_data": seed}
    return pd.DataFrame({"lr": 2.0**octaves, "loss": losses} | about)


@pytest.mark.parametrize(("best", "limit"), [(1.0, 1.3), (2.0, 2.3), (2.9, 3.2), (3.1, 3.41), (5.0, 5.5), (9.0, 9.9)])
def test_the_limit_is_three_tenths_of_a_nat_or_ten_percent(best: float, limit: float) -> None:
    assert divergence_limit(best) == pytest.approx(limit, abs=1e-12)
    for beyond, lost in ((-0.001, False), (0.001, True)):
        losses = best + np.array([9.0, 0.2, 0.1, 0.0, 0.1, limit - best + beyond])
        found = curve(rows(losses), "lr")
        assert found["diverged"].tolist() == [False] * 5 + [lost]  # the low rate is undertrained, whatever its loss


@pytest.mark.parametrize("best", [2.0, 6.0])
def test_redrawn_optima_have_the_same_limit(best: float) -> None:
    """A run just below the limit counts as the largest stable one, and is in the way of a diverged neighbour."""
    limit = float(divergence_limit(best)) - best
    for beyond in (-0.01, 0.01):
        # The lowest rate but one is far up, so that only the points around the minimum and the last one matter.
        losses = best + np.array([9.0, 0.9, 0.002, 0.0, limit + beyond, 9.0])
        table = rows(losses)
        plain = find_optimum(curve(table, "lr"), Noise(1e-4, "known"))
        again = minima(read_curves(table, "lr", seeds_of(table)), np.ones((1, 1)), 1e-4)
        assert (plain.quality == "interior") == (again.quality_R[0] == "interior") == (beyond < 0)
        assert plain.stable == 2.0 ** (OCTAVES[4] if beyond < 0 else OCTAVES[3])


def seeded(means: list[float], apart: list[float], columns: bool = False) -> pd.DataFrame:
    """Two seeds per rate, each `apart` from its mean."""
    octaves = np.arange(-8.0, -8.0 + len(means))
    parts = [rows(np.array(means) + sign * np.array(apart), seed, octaves) for seed, sign in ((0, 1), (1, -1))]
    found = pd.concat(parts, ignore_index=True)
    return found.drop(columns=["seed_init", "seed_data"]).assign(cell="one") if columns else found


def test_noise_is_that_of_points_within_ten_percent_of_the_best() -> None:
    """Means at 1, 1.09 and 1.11 times the best: the last one's seeds differ by a nat and do not count."""
    near, middle, far = 0.01, -0.03, 0.5
    found = pooled_noise([(seeded([2.0, 2.18, 2.22], [near, middle, far]), "lr")])
    # Rate and seed means out of a 2 x 2 table leave 4 ((near - middle) / 2)^2 for one degree of freedom.
    assert found.sd == pytest.approx(abs(near - middle))
    assert "1 degrees of freedom" in found.source
    alone = pooled_noise([(seeded([2.0, 2.22, 2.18], [near, far, middle]), "lr")])  # by its loss, not by its place
    assert alone.sd == pytest.approx(abs(near - middle))
    table = seeded([2.0, 2.18, 2.22], [near, middle, far], columns=True)
    plain = replicate_noise(table, ["cell"], "lr")
    assert plain.sd == pytest.approx(math.sqrt(near**2 + middle**2))  # 2 (near^2 + middle^2) for two
    assert "2 degrees of freedom" in plain.source


def test_noise_of_seeds_that_are_not_paired_keeps_their_levels() -> None:
    table = seeded([2.0, 2.1, 2.22], [0.01, 0.03, 0.5])
    lacking = table.drop(index=table.index[(table["seed_init"] == 1) & (table["lr"] == 2.0**-7)])
    found = pooled_noise([(lacking, "lr")])
    assert found.sd == pytest.approx(math.sqrt(2 * 0.01**2))
    assert found.source.startswith("seed SD 0")


def test_an_interval_of_several_points_is_divided_by_the_square_root_of_the_seeds() -> None:
    """Four times the seeds at every rate halve the noise part of the interval."""
    losses = 2 + 0.01 * (OCTAVES + 7.3) ** 2
    parts = []
    for seeds in (2, 8):
        table = pd.concat([rows(losses, seed) for seed in range(seeds)])
        found = find_optimum(curve(table, "lr"), Noise(1e-4, "known"))
        assert found.noise_sd and found.seeds == seeds
        parts.append(found.noise_sd)
    assert parts[0] == pytest.approx(2 * parts[1], rel=1e-3)


def test_slopes_have_students_interval() -> None:
    """Six points and four degrees of freedom: scipy's own regression, and 2.776 standard errors, not 1.96."""
    sizes = np.array([8.0, 16, 32])
    values = np.exp(np.array([[0.1, 0.0], [0.5, 0.7], [0.8, 1.1]]))
    found = slope(sizes.tolist(), values)
    line: Any = stats.linregress(np.repeat(np.log2(sizes), 2), np.log2(values).reshape(-1))
    assert found.value == pytest.approx(line.slope)
    assert (found.high - found.value, found.value - found.low) == pytest.approx([2.7764451 * line.stderr] * 2)


def test_growth_and_late_ratios_have_students_interval_over_seeds() -> None:
    rng = np.random.default_rng(0)
    sizes, steps = (16, 32, 64), np.array([0, 10, 20, 30, 40])
    values_NST = np.exp(rng.normal(0, 0.3, (3, 3, 5)))
    found = growth(sizes, steps, values_NST)
    assert found and found.seeds == 3
    x = np.log(sizes)
    slopes = [np.polyfit(x, np.log(values_NST[:, seed, -1]), 1)[0] for seed in range(3)]
    half = 4.3026527 * np.std(slopes, ddof=1) / math.sqrt(3)
    assert (found.low_T[-1], found.value_T[-1], found.high_T[-1]) == pytest.approx(
        (np.mean(slopes) - half, np.mean(slopes), np.mean(slopes) + half)
    )
    one = late(steps, values_NST[0])
    assert one and (one.first, one.last) == (20, 40)
    medians = [sorted(values_NST[0, seed, 2:])[1] for seed in range(3)]
    half = 4.3026527 * np.std(medians, ddof=1) / math.sqrt(3)
    told = dataclasses.astuple(one)[:3]
    assert told == pytest.approx((np.mean(medians), np.mean(medians) - half, np.mean(medians) + half))
