"""Optima of all cells and the rows of a law: published counts, estimators, edges, agreement with single curves."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.noise import Noise, pooled_noise, replicate_noise
from analysis.optimum import curve, find_optimum
from analysis.runs.node import cells_of, edge_of, nodes_of
from analysis.runs.optima import BOTH, find_optima, swept
from analysis.runs.source import Runs, load
from analysis.runs.target import Estimator, parse_estimator, targets
from lab.check import InputError

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def steplaw(shared: Path) -> Runs:
    return load(shared / "laws" / "steplaw_train.csv", batch_unit="sequences:2048")


@pytest.fixture(scope="module")
def openeurollm(shared: Path) -> Runs:
    return load(shared / "laws" / "openeurollm_runs.csv", batch_unit="sequences:4096")


@pytest.fixture(scope="module")
def repository(shared: Path) -> Runs:
    path = shared / "laws" / "steplaw_repo_dense.csv"
    return load(path, columns={"loss": "smooth loss"}, batch_unit="sequences:2048")


def ols(rows: pd.DataFrame, response: str, *regressors: str) -> np.ndarray:
    """Constant and exponents of ln response on the logs of the regressors."""
    design = np.column_stack([np.ones(len(rows)), *(np.log(rows[name].to_numpy(float)) for name in regressors)])
    return np.linalg.lstsq(design, np.log(rows[response].to_numpy(float)), rcond=None)[0]


def cells(at: float = -9.3, sizes: int = 2, batches: int = 5, seeds: int = 1, sd: float = 0.0) -> pd.DataFrame:
    """Cells whose optimum is at 2^at of rate and 2^18.4 of batch, rates from 2^-13 to 2^-7."""
    rng = np.random.default_rng(0)
    rows = []
    for size in range(sizes):
        for z in range(16, 16 + batches):
            for x in np.arange(-13, -6.9, 0.5):
                u, v = x - at, z - 18.4
                loss = 2.5 + 0.03 * u**2 + 0.02 * v**2 - 0.012 * u * v
                for _ in range(seeds):
                    rows.append((2.0**x, 2.0**z, 1e8 * 4**size, 1e10, loss + rng.normal(0, sd)))
    return pd.DataFrame(rows, columns=["lr", "batch", "params", "tokens", "loss"])


@pytest.mark.parametrize(
    ("threshold", "of_train", "of_repository"),
    [("0", 41, 17), ("0.05", 65, 32), (".1", 99, 47), ("0.25", 231, 129), ("0.5", 454, 260), ("1", 911, 537)],
)
def test_rows_near_the_optimum(
    steplaw: Runs, repository: Runs, threshold: str, of_train: int, of_repository: int
) -> None:
    estimator = f"near-optimal:{threshold}%"
    assert len(targets(steplaw, estimator).rows) == of_train
    assert len(targets(repository, estimator).rows) == of_repository


def test_the_law_of_the_rows_near_the_optimum(steplaw: Runs) -> None:
    found = targets(steplaw, "near-optimal:0.25%")
    rows = found.frame()
    assert ols(rows, "lr", "params", "tokens") == pytest.approx([0.461514, -0.708148, 0.308788], abs=1e-5)
    assert ols(rows, "best_batch", "tokens") == pytest.approx([-0.775343, 0.581157], abs=1e-5)
    assert found.estimator == "near-optimal:0.25%"
    assert (rows["lr_variance"] == 0).all()
    # Three of these runs belong to a cell at an edge; the rule's authors keep them, and so does the law.
    assert found.edges == "keep"
    assert len(found.points()) == 231
    assert len(found.bounds()) == 3


def test_the_estimator_changes_the_law(steplaw: Runs) -> None:
    """On the same 41 cells: exponents of D .249 by surfaces, .309 by the rows within 0.25 %, .379 by the best runs."""
    found = targets(steplaw)
    surfaces, best = found.frame(), targets(steplaw, "argmin").frame()
    law = ols(surfaces, "lr", "params", "tokens")
    assert (math.exp(law[0]), *law[1:]) == pytest.approx((2.35572, -0.668717, 0.249199), rel=1e-5)
    batch = ols(surfaces, "best_batch", "tokens")
    assert (math.exp(batch[0]), batch[1]) == pytest.approx((2.08470, 0.513846), rel=1e-5)
    assert ols(surfaces, "best_batch", "params", "tokens")[1:] == pytest.approx([-0.0905, 0.5273], abs=1e-4)
    assert len(surfaces) == 40
    assert found.left_out == {"edge": 1}
    assert len(best) == 41
    assert ols(best, "lr", "params", "tokens") == pytest.approx([math.log(1.625), -0.7874, 0.3791], abs=5e-4)


def test_the_law_of_openeurollm(openeurollm: Runs) -> None:
    rows = targets(openeurollm, window=None).frame()
    rows = rows[rows["params"] < 1.7e9]
    assert len(rows) == 45
    assert ols(rows, "lr", "params", "tokens") == pytest.approx([-0.990488, -0.417054, 0.0862034], abs=1e-5)
    batch = ols(rows.assign(best_batch=rows["best_batch"] / 4096), "best_batch", "params", "tokens")
    assert batch == pytest.approx([-9.220250, 0.145116, 0.459977], abs=1e-5)


def test_tokens_or_sequences_move_the_constant_only(steplaw: Runs) -> None:
    frame = steplaw.frame.assign(batch=steplaw.frame["batch"] / 2048)
    here, there = targets(steplaw).frame(), targets(frame).frame()
    first, second = ols(here, "best_batch", "params", "tokens"), ols(there, "best_batch", "params", "tokens")
    assert second[0] == pytest.approx(first[0] - math.log(2048), abs=1e-9)
    np.testing.assert_allclose(second[1:], first[1:], atol=1e-10)
    np.testing.assert_allclose(there["lr"], here["lr"], rtol=1e-10)
    np.testing.assert_allclose(there["lr_variance"], here["lr_variance"], rtol=1e-5)


def test_edges_of_openeurollm(openeurollm: Runs) -> None:
    """12 of 51 best runs lie on the edge of their grid, and 77 of the 199 curves of four rates or more."""
    edges = [edge_of(cell) for cell in cells_of(openeurollm.frame, joint=True)]
    assert len(edges) == 51
    assert sum(bool(edge.lr or edge.batch) for edge in edges) == 12
    rates = openeurollm.frame.groupby(["params", "tokens", "batch"])["lr"].nunique().to_numpy()
    found = find_optima(openeurollm)
    found = found[rates >= 4]
    assert len(found) == 199
    assert found["quality"].isin(["edge-low", "edge-high"]).sum() == 77


def test_edges_of_step_law(steplaw: Runs) -> None:
    edges = [edge_of(cell) for cell in cells_of(steplaw.frame, joint=True)]
    assert sum(bool(edge.lr or edge.batch) for edge in edges) == 2


def gemstone(shared: Path) -> pd.DataFrame:
    raw = pd.read_csv(shared / "laws" / "gemstone_preflight_mup.csv", header=0, names=["name", "wandb", "loss"])
    shapes = [re.findall(r"PyGemma-(\d+)x(\d+)_", name)[0] for name in raw["name"]]
    lr = [float(re.findall(r"lr(\d+e-\d+)", name)[0]) for name in raw["name"]]
    return raw.assign(lr=lr, params=[12.0 * int(w) ** 2 * int(d) for w, d in shapes], tokens=1e9, width=shapes)


def test_diverged_runs_of_published_curves(shared: Path) -> None:
    """Losses reach 59; five runs at low rates are as high as diverged ones, and are undertrained."""
    runs = load(gemstone(shared))
    found = {row["params"]: row for row in find_optima(runs).to_dict("records")}
    expected = {"256x80": 3.610e-3, "768x3": 6.506e-3, "1536x50": 6.532e-4, "3072x12": None}
    for shape, lr in expected.items():
        width, depth = map(int, shape.split("x"))
        row = found[12.0 * width**2 * depth]
        assert row["quality"] == ("interior" if lr else "too-few")
        if lr:
            assert row["lr"] == pytest.approx(lr, rel=1e-3)
        else:
            assert row["stable"] == 5e-4
            assert row["next_lrs"] == pytest.approx((2.5e-4, 7e-4), rel=0.02)
    nodes = nodes_of(runs.frame)
    low = nodes["lr"] <= 5e-4
    best = nodes.groupby("params")["loss"].transform("min")
    too_high = nodes["loss"] > best + np.maximum(0.3, 0.1 * best)
    assert (low & too_high).sum() == 5
    assert not nodes.loc[low, "diverged"].any()
    assert nodes.loc[nodes["loss"] > 6, "diverged"].all()


def test_tables_of_nodes_agree_with_single_curves(steplaw: Runs) -> None:
    """All curves at once against `analysis.optimum.curve` one by one."""
    frame = steplaw.frame
    found = find_optima(steplaw)
    noise = Noise(0.004, "assumed", measured=False)
    groups = list(frame.groupby(["params", "tokens", "batch"]))
    assert len(found) == len(groups)
    for (_, rows), row in zip(groups[::7], found.to_dict("records")[::7], strict=True):
        single = find_optimum(curve(rows, "lr_node"), noise)
        vertex = single.vertex_sd is not None  # a law takes no cell that is only known to lie between two rates
        assert row["quality"] == ("flat" if single.quality == "interior" and not vertex else single.quality)
        assert row["diverged"] == single.diverged + single.far
        assert row["next_lrs"] == pytest.approx(single.next_rates)
        if single.lr is not None and vertex:
            assert (row["lr"], row["lr_low"], row["lr_high"]) == pytest.approx((single.lr, single.low, single.high))


def test_the_noise_of_replicates_needs_no_names_of_seeds() -> None:
    frame = cells(batches=1, seeds=4, sd=0.01, sizes=6).assign(status="done")
    noise = replicate_noise(frame, ["params", "tokens", "batch"], "lr")
    assert noise.measured
    assert noise.sd == pytest.approx(0.01, rel=0.1)
    named = frame.assign(seed_init=np.arange(len(frame)) % 4, seed_data=0)
    pooled = pooled_noise([(rows, "lr") for _, rows in named.groupby("params")])
    assert pooled.sd == pytest.approx(noise.sd, rel=0.1)
    alone = replicate_noise(frame.drop_duplicates(["params", "lr"]), ["params"], "lr")
    assert not alone.measured


def test_what_was_swept() -> None:
    assert swept(cells()) == BOTH
    assert swept(cells(batches=2)) == ("lr",)
    assert swept(cells().drop(columns="batch")) == ("lr",)


def test_planted_optima_over_both_axes_and_at_each_batch() -> None:
    joint = find_optima(cells(), over=BOTH)
    assert joint["quality"].tolist() == ["interior"] * 2
    assert np.log2(joint["lr"].to_numpy(float)) == pytest.approx(-9.3, abs=1e-9)
    assert np.log2(joint["batch"].to_numpy(float)) == pytest.approx(18.4, abs=1e-9)
    assert joint["loss"].to_numpy() == pytest.approx(2.5, abs=1e-10)
    each = targets(cells(), over=("lr",)).frame()
    assert {"batch", "lr", "lr_variance"} <= set(each)
    assert "best_batch" not in each
    valley = -9.3 + 0.2 * (np.log2(each["batch"].to_numpy(float)) - 18.4)
    assert np.log2(each["lr"].to_numpy(float)) == pytest.approx(valley, abs=1e-9)
    slope = joint["valley_slope"].to_numpy()
    assert slope == pytest.approx(0.2, abs=1e-9)


def test_diverged_runs_do_not_move_a_surface() -> None:
    frame = cells()
    high = frame["lr"] >= 2.0**-7.5
    spoilt = frame.assign(loss=np.where(high, 9.0, frame["loss"]))
    lost = frame.assign(loss=np.where(high, np.nan, frame["loss"]))
    for one in (spoilt, lost):
        found = find_optima(one, over=BOTH, window=None)
        assert np.log2(found["lr"].to_numpy(float)) == pytest.approx(-9.3, abs=1e-8)
        assert (found["stable"] == 2.0**-8).all()
        assert (found["diverged"] == 10).all()
    undertrained = frame.assign(loss=np.where(frame["lr"] < 2.0**-12, 9.0, frame["loss"]))
    assert (find_optima(undertrained, over=BOTH)["diverged"] == 0).all()


@pytest.mark.parametrize(("at", "side"), [(-14.5, "low"), (-5.5, "high")])
def test_cells_on_an_edge_are_censored_dropped_or_kept(at: float, side: str) -> None:
    frame = pd.concat([cells(), cells(at=at, sizes=1).assign(params=5e9)], ignore_index=True)
    for over in (BOTH, ("lr",)):
        rows = targets(frame, over=over)
        bounds = rows.bounds()
        assert {row.at["params"] for row in bounds} == {5e9}
        levels = [row.lr for row in bounds if row.lr is not None]
        assert {level.censored for level in levels} == {side}
        # Of a parabola the optimum may still lie between the edge and halfway to its neighbour.
        bound = 2.0**-12.75 if side == "low" else 2.0**-7.25
        assert [level.value for level in levels] == pytest.approx([bound] * len(levels), rel=1e-3)
        assert all(row.batch is None for row in bounds)
        dropped = targets(frame, over=over, edges="drop")
        assert 5e9 not in {row.at["params"] for row in dropped.points()}
        assert len(dropped.bounds()) == (1 if over == BOTH else 5)
    found = targets(frame, "argmin")
    best = found.frame()
    assert best["censored"].tolist() == ["", "", side]
    assert best["lr"].iloc[2] == pytest.approx(2.0**-13 if side == "low" else 2.0**-7)
    assert math.isnan(best["best_batch"].iloc[2])
    assert len(targets(frame, "argmin", edges="keep").points()) == 3
    assert len(targets(frame, "argmin", edges="drop").points()) == len(found.points()) == 2
    near = targets(frame, "near-optimal:0.5%")
    assert near.points() == near.rows
    assert {row.at["params"] for row in near.bounds()} == {5e9}
    assert 5e9 not in {row.at["params"] for row in targets(frame, "near-optimal:0.5%", edges="drop").points()}


def test_a_run_is_no_bound_and_a_surface_keeps_none() -> None:
    with pytest.raises(InputError, match="a run is no bound: use edges=drop"):
        targets(cells(), "near-optimal:0.5%", edges="censor")
    with pytest.raises(InputError, match="no optimum to keep"):
        targets(cells(), edges="keep")


def test_no_bound_of_the_rate_where_the_batch_is_at_an_edge_too() -> None:
    """Another batch would move the rate: the cell has neither an optimum nor a bound."""
    frame = cells(at=-14.5, sizes=1)
    frame = pd.concat([cells(), frame[frame["batch"] <= 2.0**18].assign(params=5e9)], ignore_index=True)
    rows = targets(frame, over=BOTH)
    assert len(rows.bounds()) == 0
    assert sum(rows.left_out.values()) == 1


def test_an_optimum_below_diverged_rates_is_no_edge() -> None:
    frame = cells(at=-6.0, sizes=1)
    frame.loc[frame["lr"] > 2.0**-9, "loss"] = np.nan
    assert (
        edge_of(cells_of(frame.assign(status=np.where(frame["loss"].isna(), "diverged", "done")), joint=True)[0]).lr
        == ""
    )
    with pytest.raises(InputError, match="no cell has an optimum"):
        targets(frame)


def test_a_cell_without_a_surface_tells_its_best_batch() -> None:
    found = find_optima(cells(batches=2, sizes=1), over=BOTH).iloc[0]
    assert found["quality"] != "interior"
    assert math.isnan(found["lr"])
    assert found["slice_batch"] == pytest.approx(2.0**17)
    assert math.log2(found["slice_lr"]) == pytest.approx(-9.3 + 0.2 * (17 - 18.4), abs=1e-9)
    assert found["slice_quality"] == "interior"


def test_everything_diverged_is_no_law() -> None:
    frame = cells().assign(loss=np.nan)
    found = find_optima(frame, over=BOTH)
    assert found["quality"].tolist() == ["too-few"] * 2
    for estimator in ("surface", "argmin", "near-optimal:1%"):
        with pytest.raises(InputError, match="no cell has an optimum"):
            targets(frame, estimator)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("surface", Estimator("surface")),
        ("argmin", Estimator("argmin")),
        ("near-optimal:0.25%", Estimator("near-optimal", 0.0025)),
        ("near-optimal: 1%", Estimator("near-optimal", 0.01)),
    ],
)
def test_estimators(text: str, expected: Estimator) -> None:
    assert parse_estimator(text) == expected
    assert parse_estimator(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("surfaces", r"did you mean surface\?"),
        ("near-optimal", "needs a threshold in per cent, as in near-optimal:0.25%"),
        ("near-optimal:0.25", "needs a threshold in per cent"),
        ("near-optimal:-1%", "needs a threshold in per cent"),
        ("near-optimal:25%", "above 10 % of loss"),
        ("argmin:1%", "argmin takes no threshold"),
    ],
)
def test_estimators_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_estimator(text)


def test_what_optima_need() -> None:
    with pytest.raises(InputError, match="need the column batch"):
        find_optima(cells().drop(columns="batch"), over=BOTH)
    with pytest.raises(InputError, match=r"over \('lr',\) or"):
        find_optima(cells(), over=("batch",))
    with pytest.raises(InputError, match="need the column params"):
        find_optima(cells().drop(columns="params"))
    with pytest.raises(InputError, match="window=0"):
        find_optima(cells(), over=BOTH, window=0)
