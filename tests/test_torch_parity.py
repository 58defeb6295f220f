"""Our losses beside rivals in PyTorch, from the same weights and batches: `mup` 1.0.0 and CompleteP's rules.

Losses are compared, not parameters: the gradient of key biases is exactly zero, and Adam turns its rounding noise into
whole steps that change no loss.  The rivals' float64 losses are stored, so that they are compared without PyTorch too.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import parity_cases as parity
import pytest
from conftest import job_of, resolve
from parity_cases import CASES

from lab import train
from lab.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.config.parametrization import DepthRule
from lab.program import Batches

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
# The stored losses are float64; what float32 rounds, a branch's 2^-1/2 for one, both sides round alike.
STORED_TOLERANCE = {"float64": 1e-10, "float32": 5e-5}
MISSED = 1e-3  # by which a run with one wrong rule must miss
DEPTH_RULE: dict[float, DepthRule] = {0.0: "none", 0.5: "sqrt", 1.0: "complete"}

Ours = Callable[..., np.ndarray]


class Given(train.Feed):
    """The batches of `parity_cases` in place of a corpus's."""

    def __init__(self, segment: int) -> None:
        self._windows, self._segment = parity.windows(), segment

    def batches(self, begin: int) -> Batches:
        blank = np.zeros((self._segment, *self._windows.shape[1:]), self._windows.dtype)
        now = self._windows[begin : begin + self._segment]
        blank[: len(now)] = now
        return Batches(None, None, jnp.asarray(blank[:, None]))


def configuration(case: parity.Case, folder: Path) -> RunConfig:
    """Our way to say a case; the base head dimension is where `sqrt(d0) / d` is its factor on attention logits."""
    parity.tokens().tofile(folder / "tokens.bin")
    return RunConfig(
        model=ModelConfig(
            width=case.width,
            depth=case.depth,
            head_dim=parity.HEAD_DIM,
            norm="layernorm",
            position="learned",
            bias=True,
            tied=case.tied,
            vocab=parity.VOCAB,
        ),
        parametrization=ParametrizationConfig(
            name="mup",
            base_width=case.base_width,
            attention="inverse",
            base_head_dim=round((case.attention * parity.HEAD_DIM) ** 2),
            scale_eps=case.rules == "completep",
            depth=DEPTH_RULE[case.alpha],
            base_depth=case.base_depth,
        ),
        optimizer=OptimizerConfig(
            kind=case.kind,
            lr=case.lr,
            weight_decay=case.weight_decay,
            beta1=parity.BETA1,
            beta2=case.beta2,
            eps=case.eps,
            momentum=parity.MOMENTUM,
            clip=None,
        ),
        schedule=ScheduleConfig(kind="constant", steps=parity.STEPS),
        data=DataConfig(corpus=f"bin:{folder}/tokens.bin", sequences=parity.SEQUENCES, length=parity.LENGTH),
        evaluation=EvaluationConfig(sequences=2),
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    """Losses [U] of a case, with changes to its configuration; every run is trained once."""
    folder, done = tmp_path_factory.mktemp("parity"), {}

    def losses(name: str, dtype: str = "float64", **changes: object) -> np.ndarray:
        key = (name, dtype, *sorted(changes.items()))
        if key not in done:
            done[key] = trained(resolve(configuration(CASES[name], folder), dtype=dtype, **changes), CASES[name])
        return done[key]

    return losses


def trained(run: RunConfig, case: parity.Case) -> np.ndarray:
    """Losses [U] from the case's weights, through the loop that trains every run."""
    job = job_of([run], lanes=1, segment=parity.STEPS)
    job = dataclasses.replace(job, feed=Given(job.program.shape.segment))
    values = parity.weights(case)
    with job.program.context():
        # Optimizers start from zeros; drawing weights that are replaced would cost a compile.
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), job.program.abstract_state())
        assert {path: leaf.shape[1:] for path, leaf in state.params.items()} == {p: v.shape for p, v in values.items()}
        params = {path: jnp.asarray(value[None], job.program.shape.param_dtype) for path, value in values.items()}
    state = state._replace(params=params, alive=jnp.ones_like(state.alive), diverged=jnp.full_like(state.diverged, -1))
    snapshot = train.Snapshot(0, state, np.zeros((0, 1)), np.zeros((0, 1)))
    for newest in train.train(job, snapshot):
        snapshot = newest
    return snapshot.settled().loss[:, 0]


@pytest.fixture(scope="module")
def rival() -> ModuleType:
    """`torch_reference`; skips where PyTorch or mup is absent."""
    for package in ("torch", "mup"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'lr-scaling-lab[parity]'")
    return importlib.import_module("torch_reference")


def gap(one: np.ndarray, other: np.ndarray | list[float]) -> float:
    return float(np.abs(one - np.asarray(other)).max())


def stored(name: str) -> list[float]:
    return parity.stored()["cases"][name]["losses"]


def test_the_stored_losses_are_of_these_cases() -> None:
    """Otherwise weights, batches or numbers have changed since: run the command that is stored beside them."""
    found = {name: entry["fingerprint"] for name, entry in parity.stored()["cases"].items()}
    assert found == {name: parity.fingerprint(case) for name, case in CASES.items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_losses_equal_the_stored_ones(ours: Ours, name: str, dtype: str) -> None:
    losses = ours(name, dtype)
    assert losses[-1] < losses[0] - 1  # it has learned, so every rule has acted
    assert gap(losses, stored(name)) < STORED_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_losses_equal_pytorchs(ours: Ours, rival: ModuleType, name: str, dtype: str) -> None:
    theirs = rival.losses(CASES[name], dtype)
    assert gap(ours(name, dtype), theirs) < TOLERANCE[dtype]
    assert gap(np.asarray(theirs), stored(name)) < STORED_TOLERANCE[dtype]


# A rule that is off, or another one in its place, in a case that shows it.
WRONG = [
    ("MuSGD", {"ablate": "embedding.lr"}),
    ("MuSGD", {"ablate": "bias.lr"}),
    ("MuSGD", {"ablate": "readout.lr"}),
    ("MuAdam", {"ablate": "hidden.lr"}),
    ("MuAdam", {"ablate": "readout.forward"}),
    ("MuAdam", {"attention": "sqrt"}),
    ("MuAdamW", {"ablate": "hidden.lr"}),
    ("MuAdamW", {"ablate": "hidden.decay"}),
    ("MuAdamW tied", {"ablate": "hidden.lr"}),
    ("CompleteP alpha 1", {"ablate": "depth.branch"}),
    ("CompleteP alpha 1/2", {"ablate": "depth.branch"}),
    ("CompleteP alpha 1/2", {"ablate": "depth.lr"}),
    ("CompleteP alpha 1", {"depth": "sqrt"}),
    ("CompleteP alpha 1, eps 1e-4", {"scale_eps": False}),
    ("CompleteP alpha 1/2, eps 1e-4", {"scale_eps": False}),
    ("CompleteP alpha 1, eps 1e-4", {"ablate": "depth.eps"}),
    ("CompleteP alpha 1/2, eps 1e-4", {"ablate": "hidden.eps"}),
    ("CompleteP alpha 1/2, eps 1e-4", {"ablate": "embedding.eps"}),
]


@pytest.mark.parametrize(("name", "change"), WRONG, ids=str)
def test_one_wrong_rule_misses(ours: Ours, name: str, change: dict[str, object]) -> None:
    changes = {f"parametrization__{key}": value for key, value in change.items()}
    assert gap(ours(name, **changes), stored(name)) > MISSED
