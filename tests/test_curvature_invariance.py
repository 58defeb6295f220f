"""What must not change a measured curvature: how the batch is cut, lanes, devices, training dtype, attention path.

The states are trained by the laboratory itself; `tests/test_curvature.py` has the operators against exact matrices.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lab.config import ModelConfig, OptimizerConfig, ParametrizationConfig, RunConfig, ScheduleConfig
from lab.curvature import directional, hessian, loss_and_gradient
from lab.lanczos import lanczos, ritz, ritz_vectors, start
from lab.lane import Lane
from lab.model import Forward
from lab.objective import AGREEMENT, Windows, agreement, language, measured, windows
from lab.override import apply
from lab.program import Batches, Program, Shape, State, program, shape_of
from lab.transformer import ATTENTION, attend_einsum

KEY = jax.random.key(0, impl="threefry2x32")
VOCAB, LENGTH, ROWS, LANES, UPDATES, STEPS = 17, 8, 6, 3, 20, 12


class Trained(NamedTuple):
    """A program, its lanes, and their states after some updates."""

    program: Program
    lane: Lane
    state: State


def runs(dtype: str) -> list[RunConfig]:
    """Tiny transformers that differ in their initial values."""
    run = RunConfig(
        model=ModelConfig(width=16, depth=1, head_dim=8),
        parametrization=ParametrizationConfig(base_width=8),
        optimizer=OptimizerConfig(kind="adam"),
        schedule=ScheduleConfig(kind="constant", steps=UPDATES),
    )
    settings = {"data.length": LENGTH, "data.sequences": ROWS, "dtype": dtype}
    return [
        apply(run, settings | {"seed_init": seed}).resolve(vocab=VOCAB, fingerprint="made up") for seed in range(LANES)
    ]


def tokens() -> jax.Array:
    """Windows [ROWS, LENGTH + 1] with something to learn."""
    rows = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH + 1))
    rows[:, 5:] = rows[:, 1:5]
    return jnp.asarray(rows, jnp.int32)


def untrained(dtype: str) -> tuple[Program, Lane]:
    configs = runs(dtype)
    made = program(shape_of(configs[0], lanes=LANES, strategy="vmap", group=1, segment=UPDATES, forward=Forward()))
    return made, made.lanes(configs)[0]


def train(dtype: str) -> Trained:
    made, lane = untrained(dtype)
    batches = Batches(None, None, jnp.broadcast_to(tokens(), (UPDATES, 1, ROWS, LENGTH + 1)))
    rates = np.full((UPDATES, LANES), 0.02)
    state, metrics = made.segment(lane, made.init(lane), batches, rates, 0 * rates, begin=0, steps=UPDATES)
    loss_KS = np.asarray(metrics.loss)
    assert (loss_KS[:, -1] < 0.8 * loss_KS[:, 0]).all()
    return Trained(made, lane, state)


@pytest.fixture(scope="module")
def single() -> Trained:
    return train("float32")


@pytest.fixture(scope="module")
def half() -> Trained:
    return train("bfloat16")


def at(tree: Any, lane: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[lane], tree)


def weighted() -> jax.Array:
    """Weights [ROWS, LENGTH] that differ between rows, so that parts of the batch hold unequal shares of it."""
    return jnp.ones((ROWS, LENGTH)).at[0, 2:].set(0).at[3].set(0.5)


def krylov(made: Program, lane: Lane, params: Any, batch: Windows) -> Any:
    matvec = hessian(language(made, lane), params, batch)
    return lanczos(matvec, start(KEY, ravel_pytree(params)[0]), STEPS)


def top(run: Any) -> tuple[np.ndarray, np.ndarray]:
    """(lambda_1, its residual) of Lanczos runs."""
    found = ritz(run).largest(1)
    return found.values[..., 0], found.residuals[..., 0]


def assert_same(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], rtol: float = 1e-5) -> None:
    """Both to `rtol` of the eigenvalue: a residual is a distance from it."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=rtol)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=rtol * np.abs(theirs[0]).max())


