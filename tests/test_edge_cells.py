"""Optima at an edge of their grid, from a table of runs to the written law: bounds, never points."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from analysis import fit_figure
from analysis import law as law_file
from analysis.calculator import Fit, fit
from analysis.edges import Edges
from analysis.power import censor, reml
from analysis.power.fit import fit_power_law
from analysis.prediction import find
from analysis.runs.source import load
from analysis.target import Targets, read
from lab.check import InputError
from sweeps.cli import main
from sweeps.suggest_parser import narrowed

pytestmark = pytest.mark.host

WAYS: tuple[Edges, ...] = ("drop", "censor")
RATES = 2.0 ** np.arange(-15, -5.9)


def curves(
    sizes: int = 5, budgets: int = 3, shift: float = 0.0, scatter: float = 0.0, rates: np.ndarray = RATES, seed: int = 0
) -> pd.DataFrame:
    """Runs without noise of lr* = 2^shift 60 N^-.5 D^.2 exp(scatter): one grid for all cells, ending among them."""
    rng, rows = np.random.default_rng(seed), []
    for n in range(sizes):
        for d in range(budgets):
            params, tokens = (1e7 * 4.0**n if n else 1e6), 1e9 * 4.0**d
            best = math.log2(60 * 2.0**shift * params**-0.5 * (tokens / 1e9) ** 0.2) - 0.7 + scatter * rng.normal()
            base = 1.7 + 400 * params**-0.34 + 410 * tokens**-0.28
            for lr in rates:
                rows.append((params, tokens, lr, base * (1 + 0.004 * (math.log2(lr) - best) ** 2)))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "loss"])


def written(frame: pd.DataFrame, folder: Path, *options: str) -> dict[str, Any]:
    """The law file that the command writes for a table."""
    source, out = folder / "runs.csv", folder / "law.json"
    frame.to_csv(source, index=False, float_format="%.17g")
    assert main(["fit", str(source), "--law", "lr", "--draws", "0", "--out", str(out), *options]) == 0
    return json.loads(out.read_text())


def test_the_grid_ends_among_the_cells() -> None:
    found = fit(load(curves()), "lr", draws=0, edges="drop")
    assert found.optima is not None
    assert found.optima.qualities == {"interior": 12, "edge-high": 3}


@pytest.mark.parametrize("way", WAYS)
def test_from_a_table_to_the_written_law(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three of fifteen cells at an edge.  As points, as 0.1.0 took them, they make N^-.31 D^.12 of N^-.5 D^.2."""
    told = written(curves(), tmp_path, "--edges", way)
    printed = capsys.readouterr().out
    assert told["lr"]["exponents"]["params"] == pytest.approx(-0.5, abs=0.02)
    assert told["lr"]["exponents"]["tokens"] == pytest.approx(0.2, abs=0.02)
    assert (told["lr"]["optima"], told["lr"]["bounds"], told["lr"]["edges"]) == (12, 3, way)
    assert "12 optima, 3 bounds" in told["lr"]["counts"]
    assert "12 optima, 3 bounds" in printed.splitlines()[0]
    assert main(["predict", "--law", str(tmp_path / "law.json"), "--params", "1e9", "--tokens", "4e9"]) == 0
    assert "12 optima, 3 bounds" in capsys.readouterr().out


