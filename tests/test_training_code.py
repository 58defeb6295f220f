"""Code for other libraries sets the predicted rate and the schedule of the law's runs; it is run where they are."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from analysis.prediction import Prediction, predict
from lab import schedule
from lab.check import InputError
from lab.config import ScheduleConfig
from sweeps.cli import main
from sweeps.training_code import code, training

WSD = Prediction(
    law="planted",
    inputs={"params": 1e6, "tokens": 1e6},
    lr=0.01,
    batch_tokens=1000.0,
    recipe={
        "schedule": "wsd",
        "decay": "0.2 of the run",
        "decay shape": "sqrt",
        "final rate / peak": 0.1,
        "warm-up": "32 updates",
        "weight decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "clip": 1.0,
    },
)
RATES = 0.01 * schedule.factors(
    ScheduleConfig(kind="wsd", steps=1000, warmup_steps=32, decay_steps=200, decay_shape="sqrt", floor=0.1).resolve(1)
)


def run(text: str, **names: Any) -> dict[str, Any]:
    exec(text, names)  # the snippet as a user pastes it
    return names


def test_optax_code_trains_with_the_rates_of_the_schedule() -> None:
    found = run(code(WSD, "optax"))
    steps = np.arange(1000)
    rates = np.array([float(found["schedule"](step)) for step in steps[::37]])
    np.testing.assert_allclose(rates, RATES[::37], rtol=2e-6)
    params = {"w": jnp.ones(3)}
    state = found["optimizer"].init(params)
    update, _ = found["optimizer"].update({"w": jnp.full(3, 10.0)}, state, params)
    # Clipped to norm 1, then Adam's first step of size 1 and the decay, times the first rate.
    np.testing.assert_allclose(np.asarray(update["w"]), -RATES[0] * (1 + 0.1), rtol=1e-4)
    assert isinstance(found["optimizer"], optax.GradientTransformation)


def test_torch_code_trains_with_the_rates_of_the_schedule() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra parity")
    found = run(code(WSD, "torch"), model=torch.nn.Linear(2, 2))
    rates = []
    for _ in range(1000):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["scheduler"].step()
    np.testing.assert_allclose(rates, RATES, rtol=1e-12)
    group = found["optimizer"].param_groups[0]
    assert group["betas"] == (0.9, 0.95)
    assert group["weight_decay"] == 0.1


def test_code_for_the_trainer_holds_the_settings() -> None:
    text = code(WSD, "hf")
    for part in (
        "learning_rate=0.01",
        'lr_scheduler_type="warmup_stable_decay"',
        "'num_decay_steps': 200",
        "'decay_type': '1-sqrt'",
        "warmup_steps=32",
        "max_steps=1000",
        "adam_beta2=0.95",
        "max_grad_norm=1.0",
    ):
        assert part in text, part
    compile(text, "snippet", "exec")


def test_a_published_law_gives_code_with_what_is_known() -> None:
    found = training(predict("step", params=7e9, tokens=1.4e12))
    assert found.steps == 280066
    assert found.schedule["kind"] == "cosine"
    assert found.schedule["warmup_steps"] == 2000
    assert found.schedule["floor"] == pytest.approx(1e-5 / found.lr)
    assert any("weight decay is not told" in line for line in found.comments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": None}, "gives no learning rate"),
        ({"batch_tokens": None}, "add --batch"),
        ({"inputs": {"params": 1e6}}, "add --tokens"),
    ],
)
def test_what_a_schedule_cannot_do_without(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        code(dataclasses.replace(WSD, **changes), "optax")


def test_an_unknown_format_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "--law", "step", "--params", "1e9", "--tokens", "1e10", "--format", "keras"]
    assert main(arguments) == 2
    assert "--format keras is not one of optax, torch, hf" in capsys.readouterr().err
