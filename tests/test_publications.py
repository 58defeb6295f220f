"""Published laws: golden values to the printed digits, what they refuse, and the misprints that circulate."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.literature.publication import INPUTS, UNKNOWN, WORDS, Product, Publication, publications, published
from lab.check import InputError
from lab.schedule import power_law

pytestmark = pytest.mark.host

LARGE = {"params": 7e9, "tokens": 1.4e12}
CELL = {"params": 1073741824, "tokens": 1e11}
SMALL = {"params": 1e9, "tokens": 1e10}
OELLM = {"params": 1e9, "tokens": 1e11}
MARIN = {"tokens": 1.007e13, "width": 2560, "batch": 33.55e6}
SEQ = 2048

# (law, quantity, inputs, value, unit of the value in the project's own)
GOLDEN: list[tuple[str, str, dict[str, float], float, float]] = [
    ("step", "lr", LARGE, 9.16557e-4, 1),
    ("step", "batch", LARGE, 4998815, 1),
    ("step", "batch", LARGE, 2440.83, SEQ),
    ("step_unrounded", "lr", LARGE, 9.34684e-4, 1),
    ("step_unrounded", "batch", LARGE, 4996961, 1),
    ("step_unrounded", "batch", LARGE, 2439.92, SEQ),
    ("step", "lr", CELL, 1.551749e-3, 1),
    ("step", "batch", CELL, 1107715, 1),
    ("step", "batch", CELL, 540.88, SEQ),
    ("step_unrounded", "lr", CELL, 1.580159e-3, 1),
    ("step_unrounded", "batch", CELL, 1107467, 1),
    ("step_unrounded", "batch", CELL, 540.76, SEQ),
    ("step", "lr", SMALL, 8.05106e-4, 1),
    ("step_unrounded", "lr", SMALL, 8.18916e-4, 1),
    ("step", "batch", SMALL, 297460, 1),
    ("step_unrounded", "batch", SMALL, 297431, 1),
    ("kaplan", "lr", {"params": 1e8}, 6.69315e-4, 1),
    ("kaplan", "lr", {"params": 1e9}, 3.48104e-4, 1),
    ("kaplan", "lr", {"params": 1e10}, 2.68938e-5, 1),
    ("kaplan", "critical_batch", {"loss": 3}, 1069114, 1),
    ("kaplan", "critical_batch", {"loss": 2.5}, 2547285, 1),
    ("kaplan", "critical_batch", {"loss": 2}, 7371465, 1),
    ("minicpm", "lr", {}, 0.01, 1),
    ("minicpm", "batch", {"loss": 3}, 1275113, 1),
    ("minicpm", "batch", {"loss": 2.5}, 3977770, 1),
    ("minicpm", "batch", {"loss": 2}, 16008779, 1),
    ("porian", "lr", {"params": 1.08e8}, 4.7e-3, 1),
    ("porian", "lr", {"params": 1e9}, 2.238235e-3, 1),
    ("porian", "batch", {"params": 1.08e8}, 160, SEQ),
    ("porian", "batch", {"params": 1e9}, 705.512, SEQ),
    ("porian_table", "lr", {"params": 1e9}, 2.129128e-3, 1),
    ("porian_table", "batch", {"params": 1e9}, 1608570, 1),
    ("openeurollm", "lr", OELLM, 5.81553e-4, 1),
    ("openeurollm", "batch", OELLM, 229.874, 4096),
    ("openeurollm_rounded", "lr", OELLM, 5.79212e-4, 1),
    ("openeurollm_rounded", "batch", OELLM, 229.445, 4096),
    ("power_wsd", "lr", {"batch": 1024 * 4096, "tokens": 1e13}, 1.104226e-3, 1),
    ("power_wsd", "lr", {"batch": 128 * 4096, "tokens": 2e9}, 1.062778e-2, 1),
    ("power_wsd", "lr", {"batch": 128 * 4096, "tokens": 2.56e11}, 8.94881e-4, 1),
    ("power_schedule", "scheduled_lr", {"batch": 1024 * 4096, "trained": 1e10}, 0.02, 1),
    ("power_schedule", "scheduled_lr", {"batch": 1024 * 4096, "trained": 1e11}, 0.01005449, 1),
    ("power_schedule", "scheduled_lr", {"batch": 1024 * 4096, "trained": 9e11}, 0.003278659, 1),
    ("power_lines", "tau", {"params": 1e9, "tokens": 2e10}, 0.223556, 1),
    ("power_lines", "tau", {"params": 1e9, "tokens": 2e11}, 0.0664334, 1),
    ("marin_muonh", "lr", MARIN, 3.73183e-3, 1),
    ("marin_muonh", "adam_lr", MARIN, 8.61192e-4, 1),
]
for flops, lr, batch in ((1e17, 2.33817e-3, 106190), (1e19, 1.31485e-3, 478942), (1e21, 7.39394e-4, 2160140)):
    GOLDEN.append(("deepseek", "lr", {"tokens": 1e10, "flops_per_token": flops / 1e10}, lr, 1))
    GOLDEN.append(("deepseek", "batch", {"tokens": 1e10, "flops_per_token": flops / 1e10}, batch, 1))


@pytest.mark.parametrize(("name", "quantity", "inputs", "value", "unit"), GOLDEN)
def test_golden_values(name: str, quantity: str, inputs: dict[str, float], value: float, unit: float) -> None:
    assert published(name).value(quantity, **inputs) / unit == pytest.approx(value, rel=1e-5)


def test_the_check_that_the_power_paper_prints() -> None:
    """0.0011 for 10T tokens and 1024 sequences; the laboratory's own schedule code agrees."""
    lr = published("power_wsd").lr(batch=1024 * 4096, tokens=1e13)
    assert round(lr, 4) == 0.0011
    assert lr == pytest.approx(float(power_law(4.6, -0.51, 1024, 1e13)), rel=1e-12)


