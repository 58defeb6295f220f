"""Lanczos on operators whose eigenvalues are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.lanczos import Krylov, Operator, Ritz, lanczos, ritz, ritz_vectors, start

KEY = jax.random.key(0, impl="threefry2x32")


def rotated(spectrum_N: np.ndarray, seed: int = 0, dtype: jnp.dtype = jnp.float32) -> Operator:
    """`Q diag Q'` with Q three Householder reflections, which costs O(N) at any size."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(3, spectrum_N.size))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mirrors, diagonal_N = jnp.asarray(normals, dtype), jnp.asarray(spectrum_N, dtype)

    def matvec(v_N: jax.Array) -> jax.Array:
        for u_N in mirrors:
            v_N = v_N - 2 * u_N * jnp.vdot(u_N, v_N)
        v_N = diagonal_N * v_N
        for u_N in mirrors[::-1]:
            v_N = v_N - 2 * u_N * jnp.vdot(u_N, v_N)
        return v_N

    return matvec


def run(
    spectrum: np.ndarray, steps: int, *, dtype: jnp.dtype = jnp.float32, passes: int = 2
) -> tuple[Krylov, Ritz, Operator]:
    matvec = rotated(spectrum, dtype=dtype)
    krylov = jax.jit(lambda v: lanczos(matvec, v, steps, passes=passes))(start(KEY, jnp.zeros(spectrum.size, dtype)))
    return krylov, ritz(krylov), matvec


def tail(values: list[float], size: int, top: float = 1.0) -> np.ndarray:
    """A spectrum: the values, and the rest spread over [-top, top]."""
    return np.concatenate([values, np.linspace(-top, top, size - len(values))])


def test_largest_and_smallest_come_with_signs_and_true_residuals() -> None:
    krylov, found, matvec = run(tail([10, 8, 6, -12, -9], 3000), 60)
    top, bottom = found.largest(3), found.smallest(2)
    np.testing.assert_allclose(top.values, [10, 8, 6], rtol=1e-5)
    np.testing.assert_allclose(bottom.values, [-12, -9], rtol=1e-5)
    vectors_KN = ritz_vectors(krylov, found.largest(8), 3000)
    np.testing.assert_allclose(vectors_KN @ vectors_KN.T, np.eye(8), atol=1e-5)
    defects = [np.linalg.norm(matvec(x) - value * x) for x, value in zip(vectors_KN, found.values[:8], strict=True)]
    np.testing.assert_allclose(defects, found.residuals[:8], rtol=0.02, atol=2e-5)


@pytest.mark.parametrize("steps", [4, 8, 16])
def test_residuals_bound_the_error_before_convergence(steps) -> None:
    spectrum = tail([10, 9.9, 9.8, -12], 2000)
    found = run(spectrum, steps)[1]
    distance = np.min(np.abs(found.values[:, None] - spectrum), axis=1)
    assert (distance <= found.residuals + 2e-5).all()
    assert found.residuals[0] > 1e-3 or steps == 16  # nothing is hidden while it has not converged


def test_the_largest_algebraic_eigenvalue_is_returned_where_the_smallest_is_larger_in_size() -> None:
    assert run(tail([3.0, -50.0, -40.0], 1000), 40)[1].largest(1).values[0] == pytest.approx(3, rel=1e-5)


