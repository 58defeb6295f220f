"""Curvature: the Hessian of an objective and its parts, as products with flat vectors.

Letters: N parameters, C parts of the batch, M rows of outputs, V outputs per row.

With outputs f(theta), J = df/dtheta, and the weighted mean over rows of a loss l(f):

    H = G + R      Hessian:               derivative of the gradient, forwards over reverse
    G = J' l'' J   Gauss-Newton:          jvp, Hessian of the loss in the outputs, vjp (Schraudolph 2002)
    R = H - G      residual:              what the curvature of the model itself adds
    J' J           tangent kernel:        the same non-zero eigenvalues as J J', rows weighted as in the loss

Parameters are raveled once; parts of a batch are added up by `lax.scan`, the memory being that of one part.  All
products are made at the highest matmul precision: accelerators otherwise round float32 factors.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lab.lanczos import Operator
from lab.objective import Objective, Params, Part
from lab.role import Leaf

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def highest(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function` traced with matrix products at the highest precision."""

    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


@highest
def loss_and_gradient(objective: Objective, params: Params, parts: Part) -> tuple[jax.Array, jax.Array]:
    """The objective on a batch of parts, and its gradient [N]."""
    theta_N, unravel = ravel_pytree(params)
    return _mean(objective, parts, jax.value_and_grad(_loss(objective, unravel)), theta_N)


def hessian(objective: Objective, params: Params, parts: Part) -> Operator:
    """`v -> H v`, about 2.5 times the work of a gradient."""
    theta_N, unravel = ravel_pytree(params)
    gradient = jax.grad(_loss(objective, unravel))

    def of_part(v_N: jax.Array, part: Part) -> jax.Array:
        return jax.jvp(lambda theta_N: gradient(theta_N, part), (theta_N,), (v_N,))[1]

    return highest(lambda v_N: _mean(objective, parts, of_part, v_N))


def gauss_newton(objective: Objective, params: Params, parts: Part) -> Operator:
    """`v -> G v`, about 1.4 times the work of a gradient; G is positive semidefinite for convex losses of outputs."""
    return _by_outputs(objective, params, parts, objective.outer)


def tangent_kernel(objective: Objective, params: Params, parts: Part) -> Operator:
    """`v -> J' W J v` with each row's share W of the batch: the eigenvalues of the neural tangent kernel `W J J'`."""
    return _by_outputs(objective, params, parts, lambda _, u_MV, __: u_MV)


def residual(objective: Objective, params: Params, parts: Part) -> Operator:
    """`v -> (H - G) v`."""
    h, g = hessian(objective, params, parts), gauss_newton(objective, params, parts)
    return lambda v_N: h(v_N) - g(v_N)


def scaled(matvec: Operator, scale_N: jax.Array) -> Operator:
    """`v -> s A (s v)`: the symmetric form of `s^2 A`, with the same eigenvalues.

    With 0s and 1s it is a diagonal block of A, on vectors that are multiplied by them too (`blocks`).  With the roots
    of `lab.preconditioner` it is the preconditioned Hessian.
    """
    return lambda v_N: scale_N * matvec(scale_N * v_N)


def blocks(leaves: Mapping[str, Leaf]) -> tuple[tuple[str, ...], jax.Array]:
    """(names, the number of each parameter's block [N]): one per layer of a model's blocks, one per module outside.

    They are named by the first word of the path, those of layers with the layer: `embedding`, `blocks/0`, `readout`.
    """
    names: list[str] = []

    def number(name: str) -> int:
        if name not in names:
            names.append(name)
        return names.index(name)

    def numbers(leaf: Leaf) -> jax.Array:
        word, stacked = leaf.path.split("/")[0], leaf.stacked
        if not stacked or word != "blocks":
            return jnp.full(leaf.shape, number(word), jnp.int32)
        layers = jnp.asarray([number(f"{word}/{layer}") for layer in range(leaf.shape[stacked[0]])], jnp.int32)
        shape = [1] * len(leaf.shape)
        shape[stacked[0]] = -1
        return jnp.broadcast_to(layers.reshape(shape), leaf.shape)

    labels = {path: numbers(leaf) for path, leaf in sorted(leaves.items())}
    return tuple(names), ravel_pytree(labels)[0]


@highest
def directional(matvec: Operator, direction_N: jax.Array) -> jax.Array:
    """The Rayleigh quotient `d' A d / d' d`: with the gradient, the directional sharpness."""
    return jnp.vdot(direction_N, matvec(direction_N)) / jnp.vdot(direction_N, direction_N)


def _loss(objective: Objective, unravel: Callable[[jax.Array], Params]) -> Callable[[jax.Array, Part], jax.Array]:
    """The sum, not the mean, of a part's weighted losses, of flat parameters."""

    def loss(theta_N: jax.Array, part: Part) -> jax.Array:
        losses_M = objective.losses(objective.outputs(unravel(theta_N), part), part)
        return jnp.sum(objective.weights(part).astype(losses_M.dtype) * losses_M)

    return loss


def _by_outputs(
    objective: Objective,
    params: Params,
    parts: Part,
    outer: Callable[[jax.Array, jax.Array, Part], jax.Array],
) -> Operator:
    theta_N, unravel = ravel_pytree(params)

    def of_part(v_N: jax.Array, part: Part) -> jax.Array:
        def outputs(theta_N: jax.Array) -> jax.Array:
            return objective.outputs(unravel(theta_N), part)

        f_MV, u_MV = jax.jvp(outputs, (theta_N,), (v_N,))
        weights_M = objective.weights(part).astype(f_MV.dtype)
        (product_N,) = jax.vjp(outputs, theta_N)[1](weights_M[:, None] * outer(f_MV, u_MV, part))
        return product_N

    return highest(lambda v_N: _mean(objective, parts, of_part, v_N))


def _mean(objective: Objective, parts: Part, of_part: Callable[[jax.Array, Part], Any], x_N: jax.Array) -> Any:
    """The sum over parts of `of_part(x_N, part)`, over the weight of all rows."""
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, x_N, first))

    def add(total: Any, part: Part) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(x_N, part)), None

    total, _ = jax.lax.scan(add, zero, parts)
    rows = jnp.sum(jax.vmap(objective.weights)(parts))
    return jax.tree.map(lambda value: value / rows.astype(value.dtype), total)
