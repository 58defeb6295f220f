"""Lanczos: eigenvalues of a symmetric operator that is known only by its products with vectors.

Letters: N parameters, cut into C blocks of B; M steps, K eigenpairs; host arrays may have leading axes of lanes.

    w = A q_j,  alpha_j = q_j.w,  w <- w - alpha_j q_j - beta_{j-1} q_{j-1},  beta_j = |w|,  q_{j+1} = w / beta_j

makes an orthonormal basis in which A is the tridiagonal matrix T of alphas and betas (Lanczos 1950; Golub and Van Loan,
Matrix Computations, chapter 10).  Eigenpairs (theta_i, s_i) of T give Ritz pairs (theta_i, Q' s_i) of A with
`|A x - theta_i x| = beta_M |s_Mi|`, so that some eigenvalue of A is at most that far from theta_i.

Every new vector is orthogonalised against the whole basis, twice: without it converged eigenvalues come back as copies.
The number of steps is fixed, so that lanes of a `vmap` do the same work.  Products are made at the highest matmul
precision; alphas and betas go to the host, where T is solved in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Operator = Callable[[jax.Array], jax.Array]

# A new vector shorter than this many roundings of the operator's size is noise: the basis spans an invariant space.
BREAKDOWN = 100.0
# How much of a random vector is mixed into a warm start, as a ratio of lengths: enough to find a new top direction,
# little enough that the first Rayleigh quotient loses about a hundredth.
ADMIXTURE = 0.1
# Inner products with the basis are added up by blocks of this many parameters.  On CPU a plain float32 matrix product
# over a million parameters loses what is small beside a few large entries: its error is 40 times larger, and the basis
# of an operator whose eigenvectors sit on few parameters was orthonormal to 3e-4 only.
BLOCK = 1024


class Krylov(NamedTuple):
    """What a Lanczos run leaves on the device.

    `beta_M[j]` is the length of what is left of `A q_j`, at a breakdown too; `steps` columns of the basis are used, the
    others, and their alphas and betas, are zero.  A basis vector is cut into blocks, `ritz_vectors` joins them.
    """

    alpha_M: jax.Array
    beta_M: jax.Array
    basis_CMB: jax.Array
    steps: jax.Array

    def without_basis(self) -> "Krylov":
        """What `ritz` needs, without the basis, which is large."""
        return self._replace(basis_CMB=self.basis_CMB[:0])


@dataclass(frozen=True)
class Ritz:
    """Ritz values in falling order with what belongs to them, NaN where there are none; float64 on the host.

    `residuals` bound the distance to the nearest eigenvalue, up to rounding of the products; `vectors[..., i, :]` are
    coefficients in the Lanczos basis; `weights` are the squared first coefficients, a quadrature of the spectral
    density that the start vector sees (they sum to 1).
    """

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray

    def largest(self, count: int) -> "Ritz":
        """The `count` largest with their signs, the largest first."""
        return self._taken(np.argsort(-self.values, axis=-1), count)

    def smallest(self, count: int) -> "Ritz":
        """The `count` smallest with their signs, the smallest first."""
        return self._taken(np.argsort(self.values, axis=-1), count)

    def _taken(self, order: np.ndarray, count: int) -> "Ritz":
        # Places beyond the Ritz values that exist are filled from a NaN column.
        width = order.shape[-1]
        places = [(0, 0)] * (order.ndim - 1) + [(0, max(0, count - width))]
        index = np.pad(order, places, constant_values=width)[..., :count]

        def taken(values: np.ndarray) -> np.ndarray:
            padded = np.concatenate([values, np.full_like(values[..., :1], np.nan)], axis=-1)
            return np.take_along_axis(padded, index, axis=-1)

        rows = np.concatenate([self.vectors, np.full_like(self.vectors[..., :1, :], np.nan)], axis=-2)
        return Ritz(
            taken(self.values),
            taken(self.residuals),
            taken(self.weights),
            np.take_along_axis(rows, index[..., None], axis=-2),
        )


def start(
    key: jax.Array, like_N: jax.Array, warm_N: jax.Array | None = None, admixture: float = ADMIXTURE
) -> jax.Array:
    """A unit start vector [N]: random, or `warm_N` and `admixture` times a random unit vector.

    A warm vector that is zero or not finite counts for nothing.  `like_N` gives shape and dtype.
    """
    random_N = _unit(jax.random.normal(key, like_N.shape, like_N.dtype))
    if warm_N is None:
        return random_N
    length = jnp.sqrt(jnp.sum(warm_N * warm_N))
    usable = jnp.isfinite(length) & (length > 0)
    warm_N = jnp.where(usable, warm_N / jnp.where(usable, length, 1.0), 0.0)
    return _unit(warm_N.astype(like_N.dtype) + jnp.where(usable, admixture, 1.0) * random_N)


def lanczos(
    matvec: Operator, start_N: jax.Array, steps: int, *, passes: int = 2, limit: jax.Array | None = None
) -> Krylov:
    """`steps` steps of Lanczos for a symmetric operator on flat vectors of float32 or float64, under `jit` and `vmap`.

    A traced `limit` makes fewer of them in the same executable; lanes of a `vmap` should have one limit.

    `passes` is how often a new vector is orthogonalised against the whole basis (0: plain Lanczos, whose ghosts a test
    shows).  A breakdown, `beta_j <= 100 eps max_i |A q_i|` over the steps made, ends the basis: later columns are zero
    and are not counted.  The bound is relative to the operator, so that a small one is not taken for zero.
    A start vector that is zero makes no steps; non-finite products leave non-finite alphas, which `ritz` masks.
    """
    size, dtype = start_N.size, start_N.dtype
    block = min(BLOCK, size)
    count = -(-size // block)
    guard = BREAKDOWN * float(jnp.finfo(dtype).eps)

    def product(q_CB: jax.Array) -> jax.Array:
        return jnp.pad(matvec(q_CB.reshape(-1)[:size]), (0, count * block - size)).reshape(count, block)

    def body(j: jax.Array, carry: tuple[Krylov, jax.Array, jax.Array, jax.Array]) -> tuple:
        krylov, q_CB, before_CB, norm = carry
        alive = jnp.any(q_CB != 0)
        basis_CMB = krylov.basis_CMB.at[:, j].set(q_CB)
        w_CB = product(q_CB)
        norm = jnp.maximum(norm, _length(w_CB))
        alpha = jnp.where(alive, jnp.vdot(q_CB, w_CB), 0)
        w_CB = w_CB - alpha * q_CB - before_CB
        for _ in range(passes):
            w_CB = w_CB - _combined(basis_CMB, _coefficients(basis_CMB, w_CB))
        beta = jnp.where(alive, _length(w_CB), 0)
        goes_on = beta > guard * norm
        next_CB = jnp.where(goes_on, w_CB / jnp.where(goes_on, beta, 1), 0)
        alpha_M, beta_M = krylov.alpha_M.at[j].set(alpha), krylov.beta_M.at[j].set(beta)
        krylov = Krylov(alpha_M, beta_M, basis_CMB, krylov.steps + alive.astype(jnp.int32))
        return krylov, next_CB, jnp.where(goes_on, beta, 0) * q_CB, norm

    with jax.default_matmul_precision("highest"):
        length = _length(start_N)
        q_N = jnp.where(length > 0, start_N / jnp.where(length > 0, length, 1), 0)
        q_CB = jnp.pad(q_N, (0, count * block - size)).reshape(count, block)
        blank_M, basis_CMB = jnp.zeros((steps,), dtype), jnp.zeros((count, steps, block), dtype)
        blank = Krylov(blank_M, blank_M, basis_CMB, jnp.zeros((), jnp.int32))
        made = steps if limit is None else jnp.minimum(limit, steps)
        return jax.lax.fori_loop(0, made, body, (blank, q_CB, jnp.zeros_like(q_CB), jnp.zeros((), dtype)))[0]


def ritz(krylov: Krylov) -> Ritz:
    """Ritz values and residuals of finished Lanczos runs, with any leading axes of lanes; waits for the device.

    Lanes with non-finite numbers are NaN throughout.  `alpha_M` and `beta_M` of fewer steps may be given: the first
    j of each belong to a run of j steps.
    """
    alpha, beta = (np.asarray(values, np.float64) for values in (krylov.alpha_M, krylov.beta_M))
    steps = np.minimum(np.asarray(krylov.steps), alpha.shape[-1])
    lanes, width = alpha.shape[:-1], alpha.shape[-1]
    values, residuals, weights = (np.full((*lanes, width), np.nan) for _ in range(3))
    vectors = np.full((*lanes, width, width), np.nan)
    for lane in np.ndindex(lanes):
        count = int(steps[lane])
        if count == 0 or not (np.isfinite(alpha[lane]).all() and np.isfinite(beta[lane]).all()):
            continue
        off = beta[lane][: count - 1]
        found, s = np.linalg.eigh(np.diag(alpha[lane][:count]) + np.diag(off, 1) + np.diag(off, -1))
        s = s[:, ::-1]
        values[lane][:count] = found[::-1]
        residuals[lane][:count] = np.abs(beta[lane][count - 1] * s[-1])
        weights[lane][:count] = s[0] ** 2
        vectors[lane][:count] = 0
        vectors[lane][:count, :count] = s.T
    return Ritz(values, residuals, weights, vectors)


def ritz_vectors(krylov: Krylov, found: Ritz, size: int) -> jax.Array:
    """The Ritz vectors [..., K, N] of `found`, which `ritz` made of this run; unit vectors, NaN where there is none.

    `size` is N, without the filling of the last block.
    """
    coefficients_KM = jnp.asarray(found.vectors, krylov.basis_CMB.dtype)
    with jax.default_matmul_precision("highest"):
        vectors_KCB = jnp.einsum("...km,...cmb->...kcb", coefficients_KM, krylov.basis_CMB)
    return vectors_KCB.reshape(*vectors_KCB.shape[:-2], -1)[..., :size]


def _coefficients(basis_CMB: jax.Array, x_CB: jax.Array) -> jax.Array:
    return jnp.sum(jnp.einsum("cmb,cb->cm", basis_CMB, x_CB), axis=0)


def _combined(basis_CMB: jax.Array, coefficients_M: jax.Array) -> jax.Array:
    coefficients_CM = jnp.broadcast_to(coefficients_M, basis_CMB.shape[:2])
    return jnp.einsum("cm,cmb->cb", coefficients_CM, basis_CMB)


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.vdot(x, x))


def _unit(x_N: jax.Array) -> jax.Array:
    return x_N / jnp.sqrt(jnp.sum(x_N * x_N))
