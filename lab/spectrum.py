"""Spectra: the trace and the density of eigenvalues of an operator known by its products, from random probes.

Letters: N parameters, P probes, M Lanczos steps, G grid points; host arrays may have leading axes of lanes.

    tr A = E z'Az               for random signs z: Hutchinson, Communications in Statistics 19, 433 (1990)
    tr f(A) / N = E q'f(A)q     for random unit vectors q, and q'f(A)q = sum_i w_i f(theta_i), exact for polynomials of
                                degrees below 2 M, with Ritz values theta_i and weights w_i of Lanczos started at q
                                (stochastic Lanczos quadrature: Ubaru, Chen and Saad, SIAM J. Matrix Anal. 38, 1075)

The trace is made of matfree's integrand and sampler.  The density is not: matfree goes on past the end of the Krylov
space, and where the rank is below M its nodes lie far outside the spectrum (at +-2000 for a kernel whose eigenvalues
end at 21).  Their weights are all but 0, so that sums of small powers survive; logarithms, exponentials and the ends of
the spectrum do not.  `lab.lanczos` stops there, and solves for the nodes in float64.

matfree's XTrace is not used.  With 16 products its error on Hessians of a small transformer is 0.7 to 2 times that of
Hutchinson, it needs all products at once, and its test of rank is absolute: 1e-8 times an operator with six large
eigenvalues passes for one of low rank, with a wrong trace and an error of 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matfree import stochtrace

from lab.check import require
from lab.curvature import highest
from lab.lanczos import Krylov, Operator, lanczos, ritz, start


class Trace(NamedTuple):
    """An estimated trace and its standard error over probes."""

    mean: jax.Array
    error: jax.Array


@dataclass(frozen=True)
class Density:
    """Quadratures of a spectral density, one per probe: weights [..., P, M] at nodes [..., P, M], float64 on the host.

    A probe's weights sum to 1; places beyond its Krylov space have weight 0, and lanes with non-finite numbers are NaN.
    Errors are standard errors over probes.
    """

    nodes: np.ndarray
    weights: np.ndarray

    def moment(self, power: int) -> tuple[np.ndarray, np.ndarray]:
        """`tr A^power / N` and its error, [...]; a probe's own quadratic form is exact for powers below 2 M."""
        return _over_probes(np.sum(self.weights * self.nodes**power, axis=-1), axis=-1)

    def smoothed(self, grid_G: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """The density at grid points and its error, [..., G]: each node a Gaussian of standard deviation `width`.

        The integral over the line is 1; a smoothed density is a density of eigenvalues plus noise of that width.
        """
        distances = (grid_G[:, None] - self.nodes[..., None, :]) / width
        bells = np.exp(-(distances**2) / 2) / (width * np.sqrt(2 * np.pi))
        return _over_probes(np.sum(self.weights[..., None, :] * bells, axis=-1), axis=-2)


@highest
def trace(matvec: Operator, key: jax.Array, like_N: jax.Array, probes: int) -> Trace:
    """The trace by `probes` products with random signs, under `jit` and `vmap`; exact for diagonal operators.

    The error of a symmetric operator is `sqrt(2 sum_{i != j} a_ij^2 / P)`, estimated from the probes with P - 1 in the
    variance (matfree's own has P).  One product at a time, for its memory.  `like_N` gives shape and dtype.

    Raises:
        InputError: fewer than two probes, which have no error.
    """
    _require_two(probes)
    signs, product = stochtrace.sampler_signs(like_N, num=1), stochtrace.monte_carlo_trace()
    samples_P = jax.lax.map(lambda key: product(matvec, signs(key)[0]), jax.random.split(key, probes))
    return Trace(jnp.mean(samples_P), jnp.std(samples_P, ddof=1) / probes**0.5)


def quadrature(matvec: Operator, key: jax.Array, like_N: jax.Array, probes: int, steps: int) -> Krylov:
    """Lanczos runs of `steps` steps from `probes` random unit vectors, [P, M], under `jit` and `vmap`, for `density`.

    Costs `probes * steps` products, made one by one, and the memory of one basis; bases are not kept.

    Raises:
        InputError: fewer than two probes, which have no error.
    """
    _require_two(probes)

    def one(key: jax.Array) -> Krylov:
        return lanczos(matvec, start(key, like_N), steps).without_basis()

    return jax.lax.map(one, jax.random.split(key, probes))


def density(runs: Krylov) -> Density:
    """The density that `quadrature` has found, with any leading axes of lanes; waits for the device."""
    found = ritz(runs)
    beyond = np.arange(found.values.shape[-1]) >= np.asarray(runs.steps)[..., None]
    return Density(np.where(beyond, 0.0, found.values), np.where(beyond, 0.0, found.weights))


def _require_two(probes: int) -> None:
    require(probes >= 2, f"{probes} probes have no error: use at least 2")


def _over_probes(samples: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    probes = samples.shape[axis]
    return np.mean(samples, axis=axis), np.std(samples, axis=axis, ddof=1) / probes**0.5
