"""Preconditioners: the metric in which an optimizer sees curvature, from its own state.

Near a point an optimizer with frozen statistics moves by `-D P^-1 m`: D its rate of each parameter, P what it divides
by.  The Hessian that decides its stability is `D P^-1 H`, which is not symmetric; with the same eigenvalues

    S = D^1/2 P^-1/2 H P^-1/2 D^1/2        (Cohen et al., arXiv 2207.14484)

is, and a symmetric solver may be used.  For SGD P = 1.  For Adam after t updates

    P = (1 - beta1^t) (sqrt(nu_t / (1 - beta2^t)) + eps)

(its bias correction of the first moment is part of P).  At a rate of 1, S of SGD is the Hessian in the metric of the
per-leaf rates: `gamma^2 H` of "Why do Learning Rates Transfer?" (arXiv 2402.17457) where all leaves have one.

Clipping is not part of it: while the gradient is clipped, the real updates are smaller than S says.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lab.check import InputError
from lab.optimizer import AdamState, Hyper, Params


def root(kind: str, hyper: Hyper, opt: Any, params: Params, lr: jax.Array, gradient: Params | None = None) -> jax.Array:
    """`sqrt(D / P)` [N], in the order of raveled `params`, for `lab.curvature.scaled`.

    `kind` is of `lab.optimizer.structure` and `opt` the state of its chain; `lr` is the scheduled rate of the next
    update (1 for the metric alone).  With a `gradient` P is that of the next update, which sees this gradient, clipped
    as the chain clips it; without one P is that of the last update, and NaN before the first.

    Raises:
        InputError: an optimizer that is neither SGD nor Adam.
    """
    divided = denominator(kind, hyper, opt, params, gradient)
    return ravel_pytree({path: jnp.sqrt(lr * hyper.lr[path] / divided[path]) for path in params})[0]


def denominator(kind: str, hyper: Hyper, opt: Any, params: Params, gradient: Params | None = None) -> Params:
    """P by path, as arrays of the parameters' shapes; the arguments are those of `root`."""
    if kind == "sgd":
        return {path: jnp.ones_like(value) for path, value in params.items()}
    if kind != "adam":
        raise InputError(f"optimizer {kind} has no preconditioner here: use sgd, adam or adamw, or the plain Hessian")
    state = adam_state(opt)
    count, nu = state.step, state.nu
    if gradient is not None:
        count, nu = count + 1, _second_moment(hyper, nu, gradient)
    dtype = next(iter(params.values())).dtype
    first, second = (1 - jnp.asarray(beta, dtype) ** count.astype(dtype) for beta in (hyper.beta1, hyper.beta2))
    return {path: first * (jnp.sqrt(nu[path] / second) + hyper.eps[path]) for path in params}


def adam_state(opt: Any) -> AdamState:
    """Adam's part of the state of a chain."""
    found = jax.tree.leaves(opt, is_leaf=lambda node: isinstance(node, AdamState))
    (state,) = (node for node in found if isinstance(node, AdamState))
    return state


def _second_moment(hyper: Hyper, nu: Params, gradient: Params) -> Params:
    """nu after one more gradient, as the chain makes it: clipped to a global norm, then averaged."""
    norm = jnp.sqrt(sum(jnp.sum(value * value) for value in gradient.values()))
    kept = jnp.where(norm < hyper.clip, 1, hyper.clip / norm)
    return {path: hyper.beta2 * nu[path] + (1 - hyper.beta2) * (kept * gradient[path]) ** 2 for path in nu}
