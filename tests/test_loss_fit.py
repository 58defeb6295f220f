"""The loss law's fit: published optima to their tolerances, exact recovery, and what has to be called unknown.

Golden numbers: fits of the 240 (or all 245) points that Epoch read back from the Chinchilla paper's figure (arXiv
2404.10102, epoch-research/analyzing-chinchilla), recomputed with exact gradients until many starts agreed, and of the
best runs of OpenEuroLLM's grids.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loss_data import TRUTH, at, best_runs, budgets, chinchilla, grid, noisy, surface_of, with_noise
from scipy.optimize import minimize

from analysis.loss.bootstrap import one_step, refit, resamples
from analysis.loss.check import check
from analysis.loss.fit import fit_loss_law
from analysis.loss.isoflop import isoflop
from analysis.loss.law import PARAMETERS, LossLaw, loss
from analysis.loss.newton import minimise as newton
from analysis.loss.profile import profiles_of
from analysis.loss.search import prepared, search
from analysis.loss.start import starts
from lab.check import InputError

pytestmark = pytest.mark.host

# Hoffmann et al., TeX source of arXiv 2203.15556: a, b, e, alpha, beta.
HOFFMANN = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)


def numbers(law: LossLaw) -> dict[str, float]:
    """The law's numbers by name, without those that its form lacks."""
    return {name: value for name, value in law.values().items() if value is not None}


def objective(frame: pd.DataFrame, theta: np.ndarray, delta: float = 1e-3) -> tuple[float, np.ndarray]:
    """Sum of Huber losses and its gradient in (a, b, e, alpha, beta), written apart from the package."""
    n, d, y = (np.log(frame[name].to_numpy()) for name in ("params", "tokens", "loss"))
    a, b, e, alpha, beta = theta
    parts = np.exp([a - alpha * n, b - beta * d, np.full_like(n, e)])
    share = parts / parts.sum(axis=0)
    residual = y - np.log(parts.sum(axis=0))
    psi = np.clip(residual, -delta, delta)
    value = np.where(np.abs(residual) < delta, residual**2 / 2, delta * (np.abs(residual) - delta / 2)).sum()
    slopes = [share[0], share[1], share[2], -share[0] * n, -share[1] * d]
    return float(value), -np.array([(psi * slope).sum() for slope in slopes])


def test_huber_optimum_of_240_rows(shared: Path) -> None:
    law = fit_loss_law(chinchilla(shared), draws=0)
    assert (law.rows, law.status, law.converged, law.flags) == (240, "ok", True, ())
    assert law.objective <= 1.0182740178e-3 + 1e-9
    assert law.objective == pytest.approx(1.0182740178e-3, rel=1e-10)
    values = law.values()
    assert values["A"] == pytest.approx(477.826, rel=5e-3)
    assert values["B"] == pytest.approx(2143.417, rel=1e-2)
    assert (values["E"], values["alpha"], values["beta"]) == pytest.approx((1.817218, 0.347310, 0.367172), rel=1e-4)
    assert law.params_exponent == pytest.approx(0.5139, abs=5e-5)
    assert law.agreeing >= 3 and law.condition < 1e4
    # The objective is the textbook one: the value elsewhere, and a gradient of 0.
    theta = np.array([math.log(law.A or 0), math.log(law.B or 0), math.log(law.E or 0), law.alpha, law.beta])
    value, gradient = objective(chinchilla(shared), theta)
    assert value == pytest.approx(law.objective, rel=1e-12)
    assert np.abs(gradient).max() < 1e-9


def test_numbers_of_the_published_notebook_are_an_optimum(shared: Path) -> None:
    printed = {"A": 477.8417, "B": 2143.8638, "E": 1.8172355, "alpha": 0.3473127, "beta": 0.3671826}
    verdict = check(chinchilla(shared), printed)
    assert verdict.converged, verdict.reasons
    assert verdict.objective == pytest.approx(1.0182740178e-3, rel=1e-6)
    # Rounded to three digits, as laws are quoted, they are none.
    rounded = {"A": 478.0, "B": 2140.0, "E": 1.82, "alpha": 0.347, "beta": 0.367}
    assert not check(chinchilla(shared), rounded).converged


LAD = {"A": 482.0053, "B": 2085.432, "E": 1.816864, "alpha": 0.347813, "beta": 0.365854}


