"""The drift in closed form where the sides of its ends' intervals differ, and Fieller's interval by another route."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq

from analysis.drift import Cell, Drift, drifts, named, read_cells, summary
from analysis.noise import Noise
from analysis.optimum import Optimum, Points, find_optimum
from analysis.report import Report
from analysis.results import Results
from analysis.vertex import fieller

pytestmark = pytest.mark.host
NOWHERE = Optimum(None, None, None, 2.0, "flat", None, None, 2**-7, 2**-5, 1, 5, 0, ())
Z = 1.959963984540054


def end(width: int, at: float, below: float, above: float) -> Cell:
    """A cell with its optimum at `at` octaves, bounded so far below and above it."""
    found = dataclasses.replace(
        NOWHERE, lr=2**at, low=2 ** (at - below), high=2 ** (at + above), quality="interior", curvature=0.1
    )
    return Cell({"model.width": width}, "mup", width, pd.DataFrame(), found, 0)


def only(*cells: Cell) -> Drift:
    (found,) = drifts(cells)
    return found


# The 3-4-5 triangle twice: down hypot(0.3, 0.4) = 0.5, up hypot(1.2, 0.5) = 1.3.
SMALL, LARGE = end(32, -6.0, below=0.5, above=0.4), end(128, -7.0, below=0.3, above=1.2)


def test_the_sides_of_a_drift_are_those_of_its_ends_in_quadrature() -> None:
    """The drift is lowest where the last optimum is low and the first is high."""
    found = only(SMALL, LARGE)
    assert (found.start, found.end) == (32, 128)
    assert (found.octaves, found.low, found.high) == pytest.approx((-1.0, -1.5, 0.3), abs=1e-12)
    again = only(LARGE, SMALL)  # the order in which cells come does not matter, the axis does
    assert (again.octaves, again.low, again.high) == (found.octaves, found.low, found.high)
    wrong = {-1.0 - 0.7, -1.0 - 1.3, -1.0 - max(0.3, 0.4)}  # added, swapped, the larger one
    assert not any(found.low == pytest.approx(value, abs=0.01) for value in wrong)


def test_a_drift_of_two_sided_normals_is_covered() -> None:
    """Ends that scatter as their intervals say, each side by itself: the interval holds 95 % of their drifts."""
    rng = np.random.default_rng(0)

    def drawn(cell: Cell) -> np.ndarray:
        found = cell.optimum
        assert found.lr and found.low and found.high
        at, below, above = math.log2(found.lr), math.log2(found.lr / found.low), math.log2(found.high / found.lr)
        z = rng.normal(size=100_000)
        return at + z * np.where(z > 0, above, below) / Z

    found = only(SMALL, LARGE)
    assert found.low is not None and found.high is not None
    apart = drawn(LARGE) - drawn(SMALL)
    assert np.mean((apart >= found.low) & (apart <= found.high)) == pytest.approx(0.95, abs=0.015)
    swapped = (-2.0 - found.high, -2.0 - found.low)
    assert np.mean((apart >= swapped[0]) & (apart <= swapped[1])) < 0.9


@pytest.mark.parametrize("place", [0, 1])
def test_an_end_without_a_bound_leaves_no_drift(place: int) -> None:
    for changes in ({"low": None}, {"high": None}, {"lr": None}):
        cells = [SMALL, LARGE]
        cells[place] = dataclasses.replace(cells[place], optimum=dataclasses.replace(cells[place].optimum, **changes))
        found = only(*cells)
        assert (found.octaves, found.low, found.high) == (None, None, None)


def test_json_and_tables_have_the_sides_in_their_order() -> None:
    cells = [SMALL, LARGE]
    moved = drifts(cells)
    told = json.loads(json.dumps(summary(cells, moved, Noise(0.01, "known"), "optimizer.lr")))
    for cell, wanted in zip(told["cells"], ((-6.5, -6.0, -5.6), (-7.3, -7.0, -5.8)), strict=True):
        logs = [math.log2(cell[name]) for name in ("lr_low", "lr_opt", "lr_high")]
        assert logs == pytest.approx(wanted)
    (drift,) = told["drift"]
    assert [drift[name] for name in ("low", "octaves", "high")] == pytest.approx([-1.5, -1.0, 0.3])
    assert (drift["from"], drift["to"]) == (32, 128)
    axes = Results({"axes": ["model.width", "optimizer.lr"], "optimum_axes": ["optimizer.lr"]}, pd.DataFrame(), {}, {})
    optima, along, _ = Report(axes, cells, moved, [], Noise(0.01, "known")).tables()
    assert [row[2] for row in optima[1]] == ["-6.00 (-6.50 .. -5.60)", "-7.00 (-7.30 .. -5.80)"]
    assert along[1] == [["all runs", "width 32 -> 128", "-1.00", "-1.50 .. +0.30"]]


# Rates that lie closer on the left, and more seeds there: slope and curvature of the fit have errors that go together.
UNEVEN = np.array([-7.5, -7.25, -7.0, -6.75, -6.5, -5.5])
SEEDS = np.array([6.0, 6, 4, 2, 1, 1])


def uneven(mirrored: bool, sd: float, at: float = -6.6) -> tuple[Points, Noise]:
    """An exact parabola on the uneven grid, or its mirror image about 2^-6.5."""
    octaves, seeds, at = (-13.0 - UNEVEN[::-1], SEEDS[::-1], -13.0 - at) if mirrored else (UNEVEN, SEEDS, at)
    loss = 2 + 0.5 * 0.04 * (octaves - at) ** 2
    grids = np.ones(len(octaves), int)
    return Points(2.0**octaves, loss, seeds, grids, np.zeros(len(octaves), bool)), Noise(sd, "known")


def by_roots(points: Points, sd: float) -> tuple[float, float, float]:
    """(vertex, low, high) in ln rate: where the slope of a parabola in the raw powers of x is within z of 0.

    numpy's own fit and covariance, in another basis than the product's; no formula of a ratio.
    """
    x = np.log(points.lr_P)
    (c, b, _), covariance = np.polyfit(x, points.loss_P, 2, w=np.sqrt(points.seeds_P) / sd, cov="unscaled")
    vertex = -b / (2 * c)

    def beyond(t: float) -> float:
        direction = np.array([2 * t, 1.0, 0.0])
        return abs(2 * c * t + b) - Z * math.sqrt(float(direction @ covariance @ direction))

    root: Any = brentq
    return vertex, root(beyond, vertex - 3, vertex), root(beyond, vertex, vertex + 3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_fieller_on_an_uneven_window_is_where_the_slope_may_be_zero(mirrored: bool) -> None:
    """The ratio's limits by the formula, against the slope's own interval; the control turns the covariance's sign."""
    points, noise = uneven(mirrored, 0.004)
    found = find_optimum(points, noise)
    assert found.points == 6 and found.lr
    vertex, low, high = by_roots(points, 0.004)
    assert math.log(found.lr) == pytest.approx(vertex, abs=1e-8)
    x = np.log(points.lr_P)
    rows_P3 = np.stack([np.ones_like(x), x - x.mean(), 0.5 * (x - x.mean()) ** 2], axis=1)
    covariance = np.linalg.inv((rows_P3 * points.seeds_P[:, None]).T @ rows_P3)[1:, 1:] * 0.004**2
    _, b, k = np.linalg.lstsq(rows_P3, points.loss_P, rcond=None)[0]
    ends = np.array(fieller(b, k, covariance, Z)) + x.mean()
    assert ends == pytest.approx([low, high], abs=1e-8)
    wrong = np.array(fieller(b, k, covariance * np.array([[1.0, -1.0], [-1.0, 1.0]]), Z)) + x.mean()
    assert (np.abs(wrong - ends) > 0.005).all()
    # A law takes half the width of that interval, widened on each side by .17 of the median spacing, a quarter octave.
    sides = [math.hypot(end - vertex, Z * 0.17 * 0.25 * math.log(2)) for end in (low, high)]
    assert found.vertex_sd == pytest.approx(sum(sides) / (2 * Z) / math.log(2), rel=1e-6)


