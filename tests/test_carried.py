"""The verdict by regret: how often its bounds hold on curves that are no parabola, and what it must not call kept."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from measured import records

from analysis import spline
from analysis.drift import Cell, read_cells
from analysis.noise import Noise
from analysis.optimum import Optimum, find_optimum
from analysis.regret import KEEPS, carried, regret_bounds
from analysis.transfer import transfers

pytestmark = pytest.mark.host

SD = 0.004
FINE = np.linspace(-3, 3, 6001)
Curve = Callable[[np.ndarray], np.ndarray]


def lopsided(right: float, left: float, scale: float = 1.0) -> Curve:
    """x^2 that is steeper to the right of 0 and flatter to its left."""
    return lambda x: 2 + scale * 0.01 * np.where(x > 0, x**2 * (1 + right * x), x**2 / (1 + left * np.abs(x)))


TRUTHS: dict[str, Curve] = {
    "quadratic": lopsided(0, 0),
    "lopsided": lopsided(0.8, 0.25),
    "a little lopsided": lopsided(0.2, 0.1),
    "cubic": lambda x: 2 + 0.01 * x**2 + 0.0015 * x**3,
    "steep": lopsided(0.2, 0.1, 5),
    "cliff": lambda x: 2 + 0.008 * x**2 + np.where(x > 0.75, 0.05 + 0.06 * (x - 0.75), 0.0),
}


def cell(octaves: np.ndarray, losses: np.ndarray, seeds: int = 1, size: int = 32) -> Cell:
    table = pd.DataFrame(
        {"lr": 2.0**octaves, "loss": losses, "seeds": seeds, "grids": 1, "diverged": ~np.isfinite(losses)}
    )
    return Cell({"model.width": size}, "mup", size, table, find_optimum(table, Noise(SD, "known")), 0)


def drawn(name: str, spacing: float, seeds: int, shift: float, draws: int) -> np.ndarray:
    """(low, high, true regret in per cent) of a rate `shift` octaves from the optimum, more or less, [draws, 3]."""
    rng, truth = np.random.default_rng(0), TRUTHS[name]
    least, best = truth(FINE).min(), FINE[truth(FINE).argmin()]
    found = []
    while len(found) < draws:
        octaves = np.arange(-3, 3.01 - spacing, spacing) + spacing * rng.random()
        losses = truth(octaves) + rng.normal(0, SD / math.sqrt(seeds), len(octaves))
        at = float(np.clip(best + shift + rng.normal(0, 0.15), octaves[0], octaves[-1]))
        table = pd.DataFrame({"lr": 2.0**octaves, "loss": losses, "seeds": seeds})
        low, high = regret_bounds(Cell({}, "", 0, table, _NONE, 0), 2.0**at, Noise(SD, "known"))
        found.append((low, math.inf if high is None else high, 100 * (float(truth(np.array(at))) / least - 1)))
    return np.array(found)


_NONE = Optimum(None, None, None, None, "flat", None, None, None, None, 0, 0, 0, ())


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spline, "DRAWS", 400)
    spline._normal.cache_clear()
    yield
    spline._normal.cache_clear()


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("spacing", [1.0, 0.5])
@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_the_bounds_hold_and_a_rate_that_does_not_keep_is_not_told_as_keeping(spacing: float, seeds: int) -> None:
    held, below, kept, widths = [], [], [], []
    for name in TRUTHS:
        for shift in (0.0, 0.6, -0.6):
            low, high, true = drawn(name, spacing, seeds, shift, 5).T
            held.append(np.mean(high >= true - 1e-9))
            below.append(np.mean(low <= true + 1e-9))
            kept += list((high <= KEEPS)[true > KEEPS])
            if shift == 0:
                widths.append(float(np.median(high)))
    for shift in (-0.8, 0.8):
        _, high, true = drawn("steep", spacing, seeds, shift, 8).T
        kept += list((high <= KEEPS)[true > KEEPS])
    assert np.mean(held) >= 0.93
    assert np.mean(below) >= 0.93
    assert len(kept) > 8 and np.mean(kept) <= 0.05
    assert np.median(widths) < 0.6  # the control: bounds that hold because they say nothing


@pytest.mark.usefixtures("few_draws")
def test_a_parabola_alone_would_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without changes of the curvature the bounds of lopsided curves and cliffs fail."""
    monkeypatch.setattr(spline, "GAMMAS", (1e-3,) * 4)
    held = [np.mean(high >= true) for _, high, true in (drawn(n, 1.0, 4, -0.6, 10).T for n in ("lopsided", "cliff"))]
    assert np.mean(held) < 0.8