def test_least_absolute_deviations(shared: Path) -> None:
    frame = chinchilla(shared)
    law = fit_loss_law(frame, delta=0.0, draws=0)
    assert (law.status, law.converged) == ("ok", True)
    assert law.values() == pytest.approx(LAD, rel=1e-4)
    assert law.values() == pytest.approx(LAD, rel=5e-6)  # the printed digits
    # An exact optimum passes through as many rows as it has numbers.
    residual = np.log(frame["loss"].to_numpy() / law.predict(frame["params"], frame["tokens"])[0])
    assert int((np.abs(residual) < 1e-12).sum()) == 5
    assert law.objective == pytest.approx(np.abs(residual).sum(), rel=1e-12)
    # The famous numbers are this optimum and not Huber's.
    assert not check(frame, LAD, 1e-3).converged
    assert check(frame, law).converged


@pytest.mark.parametrize(
    ("delta", "a", "b", "e", "alpha", "beta"),
    [
        (1e-4, 478.69, 2065.4, 1.81582, 0.34741, 0.36539),
        (1e-2, 538.75, 2905.6, 1.83808, 0.35442, 0.38154),
        (math.inf, 593.32, 4875.6, 1.86455, 0.36025, 0.40588),
        (10.0, 593.32, 4875.6, 1.86455, 0.36025, 0.40588),
    ],
)
def test_other_deltas(shared: Path, delta: float, a: float, b: float, e: float, alpha: float, beta: float) -> None:
    law = fit_loss_law(chinchilla(shared), delta=delta, draws=0)
    assert law.status == "ok"
    golden = {"A": a, "B": b, "E": e, "alpha": alpha, "beta": beta}
    assert law.values() == pytest.approx(golden, rel=1e-2)
    assert law.values() == pytest.approx(golden, rel=2e-5)  # the printed digits


def test_every_fit_reports_other_deltas(shared: Path) -> None:
    law = fit_loss_law(chinchilla(shared), draws=0)
    assert [one.delta for one in law.sensitivity] == [1e-4, 1e-2, math.inf]
    assert [one.A for one in law.sensitivity] == pytest.approx([478.69, 538.75, 593.32], rel=1e-4)


def test_all_245_rows(shared: Path) -> None:
    law = fit_loss_law(chinchilla(shared, rows=245), draws=0)
    assert law.objective == pytest.approx(1.8260105e-3, rel=1e-7)
    assert law.values() == pytest.approx(
        {"A": 495.73, "B": 12845.6, "E": 1.891338, "alpha": 0.349313, "beta": 0.453049}, rel=1e-5
    )


def test_a_mean_objective_stops_at_its_start_and_is_found_out(shared: Path) -> None:
    frame = chinchilla(shared)

    def mean(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(frame, theta)
        return value / len(frame), gradient / len(frame)

    end = minimize(mean, HOFFMANN, jac=True, method="L-BFGS-B")
    assert end.success and end.nit == 2
    found = dict(zip(("A", "B", "E"), np.exp(end.x[:3]).tolist(), strict=True))
    assert found == pytest.approx({"A": 406.40, "B": 410.73, "E": 1.6934}, rel=3e-5)
    verdict = check(frame, {**found, "alpha": end.x[3], "beta": end.x[4]})
    assert verdict.objective == pytest.approx(1.1718e-3, rel=1e-4)
    assert not verdict.converged
    assert verdict.reasons[0].startswith("not converged") and "15 % above 0.001018274," in verdict.reasons[0]
    # The sum over delta, tight tolerances: the same routine from the same start reaches the optimum.
    scaled = minimize(
        lambda theta: tuple(part / 1e-3 for part in objective(frame, theta)),
        HOFFMANN,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10000},
    )
    assert 1e-3 * scaled.fun == pytest.approx(1.0182740178e-3, rel=1e-6)


def test_the_best_of_72_bad_starts_is_found_out(shared: Path) -> None:
    # The published remark leaves E out; 1.794 is the best one for the other four, and gives the published objective.
    verdict = check(chinchilla(shared), {"A": 150.4, "B": 20593.0, "E": 1.79375, "alpha": 0.2771, "beta": 0.4771})
    assert verdict.objective == pytest.approx(1.2909e-3, rel=1e-4)
    assert not verdict.converged and verdict.lowest == pytest.approx(1.0182740178e-3, rel=1e-9)


