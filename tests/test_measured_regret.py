"""Regrets in measured cells: known surfaces exactly, published tables to their digits, and what cannot be told."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.literature.publication import published
from analysis.literature.regret import discriminate, measured, profile, readings
from lab.check import InputError

pytestmark = pytest.mark.host

HELD_OUT = {"params": 1073741824, "tokens": 1e11}
SHAPE = {"flops_per_token": 6 * (4 * 2048 + 3 * 8192 + 2 * 2048) * 16 * 2048}
# N = 1.71e9: Hessians that are not positive definite, and a vertex a tenth of the lowest rate.
IMPOSSIBLE = {(1713504256, 1.2e11), (1713504256, 2e11), (1713504256, 3e11)}


def heldout(shared: Path) -> pd.DataFrame:
    table = pd.read_csv(shared / "laws" / "steplaw_heldout_1b_100b.csv")
    return pd.DataFrame({"lr": table["lr"], "batch": table["bsz"] * 2048, "loss": table["lm_loss"]})


def openeurollm(shared: Path) -> pd.DataFrame:
    table = pd.read_csv(shared / "laws" / "openeurollm_runs.csv")
    names = {"N": "params", "D": "tokens", "lr": "lr", "loss": "loss"}
    return table[list(names)].rename(columns=names).assign(batch=table["gbsz"] * 4096)


def steplaw(shared: Path) -> pd.DataFrame:
    table = pd.read_csv(shared / "laws" / "steplaw_train.csv")
    names = {"non_embedding_param_size": "params", "data_size": "tokens", "lr": "lr", "lm_loss": "loss"}
    return table[list(names)].rename(columns=names).assign(batch=table["bsz"] * 2048)


def plain_law(params: pd.Series, tokens: pd.Series, value: pd.Series) -> Callable[[float, float], float]:
    """Ordinary least squares of ln value on ln N and ln D, as a function of N and D."""
    design = np.stack([np.ones(len(value)), np.log(params), np.log(tokens)], axis=1)
    c, p, q = np.linalg.lstsq(design, np.log(value), rcond=None)[0]
    return lambda n, d: math.exp(c + p * math.log(n) + q * math.log(d))


def grid(batches: int = 5, floor: float = 2.0, tilt: float = -0.02) -> pd.DataFrame:
    """A quadratic bowl in log2, lowest at 2^-8.2 and 2^18.3, on a factor-2 grid."""
    rows = []
    for i in range(-11, -5):
        for j in range(17, 17 + batches):
            x, z = i + 8.2, j - 18.3
            rows.append({"lr": 2.0**i, "batch": 2.0**j, "loss": floor + 0.03 * x**2 + 0.01 * z**2 + tilt * x * z})
    return pd.DataFrame(rows)


def by_name(cell_readings: tuple) -> dict[str, float | None]:
    return {one.protocol: one.regret for one in cell_readings}


def test_a_quadratic_bowl_is_read_exactly() -> None:
    cell = measured(grid())
    x, z = 0.9, -0.6
    _, _, found = readings(cell, 2 ** (-8.2 + x), 2 ** (18.3 + z), window=math.inf)
    assert found.regret == pytest.approx((0.03 * x**2 + 0.01 * z**2 - 0.02 * x * z) / 2, abs=1e-12)
    assert found.minimum == pytest.approx(2.0, abs=1e-12)


def test_a_parabola_is_read_exactly_and_a_kink_is_not() -> None:
    lr = 2.0 ** np.arange(-12, -5)
    rows = pd.DataFrame({"lr": lr, "loss": 3 + 0.05 * (np.log2(lr) + 9.3) ** 2})
    near, line, found = readings(measured(rows), 2**-9.8, window=math.inf)
    assert found.regret == pytest.approx(0.05 * 0.25 / 3, abs=1e-12)
    best = 3 + 0.05 * 0.3**2
    assert near.regret == pytest.approx((3 + 0.05 * 0.7**2) / best - 1, abs=1e-12)  # the run at 2^-10
    assert line.regret == pytest.approx((3 + 0.05 * (0.8 * 0.7**2 + 0.2 * 0.3**2)) / best - 1, abs=1e-12)


def test_a_setting_on_a_node_costs_what_the_run_there_costs() -> None:
    rows = grid()
    cell = measured(rows)
    for _, row in rows.iterrows():
        near, line, _ = readings(cell, row["lr"], row["batch"])
        assert near.regret == line.regret == pytest.approx(row["loss"] / rows["loss"].min() - 1, abs=1e-12)


def test_linear_interpolation_of_a_plane_in_the_logs_is_exact() -> None:
    rows = grid()
    rows["loss"] = 2 + 0.1 * np.log(rows["lr"] / rows["lr"].min()) + 0.05 * np.log(rows["batch"] / rows["batch"].min())
    _, line, found = readings(measured(rows), 1.7e-3, 3.3e5)
    expected = 0.1 * math.log(1.7e-3 / rows["lr"].min()) + 0.05 * math.log(3.3e5 / rows["batch"].min())
    assert line.regret == pytest.approx(expected / 2, abs=1e-12)
    assert found.regret is None  # a plane has no minimum


@pytest.mark.parametrize("lr", [2.0**-11.2, 2.0**-5.9])
def test_nothing_is_read_beyond_the_grid(lr: float) -> None:
    near, line, found = readings(measured(grid()), lr, 2.0**18, window=math.inf)
    assert (line.regret, found.regret) == (None, None)
    assert line.note == found.note == "outside the grid"
    assert near.regret is not None
    assert near.note.startswith("outside the grid: the nearest run is 0.")


def test_a_vertex_beyond_the_grid_is_no_minimum() -> None:
    rows = grid()
    rows = rows[rows["lr"] >= 2.0**-8]
    found = readings(measured(rows), 2.0**-6.5, 2.0**18.5, window=math.inf)[2]
    assert found.regret is None
    assert "vertex" in found.note


def test_a_saddle_is_no_minimum() -> None:
    found = readings(measured(grid(tilt=-0.06)), 2.0**-8, 2.0**18, window=math.inf)[2]
    assert found.regret is None
    assert "has no minimum" in found.note


def test_diverged_runs_are_never_interpolated() -> None:
    rows = grid().assign(status="done")
    rows.loc[rows["lr"] > 2.0**-7.5, ["status", "loss"]] = ["diverged", math.nan]
    cell = measured(rows)
    near, line, _ = readings(cell, 2.0**-7.2, 2.0**18.3)
    assert (near.regret, near.note) == (None, "the nearest run diverged")
    assert (line.regret, line.note) == (None, "next to a diverged run")
    assert readings(cell, 2.0**-8.3, 2.0**18.3)[1].regret is not None


def test_one_rate_or_one_line_fixes_nothing() -> None:
    rows = pd.DataFrame({"lr": [1e-3] * 4, "batch": [1e5, 2e5, 4e5, 8e5], "loss": [3.0, 2.9, 2.95, 3.1]})
    near, line, found = readings(measured(rows), 1.1e-3, 2e5)
    assert near.regret == 0
    assert (line.regret, found.regret) == (None, None)
    assert "do not fix a quadratic" in found.note


def test_replicates_are_averaged_and_rounding_variants_share_a_node() -> None:
    lr = [3.45e-4, 3.453e-4, 6.905e-4, 6.906e-4, 1.381e-3, 1.381e-3]
    cell = measured(pd.DataFrame({"lr": lr, "loss": [2.9, 3.1, 2.9, 2.7, 3.0, 3.0]}))
    assert cell.loss_P == pytest.approx([3.0, 2.8, 3.0])
    assert cell.noise.source == "replicates, 3 degrees of freedom"
    assert cell.noise.sd == pytest.approx(math.sqrt((2 * 0.1**2 + 2 * 0.1**2) / 3))


def test_close_rates_do_not_chain_into_one_node() -> None:
    lr = np.geomspace(1e-4, 1e-2, 2000)  # every two neighbours are closer than a node is wide
    assert len(measured(pd.DataFrame({"lr": lr, "loss": 3 + np.log(lr / 1e-3) ** 2})).x_P) > 200


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ({"lr": [1e-3, 2e-3], "loss": [math.nan, math.inf]}, "no run of this cell has a finite loss"),
        ({"lr": [0.0, 2e-3], "loss": [3.0, 3.1]}, "lr 0 is not above 0"),
    ],
)
def test_impossible_cells_are_refused(rows: dict, line: str) -> None:
    with pytest.raises(InputError, match=line):
        measured(pd.DataFrame(rows))


@pytest.mark.parametrize(("lr", "batch"), [(0.0, None), (math.nan, 1e5), (1e-3, -1.0)])
def test_impossible_settings_are_refused(lr: float, batch: float | None) -> None:
    with pytest.raises(InputError):
        readings(measured(grid()), lr, batch)


def test_a_rate_alone_is_read_at_the_best_batch_of_each_rate() -> None:
    rows = grid()
    cell = measured(rows)
    near = readings(cell, 2.0**-9.1)[0]
    best_there = rows[rows["lr"] == 2.0**-9]["loss"].min()
    assert near.regret == pytest.approx(best_there / rows["loss"].min() - 1, abs=1e-12)
    assert profile(cell).best_setting[0] == pytest.approx(cell.best_setting[0])


# Per mille: log-log linear, nearest run, local quadratic within 1 %.
HELD_OUT_TABLE = {
    "step": (0.692, 0.000, 0.335),
    "step_unrounded": (0.721, 0.000, 0.325),
    "refit of 231 rows": (0.976, 0.000, 0.395),
    "refit by surfaces": (1.575, 0.000, 0.360),
    "deepseek": (9.18, 10.36, 10.20),
    "porian_table": (2.88, 2.36, 2.10),
    "openeurollm": (7.83, 9.87, 6.01),
}
# Law of 231 near-optimal rows and law of 40 surfaces, refitted from 2,702 runs: log of the coefficient, N, D; batch: D.
REFITS = {
    "refit of 231 rows": (0.461514, -0.708148, 0.308788, -0.775343, 0.581157),
    "refit by surfaces": (math.log(2.35572), -0.668717, 0.249199, math.log(2.08470), 0.513846),
}


def heldout_setting(name: str) -> tuple[float, float]:
    if name in REFITS:
        c, p, q, d, r = REFITS[name]
        n, tokens = math.log(HELD_OUT["params"]), math.log(HELD_OUT["tokens"])
        return math.exp(c + p * n + q * tokens), math.exp(d + r * tokens)
    law = published(name)
    return law.lr(**HELD_OUT, **SHAPE), law.batch(**HELD_OUT, **SHAPE)


@pytest.mark.parametrize("name", HELD_OUT_TABLE)
def test_regrets_in_the_held_out_cell(shared: Path, name: str) -> None:
    found = by_name(readings(measured(heldout(shared)), *heldout_setting(name)))
    for protocol, expected in zip(("linear", "nearest", "quadratic"), HELD_OUT_TABLE[name], strict=True):
        regret = found[protocol]
        assert regret is not None
        assert 1e3 * regret == pytest.approx(expected, abs=0.02), protocol


def test_a_misprinted_constant_shows_in_the_held_out_cell(shared: Path) -> None:
    """The published 9.08 per mille are of DeepSeek's law with its misprint; with 0.3118 they are 9.18."""
    law = published("deepseek")
    lr = law.lr(**HELD_OUT, **SHAPE) * 0.3188 / 0.3118
    regret = readings(measured(heldout(shared)), lr, law.batch(**HELD_OUT, **SHAPE))[1].regret
    assert regret is not None
    assert 1e3 * regret == pytest.approx(9.08, abs=0.02)