@pytest.mark.parametrize("correlation", [-0.7, 0.7])
def test_fieller_holds_the_ratio_of_correlated_normals(correlation: float) -> None:
    """95 % of 4,000 draws, below as often as above; with the covariance's sign turned it is far off."""
    covariance = np.array([[0.02, correlation * 0.02], [correlation * 0.02, 0.02]])
    drawn = np.random.default_rng(1).multivariate_normal([0.6, 1.0], covariance, 4000)

    def missed(turn: float) -> tuple[float, float]:
        ends = np.array([fieller(b, k, covariance * [[1, turn], [turn, 1]], Z) for b, k in drawn.tolist()])
        return float((ends[:, 0] > -0.6).mean()), float((ends[:, 1] < -0.6).mean())

    kept = (drawn[:, 1] ** 2 > Z**2 * 0.02).all()
    assert kept
    assert missed(1.0) == pytest.approx((0.025, 0.025), abs=0.008)
    assert sum(missed(-1.0)) < 0.02 or sum(missed(-1.0)) > 0.1


def test_from_runs_to_the_drift_the_sides_stay_where_they_are() -> None:
    """Two widths on uneven grids that are mirror images: long sides down at one, up at the other."""
    rows = []
    for width, mirrored in ((32, False), (64, True)):
        points, _ = uneven(mirrored, 0.004)
        for lr, loss, seeds in zip(points.lr_P, points.loss_P, points.seeds_P, strict=True):
            for seed in range(int(seeds)):
                place = {"model.width": width, "parametrization.name": "mup", "seed_init": seed, "seed_data": seed}
                rows.append(place | {"status": "done", "optimizer.lr": lr, "loss": loss + 0.004 * (-1) ** seed})
    axes = ["model.width", "optimizer.lr"]
    cells, noise = read_cells(Results({"axes": axes, "optimum_axes": axes[1:]}, pd.DataFrame(rows), {}, {}))
    assert noise.sd == pytest.approx(0.004 * math.sqrt(18 / 14), rel=0.2)
    logs = [[math.log2(v or 0) for v in (c.optimum.low, c.optimum.lr, c.optimum.high)] for c in cells]
    (a_low, a, a_high), (b_low, b, b_high) = logs
    assert (
        abs(a_high - a - (a - a_low)) > 0.001 and abs(b_high - b - (b - b_low)) > 0.001
    )  # sides that can be told apart
    (drift,) = drifts(cells)
    assert drift.octaves == pytest.approx(b - a)
    assert drift.low == pytest.approx(b - a - math.hypot(b - b_low, a_high - a))
    assert drift.high == pytest.approx(b - a + math.hypot(b_high - b, a - a_low))


def test_axes_of_one_label_keep_their_own_names() -> None:
    """The JSON held the last `kind` alone, of a sweep over optimizers and schedules."""
    both = {"optimizer.kind": "adamw", "schedule.kind": "wsd", "model.width": 64}
    assert named(both) == {"optimizer.kind": "adamw", "schedule.kind": "wsd", "width": 64}
    assert named({"optimizer.kind": "adamw"}) == {"kind": "adamw"}  # the control
