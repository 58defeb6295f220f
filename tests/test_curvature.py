"""Curvature of a small transformer in float64 against exact matrices, and what must not change it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lab.check import InputError
from lab.config import RunConfig
from lab.curvature import (
    blocks,
    directional,
    gauss_newton,
    hessian,
    loss_and_gradient,
    residual,
    scaled,
    tangent_kernel,
)
from lab.lanczos import Krylov, Operator, lanczos, ritz, start
from lab.lane import Lane
from lab.model import Forward, layout
from lab.objective import Objective, Windows, language, measured, windows
from lab.optimizer import Hyper, optimizer
from lab.override import apply
from lab.preconditioner import adam_state, denominator, root
from lab.program import Program, State, program, shape_of
from lab.spectrum import density, quadrature, trace

KEY = jax.random.key(0, impl="threefry2x32")
VOCAB, LENGTH = 11, 6
TINY = {"model.width": 4, "model.depth": 1, "model.head_dim": 4, "model.mlp_width": 8, "data.length": LENGTH}


class Case(NamedTuple):
    """A tiny model in float64 after some updates, with its exact matrices."""

    program: Program
    lane: Lane
    state: State
    objective: Objective
    tokens: jax.Array
    theta_N: jax.Array
    hessian_NN: np.ndarray
    gauss_newton_NN: np.ndarray
    kernel_NN: np.ndarray
    gradient: Any
    value_and_gradient: Callable[[Windows], tuple[jax.Array, jax.Array]]
    lanczos: Callable[[np.ndarray], Krylov]


def build(base: RunConfig, *, seeds: int = 1, attention: str = "einsum", **changes: object) -> tuple[Program, Lane]:
    """A program of a tiny model and its lanes, one per initial seed, without a corpus."""
    settings = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    configs = [
        apply(base, settings | {"seed_init": seed}).resolve(vocab=VOCAB, fingerprint="made up") for seed in range(seeds)
    ]
    forward = Forward(attention=attention)
    made = program(shape_of(configs[0], lanes=seeds, strategy="vmap", group=seeds, segment=1, forward=forward))
    return made, made.lanes(configs)[0]


def first(tree: Any) -> Any:
    """The first lane."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def random_params(program: Program, lanes: int | None = None) -> dict[str, jax.Array]:
    """Parameters of the size of initial ones, which compile nothing."""
    rng = np.random.default_rng(1)
    leaves = layout(program.shape.model, program.shape.length)
    axes = () if lanes is None else (lanes,)
    values = {path: rng.normal(size=(*axes, *leaf.shape)) / leaf.fan_in**0.5 for path, leaf in sorted(leaves.items())}
    return {path: jnp.asarray(value, program.shape.param_dtype) for path, value in values.items()}


def sample(count: int) -> jax.Array:
    """Token windows with some structure."""
    rows = np.random.default_rng(0).integers(0, VOCAB, (count, LENGTH + 1))
    rows[:, 3:5] = rows[:, 1:3]
    return jnp.asarray(rows, jnp.int32)


