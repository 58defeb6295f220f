"""Optimizers as optax chains whose eps, decay and learning rate are per leaf and per lane.

The chain is  clip -> direction -> + decay * w -> * -lr.  Multipliers act inside it: scaling a finished AdamW update
would rescale its weight decay too.  Parameters are flat dicts by path; `leaves` tells which of them are matrices, and
which axes are stacked layers, so that what looks at a whole tensor (Muon, Adafactor) looks at one layer.

Directions: SGD with momentum, Adam, Lion (`optax.scale_by_lion`), Adafactor with parameter scaling
(`optax.scale_by_factored_rms`, block clipping at 1, times the parameter's RMS floored at 1e-3, as `optax.adafactor`),
and Muon (`optax.contrib.scale_by_muon`) for hidden matrices with Adam for the rest.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lab.check import entry
from lab.config import OptimizerConfig
from lab.role import Leaf, Role
from lab.scale import Factors, Setting, betas

Params = dict[str, jax.Array]
Leaves = Mapping[str, Leaf]
# optax types its trees as anything that nests; here they are flat dicts by path.
Tree = Any
# A number on the host, an array in a program.
Scalar = Any


class Hyper(NamedTuple):
    """Everything about an optimizer that may differ between lanes: scalars, and trees by path."""

    beta1: Scalar
    beta2: Scalar
    momentum: Scalar
    clip: Scalar
    eps: dict[str, Scalar]
    lr: dict[str, Scalar]
    decay: dict[str, Scalar]


def hyper(setting: Setting, leaves: Leaves, factors: Mapping[str, Factors]) -> Hyper:
    """The constants of one run as Python floats; Muon's shape factor is part of its leaves' rates.

    Raises:
        InputError: betas that leave [0, 1).
    """
    config, (beta1, beta2) = setting.optimizer, betas(setting)

    def rate(path: str, leaf: Leaf) -> float:
        by_muon = config.kind == "muon" and leaf.role == Role.HIDDEN
        shape = muon_scale(config.muon_scale, leaf.fan_in, leaf.fan_out) if by_muon else 1.0
        return factors[path].lr * shape

    return Hyper(
        beta1=beta1,
        beta2=beta2,
        momentum=config.momentum,
        clip=math.inf if config.clip is None else config.clip,
        eps={path: config.eps * factors[path].eps for path in leaves},
        lr={path: rate(path, leaf) for path, leaf in leaves.items()},
        decay={path: factors[path].decay for path in leaves},
    )


class AdamState(NamedTuple):
    step: jax.Array
    mu: Params
    nu: Params


class MuonState(NamedTuple):
    muon: Any
    adam: AdamState


def scale_by_adam(hyper: Hyper) -> optax.GradientTransformation:
    """Adam's direction `m_hat / (sqrt(v_hat) + eps)` (Kingma and Ba, arXiv 1412.6980) with one eps per leaf.

    optax's own `scale_by_adam` takes a single eps; with equal entries both give the same numbers.
    """

    def init(params: Tree) -> AdamState:
        zeros = optax.tree.zeros_like(params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, AdamState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, hyper.beta1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, hyper.beta2, 2)
        count = state.step + 1
        mu_hat = optax.tree.bias_correction(mu, hyper.beta1, count)
        nu_hat = optax.tree.bias_correction(nu, hyper.beta2, count)
        eps = {path: hyper.eps[path] for path in updates}
        direction = jax.tree.map(lambda m, v, eps: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat, eps)
        return direction, AdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_adafactor(leaves: Leaves) -> optax.GradientTransformation:
    """Adafactor's direction with parameter scaling (Shazeer and Stern, arXiv 1804.04235), layer by layer.

    Matrices are factored at every size, so that all widths run the same algorithm (`optax.adafactor` factors from 128
    on).  A tensor that starts at zero moves by the parameter scale's floor, 1e-3 times the rate.
    """
    one = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(1e-3),
    )

    def init(params: Tree) -> dict[str, Any]:
        return {path: _per_layer(one.init, leaves[path])(_front(value, leaves[path])) for path, value in params.items()}

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, dict[str, Any]]:
        moved, kept = {}, {}
        for path, leaf in ((path, leaves[path]) for path in updates):
            update, param = _front(updates[path], leaf), _front(params[path], leaf)
            new, kept[path] = _per_layer(one.update, leaf)(update, state[path], param)
            moved[path] = jnp.moveaxis(new, range(len(leaf.stacked)), leaf.stacked)
        return moved, kept

    return optax.GradientTransformation(init, update)


def scale_by_muon(hyper: Hyper, leaves: Leaves) -> optax.GradientTransformation:
    """Muon's orthogonalised Nesterov momentum for hidden matrices, Adam's direction for the rest.

    optax's `muon` would send every two-dimensional leaf to Muon, embedding and readout included, and stacked kernels to
    Adam; here the role decides, and stacked axes are batches of matrices.  The update has singular values near 1; its
    shape factor is part of the leaf's rate (`muon_scale`).
    """
    hidden = {path: leaf for path, leaf in leaves.items() if leaf.role == Role.HIDDEN}
    axes = {path: optax.contrib.MuonDimensionNumbers(leaf.in_axes, leaf.out_axes) for path, leaf in hidden.items()}
    # Orthogonalisation does not depend on the gradient's scale, unless an eps of ordinary size brings one in.
    muon = optax.contrib.scale_by_muon(beta=hyper.momentum, eps=1e-20, weight_dimension_numbers=axes)
    adam = scale_by_adam(hyper)

    def split(tree: Tree) -> tuple[Params, Params]:
        return (
            {path: value for path, value in tree.items() if path in hidden},
            {path: value for path, value in tree.items() if path not in hidden},
        )

    def init(params: Tree) -> MuonState:
        matrices, others = split(params)
        state: Any = adam.init(others)
        return MuonState(muon.init(matrices), state)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, MuonState]:
        del params
        matrices, others = split(updates)
        orthogonal: Any
        direction: Any
        adam_state: Any
        orthogonal, muon_state = muon.update(matrices, state.muon)
        direction, adam_state = adam.update(others, state.adam)
        return orthogonal | direction, MuonState(muon_state, adam_state)

    return optax.GradientTransformation(init, update)


def muon_scale(convention: str, fan_in: int, fan_out: int) -> float:
    """Factor on an orthogonalised update.

    keller `sqrt(max(1, out/in))` (optax's default), moonlight `0.2 sqrt(max(in, out))` (arXiv 2502.16982), spectral
    `sqrt(out/in)` (2310.17813).
    """
    scales = {
        "keller": max(1.0, fan_out / fan_in) ** 0.5,
        "moonlight": 0.2 * max(fan_in, fan_out) ** 0.5,
        "spectral": (fan_out / fan_in) ** 0.5,
    }
    return entry(scales, convention, "optimizer.muon_scale")


def descend(hyper: Hyper, lr: jax.Array, decay: jax.Array) -> optax.GradientTransformation:
    """`-(lr * lr_leaf * direction + decay * decay_leaf * w)` for this update's rate and decay."""

    def update(updates: Tree, params: Tree) -> Tree:
        return jax.tree.map(
            lambda u, w, lr_leaf, decay_leaf: -((lr * lr_leaf) * u + (decay * decay_leaf) * w),
            updates,
            params,
            hyper.lr,
            hyper.decay,
        )

    return optax.stateless(update)


def optimizer(kind: str, hyper: Hyper, leaves: Leaves, lr: jax.Array, decay: jax.Array) -> optax.GradientTransformation:
    """The chain of one update; `kind` (of `structure`) and `leaves` are static, everything else may be traced."""
    directions: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.trace(hyper.momentum),
        "adam": lambda: scale_by_adam(hyper),
        "lion": lambda: optax.scale_by_lion(hyper.beta1, hyper.beta2),
        "adafactor": lambda: scale_by_adafactor(leaves),
        "muon": lambda: scale_by_muon(hyper, leaves),
    }
    direction = entry(directions, kind, "the optimizer")
    return optax.chain(optax.clip_by_global_norm(hyper.clip), direction(), descend(hyper, lr, decay))


def structure(config: OptimizerConfig) -> str:
    """Which chain a configuration needs: Adam and AdamW share one, decay being a number."""
    return "adam" if config.kind == "adamw" else config.kind


def _front(value: jax.Array, leaf: Leaf) -> jax.Array:
    """A leaf's array with its stacked axes first."""
    return jnp.moveaxis(value, leaf.stacked, range(len(leaf.stacked)))


def _per_layer(function: Any, leaf: Leaf) -> Any:
    """`function` mapped over stacked axes that come first."""
    for _ in leaf.stacked:
        function = jax.vmap(function)
    return function
