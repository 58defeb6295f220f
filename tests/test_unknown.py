"""What nobody has said anything about fails by its name: no last `else` serves it as something else."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import resolve

from lab import count, memory, model, parametrization, scale, schedule, sharding
from lab.check import InputError, entry
from lab.config import MeshConfig, RunConfig, ScheduleConfig
from lab.initializer import initial_params
from lab.model import leaves
from lab.optimizer import muon_scale, optimizer
from lab.piece import Hold, Ramp, rise
from lab.role import Role
from sweeps import expectation, identification, schedules, snippet

pytestmark = pytest.mark.host
NOTHING: Any = None  # for arguments that are not looked at before the kind is


def told(config: Any, **fields: Any) -> Any:
    """A configuration with values that its checks would refuse, as one has who adds a kind to the list of kinds."""
    found = copy.copy(config)
    for name, value in fields.items():
        section, _, rest = name.partition("__")
        object.__setattr__(found, section, told(getattr(found, section), **{rest: value}) if rest else value)
    return found


@dataclasses.dataclass(frozen=True)
class Wave:
    """A piece of a schedule that nobody has written code for."""

    begin: int
    end: int

    def at(self, i: np.ndarray) -> np.ndarray:
        return i


def piece(shape: str, *, rising: bool) -> Ramp:
    return Ramp(0, 4, shape, 0, 4, rising=rising)


def leaf_of(run: RunConfig, role: Role) -> Any:
    return next(leaf for leaf in leaves(run).values() if leaf.role == role)


def depth(run: RunConfig) -> RunConfig:
    return resolve(run, parametrization__depth="complete", parametrization__base_depth=1)


CASES: dict[str, tuple[Callable[[RunConfig], Any], str]] = {
    "rate": (
        lambda run: parametrization.exponents(Role.HIDDEN, run.parametrization, told(run.optimizer, kind="adamx")),
        "the exponent of the rate of optimizer.kind adamx",
    ),
    "role": (lambda _: parametrization.TABLE["mup"].row("scale"), "the role scale"),  # type: ignore[arg-type]
    "depth rule": (lambda _: scale.depth_exponent("adamx", 0.5), "the depth rule of optimizer.kind adamx"),
    "weight decay": (
        lambda run: scale.scales(told(run, optimizer__decay="late"), leaves(run)),
        "optimizer.decay late",
    ),
    "decays": (lambda run: schedule.decays(told(run, optimizer__decay="late")), "optimizer.decay late"),
    "chain": (lambda _: optimizer("adamx", NOTHING, {}, NOTHING, NOTHING), "the optimizer adamx"),
    "muon": (lambda _: muon_scale("mine", 4, 4), "optimizer.muon_scale mine"),
    "kept numbers": (
        lambda run: memory.state_bytes(told(run, optimizer__kind="adamx"), 1),
        "memory of the optimizer adamx",
    ),
    "initial values": (
        lambda run: initial_params(NOTHING, {"a": told(leaf_of(run, Role.GAIN), role="scale")}, {}, np.float32),
        "parameter a: the role scale has no initial values",
    ),
    "model": (lambda run: model.abstract(told(run.model, kind="rnn"), 16), "model.kind rnn"),
    "dimensions": (lambda run: model.dims(told(run.model, kind="rnn"), 16), "model.kind rnn"),
    "parameters": (lambda run: count.parameters(told(run.model, kind="rnn"), 16), "model.kind rnn"),
    "MLP's parameters": (lambda run: count.parameters(told(run.model, mlp="relu"), 16), "model.mlp relu"),
    "MLP": (lambda run: model.abstract(told(run.model, mlp="relu"), 16), "model.mlp relu"),
    "norm": (lambda run: model.abstract(told(run.model, norm="none"), 16), "model.norm none"),
    "position": (lambda run: model.abstract(told(run.model, position="alibi"), 16), "model.position alibi"),
    "placement": (lambda run: model.abstract(told(run.model, placement="both"), 16), "model.placement both"),
    "mesh": (lambda run: sharding.check(told(run, model__kind="rnn"), MeshConfig(lane=1), 1), "model.kind rnn"),
    "schedule": (lambda run: schedule.pieces(told(run.schedule, kind="zigzag")), "schedule.kind=zigzag has no pieces"),
    "decay's shape": (lambda _: piece("square", rising=False).at(np.arange(4.0)), "decay shape square"),
    "warm-up's shape": (lambda _: rise("square", np.arange(4.0)), "decay shape square"),
    "torch": (lambda _: snippet.torch([piece("square", rising=False)], ""), "the shape of a decay square"),
    "optax": (lambda _: snippet.optax([piece("square", rising=True)], ""), "the shape of a warm-up square"),
    "torch piece": (lambda _: snippet.torch([Wave(0, 4)], ""), "a piece Wave of a schedule has no code"),  # type: ignore[list-item]
    "optax piece": (lambda _: snippet.optax([Wave(0, 4)], ""), "a piece Wave of a schedule has no code"),  # type: ignore[list-item]
    "phase": (lambda _: schedules._phase(Wave(0, 4)), "a piece Wave of a schedule has no name"),  # type: ignore[arg-type]
    "coordinate check": (
        lambda run: expectation.update(Role.HIDDEN, told(depth(run), optimizer__kind="adamx"), "depth"),
        "the depth rule of optimizer.kind adamx",
    ),
    "ablation": (
        lambda run: identification.exponent("depth.lr", told(depth(run), optimizer__kind="adamx")),
        "the depth rule of optimizer.kind adamx",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_unknown_kind_fails_by_name(base: RunConfig, name: str) -> None:
    call, words = CASES[name]
    with pytest.raises(ValueError, match=words):
        call(resolve(base, optimizer__weight_decay=0.1))


def test_what_is_known_does_not_fail(base: RunConfig) -> None:
    """The control: the same calls with the kinds that are there."""
    run = resolve(base, optimizer__weight_decay=0.1)
    scale.scales(run, leaves(run))
    schedule.decays(run)
    sharding.check(run, MeshConfig(lane=1), 1)
    for kind in ("sgd", "adafactor", "adamw", "muon", "lion"):
        assert scale.depth_exponent(kind, 0.5) == (0.0 if kind == "sgd" else -0.5)
    assert snippet.torch([Hold(0, 4, 1.0)], "").endswith("    return 1.0\n")
    assert entry({"a": 1}, "a", "x") == 1
    with pytest.raises(InputError, match="x b is not known here, only a"):
        entry({"a": 1}, "b", "x")
    ScheduleConfig(steps=4, decay_steps=0).resolve(1)
