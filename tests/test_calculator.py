"""From a table to a law file and a prediction: planted laws, published data, and what is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from law_cases import BATCH, K_BATCH, K_LR, K_MIXED, LR, PARAMS, TOKENS, grid, least, power

import analysis
from analysis import law as law_file
from analysis.calculator import fit
from analysis.law import Penalty
from analysis.prediction import Prediction, predict
from analysis.runs.boundary import edge
from analysis.runs.node import cells_of, frame_of
from analysis.runs.source import load
from analysis.target import Level
from lab.check import InputError
from sweeps.cli import main

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    grid().to_csv(path, index=False, float_format="%.17g")
    return path


def test_a_planted_law_comes_back_through_the_file(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "law.json"
    assert main(["fit", str(table), "--law", "lr+batch", "--out", str(out), "--draws", "50"]) == 0
    told = json.loads(out.read_text())
    assert told["lr"]["exponents"] == pytest.approx({"params": LR[1], "tokens": LR[2]}, abs=1e-6)
    assert told["lr"]["coefficient"] == pytest.approx(LR[0], rel=1e-4)
    assert told["batch"]["exponents"] == pytest.approx({"params": BATCH[1], "tokens": BATCH[2]}, abs=1e-6)
    assert told["units"]["batch"] == "tokens per update"
    assert told["source"]["fingerprint"] == load(table).fingerprint
    found = analysis.predict(out, params=7e9, tokens=1.4e12)
    assert found.lr == pytest.approx(power(LR, 7e9, 1.4e12), rel=1e-4)
    assert found.batch_tokens == pytest.approx(power(BATCH, 7e9, 1.4e12), rel=1e-4)
    assert found.lr_low is not None
    assert found.lr_high is not None
    assert found.lr_low < power(LR, 7e9, 1.4e12) < found.lr_high
    assert found.beyond["tokens"] == pytest.approx(1.4e12 / TOKENS[-1])
    assert any("tokens" in line for line in found.warnings)


def test_a_law_file_is_read_back_exactly(table: Path) -> None:
    found = fit(load(table), "lr+batch", draws=20).law
    again = law_file.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)), "law.json")
    assert again.lr == found.lr
    assert again.batch == found.batch
    assert again.penalty == found.penalty
    assert again.to_dict() == found.to_dict()


def test_the_penalty_is_the_planted_curvature(table: Path) -> None:
    penalty = fit(load(table), "lr+batch", draws=0).law.penalty
    assert penalty is not None
    assert penalty.lr == pytest.approx(K_LR, rel=1e-6)
    assert penalty.batch == pytest.approx(K_BATCH, rel=1e-6)
    assert penalty.mixed == pytest.approx(K_MIXED, rel=1e-6)
    assert penalty.valley_slope == pytest.approx(-K_MIXED / K_LR)


def test_a_given_batch_moves_the_rate_along_the_valley_and_costs(table: Path) -> None:
    law = fit(load(table), "lr+batch", draws=0).law
    own = analysis.predict(law, params=2.4e8, tokens=8e9)
    assert own.batch_tokens is not None
    other = analysis.predict(law, params=2.4e8, tokens=8e9, batch=2 * own.batch_tokens)
    assert other.lr == pytest.approx(power(LR, 2.4e8, 8e9) * 2 ** (-K_MIXED / K_LR), rel=1e-4)
    assert own.regret is not None
    assert other.regret is not None
    valley = K_BATCH - K_MIXED**2 / K_LR
    assert other.regret - own.regret == pytest.approx(0.5 * valley * math.log(2) ** 2, rel=0.05)


def test_at_a_fixed_batch_the_exponent_of_tokens_is_another(table: Path) -> None:
    """Along the planted valley ln lr*(N, D, B) = ln lr* + v (ln B - ln B*): the exponent of D falls by v times 0.57."""
    law = fit(load(table), "lr", batch_rule="fixed", draws=0).law.lr
    assert law is not None
    slope = -K_MIXED / K_LR
    assert law.exponents == pytest.approx(
        {"params": LR[1], "tokens": LR[2] - slope * BATCH[2], "batch": slope}, abs=0.01
    )
    assert fit(load(table), "lr", draws=0).law.conditions["batch rule"] == "rate and batch optimised together"


def test_the_loss_law_takes_the_best_run_of_a_size(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "loss.json"
    assert main(["fit", str(table), "--law", "loss", "--out", str(out), "--draws", "20"]) == 0
    told = json.loads(out.read_text())["loss"]
    assert told["E"] == pytest.approx(1.7, abs=1e-4)
    assert told["alpha"] == pytest.approx(0.34, abs=1e-4)
    assert told["beta"] == pytest.approx(0.28, abs=1e-4)
    found = analysis.predict(out, params=7e9, tokens=1.4e12)
    assert found.loss == pytest.approx(least(7e9, 1.4e12), rel=1e-4)
    assert found.lr is None


def test_the_estimator_is_warned_of_where_it_matters(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(shared / "laws" / "steplaw_train.csv")
    assert main(["fit", source, "--law", "lr", "--batch-unit", "sequences:2048", "--draws", "0"]) == 0
    told = capsys.readouterr().out
    assert "near-optimal:0.25% puts the exponent of tokens outside the interval" in told
    assert "bsz" in told
    assert "26 learning rates" in told


def test_step_law_by_its_own_rule(shared: Path, tmp_path: Path) -> None:
    """Golden: 231 rows; published SDs 0.030, 0.019, 0.019."""
    source, out = str(shared / "laws" / "steplaw_train.csv"), tmp_path / "step.json"
    options = ["--batch-unit", "sequences:2048", "--estimator", "near-optimal:0.25%", "--draws", "50"]
    assert main(["fit", source, "--law", "lr+batch", *options, "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["lr"]["exponents"] == pytest.approx({"params": -0.708148, "tokens": 0.308788}, abs=1e-5)
    assert told["batch"]["exponents"] == pytest.approx({"tokens": 0.581157}, abs=1e-5)
    assert abs(told["lr"]["exponents"]["params"] + 0.713) < 0.030
    assert abs(told["lr"]["exponents"]["tokens"] - 0.307) < 0.019
    assert abs(told["batch"]["exponents"]["tokens"] - 0.571) < 0.019
    found = analysis.predict(out, params=1073741824, tokens=1e11)
    assert found.lr == pytest.approx(1.59178e-3, rel=1e-5)
    assert found.batch_tokens == pytest.approx(555.48 * 2048, rel=1e-5)


def test_openeurollm_by_all_runs(shared: Path, tmp_path: Path) -> None:
    """Golden: the published optima of all cells but the three that are no minima."""
    source, out = str(shared / "laws" / "openeurollm_runs.csv"), tmp_path / "law.json"
    options = ["--columns", "params=N", "--batch-unit", "sequences:4096", "--window", "all", "--draws", "0"]
    assert main(["fit", source, "--law", "lr+batch", *options, "--out", str(out)]) == 0
    published = pd.read_csv(shared / "laws" / "openeurollm_optima.csv").sort_values(["N", "D"])
    cells = pd.DataFrame(json.loads(out.read_text())["cells"]).sort_values(["params", "tokens"])
    rejected = cells[cells["lr"].isna()]
    assert set(rejected["tokens"]) == {1.2e11, 2e11, 3e11}
    assert set(rejected["params"]) == {1713504256}
    kept = cells["lr"].notna().to_numpy()
    for name, wanted in (("lr", published["lr"]), ("batch", 4096 * published["gbsz"]), ("loss", published["loss"])):
        np.testing.assert_allclose(cells[name].to_numpy(float)[kept], wanted.to_numpy()[kept], rtol=1e-6)


def test_the_smaller_file_does_not_give_the_published_law(shared: Path) -> None:
    frame = pd.read_csv(shared / "laws" / "steplaw_repo_dense.csv")
    options = {"columns": {"loss": "smooth loss", "batch": "bs"}, "batch_unit": "sequences:2048"}
    law = fit(load(frame, **options), "lr+batch", estimator="near-optimal:0.25%", draws=0).law
    assert law.lr is not None
    assert law.lr.exponents == pytest.approx({"params": -0.7662, "tokens": 0.1970}, abs=1e-4)
    assert abs(law.lr.exponents["tokens"] - 0.307) > 5 * 0.019


def test_seeds_of_noise_and_diverged_runs_leave_the_law_where_it_is() -> None:
    frame = grid(noise=0.003)
    high = frame["lr"] > frame.groupby(["params", "tokens"])["lr"].transform("max") / 1.2
    frame.loc[high, "loss"] = np.nan
    law = fit(load(frame), "lr+batch", draws=100).law
    assert law.lr is not None
    for name, true in (("params", LR[1]), ("tokens", LR[2])):
        limits = law.lr.interval(name)
        assert limits.low is not None
        assert limits.high is not None
        assert limits.low < true < limits.high
    at = {"params": PARAMS[2], "tokens": TOKENS[1]}
    found = predict(law, **at)
    assert found.edge is not None
    # Between the sixth rate, twice the best, and the seventh, which diverged.
    assert found.edge == pytest.approx(2**1.25 * power(LR, *at.values()), rel=0.1)
    assert found.diverge is not None and found.diverge < 1e-3


def moving(slope: float, seed: int = 0) -> pd.DataFrame:
    """Runs whose edge lies 1.5 above the optimum in the middle and moves with N; the optimum itself moves with D."""
    rng, rows = np.random.default_rng(seed), []
    for params in PARAMS:
        for tokens in TOKENS:
            lr = power((0.05, -0.1, 0.1), params, tokens)
            limit = 1.5 + slope * math.log(params / PARAMS[2]) + rng.normal(0, 0.1)
            for i in range(-3, 6):
                dx = i * math.log(2) / 2 + rng.uniform(-0.01, 0.01)
                rows.append((params, tokens, lr * math.exp(dx), 2 + 0.02 * dx**2 if dx < limit else math.nan))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "loss"])


@pytest.mark.parametrize(("slope", "low", "high"), [(0.0, 0.0, 0.01), (-0.6, 0.5, 1.0)])
def test_the_gap_to_the_edge_moves_with_the_size(slope: float, low: float, high: float) -> None:
    """At 16 times the largest size the edge lies 2^-1.7 below the rate where it moves; no curve has seen that."""
    law = fit(load(moving(slope)), "lr", draws=0).law
    at = {"params": 16 * PARAMS[-1], "tokens": TOKENS[1]}
    found = predict(law, **at)
    assert found.edge and found.diverge is not None
    gap = 1.5 + slope * math.log(at["params"] / PARAMS[2])
    assert math.log(found.edge / power((0.05, -0.1, 0.1), *at.values())) == pytest.approx(gap, abs=0.35)
    assert low <= found.diverge <= high


def test_the_edge_lies_between_the_last_stable_and_the_first_diverged_rate_of_a_curve() -> None:
    def level(losses: list[float]) -> Level | None:
        frame = pd.DataFrame({"params": 1e8, "tokens": 1e9, "lr": [0.01, 0.02, 0.04, 0.08][: len(losses)]})
        (cell,) = cells_of(frame_of(frame.assign(loss=losses)), joint=False)
        return edge(cell)

    nan = math.nan
    found = level([2.1, 2.0, 2.1, nan])
    assert found is not None and found.censored == ""
    assert (found.value, found.variance) == pytest.approx((0.04 * math.sqrt(2), math.log(2) ** 2 / 12))
    for losses, side, value in (([2.1, 2.0, 2.1, 2.2], "high", 0.08), ([nan, nan], "low", 0.01)):
        found = level(losses)
        assert found is not None and (found.censored, found.value) == (side, value)
    # A stable rate above a diverged one is luck.
    found = level([2.1, nan, 2.1, nan])
    assert found is not None and found.value == pytest.approx(math.sqrt(0.01 * 0.02))


def test_a_run_without_a_loss_is_no_diverged_one(tmp_path: Path) -> None:
    """An empty cell is a run that has not ended; nan and inf are results."""
    frame = grid(batches=1)
    frame["loss"] = frame["loss"].map("{:.6f}".format)
    top = frame.groupby(["params", "tokens"])["lr"].transform("max") == frame["lr"]
    for text, status in (("", None), ("nan", "diverged"), ("inf", "diverged")):
        path = tmp_path / f"runs_{text}.csv"
        frame.assign(loss=frame["loss"].where(~top, text)).to_csv(path, index=False)
        runs = load(path, batch_unit="tokens")
        lost = runs.frame[runs.frame["status"] == "diverged"]
        assert len(lost) == (int(top.sum()) if status else 0)
        assert len(runs.frame) == len(frame) - (0 if status else int(top.sum()))
        assert any("without a loss left out" in note for note in runs.notes) == (status is None)
        assert (fit(runs, "lr", draws=0).law.edge is None) == (status is None)
    (tmp_path / "none.csv").write_text("lr,params,tokens,loss\n0.1,1e8,1e9,\n0.2,1e8,1e9,\n")
    with pytest.raises(InputError, match="no row has a loss in 'loss'"):
        load(tmp_path / "none.csv")


def test_a_penalty_without_a_batch_has_no_valley() -> None:
    assert Penalty(0.02, None, None, 3).valley_slope is None


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"params": 1e9}, "needs tokens: add --tokens"),
        ({"params": 1e9, "tokens": -1.0}, "--tokens -1.0 is not a number above 0"),
        ({"params": 1e9, "tokens": 1e10, "width": 512.0}, "says nothing of width: leave --width out"),
    ],
)
def test_what_a_law_does_not_cover_is_one_line(table: Path, inputs: dict[str, float], words: str) -> None:
    law = fit(load(table), "lr+batch", draws=0).law
    with pytest.raises(InputError, match=words):
        analysis.predict(law, **inputs)


def test_one_token_count_covers_no_other() -> None:
    frame = grid()
    law = fit(load(frame[frame["tokens"] == TOKENS[0]]), "lr", draws=0).law
    assert analysis.predict(law, params=1e9).lr == pytest.approx(power(LR, 1e9, TOKENS[0]), rel=1e-3)
    assert analysis.predict(law, params=1e9, tokens=TOKENS[0]).lr is not None
    with pytest.raises(InputError, match="had tokens=2e\\+09, so it does not cover 1e\\+11"):
        analysis.predict(law, params=1e9, tokens=1e11)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "rate"], "--law rate is not one of"),
        (["--law", "lr", "--columns", "lr"], "names no column"),
        (["--law", "lr", "--columns", "rate=lr"], "--columns rate is not one of"),
        (["--law", "lr", "--estimator", "surfaces"], "did you mean surface"),
        (["--law", "lr", "--where", "a"], "has no value"),
        (["--law", "lr", "--window", "2"], "--window 2 is neither all nor"),
        (["--law", "batch", "--batch-rule", "fixed"], "leave --batch-rule fixed out"),
        (["--law", "lr", "--out", "/no/such/folder/law.json"], "does not exist"),
    ],
)
def test_wrong_options_are_one_line(
    table: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(table), *arguments]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{}", '{"format": "lr-scaling-lab law", "version": 9}', "[1]"])
def test_what_is_no_law_file_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "law.json"
    path.write_text(text)
    assert main(["predict", "--law", str(path), "--params", "1e9", "--tokens", "1e10"]) == 2
    assert str(path) in capsys.readouterr().err


def test_the_law_is_judged_on_sizes_left_out(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(table), "--law", "lr+batch", "--draws", "0", "--holdout"]) == 0
    told = capsys.readouterr().out.split("one size left out")[1].splitlines()[1:]
    assert [line.split()[0] for line in told] == [*("lr", "law", "iid", "iid", "nearest", "constant")] + [
        *("batch", "law", "iid", "iid", "nearest", "constant")
    ]
    assert float(told[1].split()[1]) < 1e-3  # an exact law is predicted exactly


@pytest.mark.slow
def test_pictures(table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    assert main(["fit", str(table), "--law", "lr+batch", "--draws", "0", "--pictures", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"cells.png", "law_lr.png", "law_batch.png", "residuals_lr.png", "residuals_batch.png"}
    assert main(["fit", str(table), "--law", "loss", "--draws", "20", "--pictures", str(folder)]) == 0
    assert {"loss_residuals.png", "loss_profile.png"} <= {path.name for path in folder.iterdir()}


def test_a_published_law_answers_and_asks_for_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--law", "step", "--params", "7e9", "--tokens", "1.4e12", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lr"] == pytest.approx(9.16557e-4, rel=1e-5)
    assert told["batch_tokens"] == pytest.approx(4_998_815, rel=1e-5)
    assert told["lr_low"] is None
    assert main(["predict", "--law", "marin_muonh", "--tokens", "1e11", "--batch", "1e6"]) == 2
    assert "--width" in capsys.readouterr().err


def test_a_prediction_starts_without_the_heavy_libraries(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "law.json"
    assert main(["fit", str(table), "--law", "lr", "--out", str(out), "--draws", "0"]) == 0
    script = (
        "import sys; from sweeps.cli import main; "
        f"main(['predict', '--law', {str(out)!r}, '--params', '1e9', '--tokens', '1e10']); "
        "assert not {'jax', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1], capture_output=True)


def test_the_functions_of_the_package() -> None:
    assert set(analysis.__all__) == {
        "find_optima",
        "fit",
        "fit_loss_law",
        "fit_power_law",
        "load",
        "predict",
        "published",
    }
    found = analysis.predict(analysis.published("step"), params=7e9, tokens=1.4e12)
    assert isinstance(found, Prediction)
    runs = analysis.load(grid())
    optima = analysis.find_optima(runs, over=("lr", "batch"))
    assert isinstance(optima, pd.DataFrame)
    law = analysis.fit_power_law(optima, "lr", ("params", "tokens"), draws=0)
    assert law.exponents == pytest.approx({"params": LR[1], "tokens": LR[2]}, abs=1e-6)
    with pytest.raises(AttributeError):
        _ = analysis.nothing  # pyright: ignore[reportAttributeAccessIssue]