@pytest.mark.slow
def test_cutting_and_padding_the_batch_leave_eigenvalue_and_residual(single: Trained) -> None:
    """Six windows in 1, 2 and 4 parts, the last with two windows of padding; targets are weighted."""
    lane, params = at((single.lane, single.state.params), 0)
    measure = jax.jit(lambda batch: krylov(single.program, lane, params, batch))
    whole = top(measure(windows(tokens(), 1, weighted())))
    for parts in (2, 4):
        batch = windows(tokens(), parts, weighted())
        assert batch.tokens.shape[0] * batch.tokens.shape[1] == {2: 6, 4: 8}[parts]
        assert_same(top(measure(batch)), whole)
    # The control: padding that counted, and weights that did not, would be another operator.
    cut = windows(tokens(), 4, weighted())
    for wrong in (cut._replace(weights=jnp.ones_like(cut.weights)), windows(tokens(), 1)):
        assert abs(top(measure(wrong))[0] / whole[0] - 1) > 1e-3


@pytest.fixture(scope="module")
def measure_alone(single: Trained) -> Any:
    batch = windows(tokens(), 2)
    return jax.jit(lambda lane, params: krylov(single.program, lane, params, batch))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_a_lane_among_others_is_measured_as_alone(single: Trained, measure_alone: Any, strategy: Any) -> None:
    made = program(dataclasses.replace(single.program.shape, strategy=strategy))
    together = jax.jit(made.over_lanes(measure_alone))
    params = single.state.params
    healthy = top(together(single.lane, params))
    diverged = top(together(single.lane, {path: value.at[1].set(jnp.nan) for path, value in params.items()}))
    assert np.isnan(diverged[0][1]) and np.isnan(diverged[1][1])
    for k in (0, 2):
        for ours, theirs in zip(diverged, healthy, strict=True):
            assert ours[k] == theirs[k]
        assert_same(at(healthy, k), top(measure_alone(at(single.lane, k), at(params, k))))


DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
from lab.objective import windows
from test_curvature_invariance import at, krylov, tokens, top, untrained, weighted

