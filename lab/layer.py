"""What the models are made of: linear maps, stacks of blocks, and how a forward pass executes.

Letters: M rows of activations (batch and time flattened), D width, I inputs and O outputs of a linear map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from lab.product import product, shifted
from lab.sharding import spread

# Marks what a linear map gives: a policy by shape would not know it again under a lane axis.
_PRODUCT = "product"
# What the backward pass of a block finds kept: its input alone, or the results of its matrix products too.
REMAT: dict[str, Callable[..., bool]] = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(_PRODUCT),
}


@dataclass(frozen=True)
class Forward:
    """How the forward pass executes: never what it computes.

    `remat` is a key of `REMAT`, `lookup` one of `lab.lookup.FORMS`: how the gradient of an embedding is summed.
    """

    attention: str = "einsum"
    unroll: bool = True
    remat: str = "none"
    lookup: str = "scatter"


class Linear(nnx.Module):
    """x_MI -> y_MO in the dtype of x; weights are in that of the masters."""

    def __init__(self, fan_in: int, fan_out: int, *, bias: bool) -> None:
        self.kernel = nnx.Param(jnp.zeros((fan_in, fan_out)))
        self.bias = nnx.Param(jnp.zeros((fan_out,))) if bias else None

    def __call__(self, x_MI: jax.Array) -> jax.Array:
        y_MO = checkpoint_name(product(x_MI, self.kernel[...]), _PRODUCT)
        return y_MO if self.bias is None else shifted(y_MO, self.bias[...])


def stack(block: Callable[[], nnx.Module], depth: int) -> Any:
    """`depth` blocks as one module whose parameters have a leading depth axis."""
    return nnx.vmap(lambda _: block(), in_axes=0, out_axes=0)(jnp.zeros(depth))


def through(blocks: Any, x_MD: jax.Array, apply: Callable[[Any, jax.Array], jax.Array], forward: Forward) -> jax.Array:
    """The stream after every block of a stack in turn, each `apply(block, x_MD)`."""
    graphdef, stacked = nnx.split(blocks)

    def body(x_MD: jax.Array, one: Any) -> tuple[jax.Array, None]:
        return spread(apply(nnx.merge(graphdef, one), x_MD)), None

    if forward.remat != "none":
        body = jax.checkpoint(body, policy=REMAT[forward.remat])
    x_MD, _ = jax.lax.scan(body, spread(x_MD), stacked, unroll=forward.unroll)
    return x_MD
