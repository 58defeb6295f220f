"""A point's rate is the next update's, as the schedule's numbers say it, and its ratio to the edge is of that rate."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import resolve

from lab import sharpness
from lab.config import RunConfig

pytestmark = pytest.mark.host

# Eight updates at a peak of 0.4: a warm-up of three, a decay of four that ends above the floor.
RATES = (0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1)
TOP, MOMENTUM, BETA1, DECAY = 7.0, 0.5, 0.25, 0.3


def point(run: RunConfig, step: int) -> dict[str, Any]:
    probe: Any = SimpleNamespace(batch=SimpleNamespace(text={"batch": "0"}), execution={"steps": 4})
    found = {"loss": 2.0, "gradient_norm": 1.0, "quantities": {"preconditioned": {"values": [TOP, 1.0]}}}
    return sharpness.point(probe, run, found, step=step, hyper={"momentum": MOMENTUM, "beta1": BETA1})


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("decay", ["coupled", "independent"])
def test_a_point_has_the_rate_of_the_next_update(base: RunConfig, kind: str, decay: str) -> None:
    run = resolve(
        base,
        optimizer__kind=kind,
        optimizer__lr=0.4,
        optimizer__weight_decay=DECAY,
        optimizer__decay=decay,
        schedule__steps=8,
        schedule__warmup_steps=3,
        schedule__decay_steps=4,
    )
    for step, rate in enumerate((*RATES, RATES[-1])):  # at the end of the run, the last one's
        found = point(run, step)
        assert found["lr"] == pytest.approx(rate)
        assert found["tokens"] == step * run.data.sequences * run.data.length
        removed = DECAY * (rate if decay == "coupled" else rate / 0.4)
        # Heavy ball: (1 + b) (2 - delta); Adam's average divides by 1 - b.
        threshold = (1 + MOMENTUM) * (2 - removed) if kind == "sgd" else (1 + BETA1) * (2 - removed) / (1 - BETA1)
        assert found["edge"]["threshold"] == pytest.approx(threshold)
        assert found["edge"]["ratio"] == pytest.approx(rate * TOP / threshold)
    # The control: the rates before and after a step differ wherever one of the two tells them apart.
    apart = [one != other for one, other in itertools.pairwise(RATES)]
    assert apart.count(True) == 5


def test_without_the_metric_there_is_no_edge(base: RunConfig) -> None:
    probe: Any = SimpleNamespace(batch=SimpleNamespace(text={}), execution={})
    bare: dict[str, Any] = {"loss": 2.0, "gradient_norm": 1.0, "quantities": {"hessian": {"values": [TOP]}}}
    run = resolve(base)
    assert sharpness.point(probe, run, bare, step=1, hyper={})["edge"] is None
    dead = {"loss": None, "gradient_norm": None, "quantities": {}}
    assert sharpness.point(probe, run, dead, step=1, hyper={})["alive"] is False
