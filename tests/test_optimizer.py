"""The optimizer chains against optax's own, and decay against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import resolve, trained

from lab.config import RunConfig
from lab.optimizer import Hyper, optimizer

PATHS = ("a", "b")


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
    state = chain.init(weights)
    for step in range(5):
        updates, state = chain.update(gradients(step), state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


def assert_same(ours, theirs) -> None:
    for path in PATHS:
        np.testing.assert_allclose(ours[path], theirs[path], rtol=1e-5, atol=1e-6)


def test_adamw_equals_optax() -> None:
    ours = run(optimizer("adam", hyper(), jnp.float32(0.1), jnp.float32(0.1 * 0.01)))
    assert_same(ours, run(optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.01)))


def test_momentum_equals_optax() -> None:
    ours = run(optimizer("sgd", hyper(), jnp.float32(0.1), jnp.float32(0)))
    assert_same(ours, run(optax.sgd(0.1, momentum=0.9)))


def test_clipping_equals_optax() -> None:
    ours = run(optimizer("adam", hyper(clip=jnp.float32(0.5)), jnp.float32(0.1), jnp.float32(0)))
    assert_same(ours, run(optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1, b1=0.9, b2=0.95, eps=1e-3))))


def test_eps_rate_and_decay_are_per_leaf() -> None:
    changed = hyper(
        eps={"a": jnp.float32(1e-3), "b": jnp.float32(1.0)},
        lr={"a": jnp.float32(1), "b": jnp.float32(0.5)},
        decay={"a": jnp.float32(1), "b": jnp.float32(0)},
    )
    ours = run(optimizer("adam", changed, jnp.float32(0.1), jnp.float32(0.001)))
    a = run(optax.adamw(0.1, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.01))
    b = run(optax.adam(0.05, b1=0.9, b2=0.95, eps=1.0))
    assert_same(ours, {"a": a["a"], "b": b["b"]})


@pytest.mark.parametrize("decay", ["coupled", "independent"])
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
    removed = 0.5 * 2.0**-4 / 2 if decay == "coupled" else 0.5  # muP halves the hidden rate at twice the base width
    np.testing.assert_allclose(after, before * (1 - removed), rtol=1e-5)
    gain = "final_norm/gain"
    np.testing.assert_array_equal(decayed.state.params[gain], kept.state.params[gain])
