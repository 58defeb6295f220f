"""Loss laws as objects: what they predict, how they split a budget, and their passage through JSON."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from loss_data import noisy

from analysis.loss.fit import fit_loss_law
from analysis.loss.law import PARAMETERS, LossLaw, Range
from lab.check import InputError

pytestmark = pytest.mark.host


def law(form: str = "chinchilla", **changes: Any) -> LossLaw:
    lacking = {"tokens": ("A", "alpha"), "params": ("B", "beta")}.get(form, ())
    made = LossLaw(
        form=form,
        E=1.69,
        A=None if "A" in lacking else 406.4,
        B=None if "B" in lacking else 410.7,
        alpha=None if "alpha" in lacking else 0.34,
        beta=None if "beta" in lacking else 0.28,
        delta=1e-3,
        objective=1e-3,
        converged=True,
        status="ok",
        flags=("a note",),
        condition=12.5,
        starts=80,
        agreeing=50,
        rows=100,
        spread=(-0.01, 0.02),
        ranges={"params": Range(1e7, 1e9), "tokens": Range(1e9, 1e11), "loss": Range(2.0, 3.0)},
        sensitivity=(),
        profile={"E": (None, 1.7)},
        resampling="100 rows",
        draws=(),
    )
    return dataclasses.replace(made, **changes)


def test_prediction_is_the_formula() -> None:
    value, low, high = law().predict(7e10, 1.4e12)
    assert value == pytest.approx(1.69 + 406.4 * 7e10**-0.34 + 410.7 * 1.4e12**-0.28, rel=1e-14)
    assert np.isnan(low) and np.isnan(high)
    assert law("tokens").predict(1e8, 1e10)[0] == pytest.approx(1.69 + 410.7 * 1e10**-0.28)
    assert law("params").predict(1e8, 1e10)[0] == pytest.approx(1.69 + 406.4 * 1e8**-0.34)


def test_kaplan_form_is_the_paper_s() -> None:
    n_c, d_c, alpha, beta = 8.8e13, 5.4e13, 0.076, 0.095
    made = law("kaplan", E=0.0, A=n_c**alpha, B=d_c**beta, alpha=alpha, beta=beta)
    params, tokens = 1.5e9, 2.3e10
    expected = ((n_c / params) ** (alpha / beta) + d_c / tokens) ** beta
    assert made.predict(params, tokens)[0] == pytest.approx(expected, rel=1e-12)
    # N* is where the loss along N D = constant is least.
    product = 1e20
    best = float(made.best_params(6 * product)[0])
    sizes = best * np.exp(np.linspace(-0.1, 0.1, 201))
    assert int(np.argmin(made.predict(sizes, product / sizes)[0])) == 100


def test_budget_is_split_where_the_loss_is_least() -> None:
    made = law()
    assert made.params_exponent == pytest.approx(0.28 / 0.62)
    params, tokens = float(made.best_params(1e21)[0]), float(made.best_tokens(1e21)[0])
    assert 6 * params * tokens == pytest.approx(1e21)
    near = params * np.exp(np.linspace(-0.1, 0.1, 201))
    assert int(np.argmin(made.predict(near, 1e21 / 6 / near)[0])) == 100
    # The line of the reference: log10 D* = 0.548387 log10 C - 0.555357.
    assert math.log10(tokens) == pytest.approx(0.548387 * 21 - 0.555357, abs=2e-5)
    with pytest.raises(InputError, match="no budget can be split"):
        law("tokens").best_params(1e21)


def test_limits_hold_draws_and_noise_in_quadrature() -> None:
    rng = np.random.default_rng(0)
    centre = np.array([1.69, 406.4, 410.7, 0.34, 0.28])
    drawn = centre * np.exp(0.01 * rng.standard_normal((400, 5)))
    made = law(draws=tuple(map(tuple, drawn.tolist())))
    params = np.array([1e8, 1e9])
    value, low, high = made.predict(params[:, None], np.array([1e9, 1e10, 1e11])[None])
    assert value.shape == low.shape == high.shape == (2, 3)
    assert np.all(low < value) and np.all(value < high)
    narrow = made.predict(params[:, None], np.array([1e9, 1e10, 1e11])[None], noise=False)
    assert np.all(narrow[1] > low) and np.all(narrow[2] < high)
    assert np.allclose(np.log(high / value) ** 2, np.log(narrow[2] / value) ** 2 + 0.02**2)
    assert made.interval("alpha") == pytest.approx(tuple(np.percentile(drawn[:, 3], [2.5, 97.5])))
    assert made.interval("a")[0] < made.params_exponent < made.interval("a")[1]
    _, low, high = made.best_params(1e21)
    assert low < made.best_params(1e21)[0] < high


def test_extrapolation_is_a_factor() -> None:
    assert law().extrapolation(1e8, 1e10) == {"params": 1.0, "tokens": 1.0}
    assert law().extrapolation(7e9, 1e8) == pytest.approx({"params": 7.0, "tokens": 10.0})


@pytest.mark.parametrize("form", ["chinchilla", "tied", "kaplan", "tokens", "params"])
def test_json_keeps_everything(form: str) -> None:
    made = fit_loss_law(noisy(0.003), form=form, draws=20, delta=math.inf)
    stored = json.dumps(made.to_dict(), allow_nan=False)
    again = LossLaw.from_dict(json.loads(stored))
    assert again == made
    assert json.dumps(again.to_dict(), allow_nan=False) == stored
    assert again.predict(1e9, 1e10) == made.predict(1e9, 1e10)
    assert LossLaw.from_dict(made.to_dict()) == made


def test_a_damaged_file_is_refused_by_name() -> None:
    stored = law().to_dict()
    with pytest.raises(InputError, match="lacks alpha"):
        LossLaw.from_dict({name: value for name, value in stored.items() if name != "alpha"})
    with pytest.raises(InputError, match="unknown fields gamma"):
        LossLaw.from_dict({**stored, "gamma": 1})


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match=r"params=-1.* is not above 0"):
        law().predict(-1, 1e9)
    with pytest.raises(InputError, match=r"tokens=0.* is not above 0"):
        law().predict(1e9, [0, 1e9])
    with pytest.raises(InputError, match="flops"):
        law().best_params(0)
    with pytest.raises(InputError, match="name=gamma"):
        law().interval("gamma")


def test_new_runs_fall_inside_the_limits() -> None:
    made = fit_loss_law(noisy(0.004, seed=1), draws=200)
    other = noisy(0.004, seed=2)
    _, low, high = made.predict(other["params"].to_numpy(), other["tokens"].to_numpy())
    inside = ((other["loss"].to_numpy() > low) & (other["loss"].to_numpy() < high)).mean()
    assert 0.9 < inside < 1.0
    assert set(made.values()) == set(PARAMETERS)