def test_all_negative_spectra_have_a_negative_largest() -> None:
    assert run(-np.linspace(1, 4, 50), 50)[1].largest(1).values[0] == pytest.approx(-1, rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_degenerate_top_is_found_once_the_basis_has_ended(dtype) -> None:
    with jax.enable_x64(dtype == jnp.float64):
        krylov, found, _ = run(np.repeat([9.0, 5.0, 1.0, 0.0], 10), 30, dtype=dtype)
        assert krylov.steps == 4
        np.testing.assert_allclose(found.largest(4).values, [9, 5, 1, 0], atol=1e-5)
        assert np.isnan(found.largest(6).values[4:]).all()
        assert np.isfinite(krylov.basis_CMB).all()


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
def test_a_breakdown_is_relative_to_the_operator(size) -> None:
    krylov, found, _ = run(size * np.array([0.0, 1.0, 5.0, 9.0]), 8)
    assert krylov.steps == 4
    np.testing.assert_allclose(found.values[:4] / size, [9, 5, 1, 0], atol=2e-5)
    assert found.residuals[0] < 1e-4 * size


def test_a_rank_deficient_operator_may_have_more_steps_than_rank() -> None:
    spectrum = np.zeros(2400)
    spectrum[:56] = np.geomspace(20.64, 0.1, 56)
    found = run(spectrum, 100)[1]
    np.testing.assert_allclose(found.largest(5).values, spectrum[:5], rtol=1e-5)
    assert np.nanmin(found.values) > -1e-4  # the unguarded recurrence makes eigenvalues up


def test_the_zero_operator_has_one_eigenvalue() -> None:
    krylov, found, _ = run(np.zeros(20), 6)
    assert krylov.steps == 1
    assert found.largest(1).values[0] == 0
    assert found.largest(1).residuals[0] == 0


def test_without_reorthogonalisation_ghosts_appear() -> None:
    spectrum = tail([100.0, 50.0], 2000)
    plain, full = run(spectrum, 120, passes=0)[1], run(spectrum, 120)[1]
    assert np.sum(np.abs(plain.values - 100) < 1e-3) > 1
    assert np.sum(np.abs(full.values - 100) < 1e-3) == 1
    np.testing.assert_allclose(full.largest(2).values, [100, 50], rtol=1e-5)


def test_the_basis_stays_orthonormal() -> None:
    assert overlaps(run(tail([1e4, 1e2], 2000), 150)[0]) < 2e-6


def overlaps(krylov: Krylov) -> float:
    """How far the basis is from orthonormal: the largest entry of `Q Q' - 1`."""
    basis_CMB = np.asarray(krylov.basis_CMB, np.float64)
    basis_MN = basis_CMB.transpose(1, 0, 2).reshape(basis_CMB.shape[1], -1)
    return np.abs(basis_MN @ basis_MN.T - np.eye(basis_MN.shape[0])).max()


def test_weights_are_a_quadrature_of_the_spectral_density() -> None:
    with jax.enable_x64(True):
        krylov, found, matvec = run(tail([5.0], 300), 12, dtype=jnp.float64)
        v_N = moment = krylov.basis_CMB[:, 0].reshape(-1)
        for power in range(1, 24):  # M nodes are exact up to degree 2M - 1
            moment = matvec(moment)
            assert np.sum(found.weights * found.values**power) == pytest.approx(float(v_N @ moment), rel=1e-9)


def test_lanes_agree_with_themselves_alone_and_a_nan_lane_changes_none() -> None:
    spectra = np.stack([tail([10.0 + k, 4.0], 200) for k in range(4)])
    starts = start(KEY, jnp.zeros(200))
    lanes = jnp.asarray(spectra, jnp.float32).at[2].set(jnp.nan)
    krylov = jax.jit(jax.vmap(lambda d: lanczos(lambda v: d * v, starts, 25)))(lanes)
    found = ritz(krylov).largest(2)
    assert np.isnan(found.values[2]).all() and np.isnan(found.residuals[2]).all()
    for k in (0, 1, 3):
        alone = ritz(lanczos(lambda v, k=k: lanes[k] * v, starts, 25)).largest(2)
        np.testing.assert_allclose(found.values[k], alone.values, rtol=1e-6)
        assert found.values[k][0] == pytest.approx(10 + k, rel=1e-5)
    vectors = ritz_vectors(krylov, found, 200)
    assert vectors.shape == (4, 2, 200)
    assert np.isfinite(vectors[3]).all() and np.isnan(vectors[2]).all()


def test_lanes_may_break_down_at_different_steps() -> None:
    lanes = jnp.asarray([[3.0, 3, 3, 1, 1, 0], [6.0, 5, 4, 3, 2, 1]])
    krylov = jax.vmap(lambda d: lanczos(lambda v: d * v, start(KEY, jnp.zeros(6)), 6))(lanes)
    assert krylov.steps.tolist() == [3, 6]
    found = ritz(krylov)
    np.testing.assert_allclose(found.largest(3).values, [[3, 1, 0], [6, 5, 4]], atol=1e-5)
    np.testing.assert_allclose(found.smallest(2).values, [[0, 1], [1, 2]], atol=1e-5)


def test_fewer_steps_can_be_read_off_a_run() -> None:
    spectrum = tail([10.0, 9.5], 500)
    long, short = run(spectrum, 20)[0], run(spectrum, 7)[1]
    cut = ritz(long._replace(alpha_M=long.alpha_M[:7], beta_M=long.beta_M[:7]))
    np.testing.assert_allclose(cut.values, short.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.residuals, short.residuals, rtol=1e-3, atol=1e-5)


def test_a_warm_start_needs_few_steps() -> None:
    spectrum = tail([10.0, 9.0], 5000)
    krylov, found, matvec = run(spectrum, 40)
    warm_N = ritz_vectors(krylov, found.largest(1), 5000)[0]
    again = ritz(lanczos(matvec, start(jax.random.key(1), warm_N, warm_N), 3)).largest(1).values[0]
    cold = ritz(lanczos(matvec, start(jax.random.key(1), warm_N), 3)).largest(1).values[0]
    assert abs(again / 10 - 1) < 1e-3 < abs(cold / 10 - 1)


def test_a_warm_start_still_finds_what_it_does_not_contain() -> None:
    """The old vector is an eigenvector that is no longer the top one: alone it would be taken for the answer."""
    diagonal = jnp.asarray(tail([5.0, 9.0], 500), jnp.float32)
    stale = jnp.zeros(500).at[0].set(1)
    stuck = ritz(lanczos(lambda v: diagonal * v, stale, 15))
    mixed = ritz(lanczos(lambda v: diagonal * v, start(KEY, stale, stale), 15))
    assert stuck.values[0] == pytest.approx(5) and stuck.residuals[0] < 1e-6
    assert mixed.values[0] == pytest.approx(9, rel=1e-4)


@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf])
def test_an_unusable_warm_vector_counts_for_nothing(fill) -> None:
    like = jnp.zeros(50)
    np.testing.assert_array_equal(start(KEY, like, jnp.full(50, fill)), start(KEY, like))


