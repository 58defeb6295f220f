"""Options of the loss law: raw residuals, envelopes, forms, clusters, seed noise and N*(C), as one types them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loss_data import TRUTH, assert_derivatives, at, grid, noisy
from scipy.optimize import least_squares

from analysis.loss.check import check
from analysis.loss.fit import fit_loss_law
from analysis.loss.form import FORMS
from analysis.loss.search import prepared
from analysis.loss.start import starts
from lab.check import InputError
from sweeps.cli import main

pytestmark = pytest.mark.host


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_raw_residuals(form: str) -> None:
    goal = prepared(noisy(0.01), 3e-3, form, None, None, 3.0, True)[1]
    theta_P = starts(goal)[0]
    assert_derivatives(goal, theta_P, np.ones((1, goal.shape.rows)))


def test_raw_least_squares_is_scipy_s() -> None:
    frame = noisy(0.01, seed=2)
    law = fit_loss_law(frame, raw=True, delta=math.inf, draws=0)
    n, d, y = (frame[name].to_numpy() for name in ("params", "tokens", "loss"))

    def left(theta: np.ndarray) -> np.ndarray:
        a, b, e, alpha, beta = theta
        return np.exp(e) + np.exp(a) * (n / 3e8) ** -alpha + np.exp(b) * (d / 1e10) ** -beta - y

    found = least_squares(left, [-0.6, -0.4, 0.5, 0.34, 0.28], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert law.objective == pytest.approx(found.cost, rel=1e-9)
    assert (law.E, law.alpha, law.beta) == pytest.approx((np.exp(found.x[2]), *found.x[3:]), rel=1e-4)
    # The relative objective has another optimum, and each is checked by its own.
    other = fit_loss_law(frame, delta=math.inf, draws=0)
    assert abs((other.alpha or 0) - (law.alpha or 0)) > 1e-3
    assert check(frame, law).converged and not check(frame, law, raw=False).converged


def test_raw_residuals_have_no_absolute_deviations() -> None:
    with pytest.raises(InputError, match="delta=0 is for relative residuals"):
        fit_loss_law(noisy(0.01), raw=True, delta=0.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of every size and token count, those of a size under one name."""
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    frame = pd.concat([noisy(0.004, 1), noisy(0.004, 2)])
    frame.assign(model=[f"m{params:.3g}" for params in frame["params"]]).to_csv(path, index=False)
    return path


def law_of(table: Path, tmp_path: Path, *words: str) -> dict[str, Any]:
    out = tmp_path / "law.json"
    assert main(["fit", str(table), "--law", "loss", "--draws", "20", "--out", str(out), *words]) == 0
    return json.loads(out.read_text())["loss"]["fit"]


@pytest.mark.slow
def test_objectives_forms_and_resampling_by_name(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = law_of(table, tmp_path)
    raw = law_of(table, tmp_path, "--objective", "raw")
    assert raw["raw"] and not plain["raw"] and raw["alpha"] != plain["alpha"]
    assert "raw residuals, delta 0.001" in capsys.readouterr().out
    lower = law_of(table, tmp_path, "--over", "10")
    assert lower["over"] == 10 and lower["E"] < plain["E"] * 1.05 and lower["alpha"] != plain["alpha"]
    assert "over-prediction x10" in capsys.readouterr().out
    tied = law_of(table, tmp_path, "--form", "tied")
    assert tied["alpha"] == tied["beta"]
    assert law_of(table, tmp_path, "--fixed-E", "1.69")["E"] == pytest.approx(1.69)
    assert law_of(table, tmp_path, "--cluster", "model")["resampling"] == "6 clusters of model"
    assert "intervals over resamples of 6 clusters of model" in capsys.readouterr().out
    assert law_of(table, tmp_path, "--seed-sd", "0.004")["resampling"] == "seed noise of 0.004 nats per token"


def test_the_best_size_of_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exact.csv"
    grid().to_csv(path, index=False, float_format="%.17g")
    assert main(["fit", str(path), "--law", "loss", "--draws", "5", "--flops", "1e21,1e22"]) == 0
    told = capsys.readouterr().out.splitlines()
    first = next(line for line in told if line.split()[:1] == ["1e+21"])
    # The least loss along 6 N D = 1e21, found by looking.
    sizes = np.geomspace(1e9, 1e11, 200001)
    best = sizes[int(at(sizes, 1e21 / 6 / sizes, TRUTH)["loss"].argmin())]
    assert float(first.split()[1]) == pytest.approx(best, rel=1e-3)
    assert float(first.split()[5]) == pytest.approx(1e21 / 6 / best, rel=1e-3)
    assert any("N* ~ C^0.452" in line for line in told)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--law", "loss", "--objective", "rawe"], "--objective rawe is not one of relative, raw"),
        (["--law", "loss", "--flops", "1e21,x"], "--flops x is not a number above 0"),
        (["--law", "loss", "--cluster", "name"], "column name is missing"),
        (["--law", "loss", "--over", "0"], "over=0.0 is not above 0"),
        (["--law", "loss", "--seed-sd", "-1"], "seed_sd=-1.0 is not above 0"),
        (["--law", "lr", "--seed-sd", "1"], "--seed-sd is about --law loss"),
        (["--law", "lr", "--flops", "1e21"], "--flops is about --law loss"),
    ],
)
def test_wrong_options_are_one_line(
    table: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    pd.read_csv(table).assign(lr=1e-3).to_csv(path, index=False)
    assert main(["fit", str(path), *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
