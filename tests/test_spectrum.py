"""Trace and spectral density of operators whose eigenvalues are known, and our Lanczos beside matfree's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matfree import decomp, eig, funm
from test_lanczos import KEY, rotated, tail

from lab.check import InputError
from lab.lanczos import Operator, lanczos, ritz, ritz_vectors, start
from lab.spectrum import Density, density, quadrature, trace

# A kernel of low rank, as the Gauss-Newton matrix of few tokens.
LOW_RANK = np.concatenate([np.geomspace(20.64, 0.1, 56), np.zeros(2400 - 56)])


def found(spectrum: np.ndarray, *, probes: int, steps: int) -> Density:
    matvec, like_N = rotated(spectrum, dtype=jnp.float64), jnp.zeros(spectrum.size, jnp.float64)
    return density(jax.jit(lambda key: quadrature(matvec, key, like_N, probes, steps))(KEY))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_trace_of_a_diagonal_is_exact(dtype) -> None:
    with jax.enable_x64(dtype == jnp.float64):
        diagonal_N = jnp.asarray(tail([5.0, -7.0], 1000), dtype)
        one = jax.jit(lambda key: trace(lambda v_N: diagonal_N * v_N, key, diagonal_N, 5))(KEY)
        assert float(one.mean) == pytest.approx(-2, rel=1e-4 if dtype == jnp.float32 else 1e-12)
        assert float(one.error) < (1e-4 if dtype == jnp.float32 else 1e-12)
        assert one.mean.dtype == dtype


def test_the_error_of_a_trace_is_the_one_that_it_has() -> None:
    with jax.enable_x64(True):
        spectrum = tail([30.0, 20.0, -10.0], 300)
        matvec, like_N = rotated(spectrum, dtype=jnp.float64), jnp.zeros(300)
        matrix_NN = np.asarray(jax.vmap(matvec)(jnp.eye(300)))
        many = jax.jit(jax.vmap(lambda key: trace(matvec, key, like_N, 8)))(jax.random.split(KEY, 500))
    distance = np.asarray(many.mean) - np.sum(spectrum)
    off_NN = matrix_NN - np.diag(np.diag(matrix_NN))
    expected = np.sqrt(2 * np.sum(off_NN**2) / 8)
    assert np.sqrt(np.mean(distance**2)) == pytest.approx(expected, rel=0.1)
    # Without the P - 1 of the sample variance this one is 6 % too small.
    assert np.sqrt(np.mean(np.square(many.error))) == pytest.approx(expected, rel=0.05)
    assert abs(np.mean(distance)) < 4 * expected / 500**0.5


def test_the_density_of_a_known_spectrum() -> None:
    """Shares of three levels, and the bells at them; 3 nodes suffice, further steps must not add any."""
    with jax.enable_x64(True):
        one = found(np.repeat([-2.0, 0.0, 7.0], [100, 200, 300]), probes=40, steps=12)
    assert one.nodes.shape == (40, 12) and (np.count_nonzero(one.weights, axis=1) == 3).all()
    np.testing.assert_allclose(np.sort(one.nodes, axis=1)[:, [0, -1]], [[-2, 7]] * 40, rtol=1e-10)
    np.testing.assert_allclose(one.moment(0), (1, 0), atol=1e-12)
    mean, error = one.smoothed(np.array([-2.0, 0, 7]), 0.5)
    shares = mean * 0.5 * np.sqrt(2 * np.pi)
    assert (np.abs(shares - np.array([1, 2, 3]) / 6) < 4 * error * 0.5 * np.sqrt(2 * np.pi) + 1e-3).all()
    assert (error < 0.03).all()
    grid_G = np.linspace(-5, 10, 2001)
    assert np.trapezoid(one.smoothed(grid_G, 0.5)[0], grid_G) == pytest.approx(1, abs=1e-6)


def test_moments_are_powers_of_the_operator_and_their_errors_shrink_with_probes() -> None:
    spectrum = tail([5.0, -4.0, 3.0], 400)
    with jax.enable_x64(True):
        few, many = (found(spectrum, probes=probes, steps=8) for probes in (10, 160))
    for power in range(5):
        (_, wide), (mean, error) = few.moment(power), many.moment(power)
        assert abs(mean - np.mean(spectrum**power)) <= 4 * error + 1e-12
        assert power == 0 or wide / error == pytest.approx(4, rel=0.5)


def test_lanes_agree_with_each_alone_and_a_nan_lane_changes_none() -> None:
    lanes = jnp.asarray([tail([6.0 + k], 200) for k in range(3)], jnp.float32).at[1].set(jnp.nan)

    def both(diagonal_N: jax.Array) -> tuple:
        def matvec(v_N: jax.Array) -> jax.Array:
            return jnp.roll(diagonal_N * v_N, 1) + diagonal_N * jnp.roll(v_N, -1)  # symmetric

        return trace(matvec, KEY, diagonal_N, 4), quadrature(matvec, KEY, diagonal_N, 4, 10)

    traces, runs = jax.jit(jax.vmap(both))(lanes)
    together = density(runs)
    assert together.nodes.shape == (3, 4, 10) and runs.basis_CMB.size == 0
    assert np.isnan(together.moment(1)[0][1]) and np.isnan(together.smoothed(np.zeros(2), 1.0)[0][1]).all()
    assert np.isnan(traces.mean[1])
    for k in (0, 2):
        (mean, error), alone = both(lanes[k])
        np.testing.assert_allclose((traces.mean[k], traces.error[k]), (mean, error), rtol=1e-5, atol=1e-5)
        for power in (1, 2):
            ours, theirs = together.moment(power), density(alone).moment(power)
            np.testing.assert_allclose([values[k] for values in ours], theirs, rtol=1e-4, atol=1e-6)


def test_products_are_made_at_the_highest_precision() -> None:
    matrix = jnp.eye(8)
    for made in (trace, lambda *args: quadrature(*args, steps=3)):
        text = str(jax.make_jaxpr(lambda key, made=made: made(lambda v: matrix @ v, key, jnp.ones(8), 3))(KEY))
        assert text.count("Precision.HIGHEST") >= 2 * text.count("dot_general[") > 0


@pytest.mark.parametrize("made", [trace, lambda *args: quadrature(*args, steps=3)])
def test_one_probe_is_refused(made) -> None:
    with pytest.raises(InputError, match="1 probes have no error: use at least 2"):
        made(lambda v_N: v_N, KEY, jnp.zeros(3), 1)


def matfree_ritz(matvec: Operator, start_N: jax.Array, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values in falling order and vectors of matfree's Lanczos."""
    values, vectors_KN = jax.jit(
        lambda v_N: eig.eigh_partial(decomp.tridiag_sym(steps, custom_vjp=False))(matvec, v_N)
    )(start_N)
    return np.asarray(values)[::-1], np.asarray(vectors_KN)[::-1]