def test_bounds_as_points_give_another_law() -> None:
    """What version 0.1.0 did: the control of the test above."""
    found = fit(load(curves()), "lr", draws=0, edges="drop")
    assert found.rows is not None
    wrong = fit_power_law(found.rows, edges="keep", draws=0, curved=False)
    assert wrong.cells == 15
    assert abs(wrong.exponents["params"] + 0.5) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_written_judged_suggested_and_trained_law_are_one(
    way: Edges, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`suggest` fits it, `train --law` reads it, and what is held out is predicted by the law that would be written of
    the other sizes alone."""
    frame = curves(sizes=5, shift=0.4, scatter=0.15)
    told = written(frame, tmp_path, "--edges", way, "--holdout")
    assert told["lr"]["bounds"] > 0
    assert f"one size left out at a time; {told['lr']['counts']}" in capsys.readouterr().out
    found = fit(load(frame), "lr", draws=0, edges=way)
    assert found.law.lr is not None
    assert found.law.lr.exponents == pytest.approx(told["lr"]["exponents"], abs=1e-12)
    suggested, trained = narrowed(load(frame), way).law.lr, find(str(tmp_path / "law.json"))
    assert suggested is not None and suggested.coefficients == found.law.lr.coefficients
    assert suggested.counts == found.law.lr.counts
    assert isinstance(trained, law_file.Law) and trained.lr is not None
    assert trained.lr.exponents == told["lr"]["exponents"]
    judged = found.judge(found.law.lr).cells
    size = float(frame["params"].unique()[2])
    rest = fit(load(frame[frame["params"] != size]), "lr", draws=0, edges=way).law.lr
    assert rest is not None
    here = judged[(judged["params"] == size) & (judged["method"] == "law")]
    assert len(here) == 3
    for row in here.to_dict("records"):
        assert rest.predict({"params": size, "tokens": row["tokens"]}).value == pytest.approx(row["predicted"], 1e-9)


def test_the_other_way_is_told_and_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = written(curves(), tmp_path, "--edges", "drop")
    other = next(one for one in told["other_estimators"] if one["estimator"] == "edges censor")
    assert other["exponents"]["params"] == pytest.approx(-0.5, abs=0.02)
    assert "edges censor" in capsys.readouterr().out
    told = written(curves(shift=-3.0), tmp_path, "--edges", "drop")
    assert told["lr"]["bounds"] == 0
    assert not any(one["estimator"].startswith("edges") for one in told["other_estimators"])


@pytest.mark.slow
def test_dropped_laws_of_published_runs(shared: Path) -> None:
    """A1 of the reference: as points OpenEuroLLM gave D^-.125 of 177 cells and Step Law D^.025 of 282."""
    openeurollm = load(shared / "laws" / "openeurollm_runs.csv", columns={"params": "N"}, batch_unit="sequences:4096")
    law = fit(openeurollm, "lr", batch_rule="fixed", edges="drop", draws=0).law.lr
    assert law is not None
    assert (law.cells, law.bounds) == (84, 93)
    assert law.exponents["tokens"] == pytest.approx(-0.196, abs=0.001)
    assert (law.between, law.within) == pytest.approx((0.028, 0.0), abs=0.001)
    both = fit(openeurollm, "lr+batch", edges="drop", draws=0).law.lr
    assert both is not None
    assert both.exponents == pytest.approx({"params": -0.383, "tokens": 0.100}, abs=0.001)
    step = load(shared / "laws" / "steplaw_train.csv", batch_unit="sequences:2048")
    law = fit(step, "lr", batch_rule="fixed", edges="drop", draws=0).law.lr
    assert law is not None
    assert (law.cells, law.bounds) == (256, 26)
    assert law.exponents == pytest.approx({"params": -0.574, "tokens": 0.041, "batch": 0.291}, abs=0.001)


@pytest.mark.parametrize("way", WAYS)
def test_two_optima_of_one_size_and_eight_bounds(
    way: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One interior size gives no exponent of N, and two optima no law with an exponent of D: no file is written."""
    source, out = shared.parent / "cases" / "laws" / "edges_are_fitted_as_points.csv", tmp_path / "law.json"
    assert main(["fit", str(source), "--law", "lr", "--draws", "20", "--edges", way, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not out.exists()
    assert "2 optima, 8 bounds" in error and "as many coefficients as cells" in error and "run more sizes" in error


@pytest.mark.parametrize(("shift", "bounds"), [(-14.0, 5), (9.0, 15)])
def test_bounds_alone_are_one_line(shift: float, bounds: int) -> None:
    runs = load(curves(shift=shift))
    for way in WAYS:
        with pytest.raises(InputError, match=rf"no cell of .* inside the grid of rates \({bounds} bounds\)"):
            fit(runs, "lr", draws=0, edges=way)


def cells(seed: int, share: float, sizes: int = 6, budgets: int = 4, between: float = 0.15) -> pd.DataFrame:
    """Optima of N^-.6 D^.25 with scatter, cut by one grid for all so that a share are bounds."""
    rng = np.random.default_rng(seed)
    size, budget = np.repeat(np.arange(sizes), budgets), np.tile(np.arange(budgets), sizes)
    y = -6.5 - 0.6 * math.log(2) * size + 0.25 * math.log(2) * budget + 0.12 * rng.normal(size=len(size))
    y += between * rng.normal(size=sizes)[size]
    half = np.quantile(np.abs(y - np.median(y)), 1 - share)
    low, high = np.median(y) - half, np.median(y) + half
    return pd.DataFrame(
        {
            "params": 1e8 * 2.0**size,
            "tokens": 1e9 * 2.0**budget,
            "lr": np.exp(np.clip(y, low, high)),
            "lr_variance": 0.02**2,
            "censored": np.where(y < low, "low", np.where(y > high, "high", "")),
        }
    )


@pytest.mark.slow
def test_bounds_take_the_selection_out() -> None:
    """Eight laws with half of their cells at an edge: dropped, exponents shrink; entered, they do not."""
    found: dict[Edges, list[float]] = {way: [] for way in WAYS}
    inside = []
    for seed in range(8):
        frame = cells(seed, 0.5)
        for way in WAYS:
            law = fit_power_law(frame, draws=0, curved=False, edges=way)
            found[way].append(law.exponents["params"] + 0.6)
            limits = law.interval("params")
            if way == "censor" and limits.low is not None and limits.high is not None:
                inside.append(limits.low <= -0.6 <= limits.high)
    dropped, entered = np.array(found["drop"]), np.array(found["censor"])
    assert dropped.mean() > 0.07
    assert abs(entered.mean()) < 0.04
    assert np.mean(inside) > 0.8


def tobit(frame: pd.DataFrame) -> np.ndarray:
    """The most likely (c, b_N, b_D) with a normal deviation of each size, by quadrature over it: another algorithm."""
    size = np.unique(frame["params"], return_inverse=True)[1]
    logs = np.log(frame[["params", "tokens"]].to_numpy(float))
    design = np.column_stack([np.ones(len(frame)), logs - logs.mean(axis=0)])
    y, side = np.log(frame["lr"].to_numpy(float)), frame["censored"].map({"": 0, "low": -1, "high": 1}).to_numpy()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def loss(values: np.ndarray) -> float:
        between, sd = np.exp(values[3]), np.hypot(np.exp(values[4]), 0.02)
        off = (y[:, None] - (design @ values[:3])[:, None] - between * nodes) / sd
        log = np.where(side[:, None] == 0, -0.5 * off**2 - np.log(sd), special.log_ndtr(-side[:, None] * off))
        per = np.stack([log[size == one].sum(axis=0) for one in range(size.max() + 1)])
        return -float(special.logsumexp(per + np.log(weights), axis=1).sum())

    start = np.array([y.mean(), -0.6, 0.25, math.log(0.15), math.log(0.12)])
    return optimize.minimize(loss, start, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-7}).x[:3]


def test_the_censored_law_is_near_the_most_likely_one() -> None:
    for seed in (0, 1):
        frame = cells(seed, 0.4, sizes=8)
        law = fit_power_law(frame, draws=0, curved=False, edges="censor")
        for name, wanted in zip(("params", "tokens"), tobit(frame)[1:], strict=True):
            assert law.exponents[name] == pytest.approx(float(wanted), abs=0.02)


def test_bounds_far_beyond_the_law_say_nothing() -> None:
    """An optimum above a hundredth of its rate: the law of the others."""
    frame = cells(3, 0.0)
    vague = frame.assign(censored=np.where(np.arange(len(frame)) % 4 == 1, "high", ""))
    vague["lr"] = np.where(vague["censored"] == "high", vague["lr"] / 100, vague["lr"])
    with_them = fit_power_law(vague, draws=0, curved=False, edges="censor")
    without = fit_power_law(vague, draws=0, curved=False, edges="drop")
    assert with_them.exponents == pytest.approx(without.exponents, abs=0.01)


def test_rows_may_come_in_any_order() -> None:
    frame = cells(1, 0.4)
    one = fit_power_law(frame, draws=0, curved=False, edges="censor")
    other = fit_power_law(frame.iloc[::-1], draws=0, curved=False, edges="censor")
    assert other.exponents == pytest.approx(one.exponents, abs=1e-6)


def test_completed_cells_lie_beyond_their_bounds_and_points_stay() -> None:
    frame = cells(2, 0.5)
    y, side = np.log(frame["lr"].to_numpy()), frame["censored"].map({"": 0, "low": -1, "high": 1}).to_numpy()
    logs = np.log(frame[["params", "tokens"]].to_numpy())
    design = np.column_stack([np.ones(len(y)), logs - logs.mean(axis=0)])
    group = np.unique(frame["params"], return_inverse=True)[1]
    rows = censor.completed(reml.Model(design, np.full(len(y), 4e-4), group), y, side)
    assert np.all(side * (rows - y) >= 0)
    assert np.all(rows[:, side == 0] == y[side == 0])
    assert np.all(rows[:, side != 0].std(axis=0) > 0)


def test_without_bounds_both_ways_are_one() -> None:
    frame = cells(4, 0.0)
    one, other = (fit_power_law(frame, draws=20, edges=way) for way in WAYS)
    assert one.coefficients == other.coefficients
    assert one.intervals == other.intervals


def test_the_joint_law_has_bounds_of_the_rate_only() -> None:
    """At an edge of rates nothing is known of the best batch: its law leaves the cell out."""
    rows = []
    for n in range(5):
        for d in range(3):
            lr, batch = -9.0 - n + 0.4 * d, 18.0 + d
            for x in np.arange(-12.5, -8.4, 0.5):
                for z in np.arange(15.5, 22.6, 1.0):
                    u, v = x - lr, z - batch
                    loss = 2.5 * (1 + 0.006 * u**2 + 0.004 * v**2 - 0.001 * u * v)
                    rows.append((1e7 * 4.0**n, 1e9 * 2.0**d, 2.0**x, 2.0**z, loss))
    frame = pd.DataFrame(rows, columns=["params", "tokens", "lr", "batch_tokens", "loss"])
    found = fit(load(frame), "lr+batch", edges="censor", draws=0).law
    assert found.lr is not None and found.batch is not None
    assert found.lr.bounds > 0
    assert found.batch.bounds == 0
    assert found.lr.cells == found.batch.cells
    assert found.lr.exponents["params"] == pytest.approx(-0.5, abs=0.02)


@pytest.mark.parametrize("value", ["left", 1, "true", 0.5])
def test_what_censored_may_be(value: object) -> None:
    frame = cells(0, 0.0).assign(censored=pd.Series([value] + [""] * 23, dtype=object))
    with pytest.raises(InputError, match="censored=.* is not understood"):
        read(frame)


def test_a_table_and_its_csv_are_the_same_rows(tmp_path: Path) -> None:
    frame = cells(0, 0.4)
    frame.to_csv(tmp_path / "cells.csv", index=False, float_format="%.17g")
    again: Targets = read(pd.read_csv(tmp_path / "cells.csv"))
    assert again == read(frame)
    assert len(again.bounds()) == int((frame["censored"] != "").sum()) > 0
    flags = read(frame.assign(censored=frame["censored"] != ""))
    assert len(flags.bounds()) == 0
    assert len(flags.points()) == len(again.points())


def test_pictures_draw_bounds_as_bounds() -> None:
    found: Fit = fit(load(curves()), "lr", draws=0, edges="drop")
    assert found.law.lr is not None and found.rows is not None and found.optima is not None
    marks = {one.label: len(one.residual) for one in fit_figure.marks(found.law.lr, found.rows)}
    assert marks == {"optima": 12, "optimum above": 3}
    figure = fit_figure.power(found.law.lr, found.rows)
    labels = {line.get_label() for line in figure.axes[0].get_lines()}
    assert {"optima", "optimum above"} <= labels
    assert len(fit_figure.cells(found.optima, load(curves()).frame).axes) >= 15


def old(told: dict[str, Any], **fit_changes: Any) -> dict[str, Any]:
    """A law as version 0.1.0 wrote it."""
    part = {name: value for name, value in told["lr"]["fit"].items() if name not in ("bounds", "edges")}
    return told | {"version": 1, "lr": told["lr"] | {"fit": part | {"schema": 1} | fit_changes}}


def test_a_law_of_the_first_version_is_read_where_it_had_no_edge(tmp_path: Path) -> None:
    told = written(curves(shift=-3.0), tmp_path)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old(told)))
    found = law_file.read(path).lr
    assert found is not None
    assert found.counts == "15 optima, 0 bounds"
    assert found.exponents == told["lr"]["exponents"]
    told = written(curves(), tmp_path, "--edges", "drop")
    path.write_text(json.dumps(old(told, cells=15)))
    with pytest.raises(InputError, match=r"for exact \(15 cells, 12 optima inside\): fit it again"):
        law_file.read(path)


def test_an_unknown_way_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves().to_csv(tmp_path / "runs.csv", index=False)
    assert main(["fit", str(tmp_path / "runs.csv"), "--law", "lr", "--edges", "censored"]) == 2
    told = capsys.readouterr().err
    assert "--edges censored is not one of drop, censor (did you mean censor?)" in told
    assert told.count("\n") == 1