def test_the_rate_alone_in_the_held_out_cell(shared: Path) -> None:
    """Kaplan's rate at the best batch of the nearest rate."""
    near = readings(measured(heldout(shared)), published("kaplan").lr(**HELD_OUT))[0]
    assert near.regret is not None
    assert 1e3 * near.regret == pytest.approx(8.96, abs=0.02)


def test_the_held_out_cell_cannot_discriminate_close_laws(shared: Path) -> None:
    cell = measured(heldout(shared))
    assert cell.noise.sd == pytest.approx(0.00185, abs=2e-5)  # rmse .00171 over 40 rows, 34 degrees of freedom
    close, far = {}, {}
    for name in HELD_OUT_TABLE:
        regret = readings(cell, *heldout_setting(name))[1].regret
        assert regret is not None
        (far if name in ("deepseek", "openeurollm") else close)[name] = regret
    found = discriminate(cell, close)
    assert not found.can
    assert found.statement.startswith("this cell cannot discriminate laws: their regrets span 2.18 per mille")
    assert set(discriminate(cell, close | far).worse) == set(far)
    assert set(discriminate(cell, close | far).best) == set(close)


def test_the_law_of_the_near_optimal_runs(shared: Path) -> None:
    """Runs strictly within 0.25 % of their cell's minimum: 231 rows, and the setting of the held-out cell."""
    runs = steplaw(shared)
    best = runs.groupby(["params", "tokens"])["loss"].transform("min")
    near = runs[runs["loss"] / best - 1 < 0.0025]
    assert len(near) == 231
    lr = plain_law(near["params"], near["tokens"], near["lr"])(HELD_OUT["params"], HELD_OUT["tokens"])
    assert lr == pytest.approx(1.59178e-3, rel=1e-5)
    batch = math.exp(np.polyval(np.polyfit(np.log(near["tokens"]), np.log(near["batch"]), 1), math.log(1e11)))
    assert batch / 2048 == pytest.approx(555.48, rel=1e-4)
    found = by_name(readings(measured(heldout(shared)), lr, batch))
    per_cent = {"nearest": 0.0, "linear": 0.098, "quadratic": 0.040}
    assert {name: 100 * (regret or 0) for name, regret in found.items()} == pytest.approx(per_cent, abs=0.001)


