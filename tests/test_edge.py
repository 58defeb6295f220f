"""Thresholds of the edge of stability against the spectral radius of the updates themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lab.check import InputError
from lab.curvature import scaled
from lab.edge import FORMS, edge, threshold
from lab.lanczos import lanczos, ritz, start
from lab.optimizer import AdamState, Hyper, optimizer
from lab.preconditioner import root
from lab.role import Leaf, Place, Role

PATHS, SIZE, COUNT = ("a", "b"), 4, 10**9
LEAVES = {path: Leaf(path, (SIZE,), Role.BIAS, 1, SIZE, 1, SIZE, Place.OUTSIDE, (), (0,)) for path in PATHS}


def radius(form: str, momentum: float, lr: float, sharpness: float, decay: float) -> float:
    """Spectral radius of one update of (x, m) on `sharpness x^2 / 2`, built by making the update on unit vectors."""
    averaged, nesterov = FORMS[form]

    def update(x: float, m: float) -> tuple[float, float]:
        g = (1 - momentum if averaged else 1) * sharpness * x
        m = momentum * m + g
        return (1 - decay) * x - lr * (g + momentum * m if nesterov else m), m

    return max(abs(np.linalg.eigvals(np.array([update(1, 0), update(0, 1)]).T)))


def measured(form: str, momentum: float, lr: float, decay: float) -> float:
    """`lr * sharpness` where the update leaves the unit circle, by bisection from a stable sharpness."""
    low, high = 1e-3 / lr, 1e3 / lr
    assert radius(form, momentum, lr, low, decay) < 1 < radius(form, momentum, lr, high, decay)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(form, momentum, lr, middle, decay) <= 1 else (low, middle)
    return lr * low


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("lr", [1e-3, 0.1])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_thresholds_are_where_updates_leave_the_unit_circle(form, momentum, lr, weight_decay) -> None:
    decay = lr * weight_decay
    # 1e-6: near the circle rounding of eigenvalues moves the crossing, the more the slower it is.
    assert measured(form, momentum, lr, decay) == pytest.approx(threshold(form, momentum, decay), rel=1e-6)


def test_thresholds_have_their_known_values() -> None:
    assert threshold("heavy-ball") == 2
    assert threshold("heavy-ball", 0.9) == pytest.approx(3.8)
    assert [threshold("average", b) for b in (0, 0.5, 0.9, 0.95)] == pytest.approx([2, 6, 38, 78])
    assert threshold("nesterov", 0.9) == pytest.approx(1.3571, abs=5e-5)
    assert threshold("nesterov-average", 0.9) == pytest.approx(13.5714, abs=5e-5)
    assert threshold("average", 0.9, 0.1 * 0.1) == pytest.approx(37.81)


def test_optimizers_have_the_threshold_of_their_form() -> None:
    assert edge("sgd", beta1=0.9, momentum=0.0) == 2
    assert edge("sgd", beta1=0.5, momentum=0.9) == pytest.approx(3.8)
    assert edge("adam", beta1=0.9, momentum=0.5) == pytest.approx(38)
    assert edge("adamw", beta1=0.9, momentum=0.5, decay=0.01) == pytest.approx(37.81)


def descend(kind: str, hyper: Hyper, opt: Any, h_NN: jax.Array, lr: float, steps: int) -> tuple[float, float]:
    """`lambda_max(S)` at the start of a quadratic, and how much the weights grow in as many updates of the chain."""
    begin_N = 1e-8 * start(jax.random.key(0), jnp.zeros(2 * SIZE))
    params: Any = dict(zip(PATHS, jnp.split(begin_N, 2), strict=True))
    scale_N = root(kind, hyper, opt, params, jnp.asarray(lr))
    top = ritz(lanczos(scaled(lambda v_N: h_NN @ v_N, scale_N), begin_N, 2 * SIZE)).values[0]

    def update(_: Any, carry: Any) -> Any:
        params, direction = carry
        gradient = dict(zip(PATHS, jnp.split(h_NN @ ravel_pytree(params)[0], 2), strict=True))
        chain: Any = optimizer(kind, hyper, LEAVES, jnp.asarray(lr), jnp.asarray(0.0))
        clip, _, last = chain.init(params)
        updates, state = chain.update(gradient, (clip, direction, last), params)
        return {path: params[path] + updates[path] for path in params}, state[1]

    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, update, carry))((params, opt[1]))
    return float(top), float(jnp.linalg.norm(ravel_pytree(params)[0]) / 1e-8)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_laboratory_s_own_updates_cross_the_edge_at_a_ratio_of_one(kind: str) -> None:
    """Leaves have rates of their own; Adam's statistics are all but frozen by a beta2 near 1 and small gradients."""
    rng = np.random.default_rng(0)
    root_NN = rng.normal(size=(2 * SIZE, 2 * SIZE))
    with jax.enable_x64(True):
        h_NN = jnp.asarray(root_NN @ root_NN.T)
        ones = {path: jnp.asarray(1.0) for path in PATHS}
        rates = {"a": jnp.asarray(1.0), "b": jnp.asarray(0.3)}
        constants = {"beta1": 0.9, "beta2": 1 - 1e-7, "momentum": 0.8, "clip": np.inf}
        eps = {path: jnp.asarray(0.1) for path in PATHS}
        hyper = Hyper(**{name: jnp.asarray(value) for name, value in constants.items()}, eps=eps, lr=rates, decay=ones)
        zeros = {path: jnp.zeros(SIZE) for path in PATHS}
        nu = {path: jnp.asarray(rng.uniform(0.1, 4, SIZE)) for path in PATHS}
        direction: Any = AdamState(jnp.asarray(COUNT, jnp.int32), zeros, nu)
        if kind == "sgd":
            chain: Any = optimizer("sgd", hyper, LEAVES, jnp.asarray(0.0), jnp.asarray(0.0))
            direction = chain.init(zeros)[1]
        state = (None, direction, None)
        sharpness, _ = descend(kind, hyper, state, h_NN, 1.0, 0)
        limit = edge(kind, beta1=0.9, momentum=0.8) / sharpness
        for ratio in (0.98, 1.02):
            top, growth = descend(kind, hyper, state, h_NN, ratio * limit, 60)
            assert top / edge(kind, beta1=0.9, momentum=0.8) == pytest.approx(ratio, rel=1e-9)
            assert growth > 1000 if ratio > 1 else growth < 0.1


@pytest.mark.parametrize("kind", ["lion", "muon", "adafactor"])
def test_optimizers_without_an_edge_are_refused_in_one_line(kind) -> None:
    with pytest.raises(InputError, match=f"optimizer {kind} has no edge of stability") as caught:
        edge(kind, beta1=0.9, momentum=0.9)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "momentum", "decay", "message"),
    [
        ("nesterof", 0.9, 0.0, "did you mean nesterov"),
        ("average", 1.0, 0.0, "momentum 1.0 is not in"),
        ("average", 0.9, 2.0, "decay of 2.0"),
    ],
)
def test_bad_input_is_refused(form, momentum, decay, message) -> None:
    with pytest.raises(InputError, match=message):
        threshold(form, momentum, decay)
