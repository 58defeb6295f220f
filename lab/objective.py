"""Objectives: a loss with its parts open, as curvature needs them.

Letters: C parts of a batch, B sequences, T tokens, M rows of outputs (M = B*T for a transformer), V outputs per row.
A measurement batch is a pytree whose leaves have a leading axis C; its loss is the mean over all rows of all parts,
weighted, so that cutting it differently, or padding it with rows of weight 0, changes nothing.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lab.lane import Lane
from lab.program import Program, Shape

# Parameters and parts of a batch are pytrees.
Params = Any
Part = Any


# The largest `agreement` of a program with the one it is measured in, by the dtype it trains in.  Measured on CPU over
# training of models of 4k to 230k parameters: at most 0.005 in bfloat16 and 1e-7 in float32 between einsum and xla.
# In float64 `jax.nn.dot_product_attention` still computes its softmax in float32.
AGREEMENT = {"float64": 1e-6, "float32": 1e-5, "bfloat16": 0.01}


@dataclass(frozen=True)
class Objective:
    """`sum_m weight_m loss_m(output_m(params)) / sum_m weight_m`, every function taking one part of the batch.

    `outer(f_MV, u_MV, part)` is the Hessian of each row's loss in its outputs, times u.
    """

    outputs: Callable[[Params, Part], jax.Array]
    losses: Callable[[jax.Array, Part], jax.Array]
    outer: Callable[[jax.Array, jax.Array, Part], jax.Array]
    weights: Callable[[Part], jax.Array]


class Windows(NamedTuple):
    """Token windows [C, B, T+1] and the weight of each target [C, B, T]; without the leading C, one part."""

    tokens: jax.Array
    weights: jax.Array


def windows(tokens: jax.Array, parts: int = 1, weights: jax.Array | None = None) -> Windows:
    """A measurement batch of windows [B, T+1] in equal parts; targets count 1 unless `weights` [B, T] says otherwise.

    The last part is filled with windows of weight 0 where B is no multiple of `parts`.
    """
    count, length = tokens.shape[0], tokens.shape[1] - 1
    weights = jnp.ones((count, length), jnp.float32) if weights is None else weights
    padding = ((0, -count % parts), (0, 0))
    return Windows(
        jnp.pad(tokens, padding).reshape(parts, -1, length + 1), jnp.pad(weights, padding).reshape(parts, -1, length)
    )


def cross_entropy(
    outputs: Callable[[Params, Part], jax.Array],
    targets: Callable[[Part], jax.Array],
    weights: Callable[[Part], jax.Array],
) -> Objective:
    """Softmax cross-entropy of logits [M, V] against whole-number targets [M], in nats.

    Its Hessian in a row of logits is `diag(p) - p p'`.
    """

    def losses(f_MV: jax.Array, part: Part) -> jax.Array:
        picked_M = jnp.take_along_axis(f_MV, targets(part)[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(f_MV, axis=-1) - picked_M

    def outer(f_MV: jax.Array, u_MV: jax.Array, part: Part) -> jax.Array:
        del part
        p_MV = jax.nn.softmax(f_MV, axis=-1)
        return p_MV * u_MV - p_MV * jnp.sum(p_MV * u_MV, axis=-1, keepdims=True)

    return Objective(outputs, losses, outer, weights)


def squares(
    outputs: Callable[[Params, Part], jax.Array],
    targets: Callable[[Part], jax.Array],
    weights: Callable[[Part], jax.Array],
) -> Objective:
    """Half the squared distance of outputs [M, V] to targets [M, V], summed over V; its Hessian is the identity."""

    def losses(f_MV: jax.Array, part: Part) -> jax.Array:
        return jnp.sum((f_MV - targets(part)) ** 2, axis=-1) / 2

    def outer(f_MV: jax.Array, u_MV: jax.Array, part: Part) -> jax.Array:
        del f_MV, part
        return u_MV

    return Objective(outputs, losses, outer, weights)


def language(program: Program, lane: Lane) -> Objective:
    """The training loss of one lane of a program, on `Windows`; its parameters are the program's master weights."""

    def outputs(params: Params, part: Windows) -> jax.Array:
        return program.logits(params, lane, part.tokens[:, :-1])

    def targets(part: Windows) -> jax.Array:
        return part.tokens[:, 1:].reshape(-1).astype(jnp.int32)

    return cross_entropy(outputs, targets, lambda part: part.weights.reshape(-1))


def measured(shape: Shape) -> Shape:
    """The shape in which a program's curvature is measured: its own, in at least float32, with attention and lookups
    that can be differentiated forwards (fused kernels and `lab.lookup`'s other forms cannot).
    """
    dtype = "float32" if shape.dtype == "bfloat16" else shape.dtype
    attention = "xla" if shape.forward.attention == "cudnn" else shape.forward.attention
    forward = dataclasses.replace(shape.forward, attention=attention, lookup="scatter")
    return dataclasses.replace(shape, dtype=dtype, forward=forward, accumulate=1)


def agreement(program: Program, measuring: Program, lane: Lane, params: Params, batch: Windows) -> jax.Array:
    """How far the loss that is measured is from the loss that is trained: a number to hold against `AGREEMENT`.

    The largest difference over windows of their mean losses in two programs with the same master weights, in units of
    the batch's mean loss, or of 1 nat where that is smaller: rounding follows the size of the logits and does not
    shrink with the loss.  Both are computed at the highest matmul precision, so that what is left is the compute dtype
    and the attention path.  It can be traced, and mapped over lanes; NaN for a lane that is not finite.  A readout of
    zeros hides every difference: before the first update of such a model it is 0.
    """
    weights_CBT = batch.weights

    def sums(program: Program) -> jax.Array:
        objective = language(program, lane)

        def of_part(part: Windows) -> jax.Array:
            losses_BT = objective.losses(objective.outputs(params, part), part).reshape(part.weights.shape)
            return jnp.sum(part.weights * losses_BT, axis=-1)

        return jax.lax.map(of_part, batch)

    with jax.default_matmul_precision("highest"):
        trained_CB, measured_CB = sums(program), sums(measuring)
    weight_CB = jnp.sum(weights_CBT, axis=-1)
    apart_CB = jnp.abs(trained_CB - measured_CB) / jnp.where(weight_CB > 0, weight_CB, 1)
    return jnp.max(apart_CB) / jnp.maximum(jnp.sum(measured_CB) / jnp.sum(weight_CB), 1)