made, lanes = untrained("float32")
lane, params = at((lanes, made.init(lanes).params), 0)
kernel = params["readout/kernel"]
params["readout/kernel"] = jax.random.normal(jax.random.key(1), kernel.shape) / 4
mesh = jax.make_mesh((4,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
copied, rows = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), (None, "device")))
# Eight windows with the padding: two for each device.
batch = jax.tree.map(lambda x: x.reshape(1, 8, -1), windows(tokens(), 4, weighted()))
measure = jax.jit(lambda params, batch: krylov(made, lane, params, batch))
spread = jax.device_put(params, copied), jax.device_put(batch, rows)
text = measure.lower(*spread).compile().as_text()
print("sharded:", "all-reduce" in text, "num_partitions=4" in text)
one, four = top(measure(params, batch)), top(measure(*spread))
print("same:", *(bool(abs(a - b) / one[0] < 1e-5) for a, b in zip(one, four)))
"""


@pytest.mark.slow
def test_several_devices_measure_what_one_does() -> None:
    """The windows of the measurement batch over four virtual devices; lanes over devices: `tests/test_sharding.py`."""
    tests = Path(__file__).parent
    code = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]}\n{DEVICES}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sharded: True True\nsame: True True\n"


@pytest.mark.slow
def test_a_state_trained_in_bfloat16_is_measured_in_float32(half: Trained, single: Trained) -> None:
    lane, params = at((half.lane, half.state.params), 0)
    batch = windows(tokens(), 1, weighted())
    # The same program as that of a run in float32, which therefore measures the same.
    assert measured(half.program.shape) == single.program.shape
    made = program(measured(half.program.shape))
    measure = jax.jit(lambda lane: krylov(made, lane, params, batch))
    run = measure(lane)
    assert_same(top(run), top(measure(at(single.lane, 0))), rtol=0)
    # In bfloat16 the quotient along the top vector is another number.
    v_N = ritz_vectors(run, ritz(run).largest(1), ravel_pytree(params)[0].size)[0]

    def quotient(made: Program) -> float:
        matvec = hessian(language(made, lane), params, batch)
        return float(jax.jit(lambda v_N: directional(matvec, v_N))(v_N))

    assert quotient(made) == pytest.approx(float(top(run)[0]), rel=1e-5)
    assert abs(quotient(half.program) / quotient(made) - 1) > 1e-4


@pytest.mark.slow
def test_attention_paths_agree_in_loss_and_curvature(single: Trained) -> None:
    lane, params = at((single.lane, single.state.params), 0)
    batch, found = windows(tokens(), 2, weighted()), {}
    losses_BT = jax.jit(single.program.token_losses)(params, lane, tokens())
    for attention in ("einsum", "xla"):
        made = program(attended(single.program.shape, attention))
        found[attention] = jax.jit(
            lambda params, made=made: (
                loss_and_gradient(language(made, lane), params, batch)[0],
                krylov(made, lane, params, batch),
                agreement(single.program, made, lane, params, batch),
            )
        )(params)
        trained = jnp.sum(weighted() * losses_BT) / jnp.sum(weighted())
        np.testing.assert_allclose(found[attention][0], trained, rtol=2e-6)
        assert found[attention][2] < AGREEMENT["float32"]
    np.testing.assert_allclose(found["xla"][0], found["einsum"][0], rtol=2e-6)
    assert_same(top(found["xla"][1]), top(found["einsum"][1]))


def attended(shape: Shape, attention: str) -> Shape:
    return dataclasses.replace(shape, forward=Forward(attention=attention))


def attend_too_sharply(q: jax.Array, k: jax.Array, v: jax.Array, scale: jax.Array) -> jax.Array:
    return attend_einsum(q, k, v, 3 * scale)


def attend_everywhere(q: jax.Array, k: jax.Array, v: jax.Array, scale: jax.Array) -> jax.Array:
    """Without the causal mask."""
    weights = jax.nn.softmax(jnp.einsum("bhtn,bhsn->bhts", q, k) * scale, axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bhsn->bhtn", weights, v)


@pytest.mark.parametrize("attend", [attend_too_sharply, attend_everywhere])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_attention_is_caught(
    single: Trained, half: Trained, monkeypatch: pytest.MonkeyPatch, dtype: str, attend: Any
) -> None:
    trained = {"float32": single, "bfloat16": half}[dtype]
    monkeypatch.setitem(ATTENTION, "other", attend)
    other, honest = (Program(attended(trained.program.shape, name)) for name in ("other", "einsum"))
    made, batch = program(measured(trained.program.shape)), windows(tokens(), 4)

    def apart(made_from: Program) -> np.ndarray:
        def one(lane: Lane, params: Any) -> Any:
            return agreement(made_from, made, lane, params, batch)

        return np.asarray(jax.jit(made_from.over_lanes(one))(trained.lane, trained.state.params))

    assert (apart(honest) < AGREEMENT[dtype]).all()
    assert (apart(other) > AGREEMENT[dtype]).all()


def test_agreement_is_a_share_of_the_loss_and_blind_before_a_readout(single: Trained) -> None:
    lane, params = at((single.lane, single.state.params), 0)
    batch = windows(tokens(), 4)
    moved = dict(params, **{"readout/kernel": 1.1 * params["readout/kernel"]})
    loss = jax.jit(single.program.loss)
    losses_B, others_B = loss(params, lane, tokens()), loss(moved, lane, tokens())
    scaled = lane._replace(forward=dict(lane.forward, **{"readout/kernel": 1.1 * lane.forward["readout/kernel"]}))

    class Moved:
        """The same program, whose readout is a tenth larger."""

        shape = single.program.shape

        @staticmethod
        def logits(params: Any, lane: Lane, tokens: jax.Array) -> jax.Array:
            del lane
            return single.program.logits(params, scaled, tokens)

    other: Any = Moved()
    expected = jnp.max(jnp.abs(losses_B - others_B)) / jnp.maximum(jnp.mean(losses_B), 1)
    compared = jax.jit(lambda params: agreement(other, single.program, lane, params, batch))
    np.testing.assert_allclose(compared(params), expected, rtol=1e-4)
    silent = dict(params, **{"readout/kernel": jnp.zeros_like(params["readout/kernel"])})
    assert compared(silent) == 0
    broken = dict(params, **{"readout/kernel": jnp.full_like(params["readout/kernel"], jnp.nan)})
    assert jnp.isnan(compared(broken))
