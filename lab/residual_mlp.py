"""A residual network without attention or norms (Flax NNX), to study depth with one or two layers per block.

Letters: B batch, T sequence, M rows (M = B*T), C context, D width, V vocabulary, L depth.

    x_t    = C^-1/2 sum_{j < C, j <= t} E_j[token_{t-j}]     one table [V, D] per place j of the context
    h      = x + W phi(x)  or  x + W2 phi(W1 phi(x))         one or two layers per block (model.block_layers)
    logits = h_L R                                           no norm anywhere; phi is GELU in its tanh form

This is the ResNet of Noci et al. (arXiv 2402.17457, k = 1 and k = 2 layers per block), whose factor L^-1/2 on a
branch is the rule `parametrization.depth=sqrt` with `base_depth=1`; with base depth L0 it is (L/L0)^-1/2.

Size of the stream at initialisation, q the variance of its entries, hidden matrices of variance 1/fan_in: a branch of
one layer adds (L0/L) E phi(z)^2 with z normal of variance q, and E phi(z)^2 lies between q/4 and q/2 (GELU is z/2 near
0 and max(z, 0) far from it); of two layers, between q/16 and q/4.  So under `sqrt`

    q_L < q_0 (1 + L0/(2 L))^L < q_0 exp(L0/2)               two layers: exp(L0/4)

This is bounded at every depth, but grows with the base depth: 1.65 at L0 = 1, 7.4 at L0 = 4, 55 at L0 = 8.  Without
a depth rule q grows up to 1.5-fold (1.25-fold) per block, up to 660-fold at depth 16, and no norm takes it back.
Training adds to this: nothing here bounds the stream, so rates that a transformer with norms survives can diverge.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lab.config import ModelConfig
from lab.layer import Forward, Linear, stack, through
from lab.lookup import lookup
from lab.product import at_least_float32, wide_product
from lab.role import Place, Role, RoleRow

ROLES: tuple[RoleRow, ...] = (
    RoleRow("embedding/token", Role.EMBEDDING, "vocab", "width"),
    RoleRow("blocks/first/kernel", Role.HIDDEN, "width", "width", Place.BLOCK),
    RoleRow("blocks/first/bias", Role.BIAS, "one", "width", Place.BLOCK),
    RoleRow("blocks/last/kernel", Role.HIDDEN, "width", "width", Place.BRANCH_END),
    RoleRow("blocks/last/bias", Role.BIAS, "one", "width", Place.BRANCH_END),
    RoleRow("readout/kernel", Role.READOUT, "width", "vocab"),
)


class Context(nnx.Module):
    """`C^-1/2 sum_j E_j[token_{t-j}]` over the C latest tokens of tokens_BT; before the start there is nothing to add.

    The factor keeps the sum as large as one embedding, as the transformer's stream begins.
    """

    def __init__(self, config: ModelConfig, dtype: str) -> None:
        assert config.vocab is not None
        self.dtype = dtype
        self.token = nnx.Param(jnp.zeros((config.context, config.vocab, config.width)))

    def __call__(self, tokens_BT: jax.Array, form: str) -> jax.Array:
        table_CVD = self.token[...]
        context, vocab, width = table_CVD.shape
        place_C = jnp.arange(context)
        at_TC = jnp.arange(tokens_BT.shape[1])[:, None] - place_C
        row_BTC = tokens_BT[:, jnp.maximum(at_TC, 0)] + place_C * vocab
        x_RD = lookup(table_CVD.reshape(-1, width), row_BTC.reshape(-1), self.dtype, form)
        x_BTCD = at_least_float32(x_RD.reshape(*row_BTC.shape, width))
        x_BTD = jnp.sum(jnp.where(at_TC[..., None] >= 0, x_BTCD, 0), axis=2)
        return (x_BTD.reshape(-1, width) * context**-0.5).astype(self.dtype)


class Block(nnx.Module):
    """One layer: `x + phi(x) last`; two: `x + phi(phi(x) first) last`."""

    def __init__(self, config: ModelConfig) -> None:
        width = config.width
        self.first = Linear(width, width, bias=config.bias) if config.block_layers == 2 else None
        self.last = Linear(width, width, bias=config.bias)

    def __call__(self, x_MD: jax.Array) -> jax.Array:
        y_MD = jax.nn.gelu(x_MD, approximate=True)
        if self.first is not None:
            y_MD = jax.nn.gelu(self.first(y_MD), approximate=True)
        return x_MD + self.last(y_MD)


class ResidualMlp(nnx.Module):
    """tokens_BT -> logits_MV with M = B*T."""

    def __init__(self, config: ModelConfig, dtype: str = "float32") -> None:
        assert config.vocab is not None
        self.embedding = Context(config, dtype)
        self.blocks = stack(lambda: Block(config), config.depth)
        self.readout = Linear(config.width, config.vocab, bias=False)

    def __call__(
        self, tokens_BT: jax.Array, *, attention_scale: jax.Array, logit_scale: jax.Array, forward: Forward
    ) -> jax.Array:
        del attention_scale  # the transformer's
        x_MD = through(self.blocks, self.embedding(tokens_BT, forward.lookup), lambda block, x_MD: block(x_MD), forward)
        return wide_product(x_MD, self.readout.kernel[...]) * logit_scale
