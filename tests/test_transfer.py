"""Slopes of the optimum with their verdicts, the regret of a small model's rate, and the cells they are made of."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import figure
from analysis.drift import Cell, drifts, read_cells
from analysis.noise import Noise
from analysis.optimum import Optimum, find_optimum
from analysis.regret import loss_at, regrets
from analysis.report import Report
from analysis.results import Results, load
from analysis.transfer import MOVES, TRANSFERS, Transfer, fit_line, judge, transfer_json, transfers
from lab.config import RunConfig
from sweeps import launch, table
from sweeps.sweep import Sweep, axis, chain, product, resolved

pytestmark = pytest.mark.host

SIZES = (32, 64, 128, 256)
FINE = np.arange(-10.0, -3.9, 0.5)
K = 0.05  # curvature of the planted parabolas, nats per squared octave


def parabola(octaves: np.ndarray, at: float, floor: float = 2.0) -> np.ndarray:
    return floor + 0.5 * K * (octaves - at) ** 2


def points(octaves: np.ndarray, losses: np.ndarray, seeds: int = 1, diverged: Sequence[int] = ()) -> pd.DataFrame:
    """What `analysis.optimum.curve` gives."""
    lost = [i in diverged for i in range(len(octaves))]
    return pd.DataFrame({"lr": 2.0**octaves, "loss": losses, "seeds": seeds, "grids": 1, "diverged": lost})


def cell(size: Any, found: Optimum, table: pd.DataFrame, **values: Any) -> Cell:
    return Cell({"model.width": size, **values}, "mup", 32, table, found, 0)


def fitted(size: Any, octaves: np.ndarray, losses: np.ndarray, noise: Noise, seeds: int = 1, **values: Any) -> Cell:
    table = points(octaves, losses, seeds)
    return cell(size, find_optimum(table, noise), table, **values)


def swept(slope: float, sd: float, seeds: int, rng: np.random.Generator, octaves: np.ndarray = FINE) -> list[Cell]:
    """One cell per size: a planted parabola with the noise of the mean over `seeds`; the sd is known."""
    cells = []
    for doublings, size in enumerate(SIZES):
        losses = parabola(octaves, -7.2 + slope * doublings) + rng.normal(0, sd / math.sqrt(seeds), len(octaves))
        cells.append(fitted(size, octaves, losses, Noise(sd, "known"), seeds))
    return cells


def known(log2_lrs: Sequence[float], noise_sd: float, floor_sd: float, seeds: int = 2) -> list[Cell]:
    """Cells of which only the optimum and its standard deviations are given."""
    empty = points(np.array([]), np.array([]))
    cells = []
    for size, at in zip(SIZES, log2_lrs, strict=False):
        half = 1.96 * math.hypot(noise_sd, floor_sd)
        optimum = Optimum(
            2**at, 2 ** (at - half), 2 ** (at + half), 2.0, "interior", K, None, 2**at, 2**at, seeds, 3, 0, ()
        )
        cells.append(cell(size, dataclasses.replace(optimum, noise_sd=noise_sd, floor_sd=floor_sd), empty))
    return cells


def only(cells: Sequence[Cell]) -> Transfer:
    (found,) = transfers(cells)
    return found


def test_the_parts_of_an_optimums_error_make_its_interval() -> None:
    table = points(FINE, parabola(FINE, -7.2), seeds=4)
    parts = {}
    for seeds in (1, 4, 16):
        found = find_optimum(table.assign(seeds=seeds), Noise(0.004, "known"))
        assert found.low and found.high and found.noise_sd and found.floor_sd
        assert math.hypot(found.noise_sd, found.floor_sd) == pytest.approx(
            math.log2(found.high / found.low) / 2 / 1.959964, rel=1e-6
        )
        assert found.floor_sd == pytest.approx(0.02 / 2, rel=1e-9)  # a fiftieth of a grid of half octaves
        parts[seeds] = found.noise_sd
    assert parts[4] == pytest.approx(parts[16] * 2, rel=0.01)
    assert find_optimum(table, Noise(0.004, "known")).window == (2.0**-8, 2.0**-6)


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "transfers"), (-1.0, "moves"), (1.0, "moves")])
def test_a_planted_slope_is_recovered(slope: float, verdict: str) -> None:
    octaves = np.arange(-13.0, -0.9, 0.5)
    found = only(swept(slope, 0.002, 3, np.random.default_rng(0), octaves))
    assert found.line
    assert found.line.low < slope < found.line.high
    assert found.line.slope == pytest.approx(slope, abs=0.05)
    assert found.line.log2_lr == pytest.approx(-7.2, abs=0.1)
    assert (found.verdict, found.seeds_needed, found.used, found.left_out) == (verdict, None, 4, ())


def test_the_fit_is_the_weighted_least_squares_of_numpy() -> None:
    rng = np.random.default_rng(3)
    x, sd = np.array([0.0, 1.0, 2.0, 3.5]), np.array([0.1, 0.3, 0.2, 0.1])
    y = -6 + 0.4 * x + rng.normal(0, 0.1 * sd)
    (slope, level), covariance = np.polyfit(x, y, 1, w=1 / sd, cov="unscaled")
    line = fit_line(x, y, sd)
    assert (line.slope, line.log2_lr) == pytest.approx((slope, level), rel=1e-9)
    assert line.high - line.slope == pytest.approx(1.6448536 * math.sqrt(covariance[0, 0]), rel=1e-6)
    assert (line.birge < 1, line.quantile) == (True, "normal")


def test_scatter_beyond_the_errors_widens_the_interval() -> None:
    """Birge: the standard error grows by the ratio, and the quantile is Student's with n - 2 degrees of freedom."""
    x, y, sd = np.arange(4.0), np.array([-7.0, -6.0, -8.0, -7.0]), np.full(4, 0.1)
    line = fit_line(x, y, sd)
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    assert line.birge == pytest.approx(math.sqrt(float(residuals @ residuals) / 0.01 / 2))
    error = 0.1 / math.sqrt(5)
    assert line.high - line.slope == pytest.approx(2.9199856 * error * line.birge, rel=1e-6)
    assert line.quantile == "Student's t (df 2)"
    found = only(known(y.tolist(), 0.06, 0.08))
    assert found.verdict == "undecided"
    assert "Birge ratio" in found.note
    assert "Student's t (df 2)" in found.note


