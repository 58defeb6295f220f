"""The model: causal, the same whichever way it executes, and equal to a plain reference."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import job_of, resolve, trained
from test_parametrization import VARIANTS

from lab import train
from lab.config import RunConfig
from lab.transformer import ATTENTION, _rotate

pytestmark = pytest.mark.stack

LENGTH = 16


def lane_zero(tree):
    return jax.tree.map(lambda x: x[0], tree)


def random_params(config: RunConfig, **settings: object):
    """(program, lane, parameters) of one run with a readout that is not zero."""
    job = job_of([resolve(config, parametrization__zero_readout=False)], **settings)
    return job.program, lane_zero(job.lane), lane_zero(train.start(job).state.params)


def tokens(seed: int = 0, rows: int = 4) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (rows, LENGTH + 1)), jnp.int32)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_causal_by_gradient(base: RunConfig, changes: dict[str, object]) -> None:
    """The loss at the first t targets has no gradient with respect to embeddings of later inputs.

    A tied embedding is also every target's readout: there, logits of the first t positions do not move with later
    inputs.
    """
    program, lane, params = random_params(resolve(base, **changes))
    batch = jnp.arange(LENGTH + 1)[None].repeat(4, axis=0)  # every input token occurs at one place only
    if "model__tied" in changes:
        logits = jax.jit(lambda inputs: program.logits(params, lane, inputs).reshape(*inputs.shape, -1))
        before = np.asarray(logits(batch[:, :-1]))
        for upto in (1, 7):
            after = np.asarray(logits(batch[:, :-1].at[:, upto:].add(20)))
            np.testing.assert_array_equal(after[:, :upto], before[:, :upto])
            assert (np.abs(after[:, upto:] - before[:, upto:]).max(axis=-1) > 0).all()
        return

    @jax.jit
    @jax.grad
    def early(embedding: jax.Array, counted_T: jax.Array) -> jax.Array:
        scaled = params | {"embedding/token": embedding}
        return jnp.where(counted_T, program.token_losses(scaled, lane, batch), 0.0).sum()

    for upto in (1, 7, LENGTH):
        gradient = early(params["embedding/token"], np.arange(LENGTH) < upto)
        reach = np.abs(np.asarray(gradient)).sum(axis=1)
        assert (reach[:upto] > 0).all()
        assert (reach[upto : LENGTH + 1] == 0).all()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_zero_readout_starts_at_log_vocabulary(base: RunConfig, changes: dict[str, object]) -> None:
    if "model__tied" in changes:
        pytest.skip("a tied readout cannot start at zero")
    job, snapshot = trained([resolve(base, **changes)])
    assert snapshot.loss[0, 0] == pytest.approx(np.log(256), abs=1e-6)
    assert snapshot.loss[-1, 0] < snapshot.loss[0, 0]
    assert job.steps == 12


class Plain(NamedTuple):
    """A run in float64, its parameters, and their loss and gradient in layers that are unrolled."""

    run: RunConfig
    params: dict[str, jax.Array]
    loss: jax.Array
    gradients: dict[str, jax.Array]


def loss_and_gradient(run: RunConfig, params: dict[str, jax.Array], **how: object) -> Any:
    job = job_of([run], **how)
    program, lane = job.program, lane_zero(job.lane)
    with program.context():
        return jax.jit(jax.value_and_grad(lambda p: program.loss(p, lane, tokens()).mean()))(params)


@pytest.fixture(scope="module", params=VARIANTS[:3], ids=str)
def plain(base: RunConfig, request: pytest.FixtureRequest) -> Plain:
    run = resolve(base, dtype="float64", parametrization__zero_readout=False, **request.param)
    _, _, params = random_params(run, unroll=True)
    return Plain(run, params, *loss_and_gradient(run, params, unroll=True))


@pytest.mark.parametrize(
    "settings", [{"unroll": False}, {"remat": "full"}, {"remat": "dots"}, {"attention": "xla"}], ids=str
)
def test_execution_does_not_change_the_loss_or_its_gradient(plain: Plain, settings: dict[str, object]) -> None:
    """Scan against unrolled, remat against none, the library's attention against einsum: float64, 1e-12."""
    other, other_grads = loss_and_gradient(plain.run, plain.params, **settings)
    # The library computes its softmax in float32, whatever it is given.
    tolerance = 1e-6 if "attention" in settings else 1e-12
    assert abs(float(plain.loss) - float(other)) < tolerance
    for path, gradient in plain.gradients.items():
        np.testing.assert_allclose(other_grads[path], gradient, rtol=0, atol=tolerance)


def test_float64_is_float64_throughout(base: RunConfig) -> None:
    job, snapshot = trained([resolve(base, dtype="float64")])
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(snapshot.state.params)} == {"float64"}
    assert job.lane.hyper.beta2.dtype == "float64"


def test_bfloat16_keeps_float32_master_weights(base: RunConfig) -> None:
    runs = [resolve(base, dtype=dtype) for dtype in ("bfloat16", "float32")]
    (_, low), (_, high) = (trained([run]) for run in runs)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(low.state.params)} == {"float32"}
    gap = np.abs(low.loss - high.loss).max()
    assert 0 < gap < 0.05


def test_attention_against_a_loop() -> None:
    """Grouped heads, causal mask and scale, entry by entry in numpy."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(2, 2, 5, 3)), rng.normal(size=(2, 2, 5, 3))
    expected = np.zeros_like(q)
    for b, h, t in np.ndindex(2, 4, 5):
        scores = np.array([q[b, h, t] @ k[b, h // 2, s] * 0.3 for s in range(t + 1)])
        weights = np.exp(scores - scores.max())
        expected[b, h, t] = (weights / weights.sum()) @ v[b, h // 2, : t + 1]
    for name in ("einsum", "xla"):
        arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v)]
        found = jax.jit(ATTENTION[name])(*arrays, jnp.float32(0.3))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rope_depends_on_relative_positions_only() -> None:
    """The product of a rotated query and key depends on their distance; without rotation it would be constant."""
    rng = np.random.default_rng(0)
    q, k = (jnp.broadcast_to(jnp.asarray(rng.normal(size=8), jnp.float32), (1, 1, 12, 8)) for _ in range(2))
    products = np.asarray(jnp.einsum("bhtn,bhsn->ts", _rotate(q, 100.0), _rotate(k, 100.0)))
    for distance in range(1, 11):
        np.testing.assert_allclose(np.diag(products, -distance), np.diag(products, -distance)[0], atol=1e-5)
    assert np.ptp(products[:, 0]) > 0.1


def test_forward_multiplier_acts_on_the_logits(base: RunConfig) -> None:
    """muP's readout factor halves the logits when the base width halves."""
    program, lane, params = random_params(resolve(base))
    halved = lane._replace(forward=lane.forward | {"readout/kernel": lane.forward["readout/kernel"] / 2})
    scaled = params | {"readout/kernel": params["readout/kernel"] / 2}
    loss = jax.jit(lambda params, lane: program.loss(params, lane, tokens()))
    np.testing.assert_allclose(loss(params, halved), loss(scaled, lane), rtol=1e-6)
    assert (loss(params, halved) != loss(params, lane)).any()  # the control
