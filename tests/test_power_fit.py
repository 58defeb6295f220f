"""Power laws fitted to published and to known optima."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from law_cells import near_optimal, openeurollm, repository_runs, steplaw_runs, surfaces
from scipy import stats

from analysis.power import reml
from analysis.power.fit import Weights, fit_power_law
from analysis.power.law import PowerLaw, mixture_quantile
from analysis.power.simulation import Setting, simulate
from lab.check import InputError

pytestmark = pytest.mark.host


def cells(sizes: int = 5, budgets: int = 4, between: float = 0.0, within: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Cells of `lr = 2 N^-.6 D^.2` and `best_batch = .5 D^.55`, with the same deviations."""
    rng = np.random.default_rng(seed)
    params, tokens = np.repeat(1e8 * 2.0 ** np.arange(sizes), budgets), np.tile(1e9 * 4.0 ** np.arange(budgets), sizes)
    off = np.exp(np.repeat(rng.normal(0, between, sizes), budgets) + rng.normal(0, within, sizes * budgets))
    lr, batch = 2.0 * params**-0.6 * tokens**0.2 * off, 0.5 * tokens**0.55 * off
    return pd.DataFrame({"params": params, "tokens": tokens, "lr": lr, "best_batch": batch})


def ends(law: PowerLaw, name: str, kind: str) -> tuple[float, float]:
    """Ends of one of the intervals of an exponent."""
    found = law.interval(name)
    pair = {"robust": (found.low, found.high), "percentile": found.percentile, "optimistic": found.optimistic}[kind]
    assert pair is not None and pair[0] is not None and pair[1] is not None
    return pair[0], pair[1]


@pytest.mark.parametrize("weights", ["mixed", "equal"])
def test_openeurollm_laws(shared: Path, weights: Weights) -> None:
    """Section 4.3 of the reference: 45 cells, every N with every D, so that all weights give one law."""
    frame = openeurollm(shared)
    lr = fit_power_law(frame, weights=weights)
    assert math.log(lr.coefficient) == pytest.approx(-0.990488, abs=1e-5)
    assert lr.coefficient == pytest.approx(0.371396, abs=1e-5)
    assert lr.exponents == {"params": pytest.approx(-0.417054, abs=1e-5), "tokens": pytest.approx(0.0862034, abs=1e-5)}
    assert lr.coefficients[0] == pytest.approx(-6.9405, abs=1e-4)
    assert ends(lr, "params", "optimistic") == pytest.approx((-0.485, -0.349), abs=1e-3)
    assert ends(lr, "tokens", "optimistic") == pytest.approx((0.026, 0.146), abs=1e-3)
    assert ends(lr, "params", "percentile") == pytest.approx((-0.73, -0.15), abs=0.05)
    assert ends(lr, "tokens", "percentile") == pytest.approx((0.01, 0.17), abs=0.05)
    batch = fit_power_law(frame, "batch", weights=weights)
    assert math.log(batch.coefficient / 4096) == pytest.approx(-9.220250, abs=1e-5)
    assert batch.coefficients[0] - math.log(4096) == pytest.approx(4.8961, abs=1e-4)
    assert batch.exponents["params"] == pytest.approx(0.145116, abs=1e-5)
    assert batch.exponents["tokens"] == pytest.approx(0.459977, abs=1e-5)
    assert ends(batch, "params", "optimistic") == pytest.approx((0.101, 0.190), abs=1e-3)
    assert ends(batch, "tokens", "optimistic") == pytest.approx((0.421, 0.499), abs=1e-3)
    assert ends(batch, "params", "percentile") == pytest.approx((-0.14, 0.28), abs=0.05)
    assert ends(batch, "tokens", "percentile") == pytest.approx((0.42, 0.52), abs=0.05)
    # The naive interval says that the batch depends on N; the honest one does not.
    assert ends(batch, "params", "optimistic")[0] > 0 > ends(batch, "params", "robust")[0]
    at = {"params": 1e9, "tokens": 1e11}
    assert lr.predict(at).value == pytest.approx(5.81553e-4, rel=1e-5)
    assert batch.predict(at).value / 4096 == pytest.approx(229.874, rel=1e-5)


def test_naive_standard_errors(shared: Path) -> None:
    frame = openeurollm(shared)
    for response, expected in (("lr", (0.034, 0.030)), ("batch", (0.022, 0.019))):
        law = fit_power_law(frame, response, weights="equal", draws=0)
        for name, sd in zip(("params", "tokens"), expected, strict=True):
            low, high = ends(law, name, "optimistic")
            assert (high - low) / 2 / stats.t.ppf(0.975, 42) == pytest.approx(sd, abs=6e-4)


