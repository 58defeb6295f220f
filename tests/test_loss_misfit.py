"""What a loss law misses: the test of lack of fit, and intervals that take the misfit in."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loss_data import at, best_runs, chinchilla, grid, noisy, with_noise

from analysis.loss.adequacy import lack_of_fit
from analysis.loss.fit import fit_loss_law
from analysis.loss.form import fitted_vector, parameters
from analysis.loss.law import PARAMETERS, LossLaw
from analysis.loss.misfit import MOST, Misfit, grouped, slopes
from analysis.loss.objective import jacobian, residuals
from analysis.loss.search import prepared

pytestmark = pytest.mark.host


def bent(frame: pd.DataFrame, by: float, sd: float = 0.002, seed: int = 0) -> pd.DataFrame:
    """The frame's losses times exp(by x (ln N - mean)(ln D - mean)), and noise: no law of the forms here."""
    n, d = (np.log(frame[name]) - np.log(grid()[name]).mean() for name in ("params", "tokens"))
    return with_noise(frame.assign(loss=frame["loss"] * np.exp(by * n * d)), sd, seed)


def test_a_right_law_passes_and_a_bent_truth_does_not() -> None:
    right, wrong = fit_loss_law(noisy(0.002), draws=0), fit_loss_law(bent(grid(), 0.01), draws=0)
    assert right.status == "ok" and right.lack_of_fit is not None
    assert right.lack_of_fit.p > 0.01 and right.lack_of_fit.share < 0.4
    assert wrong.status == "ill-fitting" and wrong.lack_of_fit is not None
    assert wrong.lack_of_fit.p < 1e-6 and wrong.lack_of_fit.share > 0.5
    assert any(flag.startswith("lack of fit: F = ") for flag in wrong.flags)
    assert wrong.converged and not any("lack" in flag for flag in right.flags)


def test_the_test_has_its_level() -> None:
    """Right laws at the least squares' optimum: p is uniform, so about 5 % of 200 lie below 0.05."""
    values = []
    for seed in range(200):
        rows, goal = prepared(noisy(0.003, seed), math.inf, "chinchilla", None, None, 1.0)
        truth = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
        found = lack_of_fit(rows, goal, fitted_vector(goal.shape, truth))
        assert found is not None and (found.terms, found.freedom) == (3, 28)
        values.append(found.p)
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.09 and 0.43 < np.mean(values) < 0.57


def test_few_rows_or_an_exact_fit_have_no_test() -> None:
    assert fit_loss_law(grid(), draws=0).lack_of_fit is None
    few = noisy(0.002).iloc[[0, 5, 9, 20, 30, 35]]
    assert fit_loss_law(few, draws=0).lack_of_fit is None


def test_a_large_drift_is_found_and_covered(shared: Path) -> None:
    """A set on which version 0.1.0 says ok and covers 0 of 7 larger runs."""
    cases = shared.parent / "cases" / "laws"
    law = fit_loss_law(pd.read_csv(cases / "drift_fit30.csv"), draws=0)
    assert law.status == "ill-fitting" and law.lack_of_fit is not None and law.lack_of_fit.share > 0.9
    new = pd.read_csv(cases / "drift_test7.csv")
    _, low, high = law.predict(new["params"], new["tokens"])
    assert ((low < new["loss"]) & (new["loss"] < high)).all()
    # A control: the residuals' spread around the law, as if the numbers were known, covers two.
    old = dataclasses.replace(law, misfit=None, draws=(tuple(law.values().values()),) * 2)
    _, low, high = old.predict(new["params"], new["tokens"])
    assert ((low < new["loss"]) & (new["loss"] < high)).sum() <= 2


@pytest.mark.parametrize("form", ["chinchilla", "tied", "kaplan", "tokens", "params"])
def test_slopes_are_those_of_the_fit(form: str) -> None:
    rows, goal = prepared(noisy(0.003), 1e-3, form, None, None, 1.0)
    theta_P = 0.5 * (goal.shape.lower_P + np.minimum(goal.shape.upper_P, 1.0))
    if form == "kaplan":
        theta_P[2:] = 0.08, 0.1
    values = {
        name: None if math.isnan(value) else value
        for name, value in zip(PARAMETERS, parameters(goal.shape, theta_P[None])[0].tolist(), strict=True)
    }
    found = slopes(form, values, goal.shape.centre, np.log(rows.params_C), np.log(rows.tokens_C), False)
    assert found == pytest.approx(jacobian(goal.shape, theta_P[None])[0], rel=1e-9, abs=1e-12)


def test_without_misfit_limits_are_those_of_least_squares() -> None:
    """A pure law with noise: the textbook's prediction interval, within what averaging over misfits adds."""
    frame = noisy(0.004, seed=5)
    law = fit_loss_law(frame, draws=0, delta=math.inf)
    rows, goal = prepared(frame, math.inf, "chinchilla", None, None, 1.0)
    theta_P = fitted_vector(goal.shape, law.values())
    slope_PC, r_C = jacobian(goal.shape, theta_P[None])[0], residuals(goal, theta_P[None])[0]
    cov = np.linalg.inv(slope_PC @ slope_PC.T) * (r_C @ r_C) / (len(r_C) - 5)
    sd_C = np.sqrt((r_C @ r_C) / (len(r_C) - 5) + np.einsum("pc,pq,qc->c", slope_PC, cov, slope_PC))
    value, _, high = law.predict(rows.params_C, rows.tokens_C)
    ratio_C = np.log(high / value) / (2.04 * sd_C)
    assert 0.9 < np.median(ratio_C) < 1.3


