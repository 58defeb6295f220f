"""A power law as numbers: predictions, ranges, JSON, and what it imports."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.power.fit import fit_power_law
from analysis.power.law import PowerLaw, mixture_quantile
from lab.check import InputError

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def law() -> PowerLaw:
    """A law of 5 sizes and 4 budgets with deviations."""
    rng = np.random.default_rng(3)
    params, tokens = np.repeat([1e8, 2e8, 4e8, 8e8, 16e8], 4), np.tile([1e9, 4e9, 16e9, 64e9], 5)
    deviation = np.repeat(rng.normal(0, 0.15, 5), 4) + rng.normal(0, 0.1, 20)
    lr = 2.0 * params**-0.6 * tokens**0.2 * np.exp(deviation)
    return fit_power_law(pd.DataFrame({"params": params, "tokens": tokens, "lr": lr}), draws=50)


def test_value_is_the_formula(law: PowerLaw) -> None:
    found = law.predict({"params": 3e9, "tokens": 1e11})
    formula = law.coefficient * 3e9 ** law.exponents["params"] * 1e11 ** law.exponents["tokens"]
    assert found.value == pytest.approx(formula, rel=1e-12)


def test_intervals_are_nested(law: PowerLaw) -> None:
    wide, close = (law.predict({"params": 3e9, "tokens": 1e11}, level) for level in (0.95, 0.8))
    assert wide.low < wide.mean_low < wide.value < wide.mean_high < wide.high
    assert wide.low < close.low < close.high < wide.high
    assert wide.mean_low < close.mean_low < close.mean_high < wide.mean_high
    near = law.predict({"params": 4e8, "tokens": 8e9})
    assert near.high / near.low < wide.high / wide.low


def test_extrapolation_counts_both_sides(law: PowerLaw) -> None:
    beyond = law.extrapolation({"params": 16e9, "tokens": 5e8})
    assert beyond == {"params": pytest.approx(10), "tokens": pytest.approx(2)}
    assert law.extrapolation({"params": 3e8, "tokens": 1e10}) == {"params": 1.0, "tokens": 1.0}


def test_json_round_trip_is_exact(law: PowerLaw) -> None:
    copy = PowerLaw.from_dict(json.loads(json.dumps(law.to_dict(), allow_nan=False)))
    assert copy == law
    assert copy.predict({"params": 3e9, "tokens": 1e11}) == law.predict({"params": 3e9, "tokens": 1e11})


def test_another_schema_is_refused(law: PowerLaw) -> None:
    data = law.to_dict()
    with pytest.raises(InputError, match="schema 99"):
        PowerLaw.from_dict(data | {"schema": 99})
    with pytest.raises(InputError, match="lacks centre"):
        PowerLaw.from_dict({name: part for name, part in data.items() if name != "centre"})


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"params": 1e9}, "needs tokens"),
        ({"params": -1.0, "tokens": 1e9}, "params=-1.0 is not a number above 0"),
        ({"params": math.nan, "tokens": 1e9}, "params=nan"),
        ({"params": 1e9, "tokens": math.inf}, "tokens=inf"),
    ],
)
def test_bad_places_are_one_line(law: PowerLaw, at: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        law.predict(at)


def test_bad_level_and_name(law: PowerLaw) -> None:
    with pytest.raises(InputError, match="level=95"):
        law.predict({"params": 1e9, "tokens": 1e9}, level=95)
    with pytest.raises(InputError, match="no regressor width"):
        law.interval("width")


def test_without_nodes_every_interval_is_unbounded(law: PowerLaw) -> None:
    found = dataclasses.replace(law, nodes=()).predict({"params": 1e9, "tokens": 1e9})
    assert (found.mean_low, found.mean_high, found.low, found.high) == (0.0, math.inf, 0.0, math.inf)
    assert math.isfinite(found.value)


@pytest.mark.parametrize("share", [0.005, 0.025, 0.5, 0.9])
def test_quantile_of_a_mixture(share: float) -> None:
    weight, middle, sd = np.array([0.3, 0.7]), np.array([-1.0, 0.5]), np.array([0.2, 2.0])
    point = mixture_quantile(share, weight, middle, sd)
    assert weight @ stats.norm.cdf((point - middle) / sd) == pytest.approx(share, abs=1e-12)


def test_prediction_needs_neither_scipy_nor_pandas() -> None:
    code = "import sys, analysis.power.law; print([n for n in ('scipy', 'pandas', 'jax') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