def test_steplaw_near_optimal_rule(shared: Path) -> None:
    """Section 4.4: 231 rows, ordinary least squares."""
    rows = near_optimal(steplaw_runs(shared))
    assert len(rows) == 231
    lr = fit_power_law(rows, weights="equal")
    assert math.log(lr.coefficient) == pytest.approx(0.461514, abs=1e-5)
    assert lr.exponents == {"params": pytest.approx(-0.708148, abs=1e-5), "tokens": pytest.approx(0.308788, abs=1e-5)}
    batch = fit_power_law(rows, "batch", ["tokens"], weights="equal")
    assert math.log(batch.coefficient) == pytest.approx(-0.775343, abs=1e-5)
    assert batch.exponents == {"tokens": pytest.approx(0.581157, abs=1e-5)}
    both = fit_power_law(rows, "batch", weights="equal", draws=0)
    assert both.exponents == {"params": pytest.approx(-0.1558, abs=1e-4), "tokens": pytest.approx(0.5955, abs=1e-4)}
    at = {"params": 1073741824.0, "tokens": 1e11}
    assert lr.predict(at).value == pytest.approx(1.59178e-3, rel=1e-5)
    assert batch.predict(at).value / 2048 == pytest.approx(555.48, rel=1e-5)
    for law, name, naive, clustered in (
        (lr, "params", (-0.773, -0.651), (-0.84, -0.57)),
        (lr, "tokens", (0.269, 0.347), (0.24, 0.36)),
        (batch, "tokens", (0.544, 0.620), (0.50, 0.63)),
    ):
        # the naive one of the reference is a bootstrap of rows, this one Student's t
        assert ends(law, name, "optimistic") == pytest.approx(naive, abs=0.01)
        assert ends(law, name, "percentile") == pytest.approx(clustered, abs=0.05)


def test_steplaw_surfaces(shared: Path) -> None:
    """Section 4.4: the law of 40 surfaces; the one vertex outside its grid is left out and counted."""
    frame = surfaces(steplaw_runs(shared))
    law = fit_power_law(frame, weights="equal", draws=0)
    assert law.cells == 40 and law.sizes == 7
    assert law.notes == ("1 of 41 cells left out: their optimum is at an edge of the grid",)
    assert law.coefficient == pytest.approx(2.35572, abs=1e-5)
    assert law.exponents == {"params": pytest.approx(-0.668717, abs=1e-5), "tokens": pytest.approx(0.249199, abs=1e-5)}
    batch = fit_power_law(frame, "batch", ["tokens"], weights="equal", draws=0)
    assert batch.coefficient == pytest.approx(2.08470, abs=1e-5)
    assert batch.exponents == {"tokens": pytest.approx(0.513846, abs=1e-5)}
    both = fit_power_law(frame, "batch", weights="equal", draws=0)
    assert both.exponents == {"params": pytest.approx(-0.0905, abs=1e-4), "tokens": pytest.approx(0.5273, abs=1e-4)}
    # weights that know about sizes move the exponents by less than their intervals
    mixed = fit_power_law(frame, draws=0)
    for name, value in law.exponents.items():
        low, high = ends(mixed, name, "robust")
        assert low < value < high


def test_repository_surfaces(shared: Path) -> None:
    """Section 4.4, last line: the law of the 17 cells in Step Law's repository."""
    frame = surfaces(repository_runs(shared))
    law = fit_power_law(frame, weights="equal", draws=0)
    assert law.cells == 17
    assert law.coefficient == pytest.approx(10.5512, rel=1e-5)
    assert law.exponents == {"params": pytest.approx(-0.694756, abs=1e-5), "tokens": pytest.approx(0.208178, abs=1e-5)}
    batch = fit_power_law(frame, "batch", ["tokens"], weights="equal", draws=0)
    assert batch.coefficient == pytest.approx(0.545915, rel=1e-5)
    assert batch.exponents == {"tokens": pytest.approx(0.569084, abs=1e-5)}


def test_repository_row_bootstrap_means(shared: Path) -> None:
    """Section 5 of the published laws: means over 1,000 resamples of rows, within the error of such a mean."""
    rows = near_optimal(repository_runs(shared))
    assert len(rows) == 129
    rows = rows.assign(row=range(129))
    for response, regressors, expected in (
        ("lr", ["params", "tokens"], (4.36347, -0.76625, 0.19660)),
        ("batch", ["tokens"], (-1.55789, 0.61208)),
        ("batch", ["params", "tokens"], (3.52628, -0.27083, 0.62353)),
    ):
        law = fit_power_law(rows, response, regressors, cluster="row", weights="equal", draws=8000, seed=42)
        draws = np.array(law.draws)
        draws[:, 0] -= draws[:, 1:] @ np.array(law.centre)
        error = draws.std(axis=0) * math.sqrt(1 / 1000 + 1 / 8000)
        assert (np.abs(draws.mean(axis=0) - expected) < 3 * error).all()