def test_the_published_law_in_its_own_cells(shared: Path) -> None:
    """Per mille by linear interpolation in the 17 cells of the released file: mean 1.24, median 1.17, largest 2.20.

    Every square of a grid has two Delaunay diagonals that are equally good, and which is taken depends on rounding:
    mean 1.16 .. 1.26 and largest 2.20 or 2.44 by the order of points and the base of the logarithm.
    """
    table = pd.read_csv(shared / "laws" / "steplaw_repo_dense.csv")
    runs = pd.DataFrame({"lr": table["lr"], "batch": table["bs"] * 2048, "loss": table["smooth loss"]})
    law, found, below = published("step"), [], 0
    for place, rows in runs.groupby([table["N"], table["D"]]):
        params, tokens = np.array(place, float)
        cell, lr = measured(rows), law.lr(params=params, tokens=tokens)
        regret = readings(cell, lr, law.batch(tokens=tokens))[1].regret
        assert regret is not None
        found.append(1e3 * regret)
        below += lr < cell.best_setting[0]
    assert len(found) == 17
    assert np.median(found) == pytest.approx(1.17, abs=0.02)
    assert np.mean(found) == pytest.approx(1.24, abs=0.03)
    assert 2.18 < np.max(found) < 2.46
    assert below == 15


def test_the_order_of_runs_does_not_matter(shared: Path) -> None:
    runs = heldout(shared)
    setting = heldout_setting("step")
    shuffled = measured(runs.sample(frac=1, random_state=1))
    assert readings(shuffled, *setting) == readings(measured(runs), *setting)


