"""Grids that are shifted from seed to seed: one optimum from all of them, the seeds' levels taken out."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.dither import dithered, levelled
from analysis.noise import pooled_noise
from analysis.optimum import curve, find_optimum

pytestmark = pytest.mark.host

SEEDS = 4


def cell(
    at: float, rng: np.random.Generator, *, shift: float = 0.125, level: float = 0.1, sd: float = 0.004
) -> pd.DataFrame:
    """Four seeds with rates half an octave apart, seed s shifted by s * `shift` octaves."""
    parts = []
    for seed in range(SEEDS):
        octaves = np.arange(-9.0, -4.9, 0.5) + shift * seed
        loss = 2 + 0.03 * (octaves - at) ** 2 + rng.normal(0, level) + rng.normal(0, sd, len(octaves))
        parts.append(pd.DataFrame({"lr": 2.0**octaves, "loss": loss, "seed_init": seed, "seed_data": seed}))
    return pd.concat(parts, ignore_index=True).assign(status="done")


def test_which_cells_are_dithered() -> None:
    rng = np.random.default_rng(0)
    assert dithered(cell(-7, rng), "lr")
    assert not dithered(cell(-7, rng, shift=0.0), "lr")
    assert not dithered(cell(-7, rng).query("seed_init == 0"), "lr")


def test_levels_come_out_and_their_mean_stays() -> None:
    rows = cell(-7.0, np.random.default_rng(0), sd=0.0)
    flat, squares, freedom = levelled(rows, "lr")
    assert squares == pytest.approx(0, abs=1e-20)
    assert freedom > 10
    curve_alone = 0.03 * (np.log2(flat["lr"]) + 7) ** 2
    np.testing.assert_allclose(flat["loss"] - flat["loss"].min(), curve_alone - curve_alone.min(), atol=1e-12)
    assert flat["loss"].mean() == pytest.approx(rows["loss"].mean())


@pytest.mark.slow
def test_the_optimum_is_found_and_covered_and_raw_losses_would_miss_it() -> None:
    rng = np.random.default_rng(1)
    errors, raw, hits, noise = [], [], 0, []
    for _ in range(100):
        at = float(rng.uniform(-7.5, -6.5))
        rows = cell(at, rng)
        found_noise = pooled_noise([(rows, "lr")])
        found = find_optimum(curve(rows, "lr"), found_noise)
        assert found.lr is not None
        assert found.low is not None
        assert found.high is not None
        assert found.seeds == SEEDS
        errors.append(math.log2(found.lr) - at)
        hits += found.low <= 2.0**at <= found.high
        noise.append(found_noise.sd)
        raw.append(math.log2(rows["lr"].iloc[int(rows["loss"].argmin())]) - at)
    assert np.std(errors) < 0.06
    assert np.std(raw) > 3 * np.std(errors)
    assert hits >= 95
    assert np.mean(noise) == pytest.approx(0.004, rel=0.1)


def test_too_few_points_are_left_as_they_are() -> None:
    rows = cell(-7.0, np.random.default_rng(0)).groupby("seed_init").head(1)
    same, _, freedom = levelled(rows, "lr")
    assert freedom == 0
    pd.testing.assert_frame_equal(same, rows)


def test_seeds_of_different_shape_do_not_end_the_window() -> None:
    """Seeds that rise by turns from rates of their own: points stand out, and a window over points alone ends there."""
    rng, interior, contiguous, vertex = np.random.default_rng(2), 0, 0, 0
    for _ in range(60):
        rows = cell(-7.0, rng, level=0.05, sd=0.01)
        rows["loss"] += np.where(np.log2(rows["lr"]) > -6.6 + rows["seed_init"] % 2, 0.06, 0.0)
        noise, points = pooled_noise([(rows, "lr")]), curve(rows, "lr")
        interior += find_optimum(points, noise).quality == "interior"
        vertex += find_optimum(points, noise).curvature is not None
        contiguous += find_optimum(points.assign(grids=1), noise).curvature is not None
    assert interior >= 57
    assert contiguous <= vertex - 10
