"""Optimizers as optax chains whose eps, decay and learning rate are per leaf and per lane.

The chain is  clip -> direction (Adam with a tree of eps, or momentum) -> + decay * w -> * -lr.  Multipliers act inside
it: scaling a finished AdamW update would rescale its weight decay too.  Parameters are flat dicts by path.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lab.config import OptimizerConfig

Params = dict[str, jax.Array]


class Hyper(NamedTuple):
    """Everything about an optimizer that may differ between lanes: scalars, and trees by path."""

    beta1: jax.Array
    beta2: jax.Array
    momentum: jax.Array
    clip: jax.Array
    eps: Params
    lr: Params
    decay: Params


class AdamState(NamedTuple):
    step: jax.Array
    mu: Params
    nu: Params


def scale_by_adam(hyper: Hyper) -> optax.GradientTransformation:
    """Adam's direction `m_hat / (sqrt(v_hat) + eps)` (Kingma and Ba, arXiv 1412.6980) with one eps per leaf.

    optax's own `scale_by_adam` takes a single eps; with equal entries both give the same numbers.
    """

    def init(params: optax.Params) -> AdamState:
        zeros = optax.tree.zeros_like(params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        assert isinstance(state, AdamState)
        mu = optax.tree.update_moment(updates, state.mu, hyper.beta1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, hyper.beta2, 2)
        count = state.step + 1
        mu_hat = optax.tree.bias_correction(mu, hyper.beta1, count)
        nu_hat = optax.tree.bias_correction(nu, hyper.beta2, count)
        direction = jax.tree.map(lambda m, v, eps: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat, hyper.eps)
        return direction, AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def descend(hyper: Hyper, lr: jax.Array, decay: jax.Array) -> optax.GradientTransformation:
    """`-(lr * lr_leaf * direction + decay * decay_leaf * w)` for this update's rate and decay."""

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda u, w, lr_leaf, decay_leaf: -((lr * lr_leaf) * u + (decay * decay_leaf) * w),
            updates,
            params,
            hyper.lr,
            hyper.decay,
        )

    return optax.stateless(update)


def optimizer(kind: str, hyper: Hyper, lr: jax.Array, decay: jax.Array) -> optax.GradientTransformation:
    """The chain of one update; `kind` is its structure, everything else may be traced."""
    direction = optax.trace(hyper.momentum) if kind == "sgd" else scale_by_adam(hyper)
    return optax.chain(optax.clip_by_global_norm(hyper.clip), direction, descend(hyper, lr, decay))


def structure(config: OptimizerConfig) -> str:
    """Which chain a configuration needs: Adam and AdamW share one, decay being a number."""
    return "sgd" if config.kind == "sgd" else "adam"
