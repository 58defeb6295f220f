"""Rows behind a loss law: what they cannot determine is said, dirt is counted, and what cannot be is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loss_data import TRUTH, at, grid, noisy, surface_of, with_noise

from analysis.loss.check import check
from analysis.loss.fit import fit_loss_law
from analysis.loss.rows import rows_of
from lab.check import InputError

pytestmark = pytest.mark.host

LINES = {
    "one ratio of tokens to params": lambda n: (n, 20 * n),
    "one budget": lambda n: (n, 1e19 / n),
    "1 distinct params": lambda n: (np.full_like(n, 1e8), 20 * n),
    "1 distinct tokens": lambda n: (n, np.full_like(n, 1e10)),
    "2 distinct params": lambda n: (np.where(n < 3e8, 1e8, 1e9), 20 * n),
}


@pytest.mark.parametrize("sd", [0.0, 0.003])
@pytest.mark.parametrize("words", LINES)
def test_what_the_places_of_runs_cannot_tell_is_said(words: str, sd: float) -> None:
    frame = with_noise(at(*LINES[words](np.geomspace(1e7, 1e10, 40))), sd)
    law = fit_loss_law(frame, draws=20)
    assert law.status == "unidentifiable"
    assert any(flag.startswith(words) for flag in law.flags), law.flags
    assert law.draws == () and all(math.isnan(end) for end in law.interval("alpha"))


def test_sizes_close_to_each_other_are_still_many() -> None:
    rng = np.random.default_rng(0)
    frame = at(10 ** rng.uniform(7.5, 9.5, 3000), 10 ** rng.uniform(9, 11, 3000))
    law = fit_loss_law(with_noise(frame, 0.003), draws=10)
    assert law.status == "ok" and law.flags == ()
    assert law.values() == pytest.approx(TRUTH, rel=0.2)


def test_nearly_one_size_is_seen_by_the_condition_number() -> None:
    frame = grid()
    frame["params"] = 1e8 * np.exp(0.03 * np.random.default_rng(0).standard_normal(len(frame)))
    law = fit_loss_law(with_noise(frame, 0.002), draws=20)
    assert law.status == "unidentifiable"
    assert any("condition number" in flag for flag in law.flags)


def test_one_size_has_a_form_of_its_own() -> None:
    tokens = np.geomspace(1e9, 1e12, 30)
    frame = at(np.full(30, 1e8), tokens)
    law = fit_loss_law(frame, form="tokens", draws=20)
    assert law.status == "ok" and law.beta == pytest.approx(0.28, rel=1e-8)
    assert law.E == pytest.approx(1.69 + 406.4 * 1e8**-0.34, rel=1e-8)
    ignoring = fit_loss_law(noisy(0.002), form="tokens", draws=0)
    assert any("takes no account of the 6 distinct params" in flag for flag in ignoring.flags)


def test_a_flat_profile_is_said() -> None:
    # Losses that hardly depend on tokens: beta can be anything.
    law = fit_loss_law(with_noise(surface_of(grid(), B=1.0), 0.01), draws=50)
    assert law.status == "unidentifiable"
    assert any("beta" in flag or "the term of D" in flag for flag in law.flags), law.flags


def test_dirty_rows_are_left_out_and_counted() -> None:
    clean = noisy(0.002)
    bad = pd.DataFrame(
        {
            "params": [1e8, np.nan, -1e8, 1e8, 1e8],
            "tokens": [1e10, 1e10, 1e10, np.inf, 1e10],
            "loss": [np.nan, 3.0, 3.0, 3.0, -3.0],
        }
    )
    law = fit_loss_law(pd.concat([clean, bad]), draws=0)
    assert law.rows == 36 and law.values() == fit_loss_law(clean, draws=0).values()
    assert law.flags == ("5 of 41 rows left out: loss, params or tokens not above 0 or not finite",)
    status = pd.concat([clean.assign(status="done"), clean.iloc[:3].assign(status="diverged", loss=9.0)])
    law = fit_loss_law(status, draws=0)
    assert law.rows == 36 and any("status is not done" in flag for flag in law.flags)
    law = fit_loss_law(clean.assign(loss=clean["loss"].astype(str)), draws=0)
    assert law.rows == 36


def test_rows_that_resampling_would_misread_are_named() -> None:
    clean = noisy(0.002)
    law = fit_loss_law(pd.concat([clean, clean]), draws=0)
    assert any("36 rows repeat others exactly" in flag for flag in law.flags)
    rates = pd.concat([clean.assign(lr=1e-3), clean.assign(lr=2e-3, loss=clean["loss"] + 0.1)])
    assert any("2 learning rates in one (params, tokens)" in flag for flag in fit_loss_law(rates, draws=0).flags)
    same = pd.concat([clean.iloc[:1]] * 30)
    law = fit_loss_law(same, draws=10)
    assert law.status == "unidentifiable" and any("1 distinct params" in flag for flag in law.flags)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda frame: frame.iloc[:5], {}, "5 usable rows do not exceed the 5 numbers of form=chinchilla"),
        (lambda frame: frame.iloc[:4], {}, "4 usable rows do not exceed the 5 numbers of form=chinchilla"),
        (lambda frame: frame.assign(loss=np.nan), {}, "0 usable rows"),
        (lambda frame: frame.iloc[:0], {}, "0 usable rows"),
        (lambda frame: pd.concat([frame] * 600), {}, "21600 rows are more than 20000: give the best run of each"),
        (lambda frame: frame.drop(columns="loss"), {}, "column loss is missing: the columns are params, tokens"),
        (lambda frame: frame.assign(loss="good"), {}, "loss='good' is not a number"),
        (lambda frame: frame, {"form": "chinchila"}, r"form=chinchila is not one of .*did you mean chinchilla"),
        (lambda frame: frame, {"delta": -1.0}, "delta=-1.0 is not a threshold"),
        (lambda frame: frame, {"delta": math.nan}, "delta=nan is not a threshold"),
        (lambda frame: frame, {"draws": -1}, "draws=-1 is below 0"),
        (lambda frame: frame, {"over": 0.0}, "over=0.0 is not above 0"),
        (lambda frame: frame, {"cluster": "run"}, "column run is missing"),
        (lambda frame: frame, {"seed_sd": -1.0}, "seed_sd=-1.0 is not above 0"),
        (lambda frame: frame, {"seed_sd": 0.1, "cluster": "params"}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    change: Callable[[pd.DataFrame], pd.DataFrame], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        fit_loss_law(change(noisy(0.002)), **options)
    assert "\n" not in str(caught.value)


def test_numbers_that_cannot_be_checked_are_refused() -> None:
    with pytest.raises(InputError, match="alpha=None of form=chinchilla is not a number above 0"):
        check(noisy(0.002), {"E": 1.7, "A": 400.0, "B": 400.0, "beta": 0.3})
    verdict = check(noisy(0.002), {**TRUTH, "E": 9.0})
    assert not verdict.converged and "E is on a bound or beyond" in verdict.reasons


@pytest.mark.parametrize("cluster", [None, "run"])
def test_the_order_of_the_rows_moves_nothing(cluster: str | None) -> None:
    """Not even an interval, although a resample is a draw of row numbers; another seed of the draws moves it."""
    frame = noisy(0.004)
    frame["run"] = [f"run-{number % 12}" for number in range(len(frame))]
    mixed = frame.sample(frac=1, random_state=3)
    given, shuffled = (fit_loss_law(one, cluster=cluster, draws=30, seed=1) for one in (frame, mixed))
    assert given == shuffled
    other = fit_loss_law(frame, cluster=cluster, draws=30, seed=2)
    assert other.values() == given.values()
    assert other.interval("alpha") != given.interval("alpha")


def test_equal_rows_of_two_clusters_are_ordered_by_their_names() -> None:
    frame = pd.concat([noisy(0.004).assign(run="a"), noisy(0.004).assign(run="b")])
    whole, turned = (rows_of(one, "run", 5, "chinchilla") for one in (frame, frame[::-1]))
    assert whole.cluster_C.tolist() == turned.cluster_C.tolist() == [0, 1] * 36
    assert whole.params_C.tolist() == sorted(frame["params"])