@pytest.fixture(scope="module")
def measurements(base: RunConfig) -> Case:
    made, lanes = build(base, dtype="float64", model__depth=2, optimizer__clip=100.0)
    lane, tokens = first(lanes), sample(3)
    with made.context():
        params, leaves = random_params(made), layout(made.shape.model, made.shape.length)
        zero = np.zeros(())
        opt = jax.jit(optimizer("adam", lane.hyper, leaves, zero, zero).init)(params)  # type: ignore[arg-type]
        state = State(params, opt, jnp.asarray(True), jnp.asarray(-1, jnp.int32))
        step = jax.jit(made.train_step)
        for number in range(6):
            state, _ = step(lane, state, tokens, np.asarray(0.01), zero, np.asarray(number))
        theta_N, unravel = ravel_pytree(state.params)

        def logits(theta_N: jax.Array) -> jax.Array:
            return made.logits(unravel(theta_N), lane, tokens[:, :-1])

        def loss(theta_N: jax.Array) -> jax.Array:
            return jnp.mean(made.loss(unravel(theta_N), lane, tokens))

        exact_NN = np.asarray(jax.jit(jax.hessian(loss))(theta_N))
        jacobian_MVN = np.asarray(jax.jit(jax.jacrev(logits))(theta_N))
        p_MV = np.asarray(jax.jit(lambda theta_N: jax.nn.softmax(logits(theta_N), axis=-1))(theta_N))
    rows, size = p_MV.shape
    outer_MVV = p_MV[:, :, None] * np.eye(size) - p_MV[:, :, None] * p_MV[:, None, :]
    gauss_newton_NN = np.einsum("mva,mvw,mwb->ab", jacobian_MVN, outer_MVV, jacobian_MVN, optimize=True) / rows
    kernel_NN = np.einsum("mva,mvb->ab", jacobian_MVN, jacobian_MVN, optimize=True) / rows
    objective = language(made, lane)
    exact = (exact_NN, gauss_newton_NN, kernel_NN)
    with made.context():
        gradient = jax.jit(jax.grad(lambda params: jnp.mean(made.loss(params, lane, tokens))))(state.params)
    # Compiled once for all tests.
    found = jax.jit(lambda batch: loss_and_gradient(objective, state.params, batch))
    ends = jax.jit(lambda matrix_NN: lanczos(lambda v_N: matrix_NN @ v_N, start(KEY, theta_N), 150))
    return Case(made, lane, state, objective, tokens, theta_N, *exact, gradient, found, ends)


@pytest.fixture
def case(measurements: Case) -> Iterator[Case]:
    """The same, with 64-bit numbers for the length of a test."""
    with measurements.program.context():
        yield measurements


def dense(case: Case, matvec: Operator) -> np.ndarray:
    """The matrix of an operator, one product per column."""
    return np.asarray(jax.jit(lambda v_NN: jax.lax.map(matvec, v_NN))(jnp.eye(case.theta_N.size)).T)


def assert_same(found: np.ndarray, exact: np.ndarray, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * np.abs(exact).max())


def test_the_model_is_small_and_its_curvature_is_indefinite(case) -> None:
    assert case.theta_N.size <= 1000
    values = np.linalg.eigvalsh(case.hessian_NN)
    assert values[0] < -0.01 * values[-1] < 0


@pytest.mark.parametrize(
    ("operator", "exact"),
    [
        (hessian, lambda case: case.hessian_NN),
        (gauss_newton, lambda case: case.gauss_newton_NN),
        (residual, lambda case: case.hessian_NN - case.gauss_newton_NN),
        (tangent_kernel, lambda case: case.kernel_NN),
    ],
    ids=["hessian", "gauss-newton", "residual", "tangent-kernel"],
)
def test_operators_are_the_exact_matrices_and_lanczos_finds_their_ends(
    case: Case, operator: Callable[..., Operator], exact: Callable[[Case], np.ndarray]
) -> None:
    matvec, exact_NN = operator(case.objective, case.state.params, windows(case.tokens)), exact(case)
    matrix_NN = dense(case, matvec)
    assert_same(matrix_NN, exact_NN)
    assert_same(matrix_NN, matrix_NN.T, 1e-12)
    values = np.linalg.eigvalsh(exact_NN)
    # From the matrix, which compiles faster; the operators themselves go through Lanczos below.
    found = ritz(case.lanczos(matrix_NN))
    np.testing.assert_allclose(found.largest(3).values, values[::-1][:3], rtol=1e-10)
    # Semidefinite matrices have no smallest eigenvalue but a cluster at 0.
    np.testing.assert_allclose(found.smallest(2).values[0], values[0], atol=1e-10 * values[-1], rtol=1e-10)


def test_residual_alone_is_not_the_hessian(case) -> None:
    assert np.abs(case.hessian_NN - case.gauss_newton_NN).max() > 0.01 * np.abs(case.hessian_NN).max()