@pytest.mark.parametrize("understated", [1.0, 4.0])
def test_intervals_of_the_slope_cover_the_truth(understated: float) -> None:
    """300 sweeps with errors of the stated size, and 4 times it, where only the Birge ratio saves the coverage."""
    rng, hits, plain = np.random.default_rng(4), 0, 0
    x, sd = np.arange(6.0), np.array([0.1, 0.1, 0.2, 0.1, 0.2, 0.1])
    for _ in range(300):
        line = fit_line(x, -7 - 0.3 * x + rng.normal(0, understated * sd), sd)
        hits += line.low <= -0.3 <= line.high
        weights = (x - np.average(x, weights=sd**-2)) / sd
        plain += abs(line.slope + 0.3) <= 1.645 / math.sqrt(float(weights @ weights))
    assert hits >= 0.85 * 300
    assert understated == 1 or plain < 0.5 * 300


def test_intervals_of_whole_sweeps_cover_the_truth() -> None:
    """From the losses on: four cells each, planted between the grid's rates."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        found = only(swept(-0.3, 0.006, 2, rng))
        assert found.line
        hits += found.line.low <= -0.3 <= found.line.high
    assert hits >= 0.85 * 200


def test_the_bounds_of_the_verdict() -> None:
    assert judge(-TRANSFERS, TRANSFERS) == "transfers"
    assert judge(-0.11, 0.0) == "undecided"
    assert judge(-0.9, -MOVES - 1e-9) == "moves"
    assert judge(MOVES + 1e-9, 2.0) == "moves"
    assert judge(-0.6, -0.4) == "undecided"
    assert judge(-1.0, 1.0) == "undecided"


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "transfers"), (0.03, "transfers"), (-0.65, "moves")])
def test_the_seeds_that_an_open_verdict_asks_for_decide_it(slope: float, verdict: str) -> None:
    noise_sd, floor_sd = 0.3, 0.05
    found = only(known([-7 + slope * i for i in range(4)], noise_sd, floor_sd, seeds=2))
    assert found.verdict == "undecided"
    assert found.seeds_needed
    assert f"{found.seeds_needed} seeds per rate" in found.note
    rng, hits = np.random.default_rng(6), {2: 0, found.seeds_needed: 0}
    for seeds in hits:
        noise = noise_sd * math.sqrt(2 / seeds)
        for _ in range(200):
            log2_lrs = [-7 + slope * i + rng.normal(0, noise) for i in range(4)]
            hits[seeds] += only(known(log2_lrs, noise, floor_sd, seeds)).verdict == verdict
    assert hits[2] < 0.3 * 200
    assert hits[found.seeds_needed] == pytest.approx(0.8 * 200, abs=20)  # 3.5 standard errors


def test_seeds_from_losses_decide() -> None:
    """The whole way: of eight noisy sweeps the open ones, and sweeps with the seeds that these ask for."""
    rng, finer = np.random.default_rng(7), np.arange(-10.0, -3.9, 0.25)
    asked = [only(swept(0.0, 0.01, 2, rng, finer)).seeds_needed for _ in range(8)]
    wanted = [seeds for seeds in asked if seeds]
    assert len(wanted) >= 4
    assert min(wanted) > 2
    verdicts = [only(swept(0.0, 0.01, seeds, rng, finer)).verdict for seeds in wanted for _ in range(10)]
    assert verdicts.count("transfers") >= 0.8 * len(verdicts)


def test_a_grid_too_coarse_cannot_be_mended_by_seeds() -> None:
    found = only(known([-7.0, -7.0, -7.0], noise_sd=0.1, floor_sd=0.17))
    assert (found.verdict, found.seeds_needed) == ("undecided", None)
    assert "a finer grid of rates is needed" in found.note


def test_an_estimate_between_the_bounds_is_named() -> None:
    found = only(known([-7.0, -7.3, -7.6, -7.9], noise_sd=0.01, floor_sd=0.01))
    assert (found.verdict, found.seeds_needed) == ("undecided", None)
    assert "lies between the bounds 0.1 and 0.5" in found.note


def edge(size: int) -> Cell:
    return fitted(size, FINE, parabola(FINE, -12.0), Noise(0.002, "known"))


def test_cells_without_an_optimum_are_left_out_and_named() -> None:
    cells = swept(0.0, 0.002, 3, np.random.default_rng(0))
    found = only([*cells[:3], edge(256)])
    assert found.line
    assert (found.used, found.left_out) == (3, ((256, "edge-low"),))
    assert "left out: width 256 (edge-low)" in found.note
    assert found.regrets[-1].percent is None
    assert found.regrets[-1].note == "no interior optimum (edge-low)"
    few = only([*cells[:2], edge(128), edge(256)])
    assert (few.line, few.verdict, few.used) == (None, "undecided", 2)
    assert "2 of 4 cells have an interior optimum" in few.note
    blind = only([edge(16), *cells])
    assert blind.line
    assert {regret.note for regret in blind.regrets} == {"the smallest size is edge-low"}
    assert all(regret.lr is None and regret.percent is None for regret in blind.regrets)


def test_two_sizes_have_a_regret_and_no_slope() -> None:
    found = only(swept(-1.0, 0.002, 3, np.random.default_rng(0))[:2])
    assert (found.line, found.verdict, found.note) == (None, None, "two sizes: a slope needs three")
    assert found.regrets[1].percent == pytest.approx(100 * 0.5 * K / 2.0, rel=0.2)


def test_sizes_that_are_not_positive_have_no_slope() -> None:
    cells = swept(0.0, 0.002, 3, np.random.default_rng(0))
    decays = [
        Cell({"optimizer.weight_decay": decay}, "mup", 32, c.points, c.optimum, 0)
        for decay, c in zip((0.0, 0.1, 1.0), cells, strict=False)
    ]
    found = only(decays)
    assert (found.line, found.verdict) == (None, None)
    assert "not positive" in found.note


def test_regret_of_exact_parabolas_is_the_closed_form() -> None:
    """Optima d octaves apart on one parabola lose K/2 d^2; inside the window there is nothing to interpolate."""
    noise = Noise(1e-4, "known")
    cells = [fitted(size, FINE, parabola(FINE, at), noise) for size, at in zip(SIZES, (-7.2, -7.4, -6.6), strict=False)]
    for regret, apart in zip(regrets(cells, "model.width"), (0.0, 0.2, 0.6), strict=True):
        assert regret.lr == pytest.approx(2**-7.2)
        assert regret.nats == pytest.approx(0.5 * K * apart**2, abs=1e-12)
        assert regret.percent == pytest.approx(100 * 0.5 * K * apart**2 / 2.0, abs=1e-9)
        assert (regret.optimum_loss, regret.note) == (pytest.approx(2.0), "parabola of the fit")


def test_outside_the_window_measured_means_are_interpolated() -> None:
    """A curve that leaves its parabola beyond the window: the measured points say so, the parabola would not."""
    losses = parabola(FINE, -7.0)
    losses[FINE > -5.4] += 0.1
    one = fitted(32, FINE, losses, Noise(1e-4, "known"))
    assert one.optimum.window
    assert one.optimum.window[1] < 2**-5.0
    for octave, expected in ((-5.0, losses[FINE == -5.0][0]), (-4.0, losses[-1]), (-10.0, losses[0])):
        assert loss_at(one, 2**octave) == (pytest.approx(expected, abs=1e-9), "between measured rates")
    between, _ = loss_at(one, 2**-4.75)
    assert between
    assert losses[FINE == -5.0][0] < between < losses[FINE == -4.5][0]  # monotone


def test_a_rate_outside_the_grid_has_no_regret() -> None:
    one = fitted(32, FINE, parabola(FINE, -7.0), Noise(1e-4, "known"))
    assert loss_at(one, 2**-10.1) == (None, "below the grid")
    assert loss_at(one, 2**-3.9) == (None, "above the grid")
    small = fitted(16, FINE + 6, parabola(FINE, -5.0), Noise(1e-4, "known"))
    last = regrets([small, one], "model.width")[1]
    assert (last.loss, last.percent, last.nats, last.note) == (None, None, None, "above the grid")
    assert last.lr and last.optimum_loss


def test_diverged_runs_next_to_the_rate() -> None:
    """In fact diverged: no number.  Judged diverged for a high but finite loss: its mean counts, and is told."""
    losses = parabola(FINE, -7.0)
    losses[-1], losses[-2] = math.nan, 9.0
    table = points(FINE, losses, diverged=(len(FINE) - 1, len(FINE) - 2))
    one = cell(32, find_optimum(table, Noise(1e-4, "known")), table)
    assert one.optimum.quality == "interior"
    assert loss_at(one, 2**-4.25) == (None, "diverged")
    assert loss_at(one, 2**-4.0) == (None, "diverged")
    assert loss_at(one, 2**-4.5) == (pytest.approx(9.0), "between measured rates, next to one judged diverged")
    value, note = loss_at(one, 2**-4.75)
    assert value
    assert losses[-3] < value < 9.0
    assert "judged diverged" in note


def frame(slopes: dict[str, float], sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    rows = []
    for name, slope in slopes.items():
        for doublings, width in enumerate(sizes):
            for octave in np.arange(-11.0, -3.9, 0.5):
                loss = float(parabola(np.array(octave), -6.2 + slope * doublings))
                run = {"optimizer.lr": 2**octave, "loss": loss, "status": "done", "seed_init": 0, "seed_data": 0}
                rows.append({"model.width": width, "parametrization.name": name} | run)
    return pd.DataFrame(rows)


def test_the_report_holds_the_transfers(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["model.width", "parametrization.name", "optimizer.lr"]
    results = Results({"axes": names, "optimum_axes": ["optimizer.lr"]}, frame({"sp": -1.0, "mup": 0.0}), {}, {})
    cells, noise = read_cells(results)
    report = Report(results, cells, drifts(cells), transfers(cells, noise), noise)
    found = report.summary()
    assert {"optimum_axis", "noise", "cells", "drift", "transfer"} == set(found)
    assert json.loads(json.dumps(found, allow_nan=False))["transfer"] == found["transfer"]
    sp, mup = found["transfer"]
    wanted = ("parametrization", "axis", "slope", "low", "high", "verdict", "note", "seeds_needed", "cells", "regret")
    assert set(wanted) <= set(sp)
    assert (sp["parametrization"], sp["axis"], sp["verdict"], sp["cells"]) == ("sp", "width", "moves", 4)
    assert (mup["parametrization"], mup["verdict"], mup["seeds_needed"]) == ("mup", "transfers", None)
    assert [set(regret) for regret in sp["regret"]] == [
        {"size", "lr", "loss", "optimum_loss", "percent", "nats", "note"}
    ] * 4
    assert [regret["size"] for regret in sp["regret"]] == list(SIZES)
    assert sp["regret"][3]["nats"] == pytest.approx(0.5 * K * 9, rel=1e-3)
    *_, (header, rows) = report.tables()
    assert len(header) == len(rows[0])
    assert rows[0][:3] == ["sp", "width", "-1.000"]
    assert rows[0][4:] == ["moves", "4/4", "11.25 % (0.2250 nat)"]
    assert report.notes() == []
    assert [one["by_regret"]["verdict"] for one in (sp, mup)] == ["loses", "keeps"]
    assert [bound["size"] for bound in sp["by_regret"]["bounds"]] == list(SIZES[1:])
    lost, kept = report.answers()
    assert lost.startswith("sp: the rate of width 32 loses: at least 10 %") and lost.endswith("slope: moves")
    assert kept.startswith("mup: the rate of width 32 keeps: at most 0.") and kept.endswith("95 %; slope: transfers")
    table.show(report)
    assert f"\n\n{lost}\n{kept}\n" in capsys.readouterr().out
    (plot,) = figure.optima(cells, "model.width", "optimizer.lr", report.transfers).axes
    dashed = [line for line in plot.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 2
    heights = np.log2(np.asarray(dashed[0].get_ydata(), dtype=float))
    assert heights == pytest.approx([-6.2, -9.2])


def test_transfer_json_of_two_sizes_has_no_slope() -> None:
    found = transfer_json(only(swept(-1.0, 0.002, 3, np.random.default_rng(0))[:2]))
    assert [found[key] for key in ("slope", "low", "high", "verdict", "birge")] == [None] * 5
    assert len(found["regret"]) == 2


def stored(base: RunConfig, points: list[dict[str, Any]], root: Path) -> Results:
    """A store as a launch leaves it before its first run."""
    sweep = Sweep(name="star", question="", cost="", expected="", base=base, points=points)
    launch._describe(sweep, resolved(sweep), root, {})
    return load(root)


def test_parts_of_a_chain_meet_in_the_cells_of_the_base(base: RunConfig, tmp_path: Path) -> None:
    """Part one leaves the depth to the base configuration, part two the width: both hold the base's cell."""
    rates = axis("optimizer.lr", 2.0**-7, 2.0**-6)
    points = chain(
        product(axis("model.width", 16, 32), rates),
        product(axis("model.depth", 2, 3), axis("seed", 0, 1), rates),
    )
    results = stored(base, points, tmp_path / "star")
    cells = {tuple(values.items()): len(rows) for values, rows in results.cells()}
    width, depth = "model.width", "model.depth"
    assert cells == {((width, 16), (depth, 2)): 4, ((width, 32), (depth, 2)): 2, ((width, 16), (depth, 3)): 4}
    read, _ = read_cells(results)
    assert {(d.axis, d.start, d.end) for d in drifts(read)} == {(width, 16, 32), (depth, 2, 3)}