def test_predictions_are_bounded_where_the_runs_determine_them() -> None:
    """Runs of one ratio of tokens to parameters: no numbers, but limits along the ratio, and off it none."""
    params = np.geomspace(3e7, 3e9, 12)
    frame = with_noise(at(params, 20 * params), 0.002)
    law = fit_loss_law(frame, draws=50)
    assert law.status == "unidentifiable" and not law.draws
    value, low, high = law.predict([1e8, 6e9], [2e9, 1.2e11])
    truth = at(np.array([1e8, 6e9]), np.array([2e9, 1.2e11]))["loss"].to_numpy()
    assert (low < truth).all() and (truth < high).all()
    assert np.log(high / low)[0] < 0.02 and np.log(high / low)[1] < 0.2
    _, low, high = law.predict(1e8, 2e12)
    assert np.isnan(high) or np.log(high / value[0]) > 5 * np.log(1.002)


def test_what_the_runs_say_nothing_of_has_no_limits() -> None:
    """One size: another size is not bounded, however many tokens were tried."""
    tokens = np.geomspace(1e9, 1e11, 12)
    law = fit_loss_law(with_noise(at(np.full(12, 1e8), tokens), 0.002), draws=0)
    assert law.status == "unidentifiable"
    _, low, high = law.predict([1e8, 1e9], [2e10, 2e10])
    assert 0 < low[0] < high[0] and np.isnan(low[1]) and np.isnan(high[1])


def test_limits_widen_with_the_misfit_and_with_the_distance() -> None:
    right, wrong = fit_loss_law(noisy(0.002), draws=0), fit_loss_law(bent(grid(), 0.02), draws=0)

    def width(law: LossLaw, params: float, tokens: float) -> float:
        _, low, high = law.predict(params, tokens)
        return float(np.log(high / low))

    assert width(wrong, 3e10, 1e12) > 3 * width(right, 3e10, 1e12)
    assert width(right, 3e8, 1e10) < width(right, 3e9, 1e11) < width(right, 3e10, 1e12)


def test_resamples_that_failed_count_as_wide() -> None:
    law = fit_loss_law(noisy(0.003), draws=100)
    assert law.failed == 0
    some, many = dataclasses.replace(law, failed=2), dataclasses.replace(law, failed=10)
    low, high = law.interval("alpha")
    assert some.interval("alpha")[0] < low and high < some.interval("alpha")[1] < math.inf
    assert many.interval("alpha") == (-math.inf, math.inf)
    assert many.best_params(1e21)[2] == math.inf and some.best_params(1e21)[2] < math.inf
    assert json.loads(json.dumps(many.to_dict(), allow_nan=False))["failed"] == 10


def test_many_rows_become_groups() -> None:
    rng = np.random.default_rng(0)
    n, d, r = rng.uniform(17, 22, 4000), rng.uniform(20, 25, 4000), rng.normal(0, 0.01, 4000)
    means, _, left, count, within = grouped(n, d, r)
    assert 100 < len(means) <= MOST and count.sum() == 4000
    assert within + count @ left**2 == pytest.approx(r @ r)
    assert grouped(n[:MOST], d[:MOST], r[:MOST])[3].tolist() == [1.0] * MOST


def test_limits_of_groups_are_those_of_the_rows() -> None:
    """Every row three times: as groups of three, degrees of freedom aside, nothing changes."""
    frame = noisy(0.003)
    law = fit_loss_law(frame, draws=0)
    assert law.misfit is not None
    one: dict[str, Any] = {field.name: getattr(law.misfit, field.name) for field in dataclasses.fields(Misfit)}
    names = ("log_params", "log_tokens", "residual", "count")
    more: dict[str, Any] = {name: one[name] * 3 for name in names}
    rows = dataclasses.replace(law.misfit, freedom=103, **more)
    groups = dataclasses.replace(law.misfit, count=(3.0,) * 36, freedom=103)
    places = np.array([1e8, 1e10]), np.array([1e10, 1e12])
    wanted = rows.limits("chinchilla", law.values(), *places)
    for one_X, other_X in zip(groups.limits("chinchilla", law.values(), *places), wanted, strict=True):
        assert one_X == pytest.approx(other_X, rel=1e-5)


def test_public_sets_have_the_statuses_that_they_deserve(shared: Path) -> None:
    """Chinchilla's points scatter more than they bend; OpenEuroLLM's best runs bend only."""
    first, second = fit_loss_law(chinchilla(shared), draws=0), fit_loss_law(best_runs(shared), draws=0)
    assert first.status == "ok" and first.lack_of_fit is not None and first.lack_of_fit.share < 0.5
    assert second.status == "ill-fitting" and second.lack_of_fit is not None and second.lack_of_fit.share > 0.95