def test_a_zero_start_makes_no_steps() -> None:
    krylov = lanczos(lambda v: 2 * v, jnp.zeros(5), 3)
    assert krylov.steps == 0
    assert np.isnan(ritz(krylov).values).all()


def test_products_are_made_at_the_highest_precision() -> None:
    matrix = jnp.eye(8)
    text = str(jax.make_jaxpr(lambda v: lanczos(lambda v: matrix @ v, v, 3))(jnp.ones(8)))
    assert text.count("dot_general") > 0
    assert text.count("Precision.HIGHEST") >= 2 * text.count("dot_general[")


@pytest.mark.slow
def test_a_million_parameters_in_float32() -> None:
    krylov, found, _ = run(tail([100, 60, 40, 39, -150], 1_000_000), 40)
    assert overlaps(krylov) < 5e-6
    np.testing.assert_allclose(found.largest(4).values, [100, 60, 40, 39], rtol=1e-5)


def test_a_traced_limit_makes_the_first_steps_of_the_same_run() -> None:
    diagonal_N = jnp.linspace(-3, 7, 40, dtype=jnp.float32)
    begin_N = start(jax.random.key(0), diagonal_N)

    @jax.jit
    def run(limit: jax.Array) -> Krylov:
        return lanczos(lambda v_N: diagonal_N * v_N, begin_N, 12, limit=limit)

    whole, part = run(jnp.asarray(12)), run(jnp.asarray(5))
    assert int(part.steps) == 5
    np.testing.assert_array_equal(part.alpha_M[:5], whole.alpha_M[:5])
    np.testing.assert_array_equal(part.alpha_M[5:], 0)
    short = ritz(lanczos(lambda v_N: diagonal_N * v_N, begin_N, 5))
    np.testing.assert_allclose(ritz(part).largest(3).values, short.largest(3).values, rtol=1e-6)
    np.testing.assert_allclose(ritz(part).largest(1).residuals, short.largest(1).residuals, rtol=1e-4)
    assert int(run(jnp.asarray(99)).steps) == 12
