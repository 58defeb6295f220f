"""Curvature along the training of a two-layer linear network, where it is known in closed form.

"Why do Learning Rates Transfer?" (arXiv 2402.17457), theorem 5.1 and lemma 5.2: `w = E V / (gamma sqrt(N D))` with E
[D, N] and V [N] drawn from N(0, 1), loss `|w - w*|^2 / 2`, gradient descent at a rate of `eta0 gamma^2`; with
`e = E E' / (N D)`, `v = V'V / (N D)`, `c = gamma^2 / (N D)` and `d = w - w*` the network's state is (w, e, v), and the
tangent kernel times gamma^2 is `Theta = e + v`.  muP has gamma = sqrt(N), the NTK parametrization gamma = 1.

Letters: D inputs and outputs, N width, W steps, S seeds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lab.curvature import gauss_newton, hessian, loss_and_gradient, residual, tangent_kernel
from lab.lanczos import lanczos, ritz, start
from lab.objective import Objective, squares

D, RATE = 10, 0.9
KEY = jax.random.key(0, impl="threefry2x32")
# Kernel and Gauss-Newton have rank D; the residual has two eigenvalues that are not 0, +-|d| sqrt(c).
OPERATORS = ((tangent_kernel, D + 2), (gauss_newton, D + 2), (residual, 6), (hessian, 40))


class Law(NamedTuple):
    """The state of the closed form."""

    w: np.ndarray
    e: np.ndarray
    v: Any


def step(law: Law, c: float, target: np.ndarray) -> Law:
    """One update of theorem 5.1."""
    w, e, v = law
    d = w - target
    return Law(
        w - RATE * (v * d + e @ d) + RATE**2 * c * (w @ d) * d,
        e - RATE * c * (np.outer(d, w) + np.outer(w, d)) + RATE**2 * c * v * np.outer(d, d),
        v - 2 * RATE * c * (w @ d) + RATE**2 * c * d @ e @ d,
    )


def gamma_of(width: int, mup: bool) -> float:
    return width**0.5 if mup else 1.0


def weights(width: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"E": rng.normal(size=(D, width)), "V": rng.normal(size=width)}


def law_of(params: dict[str, np.ndarray], gamma: float) -> Law:
    e_DN, v_N = params["E"], params["V"]
    scale = v_N.size * D
    return Law(e_DN @ v_N / (gamma * scale**0.5), e_DN @ e_DN.T / scale, float(v_N @ v_N / scale))


def network(width: int, gamma: float) -> Objective:
    """One row of D outputs, so that the mean over rows is the sum over outputs."""

    def outputs(params: Any, part: jax.Array) -> jax.Array:
        del part
        return (params["E"] @ params["V"] / (gamma * (width * D) ** 0.5))[None, :]

    return squares(outputs, lambda part: part, lambda part: jnp.ones(part.shape[0]))


@pytest.mark.parametrize("mup", [True, False], ids=["mup", "ntk"])
@pytest.mark.parametrize("width", [8, 16, 256])
def test_gradient_descent_follows_the_law_and_its_curvature_the_lemma(width: int, mup: bool) -> None:
    gamma, target = gamma_of(width, mup), np.ones(D)
    c, size = gamma**2 / (width * D), width * (D + 1)
    with jax.enable_x64(True):
        objective, batch = network(width, gamma), jnp.asarray(target)[None, None, :]
        params = {name: jnp.asarray(value) for name, value in weights(width, 0).items()}
        law = law_of(weights(width, 0), gamma)

        @jax.jit
        def descend(params: Any) -> Any:
            _, gradient = loss_and_gradient(objective, params, batch)
            e_DN, v_N = gradient[: D * width].reshape(D, width), gradient[D * width :]
            rate = RATE * gamma**2
            return {"E": params["E"] - rate * e_DN, "V": params["V"] - rate * v_N}

        @jax.jit
        def measure(params: Any) -> Any:
            begin = start(KEY, jnp.zeros(size))
            return [lanczos(f(objective, params, batch), begin, m) for f, m in OPERATORS]

        for number in range(60):
            real = law_of({name: np.asarray(value) for name, value in params.items()}, gamma)
            for ours, exact in zip(real, law, strict=True):
                np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12)
            if number % 10 == 0:
                kernel, newton, rest, full = (gamma**2 * float(ritz(run).values[0]) for run in measure(params))
                theta = np.linalg.eigvalsh(law.e + law.v * np.eye(D))[-1]
                distance = c**0.5 * np.linalg.norm(law.w - target)
                assert kernel == pytest.approx(theta, rel=1e-10)
                assert newton == pytest.approx(theta, rel=1e-10)
                assert rest == pytest.approx(distance, rel=1e-8, abs=1e-12)
                assert abs(full - theta) <= distance * (1 + 1e-9) + 1e-12
            params, law = descend(params), step(law, c, target)


def by_law(width: int, gamma: float, steps: int) -> np.ndarray:
    """`lambda_max(Theta)` after some updates of the law, [S]."""
    found = []
    for seed in range(20):
        law = law_of(weights(width, seed), gamma)
        for _ in range(steps):
            law = step(law, gamma**2 / (width * D), np.ones(D))
        found.append(np.linalg.eigvalsh(law.e + law.v * np.eye(D))[-1])
    return np.asarray(found)


def by_training(width: int, gamma: float, steps: int) -> np.ndarray:
    """The same by Lanczos on J'J of networks trained in float32, seeds as lanes, [S]."""
    objective, batch = network(width, gamma), jnp.ones((1, 1, D))
    stacked = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *[weights(width, s) for s in range(20)]
    )

    @jax.jit
    @jax.vmap
    def run(params: Any) -> Any:
        theta_N, unravel = ravel_pytree(params)

        def descend(_: jax.Array, theta_N: jax.Array) -> jax.Array:
            return theta_N - RATE * gamma**2 * loss_and_gradient(objective, unravel(theta_N), batch)[1]

        trained = unravel(jax.lax.fori_loop(0, steps, descend, theta_N))
        return lanczos(tangent_kernel(objective, trained, batch), start(KEY, theta_N), D + 8)

    return gamma**2 * ritz(run(stacked)).values[:, 0]


def test_sharpness_is_flat_in_width_under_mup_and_falls_under_ntk() -> None:
    widths = (64, 256, 1024, 4096)
    mup, ntk = ([float(np.median(by_law(n, gamma_of(n, rule), 10))) for n in widths] for rule in (True, False))
    initial = [float(np.median(by_law(n, 1.0, 0))) for n in widths]
    assert 1.95 <= mup[0] <= 2.02
    assert max(mup) / min(mup) < 1.01
    assert 0.28 <= ntk[0] <= 0.35
    assert ntk == sorted(ntk, reverse=True)
    assert ntk[-1] == pytest.approx(0.21, abs=0.005)
    # Part of the fall is there before training; what training adds falls too.
    assert initial == sorted(initial, reverse=True)
    assert (np.diff(np.subtract(ntk, initial)) < 0).all()


@pytest.mark.parametrize(
    ("width", "mup"),
    [
        (64, True),
        (64, False),
        pytest.param(4096, True, marks=pytest.mark.slow),
        pytest.param(4096, False, marks=pytest.mark.slow),
    ],
)
def test_the_trained_networks_have_the_sharpness_of_the_law(width: int, mup: bool) -> None:
    gamma = gamma_of(width, mup)
    np.testing.assert_allclose(by_training(width, gamma, 10), by_law(width, gamma, 10), rtol=1e-5)