def test_the_power_schedule_leaves_its_cap_where_published() -> None:
    law = published("power_schedule")
    rate = [law.value("scheduled_lr", batch=1024 * 4096, trained=2.59641e10 * (1 + change)) for change in (-1e-5, 1e-5)]
    assert rate[0] == 0.02 > rate[1]


def test_unrounded_constants_are_the_means_of_the_bootstrap(shared: Path) -> None:
    means = pd.read_csv(shared / "laws" / "steplaw_bootstrap.csv").mean()
    for quantity, start, names in (
        ("lr", "lr_intercept", ["lr_coefN", "lr_coefD"]),
        ("batch", "bs_intercept", ["bs_coefD"]),
    ):
        product = published("step_unrounded").formulas[quantity].value
        assert isinstance(product, Product)
        assert math.log(product.coefficient) == pytest.approx(means[start], abs=1e-11)
        assert [exponent for _, exponent in product.exponents] == pytest.approx(list(means[names]), abs=1e-11)


def test_openeurollm_constants_are_the_refit_of_45_optima(shared: Path) -> None:
    import numpy as np

    optima = pd.read_csv(shared / "laws" / "openeurollm_optima.csv").query("N < 1e9")
    design = np.stack([np.ones(len(optima)), np.log(optima["N"]), np.log(optima["D"])], axis=1)
    for quantity, column in (("lr", "lr"), ("batch", "gbsz")):
        c, p, q = np.linalg.lstsq(design, np.log(optima[column]), rcond=None)[0]
        product = published("openeurollm").formulas[quantity].value
        assert isinstance(product, Product)
        assert math.log(product.coefficient) == pytest.approx(c, abs=1e-9)
        assert [exponent for _, exponent in product.exponents] == pytest.approx([p, q], abs=1e-10)


