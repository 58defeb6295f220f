"""The optimizer chains against optax's own, and decay against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from conftest import resolve, trained

from lab.config import RunConfig
from lab.model import leaves
from lab.optimizer import Hyper, muon_scale, optimizer
from lab.role import Leaf, Place, Role

pytestmark = pytest.mark.stack

PATHS = ("a", "b")
LEAVES = {
    path: Leaf(path, (3, 4), role, 3, 4, 3, 4, Place.OUTSIDE, (0,), (1,))
    for path, role in zip(PATHS, (Role.HIDDEN, Role.READOUT), strict=True)
}


def hyper(**changes: object) -> Hyper:
    ones = {path: jnp.float32(1) for path in PATHS}
    plain = Hyper(
        beta1=jnp.float32(0.9),
        beta2=jnp.float32(0.95),
        momentum=jnp.float32(0.9),
        clip=jnp.float32(np.inf),
        eps={path: jnp.float32(1e-3) for path in PATHS},
        lr=ones,
        decay=ones,
    )
    return plain._replace(**changes)


def params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {path: jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for path in PATHS}


def gradients(step: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(step + 1)
    return {path: jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for path in PATHS}


def run(chain: optax.GradientTransformation) -> Any:
    weights: Any = params()
    state = jax.jit(chain.init)(weights)

    @jax.jit
    def updated(gradient: Any, state: Any, weights: Any) -> Any:
        updates, state = chain.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    for step in range(5):
        weights, state = updated(gradients(step), state, weights)
    return weights


def assert_same(ours, theirs) -> None:
    for path in PATHS:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5, atol=1e-6)


def test_adamw_equals_optax() -> None:
    ours = run(optimizer("adam", hyper(), LEAVES, jnp.float32(0.1), jnp.float32(0.1 * 0.01)))
    assert_same(ours, run(optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.01)))


def test_momentum_equals_optax() -> None:
    ours = run(optimizer("sgd", hyper(), LEAVES, jnp.float32(0.1), jnp.float32(0)))
    assert_same(ours, run(optax.sgd(0.1, momentum=0.9)))


def test_clipping_equals_optax() -> None:
    ours = run(optimizer("adam", hyper(clip=jnp.float32(0.5)), LEAVES, jnp.float32(0.1), jnp.float32(0)))
    assert_same(ours, run(optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, b1=0.9, b2=0.95, eps=1e-3))))


def test_eps_rate_and_decay_are_per_leaf() -> None:
    changed = hyper(
        eps={"a": jnp.float32(1e-3), "b": jnp.float32(1.0)},
        lr={"a": jnp.float32(1), "b": jnp.float32(0.5)},
        decay={"a": jnp.float32(1), "b": jnp.float32(0)},
    )
    ours = run(optimizer("adam", changed, LEAVES, jnp.float32(0.1), jnp.float32(0.001)))
    a = run(optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.01))
    b = run(optax.adam(0.05, b1=0.9, b2=0.95, eps=1.0))
    assert_same(ours, {"a": a["a"], "b": b["b"]})


def test_lion_equals_optax() -> None:
    ours = run(optimizer("lion", hyper(), LEAVES, jnp.float32(0.01), jnp.float32(0.01 * 0.1)))
    assert_same(ours, run(optax.lion(0.01, b1=0.9, b2=0.95, weight_decay=0.1)))


def test_adafactor_equals_optax() -> None:
    ours = run(optimizer("adafactor", hyper(), LEAVES, jnp.float32(0.1), jnp.float32(0)))
    assert_same(ours, run(optax.adafactor(0.1, min_dim_size_to_factor=2)))


@pytest.mark.parametrize(("convention", "consistent_rms"), [("keller", None), ("moonlight", 0.2)])
def test_muon_equals_optax(convention: str, consistent_rms: float | None) -> None:
    """Hidden matrices like `optax.contrib.muon` in its two conventions, the rest like Adam."""
    factor = {"a": jnp.float32(muon_scale(convention, 3, 4)), "b": jnp.float32(1)}
    ours = run(optimizer("muon", hyper(lr=factor), LEAVES, jnp.float32(0.1), jnp.float32(0)))
    muon = run(optax.contrib.muon(0.1, beta=0.9, consistent_rms=consistent_rms))
    adam = run(optax.adam(0.1, b1=0.9, b2=0.95, eps=1e-3))
    assert_same(ours, {"a": muon["a"], "b": adam["b"]})


def test_muon_scales() -> None:
    assert [muon_scale(name, 16, 64) for name in ("keller", "moonlight", "spectral")] == [2, 1.6, 2]
    assert [muon_scale(name, 64, 16) for name in ("keller", "moonlight", "spectral")] == [1, 1.6, 0.5]


@pytest.mark.parametrize("kind", ["muon", "adafactor"])
def test_stacked_layers_are_updated_one_by_one(base: RunConfig, kind: str) -> None:
    """What looks at a whole tensor sees one layer: a stack gives what its layers give alone."""
    stack = leaves(resolve(base, model__depth=3))["blocks/mlp/up/kernel"]
    alone = Leaf("x", stack.shape[1:], stack.role, 16, 64, 16, 64, stack.place, (0,), (1,))
    rng = np.random.default_rng(0)
    weight, gradient = (jnp.asarray(rng.normal(size=stack.shape), jnp.float32) for _ in range(2))
    gradient = gradient * jnp.asarray([1.0, 10.0, 100.0])[:, None, None]

    def step(path: str, leaf: Leaf, w: jax.Array, g: jax.Array) -> jax.Array:
        one = {path: jnp.float32(1)}
        chain = optimizer(kind, hyper(eps=one, lr=one, decay=one), {path: leaf}, jnp.float32(1), jnp.float32(0))
        updates: Any = chain.update({path: g}, chain.init({path: w}), {path: w})[0]
        return updates[path]

    together = step(stack.path, stack, weight, gradient)
    apart = jnp.stack([step("x", alone, weight[i], gradient[i]) for i in range(3)])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adafactor", "muon", "lion"])
def test_every_optimizer_trains(base: RunConfig, kind: str) -> None:
    lr = {"adafactor": 2.0**-4, "muon": 2.0**-5, "lion": 2.0**-8}[kind]
    changes = {"optimizer__kind": kind, "optimizer__lr": lr, "parametrization__zero_readout": False}
    _, snapshot = trained([resolve(base, schedule__steps=24, **changes)])
    assert snapshot.loss[-1, 0] < snapshot.loss[0, 0] - 0.2


@pytest.mark.parametrize("decay", ["constant-eta-lambda", "coupled", "independent"])
def test_decay_removes_what_the_config_says(base: RunConfig, decay: str) -> None:
    """With a zero readout the first update moves the MLP by its decay alone: its gradient is exactly zero."""
    run_ = resolve(
        base,
        schedule__steps=1,
        schedule__warmup_steps=0,
        schedule__decay_steps=0,
        optimizer__weight_decay=0.5,
        optimizer__decay=decay,
        optimizer__lr=2.0**-4,
        model__width=32,
    )
    plain = resolve(run_, optimizer__weight_decay=0.0)
    (_, decayed), (_, kept) = trained([run_]), trained([plain])
    path = "blocks/mlp/up/kernel"
    before, after = (np.asarray(s.state.params[path][0]) for s in (kept, decayed))
    # muP halves the hidden rate at twice the base width
    removed = {"constant-eta-lambda": 0.5 * 2.0**-4, "coupled": 0.5 * 2.0**-4 / 2, "independent": 0.5}[decay]
    np.testing.assert_allclose(after, before * (1 - removed), rtol=1e-5)
    gain = "final_norm/gain"
    np.testing.assert_array_equal(decayed.state.params[gain], kept.state.params[gain])
