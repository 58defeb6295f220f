"""Statistics of sharpness: distances and verdicts, exponents over time, growth over sizes, the late ratio."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.sharpness.distance import Distance, contrast, distance, joint, judge, simes, standard_error
from analysis.sharpness.exponent import exponents
from analysis.sharpness.growth import growth
from analysis.sharpness.late import late
from analysis.sharpness.study import Settings, study
from analysis.sharpness.track import Track, change, common

pytestmark = pytest.mark.host

STEPS = np.array([0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64])
LATER = STEPS > 0


def near(found: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-14)


def curves(rng: np.random.Generator, level: np.ndarray | float, seeds: int, sd: float) -> np.ndarray:
    """[seeds, steps] about a level: a shift of each seed, and steps that depend on the ones before."""
    noise = rng.normal(0, 1, (seeds, len(STEPS)))
    for place in range(1, len(STEPS)):
        noise[:, place] = 0.8 * noise[:, place - 1] + 0.6 * noise[:, place]
    return level * (1 + sd * (noise + rng.normal(0, 1, (seeds, 1))) / math.sqrt(2))


def of(values: np.ndarray, proxy: np.ndarray, **changes: Any) -> Distance:
    return distance((16, 128), STEPS, values, proxy, **changes)


def test_a_distance_is_welchs_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    left, right = curves(rng, 12.0, 3, 0.05), curves(rng, 10.0, 5, 0.02)
    found = of(left, right)
    near(found.signed_T, left.mean(axis=0) - right.mean(axis=0))
    for place in range(len(STEPS)):
        interval = stats.ttest_ind(left[:, place], right[:, place], equal_var=False).confidence_interval(0.95)
        near(found.threshold_T[place], (interval.high - interval.low) / 2)
    near(found.relative_T, found.signed_T / right.mean(axis=0))


def test_paired_seeds_are_students_differences() -> None:
    rng = np.random.default_rng(1)
    right = curves(rng, 10.0, 4, 0.1)
    left = right + rng.normal(0.5, 0.1, right.shape)
    error, freedom = standard_error(left, right, paired=True)
    near(error, (left - right).std(axis=0, ddof=1) / 2)
    near(freedom, 3.0)
    assert of(left, right, paired=True).error_T.max() < 0.3 * of(left, right).error_T.min()
    with pytest.raises(ValueError, match="same seeds"):
        standard_error(left[:3], right, paired=True)


def test_the_relative_distance_has_the_error_of_a_ratio() -> None:
    """r + 1 is a ratio of two means, of which the delta method knows the error: CV^2 of both, added."""
    rng = np.random.default_rng(2)
    left, right = curves(rng, 15.0, 4, 0.05), curves(rng, 10.0, 6, 0.05)
    found = of(left, right)
    cv = [(one.std(axis=0, ddof=1) / one.mean(axis=0)) ** 2 / len(one) for one in (left, right)]
    near(found.relative_error_T, (1 + found.relative_T) * np.sqrt(cv[0] + cv[1]), 1e-9)
    half = stats.t.ppf(0.95, found.freedom_T) * found.relative_error_T
    near((found.high_T - found.low_T) / 2, half)


def test_verdicts_of_steps() -> None:
    assert judge(-0.09, 0.09, 0.1) == "consistent"
    assert judge(0.11, 0.2, 0.1) == judge(-0.2, -0.11, 0.1) == "differs"
    assert judge(0.05, 0.2, 0.1) == judge(-0.2, 0.2, 0.1) == judge(math.nan, math.nan, 0.1) == "undecided"


def test_simes() -> None:
    assert simes(np.array([0.04])) == 0.04
    assert simes(np.array([0.04, 0.03, 0.05])) == pytest.approx(0.05)
    assert simes(np.array([0.001, 0.9, 0.9, 0.9])) == pytest.approx(0.004)
    assert simes(np.array([0.5, math.nan])) == simes(np.array([])) == 1.0


@pytest.mark.parametrize(
    ("r", "verdict"), [(0.0, "consistent"), (0.3, "differs"), (-0.3, "differs"), (0.1, "undecided")]
)
def test_verdicts_of_curves(r: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    found = of(curves(rng, 10 * (1 + r), 4, 0.02), curves(rng, 10.0, 4, 0.02))
    assert found.verdict == joint([found]) == verdict
    assert found.mean[0] == pytest.approx(r, abs=0.05)


@pytest.mark.parametrize("seeds", [3, 5])
def test_errors_of_both_kinds_stay_below_five_percent_at_the_margin(seeds: int) -> None:
    """At the margin itself neither verdict may come in more than 5 % of sweeps; 500 sweeps, 3 standard errors.

    Controls: any step beyond the margin by itself errs more often; Bonferroni misses lasting distances that Simes sees.
    """
    rng, sweeps = np.random.default_rng(4), 500
    counts = dict.fromkeys(("consistent", "differs", "undecided", "any step", "simes", "bonferroni"), 0)
    for _ in range(sweeps):
        found = of(curves(rng, 11.0, seeds, 0.05), curves(rng, 10.0, seeds, 0.05))
        counts[found.verdict] += 1
        counts["any step"] += "differs" in found.verdicts[1:]
        far = of(curves(rng, 12.8, seeds, 0.05), curves(rng, 10.0, seeds, 0.05))
        counts["simes"] += far.verdict == "differs"
        counts["bonferroni"] += far.above_T[LATER].min() * LATER.sum() <= 0.05
    assert counts["differs"] <= 0.08 * sweeps
    assert counts["consistent"] <= 0.08 * sweeps
    assert counts["any step"] > 0.1 * sweeps
    assert counts["simes"] > counts["bonferroni"]


def test_one_seed_decides_nothing() -> None:
    rng = np.random.default_rng(5)
    found = of(curves(rng, 30.0, 1, 0.01), curves(rng, 10.0, 3, 0.01))
    assert found.verdict == "undecided"
    assert np.isnan(found.error_T).all()
    assert found.relative_T.mean() == pytest.approx(2.0, rel=0.1)


def test_step_0_is_not_judged() -> None:
    rng = np.random.default_rng(6)
    level = np.where(LATER, 10.0, 40.0)
    found = of(curves(rng, level, 4, 0.01), curves(rng, 10.0, 4, 0.01))
    assert found.verdicts[0] == "differs"
    assert found.verdict == "consistent"
    assert found.largest > 0


def test_contrasts_add_both_groups_errors() -> None:
    rng = np.random.default_rng(7)
    a = of(curves(rng, 14.0, 4, 0.03), curves(rng, 10.0, 4, 0.03))
    b = of(curves(rng, 20.0, 4, 0.03), curves(rng, 20.0, 4, 0.03))
    found = contrast(a, b)
    near(found.value_T, a.relative_T - b.relative_T)
    error = np.hypot(a.relative_error_T, b.relative_error_T)
    freedom = error**4 / (a.relative_error_T**4 / a.freedom_T + b.relative_error_T**4 / b.freedom_T)
    near((found.high_T - found.low_T) / 2, stats.t.ppf(0.975, freedom) * error, 1e-9)
    assert found.mean[1] < 0.4 < found.mean[2]


def test_contrasts_cover_the_truth() -> None:
    rng, hits = np.random.default_rng(8), 0
    for _ in range(300):
        a = of(curves(rng, 14.0, 3, 0.05), curves(rng, 10.0, 3, 0.05))
        b = of(curves(rng, 20.4, 3, 0.05), curves(rng, 20.0, 3, 0.05))
        _, low, high = contrast(a, b).mean
        hits += low <= 0.38 <= high
    assert hits >= 0.92 * 300


@pytest.mark.parametrize("beta", [0.0, 0.6, 2.0])
def test_a_planted_power_law_is_recovered_exactly(beta: float) -> None:
    """Without noise: every size has beta and its own level, the pooled one the geometric mean of the levels."""
    proxy = np.full((3, len(STEPS)), 50.0)
    law = np.where(LATER, np.maximum(STEPS, 1.0) ** beta, 0.0)
    values = [proxy - level * law for level in (0.4, 0.1)]
    found, pooled = exponents(STEPS, values, proxy, np.ones((2, len(STEPS)), bool))
    assert pooled
    for one, level in zip([*found, pooled], (0.4, 0.1, 0.2), strict=True):
        assert one
        assert one.beta.value == pytest.approx(beta, abs=1e-9)
        assert one.beta.low == pytest.approx(one.beta.high, abs=1e-9)
        assert one.level == pytest.approx(level, rel=1e-9)
        assert one.readable


def test_the_exponents_interval_covers_the_truth() -> None:
    """Distances grow as t^0.5 with an amplitude of each seed and noise of each step; 5 seeds, 150 sweeps."""
    rng, hits, pooled_hits = np.random.default_rng(9), 0, 0
    for _ in range(150):
        proxy = curves(rng, 10.0, 5, 0.001)
        values = [10 + level * np.sqrt(STEPS) * curves(rng, 1.0, 5, 0.2) for level in (0.4, 0.2)]
        (first, _), pooled = exponents(STEPS, values, proxy, np.ones((2, len(STEPS)), bool), draws=100)
        assert first and pooled and first.beta.low is not None and pooled.beta.low is not None
        hits += first.beta.low <= 0.5 <= (first.beta.high or 0)
        pooled_hits += pooled.beta.low <= 0.5 <= (pooled.beta.high or 0)
    assert hits >= 0.9 * 150
    assert pooled_hits >= 0.9 * 150


def test_noise_has_an_exponent_near_zero_that_is_not_readable() -> None:
    """The control of a small beta: nothing but noise about one level, and a true difference beside it."""
    rng, betas, readable = np.random.default_rng(10), [], 0
    for _ in range(100):
        track = tracked([curves(rng, 10.0, 3, 0.05) for _ in range(2)])
        fit = study(track).exponents[16]
        assert fit
        betas.append(fit.beta.value)
        readable += fit.readable
    assert abs(float(np.median(betas))) < 0.15
    assert readable <= 10
    real = study(tracked([curves(rng, 20.0, 3, 0.02), curves(rng, 10.0, 3, 0.02)]))
    assert real.exponents[16] and real.exponents[16].readable
    assert real.exponents[16].beta.value == pytest.approx(0, abs=0.05)


def test_too_few_steps_have_no_exponent() -> None:
    rows = np.random.default_rng(11).normal(10, 1, (3, 3))
    (found,), pooled = exponents(np.array([0, 1, 2]), [rows], rows + 1, np.ones((1, 3), bool))
    assert found is pooled is None


def tracked(values: list[np.ndarray], sizes: tuple[int, ...] = (16, 128)) -> Track:
    return Track({}, "preconditioned", sizes, STEPS, np.stack(values), {})


def test_growth_is_the_mean_of_the_seeds_slopes() -> None:
    rng, sizes = np.random.default_rng(12), (16, 32, 128)
    values = np.stack([curves(rng, 5 * size**-0.4, 4, 0.05) for size in sizes])
    found = growth(sizes, STEPS, values)
    assert found
    for place in (0, 5):
        slopes = [float(np.polyfit(np.log(sizes), np.log(values[:, seed, place]), 1)[0]) for seed in range(4)]
        assert found.value_T[place] == pytest.approx(np.mean(slopes), rel=1e-9)
        low, high = stats.t.interval(0.95, 3, np.mean(slopes), stats.sem(slopes))
        assert (found.low_T[place], found.high_T[place]) == pytest.approx((low, high), rel=1e-9)
        line: Any = stats.linregress(np.log(np.repeat(sizes, 4)), np.log(values[:, :, place].reshape(-1)))
        half = stats.t.ppf(0.975, 10) * line.stderr
        assert found.pooled_high_T[place] == pytest.approx(line.slope + half, rel=1e-9)


def test_growth_of_a_bent_curve_widens_the_pooled_interval_only() -> None:
    """Seeds that agree on a curve that is no power law: the fitted exponent is certain, the law is wrong."""
    sizes = (16, 32, 64, 128)
    values = np.stack([np.full((3, len(STEPS)), height) for height in (8.0, 4.0, 3.9, 3.8)])
    values = values * (1 + 0.001 * np.arange(3)[:, None])
    found = growth(sizes, STEPS, values)
    assert found
    assert found.high_T[0] - found.low_T[0] < 0.001
    assert found.pooled_high_T[0] - found.pooled_low_T[0] > 0.1


def test_growth_needs_sizes_seeds_and_positive_values() -> None:
    rng = np.random.default_rng(13)
    values = np.stack([curves(rng, 5.0, 2, 0.1) for _ in range(2)])
    assert growth((16,), STEPS, values[:1]) is None
    absent = values.copy()
    absent[0, 0] = absent[1, 1] = np.nan
    assert growth((16, 32), STEPS, absent) is None
    absent[1, 1] = 1.0
    one = growth((16, 32), STEPS, absent)
    assert one and one.seeds == 1 and np.isnan(one.low_T).all() and np.isfinite(one.value_T).all()
    values[0, 0, 4] = -1.0
    signed = growth((16, 32), STEPS, values)
    assert signed and np.isnan(signed.value_T).tolist() == (STEPS == STEPS[4]).tolist()


def test_the_late_ratio_is_the_mean_of_the_seeds_medians() -> None:
    ratio = np.tile(np.linspace(0.1, 1.2, len(STEPS)), (3, 1)) * np.array([[0.9], [1.0], [1.1]])
    found = late(STEPS, ratio)
    assert found
    inside = STEPS >= 32
    medians = np.median(ratio[:, inside], axis=1)
    assert found.median == pytest.approx(medians.mean())
    assert (found.lowest, found.highest) == pytest.approx((medians.min(), medians.max()))
    assert (found.first, found.last, found.seeds) == (32, 64, 3)
    low, high = stats.t.interval(0.95, 2, medians.mean(), stats.sem(medians))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert late(STEPS[:4], ratio[:, :4], (0.9, 1.0)) is None
    assert late(STEPS[:0], ratio[:, :0]) is None


def test_near_the_edge_the_time_average_is_judged() -> None:
    """Curves that swing by 30 % about one level: the same on average, apart at nearly every step."""
    rng = np.random.default_rng(21)
    swings = [10 + 3.0 * np.where((np.arange(len(STEPS)) + shift) % 2, 1.0, -1.0) for shift in (0, 1)]
    late_T = np.flatnonzero((STEPS >= 0.5 * STEPS[-1]) & (STEPS > 0))
    for values in swings:  # an odd number of points would leave half a swing over
        values[late_T] += 10 - values[late_T].mean()
    track = tracked([curves(rng, values, 4, 0.003) for values in swings])
    single, averaged = study(track), study(track, near_edge=True)
    assert (single.verdict, single.averaged) == ("differs", False)
    assert (averaged.verdict, averaged.averaged) == ("consistent", True)
    assert averaged.distances[16].verdict == "consistent"
    apart = tracked([curves(rng, values * scale, 4, 0.003) for values, scale in zip(swings, (1.3, 1.0), strict=True)])
    assert study(apart, near_edge=True).verdict == "differs"  # the control: sizes that do differ on average


def test_the_change_since_the_start_forgets_the_start() -> None:
    """Sizes that start apart and then run in parallel differ, and their changes do not."""
    rng = np.random.default_rng(14)
    proxy = curves(rng, 10 + 0.1 * STEPS, 4, 0.005)
    values = curves(rng, 10 + 0.1 * STEPS, 4, 0.005) + 5.0
    track = tracked([values, proxy])
    assert study(track).verdict == "differs"
    moved = study(track, since_start=True)
    assert moved.verdict == "consistent"
    assert moved.name == "preconditioned, change"
    near(change(track).values_NST[:, :, 0], 0.0)
    near(moved.distances[16].relative_T * proxy.mean(axis=0), moved.distances[16].signed_T)


def test_common_steps_are_those_of_every_run_that_there_is() -> None:
    rng = np.random.default_rng(15)
    track = tracked([curves(rng, 10.0, 3, 0.1), curves(rng, 10.0, 3, 0.1)])
    track.values_NST[0, 1] = np.nan  # no such run
    track.values_NST[1, 2, 9:] = np.nan  # not finished
    track.values_NST[1, 0, 3] = np.nan  # one value that was not finite
    found = common(track)
    assert found.steps_T.tolist() == [step for step in STEPS[:9].tolist() if step != STEPS[3]]
    assert [len(found.seeds(place)) for place in (0, 1)] == [2, 3]
    assert study(found).distances[16].error_T.shape == found.steps_T.shape
    assert study(found, Settings(paired=True)).distances[16].freedom_T == pytest.approx(1.0)