def test_durations_that_a_point_leaves_to_the_base_are_filled_in(base: RunConfig, tmp_path: Path) -> None:
    """A resolved run keeps steps only: 12 steps of 64 tokens are the 800 tokens that another point asked for."""
    rates = axis("optimizer.lr", 2.0**-7, 2.0**-6)
    points = chain(
        product(axis("schedule.tokens", 800, 1600), axis("schedule.decay_fraction", 0.35), rates),
        product(axis("model.width", 32), rates),
    )
    results = stored(base, points, tmp_path / "tokens")
    names = ("schedule.tokens", "schedule.decay_fraction", "model.width")
    cells = [tuple(values[name] for name in names) for values, _ in results.cells()]
    assert cells == [(800, 0.35, 16), (1600, 0.35, 16), (800, 0.35, 32)]
    assert all(isinstance(tokens, int) for tokens, *_ in cells)


def test_a_value_that_the_configuration_lacks_is_none(base: RunConfig, tmp_path: Path) -> None:
    points = product(axis("optimizer.clip", 1.0, None), axis("optimizer.lr", 2.0**-7, 2.0**-6))
    results = stored(base, points, tmp_path / "clip")
    assert [values["optimizer.clip"] for values, _ in results.cells()] == [1.0, None]
    read, _ = read_cells(results)
    assert drifts(read) == transfers(read) == []