@pytest.mark.parametrize("weights", ["mixed", "equal"])
def test_exact_law_is_recovered(weights: Weights) -> None:
    law = fit_power_law(cells(), weights=weights, draws=20)
    assert law.coefficient == pytest.approx(2.0, rel=1e-8)
    assert law.exponents == {"params": pytest.approx(-0.6, abs=1e-8), "tokens": pytest.approx(0.2, abs=1e-8)}
    found = law.predict({"params": 7e10, "tokens": 1e13})
    assert found.value == pytest.approx(2.0 * 7e10**-0.6 * 1e13**0.2, rel=1e-8)
    assert found.high / found.low < 1 + 1e-6


def test_exact_law_with_batch() -> None:
    rng = np.random.default_rng(0)
    frame = cells().assign(batch=lambda table: np.exp(rng.uniform(10, 15, len(table))))
    frame["lr"] *= frame["batch"] ** 0.5
    law = fit_power_law(frame, regressors=["params", "tokens", "batch"], draws=0)
    assert law.exponents == pytest.approx({"params": -0.6, "tokens": 0.2, "batch": 0.5}, abs=1e-8)


def test_units_change_nothing_but_the_constant() -> None:
    frame = cells(between=0.2, within=0.1)
    scaled = frame.assign(params=frame["params"] / 1e6, tokens=frame["tokens"] / 1e9, lr=frame["lr"] * 1000)
    one, other = fit_power_law(frame, draws=30), fit_power_law(scaled, draws=30)
    assert other.exponents == pytest.approx(one.exponents, abs=1e-9)
    assert (other.between, other.within) == pytest.approx((one.between, one.within), rel=1e-3)
    here, there = one.predict({"params": 1e10, "tokens": 1e12}), other.predict({"params": 1e4, "tokens": 1e3})
    for name in ("value", "low", "high", "mean_low", "mean_high"):
        assert getattr(there, name) == pytest.approx(1000 * getattr(here, name), rel=1e-6)
    assert np.array(other.draws)[:, 1:] == pytest.approx(np.array(one.draws)[:, 1:], abs=1e-6)


def test_intervals_scale_with_deviations() -> None:
    """Nothing in the intervals has a scale of its own: deviations three times as large, logs of widths too."""
    frame = cells(between=0.1, within=0.05)
    line = 2.0 * frame["params"] ** -0.6 * frame["tokens"] ** 0.2
    wide = frame.assign(lr=line * (frame["lr"] / line) ** 3)
    at = {"params": 1e10, "tokens": 1e12}
    one, other = fit_power_law(frame, draws=0).predict(at), fit_power_law(wide, draws=0).predict(at)
    assert math.log(other.high / other.low) == pytest.approx(3 * math.log(one.high / one.low), rel=2e-3)


def test_few_nodes_stand_for_the_grid() -> None:
    """Quantiles of the stored nodes agree with those of the whole grid to half a per cent of the width."""
    laws = simulate(Setting(5, 0.15, 0.1, balanced=False), 5, seed=2)
    design = laws.model.design_CP
    for y in laws.y_RC:
        frame = pd.DataFrame(
            {"params": np.exp(design[:, 1] + 18), "tokens": np.exp(design[:, 2] + 22), "lr": np.exp(y)}
        )
        law = fit_power_law(frame.assign(lr_variance=laws.model.variance_C), draws=0)
        held = reml.posterior(laws.model, y[None])
        x = np.array([1.0, 2.5, 1.0])
        variance = np.einsum("p,kpq,q->k", x, held.covariance_KPP, x) + held.between_K + held.within_K
        spot = {"params": math.exp(20.5), "tokens": math.exp(23)}
        for level in (0.95, 0.8):
            found = law.predict(spot, level)
            tail = (1 - level) / 2
            exact = [
                mixture_quantile(share, held.weight_RK[0], held.mean_RKP[0] @ x, np.sqrt(variance))
                for share in (tail, 1 - tail)
            ]
            ours = [math.log(found.low), math.log(found.high)]
            assert ours == pytest.approx(exact, abs=0.005 * (exact[1] - exact[0]))