def test_bootstrap_widths_of_240_rows(shared: Path) -> None:
    law = fit_loss_law(chinchilla(shared), draws=1000)
    assert len(law.draws) == 1000 and law.resampling == "240 rows"
    drawn = np.array(law.draws)
    published = [0.0257, 124.5, 1293.0, 0.0154, 0.0206]
    assert drawn.std(axis=0, ddof=1) == pytest.approx(published, rel=0.15)
    exponent = drawn[:, 4] / (drawn[:, 3] + drawn[:, 4])
    assert exponent.std() == pytest.approx(0.0200, rel=0.15)
    low, high = np.percentile(exponent, [10, 90])
    assert high - low == pytest.approx(0.051, rel=0.15)
    intervals = {
        "E": (1.769, 1.871),
        "A": (285, 744),
        "B": (1042, 5810),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, (low, high) in intervals.items():
        found = law.interval(name)
        assert found[1] - found[0] == pytest.approx(high - low, rel=0.15), name
        assert found == pytest.approx((low, high), rel=0.1), name


def test_extrapolation_beyond_1e21_flops(shared: Path) -> None:
    frame = chinchilla(shared)
    small, large = frame[frame["flops"] < 1e21], frame[frame["flops"] >= 1e21]
    assert (len(small), len(large)) == (217, 23)
    law = fit_loss_law(small, draws=0)
    values = law.values()
    assert values["A"] == pytest.approx(342.81, rel=1e-2) and values["B"] == pytest.approx(3820.1, rel=1e-2)
    assert (values["E"], values["alpha"], values["beta"]) == pytest.approx((1.820537, 0.327128, 0.396086), rel=1e-5)
    error = 100 * (law.predict(large["params"], large["tokens"])[0] / large["loss"].to_numpy() - 1)
    assert math.sqrt(float(np.mean(error**2))) == pytest.approx(1.25, abs=0.05)
    assert float(error.mean()) == pytest.approx(-0.02, abs=0.005)
    assert float(np.abs(error).max()) == pytest.approx(2.78, abs=0.005)


def test_openeurollm_law_and_its_largest_size(shared: Path) -> None:
    frame = best_runs(shared)
    law = fit_loss_law(frame[frame["params"] < 1.7e9], draws=400)
    # The drift of the errors below is misfit: quadratic terms explain 99 % of what is left about the law.
    assert law.rows == 45 and law.status == "ill-fitting" and law.converged
    golden = {"E": 1.48865, "A": 149.63, "B": 160.60, "alpha": 0.28124, "beta": 0.25933}
    assert law.values() == pytest.approx(golden, rel=2e-5)
    assert law.objective == pytest.approx(2.02196e-4, rel=3e-6)
    held = frame[frame["params"] > 1.7e9].sort_values("tokens")
    error = 100 * (law.predict(held["params"], held["tokens"])[0] / held["loss"].to_numpy() - 1)
    assert error == pytest.approx([-0.23, 0.08, 0.38, 0.72, 1.04, 1.31], abs=0.006)
    _, low, high = law.predict(held["params"], held["tokens"])
    assert ((low < held["loss"]) & (held["loss"] < high)).all()
    # Recomputed with 400 resamples: standard errors of E, alpha and beta.
    spread = np.array(law.draws)[:, [0, 3, 4]].std(axis=0)
    assert spread == pytest.approx([0.207, 0.049, 0.078], rel=0.15)


SYMMETRIC = {"E": 1.69, "A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}
STEEP = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.465, "beta": 0.155}


@pytest.mark.parametrize(
    ("truth", "decades", "slope", "found", "true", "bias"),
    [
        (SYMMETRIC, 0.60206, 0.5, -0.389076, -0.389076, 0.0),
        (SYMMETRIC, 2.40824, 0.5, -0.389076, -0.389076, 0.0),
        (TRUTH, 0.60206, 0.548387, -0.556779, -0.555357, -0.0033),
        (TRUTH, 2.40824, 0.548387, -0.578092, -0.555357, -0.051),
        (STEEP, 0.60206, 0.750000, -1.353126, -1.345791, -0.017),
        (STEEP, 2.40824, 0.750000, -1.459957, -1.345791, -0.23),
    ],
)
def test_parabolas_are_biased_and_the_surface_is_not(
    truth: dict[str, float], decades: float, slope: float, found: float, true: float, bias: float
) -> None:
    frame = budgets(truth, decades)
    line = isoflop(frame)
    assert (line.slope, line.intercept) == pytest.approx((slope, found), abs=1e-6)
    assert 10 ** (line.intercept - true) - 1 == pytest.approx(bias, rel=0.02, abs=1e-5)
    for delta in (1e-3, 0.0, math.inf):
        law = fit_loss_law(frame, delta=delta, draws=5)
        assert law.status == "ok", law.flags
        assert law.values() == pytest.approx(truth, rel=1e-8)
        assert law.draws == pytest.approx(np.tile(list(truth.values()), (5, 1)), rel=1e-8)
    tokens = np.log10([float(law.best_tokens(budget)[0]) for budget in (1e17, 1e21)])
    assert (tokens[1] - tokens[0]) / 4 == pytest.approx(slope, abs=1e-6)
    assert tokens[0] - 17 * (tokens[1] - tokens[0]) / 4 == pytest.approx(true, abs=1e-6)


def test_isoflop_wants_two_budgets_with_an_inner_optimum() -> None:
    with pytest.raises(InputError, match="1 budgets have an optimum"):
        isoflop(budgets(TRUTH, 1.0).iloc[:15])
    with pytest.raises(InputError, match="column loss is missing"):
        isoflop(budgets(TRUTH, 1.0)[["params", "tokens"]])


@pytest.mark.parametrize("form", ["tied", "kaplan", "tokens", "params"])
def test_other_forms_recover_their_truth(form: str) -> None:
    frame = grid()
    params, tokens = frame["params"].to_numpy(), frame["tokens"].to_numpy()
    truth = {"E": 1.7, "A": 300.0, "B": 500.0, "alpha": 0.3, "beta": 0.3}
    if form == "kaplan":
        truth = {"E": 0.0, "A": 8.8e13**0.076, "B": 5.4e13**0.095, "alpha": 0.076, "beta": 0.095}
    lacking = {"tokens": ("A", "alpha"), "params": ("B", "beta")}.get(form, ())
    truth = {name: value for name, value in truth.items() if name not in lacking}
    values_Z = np.array([truth.get(name, math.nan) for name in PARAMETERS])
    frame["loss"] = loss(form, values_Z, params, tokens)
    law = fit_loss_law(frame, form=form, draws=3)
    assert numbers(law) == pytest.approx(truth, rel=1e-8)
    assert law.converged
    assert check(frame, law).converged


def test_fixed_asymptote() -> None:
    frame = noisy(0.002)
    law, free = (fit_loss_law(frame, fixed_E=level, delta=math.inf, draws=200) for level in (1.69, None))
    assert law.E == 1.69 and law.fixed_E == 1.69
    assert law.interval("alpha")[1] - law.interval("alpha")[0] < free.interval("alpha")[1] - free.interval("alpha")[0]
    assert free.objective <= law.objective
    law = fit_loss_law(surface_of(grid(), E=0.0), fixed_E=0.0, draws=0)
    assert law.values() == pytest.approx({**TRUTH, "E": 0.0}, rel=1e-8)
    with pytest.raises(InputError, match=r"fixed_E=9.* is not below the smallest loss"):
        fit_loss_law(frame, fixed_E=9.0)
    with pytest.raises(InputError, match="has no E to fix"):
        fit_loss_law(frame, fixed_E=1.0, form="kaplan")


@pytest.mark.slow
def test_over_prediction_can_weigh_more() -> None:
    frame = noisy(0.01)

    def below(law: LossLaw) -> float:
        return float((frame["loss"].to_numpy() < law.predict(frame["params"], frame["tokens"])[0]).mean())

    for delta in (1e-3, 0.0):
        plain, lower = (fit_loss_law(frame, over=over, delta=delta, draws=0) for over in (1.0, 10.0))
        assert 0.3 < below(plain) < 0.7
        assert below(lower) < 0.2
        assert check(frame, lower).converged and not check(frame, plain, over=10.0).converged


def test_intervals_by_cluster_are_wider_where_runs_share_errors() -> None:
    frame = grid(sizes=12, horizons=10)
    shift = 0.01 * np.random.default_rng(3).standard_normal(12)
    frame["loss"] *= np.exp(np.repeat(shift, 10))
    frame = with_noise(frame, 0.001)
    by_case, by_size = (fit_loss_law(frame, cluster=cluster, draws=200) for cluster in (None, "params"))
    assert by_size.resampling == "12 clusters of params"
    width = [law.interval("alpha")[1] - law.interval("alpha")[0] for law in (by_case, by_size)]
    assert width[1] > 1.5 * width[0]
    few = fit_loss_law(frame[frame["params"] < 1e9], cluster="params", draws=20)
    assert any("clusters of params are few" in flag for flag in few.flags)


def test_seed_noise_spreads_as_linear_theory_says() -> None:
    frame, sd = grid(), 0.004
    law = fit_loss_law(frame, delta=math.inf, draws=1000, seed_sd=sd)
    assert law.resampling == "seed noise of 0.004 nats per token"
    centre_Z = np.array(list(TRUTH.values()))
    places = (frame["params"].to_numpy(), frame["tokens"].to_numpy())
    slopes = []
    for number, value in enumerate(centre_Z):
        step_Z = np.eye(5)[number] * 1e-5 * value
        ends = [np.log(loss("chinchilla", centre_Z + sign * step_Z, *places)) for sign in (1, -1)]
        slopes.append((ends[0] - ends[1]) / (2e-5 * value))
    pseudo = np.linalg.pinv(np.array(slopes).T)
    expected = np.sqrt(((pseudo * (sd / frame["loss"].to_numpy())) ** 2).sum(axis=1))
    assert np.array(law.draws).std(axis=0) == pytest.approx(expected, rel=0.1)


def test_draws_are_deterministic() -> None:
    frame = noisy(0.003)
    assert fit_loss_law(frame, draws=30) == fit_loss_law(frame, draws=30)
    assert fit_loss_law(frame, draws=30, seed=1).draws != fit_loss_law(frame, draws=30).draws


def test_profile_limits_agree_with_resampling() -> None:
    frame = with_noise(grid(12, 12), 0.003)
    law = fit_loss_law(frame, delta=math.inf, draws=400)
    curves = {one.name: one for one in profiles_of(frame, law)}
    for name, one in curves.items():
        assert law.profile[name] == pytest.approx((one.low, one.high), rel=1e-6)
    assert np.all(np.diff(curves["E"].value_V) > 0) and curves["E"].statistic_V.min() < 0.1
    for name in ("E", "alpha", "beta"):
        low, high = law.profile[name]
        assert low is not None and high is not None
        resampled = law.interval(name)
        assert high - low == pytest.approx(resampled[1] - resampled[0], rel=0.15)


def many(sd: float = 0.01, rows: int = 2500) -> pd.DataFrame:
    """More rows than are searched from every start and resampled by refits."""
    rng = np.random.default_rng(3)
    params = np.exp(rng.uniform(np.log(3e7), np.log(3e9), rows))
    tokens = np.exp(rng.uniform(np.log(1e9), np.log(1e11), rows))
    return with_noise(at(params, tokens), sd)


def test_many_rows_reach_the_optimum_by_way_of_a_part() -> None:
    """All 79 starts searched over all rows end no lower than the few that a part of the rows leaves."""
    data, goal = prepared(many(), 1e-3, "chinchilla", None, None, 1.0)
    found = search(goal)
    assert len(found.value_M) < 5 < len(starts(goal)) and data.clusters == 2500
    whole = newton(goal, starts(goal)[::4], np.ones((1, 2500)))
    assert found.value_M.min() == pytest.approx(whole.value_M.min(), rel=1e-9)
    assert (found.value_M < found.value_M.min() * (1 + 1e-6)).sum() >= 3


def test_one_step_resamples_spread_as_refits_do() -> None:
    data, goal = prepared(many(), 1e-3, "chinchilla", None, None, 1.0)
    best_1P = search(goal).theta_MP[:1]
    weight_RC = resamples(data.cluster_C, 60, np.random.default_rng(0))
    quick, slow = one_step(goal, best_1P, weight_RC), refit(goal, best_1P, weight_RC)
    assert quick.theta_RP.std(axis=0) == pytest.approx(slow.theta_RP.std(axis=0), rel=0.25)
    for place in range(5):
        assert np.corrcoef(quick.theta_RP[:, place], slow.theta_RP[:, place])[0, 1] > 0.9
    # A control: without weights that differ nothing moves.
    still = one_step(goal, best_1P, np.ones((2, 2500))).theta_RP
    assert still == pytest.approx(np.repeat(best_1P, 2, axis=0), abs=1e-6)