def test_our_lanczos_is_matfrees_on_a_well_conditioned_operator() -> None:
    with jax.enable_x64(True):
        spectrum = tail([10.0, 9.0, -12.0, 5.0], 400)
        matvec, start_N = rotated(spectrum, dtype=jnp.float64), start(KEY, jnp.zeros(400))
        krylov = lanczos(matvec, start_N, 40)
        basis_MN, t_MM, *_ = map(jnp.asarray, decomp.tridiag_sym(40, custom_vjp=False)(matvec, start_N))
        ours, (values, vectors_KN) = ritz(krylov), matfree_ritz(matvec, start_N, 40)
        np.testing.assert_allclose(krylov.alpha_M, jnp.diag(t_MM), atol=1e-10)
        np.testing.assert_allclose(krylov.beta_M[:-1], jnp.diag(t_MM, 1), atol=1e-10)
        np.testing.assert_allclose(krylov.basis_CMB[0], basis_MN, atol=1e-8)
        np.testing.assert_allclose(ours.values, values, atol=1e-10)
        overlaps = np.abs(np.sum(ritz_vectors(krylov, ours.largest(3), 400) * vectors_KN[:3], axis=1))
        np.testing.assert_allclose(overlaps, 1, rtol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_beyond_the_rank_matfree_makes_eigenvalues_up_and_we_do_not(dtype) -> None:
    with jax.enable_x64(dtype == jnp.float64):
        matvec, start_N = rotated(LOW_RANK, dtype=dtype), start(KEY, jnp.zeros(LOW_RANK.size, dtype))
        for steps, sound in ((50, True), (100, False)):
            values, _ = matfree_ritz(matvec, start_N, steps)
            ours = ritz(lanczos(matvec, start_N, steps)).values
            assert np.nanmin(ours) > -1e-4 and np.nanmax(ours) == pytest.approx(20.64, rel=1e-5)
            assert (values[0] == pytest.approx(20.64, rel=1e-5)) == sound
            assert sound or values[-1] < -100


def test_matfrees_quadrature_fails_beyond_the_rank_and_ours_does_not() -> None:
    """`tr log(A + 0.1)`: far nodes of next to no weight are where the logarithm is not defined."""

    def log(x: jax.Array) -> jax.Array:
        return jnp.log(x + 0.1)

    with jax.enable_x64(True):
        matvec, start_N = rotated(LOW_RANK, dtype=jnp.float64), start(KEY, jnp.zeros(LOW_RANK.size))
        found = ritz(lanczos(matvec, start_N, 100))
        ours = np.nansum(found.weights * np.log(found.values + 0.1))
        theirs = {
            steps: funm.monte_carlo_funm_sym(
                funm.dense_funm_sym_eigh(log), decomp.tridiag_sym(steps, custom_vjp=False)
            )(matvec, start_N)
            for steps in (50, 100)
        }
        assert ours == pytest.approx(float(theirs[50]), rel=1e-9)
        assert np.isnan(theirs[100])