def students_t(x: np.ndarray, y: np.ndarray, new: float) -> float:
    """Half-width of the 95 % prediction interval of a straight line, one value per size."""
    slope, level = np.polyfit(x, y, 1)
    free = len(x) - 2
    spread = 1 + 1 / len(x) + (new - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    return float(stats.t.ppf(0.975, free) * math.sqrt(((y - level - slope * x) ** 2).sum() / free * spread))


def test_prediction_tends_to_students_t() -> None:
    """With sizes' deviations only and a balanced design, it is Student's t with G - 2 degrees of freedom."""
    frame = cells(sizes=6, between=0.3, within=1e-4)
    means = frame.assign(log=np.log(frame["lr"])).groupby("params")["log"].mean()
    half = students_t(np.log(means.index.to_numpy(float)), means.to_numpy(), math.log(1e11))
    found = fit_power_law(frame, draws=0).predict({"params": 1e11, "tokens": 8e9})
    assert math.log(found.high / found.value) == pytest.approx(half, rel=0.01)


def test_grid_agrees_with_dense_matrices() -> None:
    """Likelihood, estimates and prior at a node, against the formulas with full matrices."""
    rng = np.random.default_rng(1)
    group = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4])
    design = np.column_stack([np.ones(12), group - 2.0, rng.normal(size=12)])
    variance, y = rng.uniform(0.01, 0.1, 12), rng.normal(size=12)
    same = (group[:, None] == group).astype(float)
    for equal in (False, True):
        model = reml.Model(design, variance, group, equal)
        values = []
        for between, within in ((0.3, 0.05), (0.0, 0.2)):
            full = between * same + np.diag(variance + within)
            inverse = np.linalg.inv(full)
            inner = design.T @ inverse @ design
            beta = np.linalg.solve(inner, design.T @ inverse @ y)
            residual = y - design @ beta
            determinants = np.linalg.slogdet(full)[1] + np.linalg.slogdet(inner)[1]
            values.append(-0.5 * (determinants + residual @ inverse @ residual))
        ours = [reml.restricted(model, y, 0.3, 0.05), reml.restricted(model, y, 0.0, 0.2)]
        assert ours[0] - ours[1] == pytest.approx(values[0] - values[1], abs=1e-10)


def test_curvature_is_seen_and_not_invented() -> None:
    frame = cells(sizes=8, between=0.03, within=0.03, seed=1)
    straight = fit_power_law(frame, draws=0).curvature
    assert straight is not None and straight.low < 0 < straight.high
    off = np.log(frame["params"]) - np.log(frame["params"]).mean()
    bent = fit_power_law(frame.assign(lr=frame["lr"] * np.exp(0.2 * off**2)), draws=0).curvature
    assert bent is not None and 0 < bent.low < 0.2 < bent.high


def test_one_wild_cell_moves_huber_less() -> None:
    frame = cells(within=0.03, seed=5)
    frame["lr"] *= np.where(np.arange(len(frame)) == 3, 10, 1)
    plain, robust = fit_power_law(frame, draws=0), fit_power_law(frame, huber=1.345, draws=0)
    assert abs(robust.exponents["tokens"] - 0.2) < 0.2 * abs(plain.exponents["tokens"] - 0.2)
    assert any(note.startswith("Huber") for note in robust.notes)


def test_noisy_cells_count_less() -> None:
    frame = cells(within=0.02, seed=6)
    first = np.arange(len(frame)) == 0
    frame = frame.assign(lr=frame["lr"] * np.where(first, 5, 1), lr_variance=np.where(first, 4.0, 1e-6))
    known, ignored = fit_power_law(frame, draws=0), fit_power_law(frame.drop(columns="lr_variance"), draws=0)
    assert abs(known.exponents["tokens"] - 0.2) < 0.1 * abs(ignored.exponents["tokens"] - 0.2)