def test_loss_and_gradient_are_those_of_training(case) -> None:
    loss, gradient_N = case.value_and_gradient(windows(case.tokens, 3))
    mean = np.mean(jax.jit(case.program.loss)(case.state.params, case.lane, case.tokens))
    np.testing.assert_allclose(loss, mean, rtol=1e-13)
    np.testing.assert_allclose(gradient_N, ravel_pytree(case.gradient)[0], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("operator", [hessian, gauss_newton])
def test_cutting_and_padding_the_batch_change_nothing(case, operator) -> None:
    v_N = start(KEY, case.theta_N)
    product = jax.jit(lambda batch: operator(case.objective, case.state.params, batch)(v_N))
    whole = product(windows(case.tokens))
    for parts in (2, 3):  # three windows in two parts: one row of padding
        cut = product(windows(case.tokens, parts))
        np.testing.assert_allclose(cut, whole, rtol=1e-11, atol=1e-13)


def test_masked_targets_count_by_tokens_and_not_by_parts(case) -> None:
    """Parts with unequal numbers of targets: the mean of parts' means would be another number."""
    weights = np.ones((3, 6))
    weights[0, 2:] = 0
    losses = np.asarray(jax.jit(case.program.token_losses)(case.state.params, case.lane, case.tokens))
    loss, _ = case.value_and_gradient(windows(case.tokens, 3, jnp.asarray(weights)))
    np.testing.assert_allclose(loss, np.sum(losses * weights) / 14, rtol=1e-12)
    means = np.sum(losses * weights, axis=1) / np.sum(weights, axis=1)
    assert abs(float(np.mean(means) / loss - 1)) > 1e-4


def test_blocks_are_diagonal_blocks_of_the_hessian(case) -> None:
    leaves = layout(case.program.shape.model, case.program.shape.length)
    names, block_N = blocks(leaves)
    assert set(names) == {"blocks/0", "blocks/1", "embedding", "final_norm", "readout"}
    matvec = hessian(case.objective, case.state.params, windows(case.tokens))

    def tops(number: jax.Array) -> Any:
        mask_N = (block_N == number).astype(case.theta_N.dtype)
        return lanczos(scaled(matvec, mask_N), mask_N * start(KEY, case.theta_N), 60)

    found = ritz(jax.jit(jax.vmap(tops))(jnp.arange(len(names))))
    for number, name in enumerate(names):
        index = np.flatnonzero(np.asarray(block_N) == number)
        assert index.size
        values = np.linalg.eigvalsh(case.hessian_NN[np.ix_(index, index)])
        np.testing.assert_allclose(found.largest(1).values[number], values[-1:], rtol=1e-8, err_msg=name)
        lowest = found.smallest(1).values[number]
        np.testing.assert_allclose(lowest, values[:1], rtol=1e-6, atol=1e-10 * values[-1], err_msg=name)


def test_trace_and_directional_sharpness(case) -> None:
    matvec = hessian(case.objective, case.state.params, windows(case.tokens))
    _, g_N = case.value_and_gradient(windows(case.tokens, 3))
    exact = g_N @ case.hessian_NN @ g_N / (g_N @ g_N)
    np.testing.assert_allclose(jax.jit(lambda g_N: directional(matvec, g_N))(g_N), exact, rtol=1e-11)
    found = jax.jit(lambda key: trace(matvec, key, case.theta_N, 400))(KEY)
    diagonal = jax.jit(lambda key: trace(lambda v: 3 * v, key, case.theta_N, 5))(KEY)
    assert abs(float(found.mean) - np.trace(case.hessian_NN)) < 4 * float(found.error)
    off_NN = case.hessian_NN - np.diag(np.diag(case.hessian_NN))
    # Var z'Az = 2 sum_{i != j} a_ij^2 for random signs.
    np.testing.assert_allclose(found.error, np.sqrt(2 * np.sum(off_NN**2) / 400), rtol=0.15)
    assert float(diagonal.mean) == 3 * case.theta_N.size and float(diagonal.error) == 0


def test_spectral_density_is_that_of_the_exact_eigenvalues(case) -> None:
    matvec = hessian(case.objective, case.state.params, windows(case.tokens))
    runs = jax.jit(lambda key: quadrature(matvec, key, case.theta_N, probes=30, steps=40))(KEY)
    found, values = density(runs), np.linalg.eigvalsh(case.hessian_NN)
    np.testing.assert_allclose(found.moment(0)[0], 1, rtol=1e-13)
    for power in (1, 2, 3):  # trace / n, and the sum of squares / n
        mean, error = found.moment(power)
        assert abs(mean - np.mean(values**power)) < 4 * error
    width = 0.03 * values[-1]
    grid_G = np.linspace(values[0] - 3 * width, values[-1] + 3 * width, 200)
    exact_G = np.mean(np.exp(-(((grid_G[:, None] - values) / width) ** 2) / 2), axis=1) / width / np.sqrt(2 * np.pi)
    smooth_G, error_G = found.smoothed(grid_G, width)
    assert (np.abs(smooth_G - exact_G) < 5 * error_G + 1e-3 * exact_G.max()).all()
    assert np.trapezoid(np.abs(smooth_G - exact_G), grid_G) < 0.1


def test_preconditioned_hessian_has_the_eigenvalues_of_the_update(case) -> None:
    """S against eigenvalues of the unsymmetric D P^-1 H, with P made by hand from the state, for both conventions."""
    hyper, opt, params = case.lane.hyper, case.state.opt, case.state.params
    lr, beta1, beta2 = 0.01, 0.9, 0.95
    matvec = hessian(case.objective, params, windows(case.tokens))
    gradient = case.gradient
    flat_N = np.asarray(ravel_pytree(gradient)[0])
    assert np.linalg.norm(flat_N) < hyper.clip
    eps_N, rate_N = (
        np.concatenate([np.full(params[path].size, tree[path]) for path in sorted(params)])
        for tree in (hyper.eps, hyper.lr)
    )
    nu_N = np.asarray(ravel_pytree(opt[1].nu)[0])
    assert int(opt[1].step) == 6
    run = jax.jit(lambda scale_N: lanczos(scaled(matvec, scale_N), start(KEY, scale_N), 200))
    for given, nu, step in ((None, nu_N, 6), (gradient, beta2 * nu_N + (1 - beta2) * flat_N**2, 7)):
        p_N = (1 - beta1**step) * (np.sqrt(nu / (1 - beta2**step)) + eps_N)
        exact = np.linalg.eigvals((lr * rate_N / p_N)[:, None] * case.hessian_NN)
        assert np.abs(exact.imag).max() < 1e-9 * np.abs(exact).max()
        values = np.sort(exact.real)
        scale_N = jax.jit(functools.partial(root, "adam"))(hyper, opt, params, np.asarray(lr), given)
        found = ritz(run(scale_N))
        np.testing.assert_allclose(found.largest(3).values, values[::-1][:3], rtol=1e-10)
        np.testing.assert_allclose(found.smallest(2).values, values[:2], rtol=1e-10)
        # The control: the symmetric part of D P^-1 H is another matrix with other eigenvalues.
        wrong_NN = (lr * rate_N / p_N)[:, None] * case.hessian_NN
        assert abs(np.linalg.eigvalsh((wrong_NN + wrong_NN.T) / 2)[-1] / values[-1] - 1) > 0.01


def test_the_preconditioner_is_that_of_the_next_update(case) -> None:
    """The chain's update is `-D P^-1 mu` with the P that was told before it, clipping included."""
    hyper, params, opt = case.lane.hyper, case.state.params, case.state.opt
    leaves = layout(case.program.shape.model, case.program.shape.length)
    gradient = case.gradient

    @jax.jit
    def update(hyper: Hyper) -> Any:
        chain = optimizer("adam", hyper, leaves, jnp.asarray(0.01), jnp.asarray(0.0))
        return *chain.update(gradient, opt, params), denominator("adam", hyper, opt, params, gradient)

    for clip in (np.inf, 1e-3):
        updates, state, found = update(hyper._replace(clip=np.asarray(clip)))
        mu = adam_state(state).mu
        for path in params:
            expected = -0.01 * np.asarray(hyper.lr[path]) * np.asarray(mu[path]) / np.asarray(found[path])
            np.testing.assert_allclose(np.asarray(updates[path]), expected, rtol=1e-12, atol=1e-18)


def test_sgd_is_preconditioned_by_its_rates_only(case) -> None:
    scale_N = jax.jit(functools.partial(root, "sgd"))(case.lane.hyper, None, case.state.params, np.asarray(0.25))
    params, lr = case.state.params, case.lane.hyper.lr
    rate_N = np.concatenate([np.full(params[path].size, lr[path]) for path in sorted(params)])
    np.testing.assert_allclose(np.asarray(scale_N) ** 2, 0.25 * rate_N, rtol=1e-14)


@pytest.mark.parametrize("kind", ["lion", "muon", "adafactor"])
def test_other_optimizers_have_no_preconditioner(case, kind) -> None:
    with pytest.raises(InputError, match=f"optimizer {kind} has no preconditioner"):
        root(kind, case.lane.hyper, case.state.opt, case.state.params, jnp.asarray(1.0))


@pytest.mark.slow
@pytest.mark.stack
def test_curvature_is_measured_in_float32_with_attention_that_can_be_differentiated(base) -> None:
    trained, lanes = build(base, dtype="bfloat16")
    fused = dataclasses.replace(trained.shape, forward=Forward(attention="cudnn"), accumulate=2)
    assert measured(fused).forward.attention == "xla" and measured(fused).accumulate == 1
    shape = measured(trained.shape)
    assert shape.dtype == "float32" and shape.forward == trained.shape.forward
    lane, params, batch = first(lanes), random_params(trained), windows(sample(3))

    def top(objective: Objective, params: Any) -> float:
        begin_N, matvec = start(KEY, ravel_pytree(params)[0]), hessian(objective, params, batch)
        return float(ritz(jax.jit(lambda v_N: lanczos(matvec, v_N, 60))(begin_N)).values[0])

    objective = language(program(shape), lane)
    single, half = top(objective, params), top(language(trained, lane), params)
    with jax.enable_x64(True):
        double = language(program(dataclasses.replace(shape, dtype="float64")), jax.tree.map(_double, lane))
        exact = top(double, jax.tree.map(_double, params))
    assert single == pytest.approx(exact, rel=2e-5)
    assert abs(half / exact - 1) > 1e-4  # the control: bfloat16 products are another matter
    # Training and measurement see the same loss, to bfloat16.
    ours, theirs = (jax.jit(made.loss)(params, lane, sample(3)) for made in (program(shape), trained))
    np.testing.assert_allclose(jnp.mean(ours), jnp.mean(theirs), rtol=0.01)


def _double(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def test_attention_paths_have_one_loss_and_one_curvature(base) -> None:
    found = {}
    for attention in ("einsum", "xla"):
        made, lanes = build(base, attention=attention)
        lane, params = first(lanes), random_params(made)
        objective, batch, v_N = language(made, lane), windows(sample(3)), start(KEY, ravel_pytree(params)[0])
        found[attention] = jax.jit(
            lambda params, v_N, objective=objective, batch=batch: (
                loss_and_gradient(objective, params, batch)[0],
                hessian(objective, params, batch)(v_N),
            )
        )(params, v_N)
    np.testing.assert_allclose(found["xla"][0], found["einsum"][0], rtol=1e-6)
    np.testing.assert_allclose(found["xla"][1], found["einsum"][1], rtol=1e-4, atol=1e-6)


def test_lanes_agree_with_each_alone_and_a_diverged_lane_changes_none(base) -> None:
    made, lanes = build(base, seeds=3)
    params = {path: value.at[1].set(jnp.nan) for path, value in random_params(made, 3).items()}
    batch = windows(sample(4), 2)

    def one(lane: Lane, params: Any) -> Any:
        matvec = hessian(language(made, lane), params, batch)
        return lanczos(matvec, start(KEY, ravel_pytree(params)[0]), 25)

    together = ritz(jax.jit(jax.vmap(one))(lanes, params)).largest(2)
    assert np.isnan(together.values[1]).all()
    alone = jax.jit(one)
    for k in (0, 2):
        lane, weights = (jax.tree.map(lambda leaf, k=k: leaf[k], tree) for tree in (lanes, params))
        np.testing.assert_allclose(together.values[k], ritz(alone(lane, weights)).largest(2).values, rtol=1e-5)


def test_matrix_products_are_made_at_the_highest_precision(case) -> None:
    """Accelerators round factors of float32 products unless told otherwise, scans and derivatives included."""
    for operator in (hessian, gauss_newton, tangent_kernel):
        matvec = operator(case.objective, case.state.params, windows(case.tokens, 3))
        text = str(jax.make_jaxpr(matvec)(case.theta_N))
        assert text.count("dot_general[") > 20
        assert text.count("precision=None") == 0
