"""Forms of one parametrization are one model: trajectories at four times the base width, in float64.

A power of 4 keeps the factors exact, so equal forms agree to rounding.  Global clipping would couple the leaves and
break the equality, so it is off.
"""

import numpy as np
import pytest
from conftest import resolve, trained

from lab.config import RunConfig

MUP = ("mup", "mup_table3", "mup_tp4", "mean_field")
SP = ("sp_per_layer", "ntk")
TOLERANCE = 1e-12
RATES = {"adamw": 2.0**-5, "sgd": 0.2}


@pytest.fixture(scope="module")
def wide(base: RunConfig) -> RunConfig:
    """Width 64 over 16, 25 steps, a readout that does not start at zero, eps and decay large enough to matter."""
    return resolve(
        base,
        model__width=64,
        model__bias=True,
        model__norm="layernorm",
        parametrization__zero_readout=False,
        optimizer__eps=1e-3,
        optimizer__weight_decay=0.1,
        optimizer__clip=None,
        schedule__steps=25,
        schedule__warmup_steps=2,
        schedule__decay_steps=5,
        dtype="float64",
    )


def losses(wide: RunConfig, *runs: dict[str, object], kind: str = "adamw") -> np.ndarray:
    """Loss curves [25, runs], all runs being lanes of one program."""
    settings = {"optimizer__kind": kind, "optimizer__lr": RATES[kind]}
    return trained([resolve(wide, **(settings | run)) for run in runs], lanes=8)[1].loss


def form(name: str, **changes: object) -> dict[str, object]:
    return {"parametrization__name": name} | changes


def gap(curves: np.ndarray, a: int = 0, b: int = 1) -> float:
    return float(np.abs(curves[:, a] - curves[:, b]).max())


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_forms_of_one_parametrization_are_one_model(wide: RunConfig, kind: str) -> None:
    curves = losses(wide, *(form(name) for name in MUP + SP), kind=kind)
    for other in (1, 2, 3):
        assert gap(curves, 0, other) < TOLERANCE
    assert gap(curves, 4, 5) < TOLERANCE
    assert gap(curves, 0, 4) > 1e-3  # the two classes are different models


@pytest.mark.parametrize("alignment", ["none", "classical"])
def test_forms_agree_under_the_other_alignments(wide: RunConfig, alignment: str) -> None:
    curves = losses(wide, *(form(name, parametrization__alignment=alignment) for name in MUP + SP))
    for other in (1, 2, 3):
        assert gap(curves, 0, other) < TOLERANCE
    assert gap(curves, 4, 5) < TOLERANCE


@pytest.mark.parametrize("kind", ["lion", "adafactor", "muon"])
def test_forms_agree_under_the_other_optimizers(wide: RunConfig, kind: str) -> None:
    """Also Adafactor, whose rates are the same in all forms because its step is in proportion to the weight."""
    # Adafactor's floor on the parameter scale is absolute: biases start at zero and sit on it, so they are left out.
    rates = {"lion": 2.0**-9, "adafactor": 2.0**-5, "muon": 2.0**-6}
    runs = [form(name, optimizer__kind=kind, optimizer__lr=rates[kind], model__bias=False) for name in MUP]
    curves = losses(wide, *runs)
    for other in (1, 2, 3):
        assert gap(curves, 0, other) < 1e-10


@pytest.mark.parametrize(
    "broken",
    [{"parametrization__scale_eps": False}, {"optimizer__decay": "coupled"}],
    ids=["eps not rescaled", "decay not rescaled"],
)
def test_forms_differ_where_eps_or_decay_is_not_rescaled(wide: RunConfig, broken: dict[str, object]) -> None:
    curves = losses(wide, *(form(name, **broken) for name in ("mup", "mup_tp4", "mean_field")))
    assert gap(curves, 0, 1) > 1e-3
    assert gap(curves, 0, 2) > 1e-3


def test_a_zero_readout_leaves_one_model_under_adam_with_matching_eps(wide: RunConfig) -> None:
    """The two classes differ in the readout's scale alone; with a negligible eps nothing else tells them apart."""
    zero = {"parametrization__zero_readout": True, "optimizer__eps": 1e-20}
    curves = losses(wide, *(form(name, **zero) for name in (*MUP, *SP)))
    assert max(gap(curves, 0, other) for other in range(1, 6)) < 1e-10
    own = losses(wide, *(form(name, parametrization__zero_readout=True) for name in ("mup", "sp_per_layer")))
    assert gap(own) > 1e-3  # at eps = 1e-3 each class's own exponents show


def test_a_zero_readout_does_not_make_them_one_model_under_sgd(wide: RunConfig) -> None:
    """SGD's exponents assume the initial size of the readout."""
    runs = (form(name, parametrization__zero_readout=True) for name in ("mup", "sp_per_layer"))
    assert gap(losses(wide, *runs, kind="sgd")) > 1e-3


def test_a_readout_init_rule_is_nothing_under_a_zero_readout(wide: RunConfig) -> None:
    """Exact no-ops, bitwise: the readout's init when it starts at zero, the attention scale at the base head size."""
    zero = {"parametrization__zero_readout": True}
    curves = losses(
        wide,
        form("mup_table3", **zero),
        form("mup_table3", **zero, parametrization__ablate="readout.init"),
        form("mup_table3", **zero, parametrization__ablate="attention"),
    )
    np.testing.assert_array_equal(curves[:, 0], curves[:, 1])
    np.testing.assert_array_equal(curves[:, 0], curves[:, 2])