class TestTooLittle:
    """Data that cannot tell: a right answer or one line, never a crash."""

    at = {"params": 1e9, "tokens": 1e10}

    def test_two_sizes(self) -> None:
        law = fit_power_law(cells(sizes=2, within=0.05), draws=50)
        assert law.exponents["params"] == pytest.approx(-0.6, abs=0.2)
        assert law.interval("params").low is None
        assert law.predict(self.at).high == math.inf
        assert any("2 sizes" in note for note in law.notes)

    def test_three_sizes_are_wide_and_finite(self) -> None:
        frame = cells(sizes=3, between=0.1, within=0.05)
        found, more = fit_power_law(frame).predict(self.at), fit_power_law(cells(8, 4, 0.1, 0.05)).predict(self.at)
        assert math.isfinite(found.high)
        assert math.log(found.high / found.low) > 3 * math.log(more.high / more.low)

    def test_one_size(self) -> None:
        law = fit_power_law(cells(sizes=1, budgets=6, within=0.05))
        assert law.regressors == ("tokens",)
        assert any("params has one value, 1e+08" in note for note in law.notes)
        assert any(note.startswith("one size") for note in law.notes)
        assert law.extrapolation(self.at)["params"] == pytest.approx(10)

    def test_one_tokens_per_parameter_line(self) -> None:
        frame = cells(sizes=6, budgets=1, within=0.05)
        frame["tokens"] = 20 * frame["params"]
        law = fit_power_law(frame)
        assert law.regressors == ("params",)
        assert any("cannot be told apart" in note for note in law.notes)

    def test_batch_survives_a_line_of_the_others(self) -> None:
        frame = cells(sizes=6, budgets=2, within=0.05).assign(batch=[1e5, 2e5, 4e5] * 4)
        frame["tokens"] = 20 * frame["params"]
        assert fit_power_law(frame, regressors=["params", "tokens", "batch"]).regressors == ("params", "batch")

    def test_nearly_one_line_is_noted(self) -> None:
        rng = np.random.default_rng(0)
        frame = cells(sizes=6, budgets=2, within=0.05)
        frame["tokens"] = 20 * frame["params"] * np.exp(rng.normal(0, 0.02, 12))
        law = fit_power_law(frame)
        assert law.condition > 30 and any("condition number" in note for note in law.notes)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_few_cells(self, count: int) -> None:
        law = fit_power_law(cells(sizes=3, budgets=2).iloc[[0, 3, 4][:count]])
        assert law.predict(self.at).high == math.inf
        assert law.notes

    def test_one_cell_per_size(self) -> None:
        frame = cells(sizes=6, budgets=1, within=0.1)
        law = fit_power_law(frame, regressors=["params"])
        half = students_t(np.log(frame["params"].to_numpy()), np.log(frame["lr"].to_numpy()), math.log(1e9))
        found = law.predict({"params": 1e9})
        assert math.log(found.high / found.value) == pytest.approx(half, rel=0.01)

    def test_missing_values_are_counted(self) -> None:
        frame = cells(within=0.05)
        frame.loc[[0, 1, 2], "lr"] = [math.nan, -1.0, math.inf]
        law = fit_power_law(frame, draws=0)
        assert law.cells == 17 and "3 cells left out: a value is missing or not above 0" in law.notes

    @pytest.mark.parametrize(
        ("change", "options", "said"),
        [
            ({"lr": math.nan}, {}, "no cell has an optimum"),
            ({"censored": True}, {}, "edge of the grid"),
            ({}, {"response": "loss"}, "response=loss"),
            ({}, {"regressors": ["params", "token"]}, r"no column token .*did you mean tokens"),
            ({}, {"regressors": ["params", "params"]}, "name one twice"),
            ({}, {"weights": "best"}, "weights=best"),
            ({}, {"huber": -1.0}, "huber=-1"),
        ],
    )
    def test_bad_input_is_one_line(self, change: dict, options: dict, said: str) -> None:
        with pytest.raises(InputError, match=said):
            fit_power_law(cells(within=0.05).assign(**change), **options)

    def test_unknown_variances_are_noted(self) -> None:
        frame = cells(within=0.05).assign(lr_variance=0.01)
        frame.loc[0, "lr_variance"] = math.nan
        assert any("1 cells have no lr_variance" in note for note in fit_power_law(frame, draws=0).notes)


@pytest.mark.slow
def test_many_rows_are_no_burden() -> None:
    rng = np.random.default_rng(0)
    frame = pd.concat([cells(sizes=7, budgets=40)] * 40, ignore_index=True)
    frame["lr"] *= np.exp(rng.normal(0, 0.3, len(frame)))
    law = fit_power_law(frame, weights="equal", draws=100)
    assert law.cells == 11200 and law.exponents["params"] == pytest.approx(-0.6, abs=0.02)


def test_same_seed_same_law() -> None:
    frame = cells(between=0.1, within=0.1)
    assert fit_power_law(frame, seed=7, draws=50) == fit_power_law(frame, seed=7, draws=50)
    assert fit_power_law(frame, seed=7, draws=50).draws != fit_power_law(frame, seed=8, draws=50).draws


def test_weights_of_nodes() -> None:
    law = fit_power_law(cells(between=0.1, within=0.1), draws=0)
    assert sum(node.weight for node in law.nodes) == pytest.approx(1, abs=1e-9)
    assert len(law.nodes) <= 48