@pytest.mark.parametrize(
    ("largest", "target", "expected"),
    [
        (1e9, 1713504256, (0, 0, 0.065, 0.068, 0, 0.303)),
        (6e8, 983138304, (0, 0.132, 0, 0, 0.220, 0.245, 0.127, 0.194, 0.031)),
        (3.1e8, 983138304, (0, 0.132, 0, 0, 0.220, 0.210, 0.163, 0.319, 0.031)),
    ],
)
def test_held_out_sizes_by_nearest_run(shared: Path, largest: float, target: int, expected: tuple) -> None:
    optima = pd.read_csv(shared / "laws" / "openeurollm_optima.csv")
    fitted = optima[optima["N"] < largest]
    rate = plain_law(fitted["N"], fitted["D"], fitted["lr"])
    batch = plain_law(fitted["N"], fitted["D"], fitted["gbsz"] * 4096)
    runs = openeurollm(shared)
    found = []
    for tokens, rows in runs[runs["params"] == target].groupby("tokens"):
        near = readings(measured(rows), rate(target, float(str(tokens))), batch(target, float(str(tokens))))[0]
        assert near.regret is not None
        found.append(100 * near.regret)
    assert found == pytest.approx(expected, abs=5e-4)


def test_laws_away_from_home(shared: Path) -> None:
    """Mean and largest joint regret in per cent by whole-grid surfaces of 48 cells, C = 6ND."""
    expected = {
        "openeurollm_rounded": (0.021, 0.106),
        "deepseek": (0.232, 0.829),
        "step": (0.461, 1.099),
        "porian": (0.911, 1.837),
    }
    found: dict[str, list[float]] = {name: [] for name in expected}
    inside = dict.fromkeys(expected, 0)
    for place, rows in openeurollm(shared).groupby(["params", "tokens"]):
        if place in IMPOSSIBLE:
            continue
        cell = measured(rows)
        for name in expected:
            inputs = dict(zip(("params", "tokens"), np.array(place, float), strict=True))
            setting = published(name).lr(**inputs), published(name).batch(**inputs)
            regret = readings(cell, *setting, window=math.inf, beyond=True)[2].regret
            assert regret is not None
            found[name].append(100 * regret)
            inside[name] += readings(cell, *setting, window=math.inf)[2].regret is not None
    for name, (mean, largest) in expected.items():
        assert len(found[name]) == 48
        assert np.mean(found[name]) == pytest.approx(mean, abs=6e-4)
        assert np.max(found[name]) == pytest.approx(largest, abs=6e-4)
    # Foreign laws often point outside the grid: without extrapolation their means would flatter them.
    assert inside == {"openeurollm_rounded": 48, "deepseek": 46, "step": 27, "porian": 23}


def test_impossible_surfaces_have_no_quadratic_reading(shared: Path) -> None:
    for place, rows in openeurollm(shared).groupby(["params", "tokens"]):
        lr, batch = measured(rows).best_setting
        found = readings(measured(rows), lr, batch, window=math.inf)[2]
        assert (found.regret is None) == (place in IMPOSSIBLE), place