def test_deepseek_counts_flops_by_shape_and_says_when_it_cannot() -> None:
    law = published("deepseek")
    shape = {"width": 2048, "depth": 24, "sequence": 4096}
    by_shape = law.lr(tokens=1e11, **shape)
    assert by_shape == law.lr(tokens=1e11, flops_per_token=72 * 24 * 2048**2 + 12 * 24 * 2048 * 4096)
    assert law.warnings("lr", tokens=1e9, **shape) == ()
    assert by_shape == law.lr(tokens=1e11, params=1e9, **shape)  # a shape is better than N
    assert law.lr(**CELL) == pytest.approx(7.812e-4, rel=1e-4)  # C = 6 N D
    assert "FLOPs per token are 6 N" in law.warnings("lr", **CELL)[0]
    # The rate at 6 N is 1.5 % off the rate at the true M of this shape.
    assert law.lr(tokens=1e11, flops_per_token=7.248e9) == pytest.approx(7.698e-4, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "inputs", "line"),
    [
        ("marin_muonh", {"tokens": 1e13, "batch": 3e7}, "law marin_muonh needs width: add --width"),
        ("step", {"params": 1e9}, "law step needs tokens: add --tokens"),
        ("step", {}, "law step needs params and tokens: add --params --tokens"),
        ("deepseek", {"tokens": 1e11}, "law deepseek needs flops_per_token: add --flops-per-token"),
        ("bjorck", {"tokens": 1e11}, "law bjorck needs base_lr and base_tokens: add --base-lr --base-tokens"),
        ("power_wsd", CELL, "law power_wsd needs batch: add --batch"),
        ("power_schedule", CELL, "law power_schedule has no learning rate: it gives rate of a schedule"),
        (
            "power_lines",
            CELL,
            "law power_lines has no learning rate: it gives AdamW timescale tau, weight decay, batch",
        ),
        ("meituan", CELL, "law meituan has no learning rate: its constants are not published here"),
        ("step", {"params": -1.0, "tokens": 1e9}, "params=-1.0 is not a number above 0"),
        ("step", {"params": "big", "tokens": 1e9}, "params=big is not a number above 0"),
        ("step", {"params": 1e9, "token": 1e9}, "token is not an input of a published law (did you mean tokens?)"),
    ],
)
def test_what_cannot_be_answered_is_one_clear_line(name: str, inputs: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        published(name).lr(**inputs)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_laws_have_names_and_near_misses_are_told() -> None:
    assert published("OpenAI").name == "kaplan"
    assert published("power-lines").name == "power_lines"
    with pytest.raises(InputError, match=r"deepseak is not a published law \(did you mean deepseek\?\)"):
        published("deepseak")
    words = [word for law in publications() for word in (law.name, *law.aliases)]
    assert len(words) == len(set(words))


def test_kaplan_warns_near_its_end_and_refuses_beyond_it() -> None:
    law = published("kaplan")
    assert law.warnings(params=1e10) == ()
    assert law.warnings(params=1.1e10) == ("params 1.1e+10 is above 1e+10: the learning rate reaches 0 at 1.2126e+10",)
    assert 0 < law.lr(params=1.2126e10) < 1e-8
    with pytest.raises(
        InputError, match="law kaplan has no learning rate at params=1.3e\\+10: the formula is negative"
    ):
        law.lr(params=1.3e10)
    assert law.value("critical_batch", loss=2, params=1e12) > 0  # the other formula has no such end


def test_extrapolation_tells_how_far() -> None:
    found = published("step").extrapolation(**LARGE, batch=65536)
    assert [one.name for one in found] == ["tokens", "params"]
    assert [one.factor for one in found] == pytest.approx([14, 7e9 / 1.073741824e9])
    assert published("step").warnings(**LARGE) == ("tokens 1.4e+12 is 14 times outside the fit, 2e+09 .. 1e+11",)
    assert published("step").extrapolation(**SMALL) == ()
    (flops,) = published("deepseek").extrapolation(**CELL)
    assert (flops.name, flops.factor) == ("flops", pytest.approx(6 * 1073741824 * 1e11 / 2e19))
    assert published("openeurollm").extrapolation(params=1e6)[0].factor == pytest.approx(47.557632)


@pytest.mark.parametrize("law", publications(), ids=lambda law: law.name)
def test_every_law_states_what_it_is_about(law: Publication) -> None:
    assert law.title and law.source
    assert law.conditions.params != UNKNOWN
    assert set(law.formulas) <= set(WORDS)
    for formula in law.formulas.values():
        assert formula.text and formula.source
        assert set(formula.needs) <= set(INPUTS)
    for low, high in law.ranges.values():
        assert 0 < low < high
    law.summary()


def test_units_multiplied_out_give_the_same_numbers() -> None:
    inputs = dict.fromkeys(INPUTS, 1.0) | OELLM | {"batch": 2e6, "width": 1024, "loss": 2.5, "flops_per_token": 6e9}
    for law in publications():
        for quantity, formula in law.formulas.items():
            if isinstance(formula.value, Product) and formula.value.cap is None:
                coefficient, exponents = formula.value.raw()
                value = coefficient * math.prod(inputs[name] ** power for name, power in exponents.items())
                assert value == pytest.approx(law.value(quantity, **inputs), rel=1e-12), (law.name, quantity)


def test_rules_that_move_a_rate_leave_it_where_nothing_changes() -> None:
    base = {"base_lr": 2e-3, "base_tokens": 1e10, "base_params": 1e9, "base_batch": 1e6}
    same = {"tokens": 1e10, "params": 1e9, "batch": 1e6}
    for name in ("bjorck", "zhou", "scion"):
        assert published(name).lr(**base, **same) == pytest.approx(2e-3, rel=1e-12)
    assert published("bjorck").lr(base_lr=2e-3, base_tokens=1e10, tokens=1e11) == pytest.approx(2e-3 * 10**-0.32)
    # Scion's three exponents agree: along its best batch the rate falls as D^-0.28.
    scion = published("scion")
    batch = scion.batch(base_batch=1e6, base_tokens=1e10, tokens=1e11)
    along = scion.lr(**base, tokens=1e11, batch=batch) / 2e-3
    assert math.log10(along) == pytest.approx(-0.28, abs=2e-3)


def test_weight_decay_restores_the_timescale() -> None:
    law, run = published("power_lines"), {"params": 1e9, "tokens": 5e10, "batch": 1e6}
    decay = law.value("weight_decay", lr=2e-3, **run)
    assert 1e6 / (2e-3 * decay * 5e10) == pytest.approx(law.value("tau", **run), rel=1e-12)
    assert law.value("weight_decay", lr=2e-3, **run | {"batch": 2e6}) == pytest.approx(2 * decay)


# --- misprints: the printed constant is on record, and gives something else ---


def misprinted(name: str, quantity: str, **changes: Any) -> Publication:
    """The law with another constant."""
    law = published(name)
    formula = law.formulas[quantity]
    assert isinstance(formula.value, Product)
    other = dataclasses.replace(formula, value=dataclasses.replace(formula.value, **changes))
    return dataclasses.replace(law, formulas={**law.formulas, quantity: other})


def lists(name: str, words: str) -> bool:
    return any(words in one.printed for one in published(name).misprints)


def test_misprint_of_deepseek() -> None:
    wrong = misprinted("deepseek", "lr", coefficient=0.3188).lr(**CELL)
    assert wrong / published("deepseek").lr(**CELL) == pytest.approx(0.3188 / 0.3118)
    assert lists("deepseek", "0.3188")


def test_misprint_of_the_critical_batch() -> None:
    wrong = misprinted("kaplan", "critical_batch", coefficient=2e18).value("critical_batch", loss=3)
    assert wrong > 1e15  # a batch of a thousand runs
    assert lists("kaplan", "2e18")


def test_misprint_of_minicpm() -> None:
    assert misprinted("minicpm", "batch", coefficient=2e18).batch(loss=3) > 1e15
    assert lists("minicpm", "2e18")


def test_misprint_of_bjorck() -> None:
    """The constant with raw counts is absurd; with exp(-5), millions and billions it is near what was measured."""
    n, d = CELL["params"], CELL["tokens"]
    raw = 1.3192e-5 * n**-0.23 * d**-0.32
    assert raw == pytest.approx(3e-11, rel=0.2)
    sane = 1.3192 * math.exp(-5) * (n / 1e6) ** -0.23 * (d / 1e9) ** -0.32
    assert sane == pytest.approx(4.09e-4, rel=2e-3)
    assert 1.3192 * math.exp(-5) * 125**-0.23 * 25**-0.32 == pytest.approx(1.05e-3, rel=5e-3)
    assert lists("bjorck", "1.3192e^-5")
    with pytest.raises(InputError, match="needs base_lr"):  # so the constant is not offered
        published("bjorck").lr(**CELL)


def test_misprint_of_the_sign_of_n_in_the_step_law() -> None:
    law = published("step")
    assert law.lr(params=2e9, tokens=1e11) < law.lr(params=1e9, tokens=1e11)
    assert lists("step", "increases with N")


def test_misprint_of_the_number_of_step_law_runs(shared: Path) -> None:
    lines = (shared / "laws" / "steplaw_repo_dense.csv").read_text().splitlines()
    assert (len(lines), len(lines) - 1) == (1912, 1911)
    assert lists("step", "1,912")


def test_swapped_legend_is_on_record() -> None:
    assert lists("step", "legend")


def test_misprint_of_the_power_schedule() -> None:
    wrong = misprinted("power_schedule", "scheduled_lr", coefficient=4.6)
    at = {"batch": 1024 * 4096, "trained": 1e11}
    right = published("power_schedule").value("scheduled_lr", **at)
    assert wrong.value("scheduled_lr", **at) / right == pytest.approx(1.15)
    assert lists("power_schedule", "4.6")
    assert lists("power_wsd", "optimal a")


def test_first_fit_of_marin() -> None:
    powers = (("tokens", -0.395), ("width", -0.121), ("batch", 0.5))
    wrong = misprinted("marin_muonh", "lr", coefficient=26.9, exponents=powers).lr(**MARIN)
    assert wrong / published("marin_muonh").lr(**MARIN) > 1.6  # "1.6 times the rate" was the retracted claim
    assert lists("marin_muonh", "26.9")
    assert 18.31 / (13 / 3 * 64) == pytest.approx(0.06602, rel=1e-3)
    assert lists("marin_muonh", "0.06602")


def test_zhou_in_raw_counts_is_far_below_every_other_law() -> None:
    raw = 38.4588 * 1e9**-0.2219 * 1e11**-0.3509
    assert raw == pytest.approx(5.3e-5, rel=0.02)
    rates = [published(name).lr(**OELLM) for name in ("step", "openeurollm", "deepseek", "kaplan", "porian")]
    assert raw < 0.2 * min(rates)
    with pytest.raises(InputError, match="needs base_lr"):
        published("zhou").lr(**OELLM)


def test_laws_load_without_numerical_libraries() -> None:
    code = "import sys, analysis.literature.publication as p; p.published('step'); print(*(m for m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "scipy", "pandas", "jax", "matplotlib"} & set(found)