@pytest.mark.usefixtures("few_draws")
def test_the_bounds_hold_where_a_slope_begins_at_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the window's points show no curvature.  The control looks at the window alone."""
    monkeypatch.setitem(TRUTHS, "kink", lambda x: 2 + np.where(x > 0, 0.1 * x, -0.01 * x))

    def held() -> float:
        parts = [drawn("kink", 1.0, seeds, shift, 8) for seeds in (1, 4) for shift in (0.0, 0.6, -0.6)]
        return float(np.mean([high >= true - 1e-9 for part in parts for _, high, true in part]))

    assert held() >= 0.87  # nine tenths, less the error of 48 draws
    monkeypatch.setattr(spline, "REACH", 0.0)
    assert held() < 0.75


def grid(at: float, size: int, depth: float = 0.05) -> Cell:
    octaves = np.arange(-4.0, 4.5, 0.5)
    return cell(octaves, 2 + depth * (octaves - at) ** 2, 4, size)


def test_verdicts() -> None:
    noise = Noise(SD, "known")
    kept = carried([grid(0, 32), grid(0.1, 64), grid(-0.2, 128)], "model.width", noise)
    assert (kept.verdict, kept.sentence.split(" at most ")[0]) == ("keeps", "keeps:")
    assert kept.sentence.endswith("at width 128, 95 %")
    lost = carried([grid(0, 32), grid(0, 64), grid(-2, 128)], "model.width", noise)
    low, high = (value or 0 for value in lost.bounds[1][1:])
    assert lost.verdict == "loses"
    assert 9 < low < 10 < high < 11  # 0.05 x 4 of 2: 10 %
    between = carried([grid(0, 32), grid(0.65, 64)], "model.width", noise)  # 1.06 %
    assert between.verdict == "undecided"
    assert between.sentence.startswith("undecided: at most 1.")


def test_a_flat_smallest_size_carries_its_best_run_and_an_edge_carries_nothing() -> None:
    octaves = np.arange(-3.0, 4.0)
    flat = cell(octaves, np.array([2.004, 2.002, 2.003, 2.0, 2.003, 2.002, 2.004]))
    assert flat.optimum.quality == "flat"
    assert carried([flat, grid(0, 64)], "model.width", Noise(SD, "known")).verdict == "keeps"
    edge = cell(octaves, 2 + 0.05 * (octaves + 6) ** 2)
    found = carried([edge, grid(0, 64)], "model.width", Noise(SD, "known"))
    assert (found.lr, found.verdict) == (None, "undecided")
    assert "width 32 gives no rate to carry (edge-low)" in found.sentence


def test_a_minimum_beyond_the_grid_bounds_from_below_only() -> None:
    octaves = np.arange(-3.0, 4.0)
    low = cell(octaves, 2 + 0.05 * (octaves + 4) ** 2, 4, 64)
    below, above = regret_bounds(low, 1.0, Noise(SD, "known"))
    assert above is None and below and below > 10
    assert carried([grid(0, 32), low], "model.width", Noise(SD, "known")).verdict == "loses"


def test_rates_outside_the_grid_and_diverged_ones() -> None:
    octaves = np.arange(-3.0, 4.0)
    losses = 2 + 0.05 * octaves**2
    losses[5:] = np.nan
    one, noise = cell(octaves, losses, 4, 64), Noise(SD, "known")
    assert regret_bounds(one, 2.0**-3.5, noise) == (None, None)
    assert regret_bounds(one, 2.0**1.5, noise) == (None, None)  # between the last stable and the first diverged one
    assert regret_bounds(one, 2.0**2, noise) == regret_bounds(one, 2.0**2.5, noise) == (math.inf, math.inf)
    found = carried([grid(2.2, 32), one], "model.width", noise)
    assert found.sentence == "loses: runs at its rate diverged at width 64, 95 %"


def test_the_same_input_gives_the_same_bounds() -> None:
    one, noise = grid(0.3, 64), Noise(SD, "known")
    assert regret_bounds(one, 1.0, noise) == regret_bounds(one, 1.0, noise)


def test_the_answer_of_the_quickstart() -> None:
    """The slope leaves muP open; its rate keeps all the same, and sp's does not."""
    cells, noise = read_cells(records("quickstart"))
    found = {one.group["parametrization.name"]: one for one in transfers(cells, noise)}
    mup, sp = (one.carried for one in (found["mup"], found["sp"]))
    assert mup and sp
    assert (mup.verdict, sp.verdict) == ("keeps", "loses")
    assert all(high is not None and high < 1 for _, _, high in mup.bounds)
