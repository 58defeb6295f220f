"""A decoder-only transformer (Flax NNX) and the table that gives each of its parameters a role.

Letters: B batch, T sequence, D width, H query heads, G key/value heads, N head dimension, F MLP width, V vocabulary,
L depth.  Batch and time are flattened to one axis M = B*T before every projection and norm, which is the fastest form
on CPU; only attention restores them.  Blocks are stacked along a leading L axis and scanned.

Weights are in the dtype of the masters; the embedding begins the stream in the compute dtype, which everything after it
follows.  Gains and shifts act in at least float32, as norms do.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lab.check import entry
from lab.config import ModelConfig
from lab.layer import Forward, Linear, stack, through
from lab.lookup import lookup
from lab.product import at_least_float32, repeated, shifted, wide_product
from lab.role import Place, Role, RoleRow
from lab.sharding import contraction_cut, spread

ROLES: tuple[RoleRow, ...] = (
    RoleRow("embedding/token", Role.EMBEDDING, "vocab", "width"),
    RoleRow("embedding/position", Role.EMBEDDING, "length", "width"),
    RoleRow("blocks/*_norm/gain", Role.GAIN, "one", "width", Place.BLOCK),
    RoleRow("blocks/*_norm/bias", Role.BIAS, "one", "width", Place.BLOCK),
    RoleRow("blocks/attention/query/kernel", Role.HIDDEN, "width", "attention", Place.BLOCK),
    RoleRow("blocks/attention/key/kernel", Role.HIDDEN, "width", "kv", Place.BLOCK),
    RoleRow("blocks/attention/value/kernel", Role.HIDDEN, "width", "kv", Place.BLOCK),
    RoleRow("blocks/attention/output/kernel", Role.HIDDEN, "attention", "width", Place.BRANCH_END),
    RoleRow("blocks/attention/query/bias", Role.BIAS, "one", "attention", Place.BLOCK),
    RoleRow("blocks/attention/key/bias", Role.BIAS, "one", "kv", Place.BLOCK),
    RoleRow("blocks/attention/value/bias", Role.BIAS, "one", "kv", Place.BLOCK),
    RoleRow("blocks/attention/output/bias", Role.BIAS, "one", "width", Place.BRANCH_END),
    RoleRow("blocks/attention/qk/query_gain", Role.GAIN, "one", "head_dim", Place.BLOCK),
    RoleRow("blocks/attention/qk/key_gain", Role.GAIN, "one", "head_dim", Place.BLOCK),
    RoleRow("blocks/mlp/up/kernel", Role.HIDDEN, "width", "mlp", Place.BLOCK),
    RoleRow("blocks/mlp/gate/kernel", Role.HIDDEN, "width", "mlp", Place.BLOCK),
    RoleRow("blocks/mlp/down/kernel", Role.HIDDEN, "mlp", "width", Place.BRANCH_END),
    RoleRow("blocks/mlp/up/bias", Role.BIAS, "one", "mlp", Place.BLOCK),
    RoleRow("blocks/mlp/gate/bias", Role.BIAS, "one", "mlp", Place.BLOCK),
    RoleRow("blocks/mlp/down/bias", Role.BIAS, "one", "width", Place.BRANCH_END),
    RoleRow("final_norm/gain", Role.GAIN, "one", "width"),
    RoleRow("final_norm/bias", Role.BIAS, "one", "width"),
    RoleRow("readout/kernel", Role.READOUT, "width", "vocab"),
)

AttentionFn = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Norm(nnx.Module):
    """RMSNorm `x / rms(x) * gain` or LayerNorm `(x - mean) / std * gain + bias`, in at least float32."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.centred = entry({"layernorm": True, "rmsnorm": False}, config.norm, "model.norm")
        self.eps = config.norm_eps
        self.gain = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,))) if self.centred and config.bias else None

    def __call__(self, x_MD: jax.Array) -> jax.Array:
        x = at_least_float32(x_MD)
        if self.centred:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        x = x * self.gain[...]
        return (x if self.bias is None else x + self.bias[...]).astype(x_MD.dtype)


class QKNorm(nnx.Module):
    """RMSNorm of each query and key head, with one gain per head dimension."""

    def __init__(self, config: ModelConfig, head_dim: int) -> None:
        self.eps = config.norm_eps
        self.query_gain = nnx.Param(jnp.ones((head_dim,)))
        self.key_gain = nnx.Param(jnp.ones((head_dim,)))

    def __call__(self, q_BHTN: jax.Array, k_BGTN: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._norm(q_BHTN, self.query_gain[...]), self._norm(k_BGTN, self.key_gain[...])

    def _norm(self, x_BHTN: jax.Array, gain_N: jax.Array) -> jax.Array:
        x = at_least_float32(x_BHTN)
        return (x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps) * gain_N).astype(x_BHTN.dtype)


def _rotary(config: ModelConfig) -> bool:
    return entry({"rope": True, "learned": False}, config.position, "model.position")


def _before(config: ModelConfig) -> bool:
    return entry({"pre": True, "post": False}, config.placement, "model.placement")


class Attention(nnx.Module):
    """Causal grouped-query attention over x_MD, M = B*T."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.heads is not None and config.kv_heads is not None and config.head_dim is not None
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.theta = config.rope_theta if _rotary(config) else None
        inner, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.query = Linear(config.width, inner, bias=config.bias)
        self.key = Linear(config.width, kv, bias=config.bias)
        self.value = Linear(config.width, kv, bias=config.bias)
        self.output = Linear(inner, config.width, bias=config.bias)
        self.qk = QKNorm(config, self.head_dim) if config.qk_norm else None

    def __call__(self, x_MD: jax.Array, length: int, scale: jax.Array, attend: AttentionFn) -> jax.Array:
        q_BHTN, k_BGTN = self._queries_and_keys(x_MD, length)
        v_BGTN = self._heads(self.value(x_MD), length, self.kv_heads)
        y_BHTN = attend(q_BHTN, k_BGTN, v_BGTN, scale)
        y_MD = y_BHTN.transpose(0, 2, 1, 3).reshape(x_MD.shape[0], self.heads * self.head_dim)
        return self.output(y_MD)

    def logits(self, x_MD: jax.Array, length: int, scale: jax.Array) -> jax.Array:
        """Attention logits [B, H, T, S], 0 where a query may not look."""
        q_BHTN, k_BGTN = self._queries_and_keys(x_MD, length)
        k_BHTN = repeated(k_BGTN, self.heads // self.kv_heads, axis=1)
        return jnp.tril(jnp.einsum("bhtn,bhsn->bhts", q_BHTN, k_BHTN) * scale.astype(q_BHTN.dtype))

    def _queries_and_keys(self, x_MD: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        q_BHTN = self._heads(self.query(x_MD), length, self.heads)
        k_BGTN = self._heads(self.key(x_MD), length, self.kv_heads)
        if self.qk is not None:
            q_BHTN, k_BGTN = self.qk(q_BHTN, k_BGTN)
        if self.theta is not None:
            q_BHTN, k_BGTN = _rotate(q_BHTN, self.theta), _rotate(k_BGTN, self.theta)
        return q_BHTN, k_BGTN

    def _heads(self, x_MK: jax.Array, length: int, heads: int) -> jax.Array:
        return x_MK.reshape(-1, length, heads, self.head_dim).transpose(0, 2, 1, 3)


class Mlp(nnx.Module):
    """gelu: `gelu(x up) down`; swiglu: `(silu(x gate) * (x up)) down`.  GELU is the tanh form."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.mlp_width is not None
        self.up = Linear(config.width, config.mlp_width, bias=config.bias)
        gated = entry({"swiglu": True, "gelu": False}, config.mlp, "model.mlp")
        self.gate = Linear(config.width, config.mlp_width, bias=config.bias) if gated else None
        self.down = Linear(config.mlp_width, config.width, bias=config.bias)

    def __call__(self, x_MD: jax.Array) -> jax.Array:
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x_MD), approximate=True))
        return self.down(jax.nn.silu(self.gate(x_MD)) * self.up(x_MD))


class Block(nnx.Module):
    """pre: `x + f(norm(x))`; post: `norm(x + f(x))`, for attention and then for the MLP."""

    def __init__(self, config: ModelConfig) -> None:
        self.pre = _before(config)
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config)
        self.mlp_norm = Norm(config, config.width)
        self.mlp = Mlp(config)

    def __call__(self, x_MD: jax.Array, length: int, scale: jax.Array, attend: AttentionFn) -> jax.Array:
        return self.parts(x_MD, length, scale, attend)["residual"]

    def parts(
        self, x_MD: jax.Array, length: int, scale: jax.Array, attend: AttentionFn
    ) -> dict[Literal["attention", "mlp", "residual"], jax.Array]:
        """What the two branches add to the stream, and the stream after them."""
        if self.pre:
            attention_MD = self.attention(self.attention_norm(x_MD), length, scale, attend)
            x_MD = x_MD + attention_MD
            mlp_MD = self.mlp(self.mlp_norm(x_MD))
            return {"attention": attention_MD, "mlp": mlp_MD, "residual": x_MD + mlp_MD}
        attention_MD = self.attention(x_MD, length, scale, attend)
        x_MD = self.attention_norm(x_MD + attention_MD)
        mlp_MD = self.mlp(x_MD)
        return {"attention": attention_MD, "mlp": mlp_MD, "residual": self.mlp_norm(x_MD + mlp_MD)}

    def attention_logits(self, x_MD: jax.Array, length: int, scale: jax.Array) -> jax.Array:
        return self.attention.logits(self.attention_norm(x_MD) if self.pre else x_MD, length, scale)


class Embedding(nnx.Module):
    """tokens_BT -> x_MD in the compute dtype `dtype`."""

    def __init__(self, config: ModelConfig, length: int, dtype: str) -> None:
        assert config.vocab is not None
        self.dtype = dtype
        self.token = nnx.Param(jnp.zeros((config.vocab, config.width)))
        learned = not _rotary(config)
        self.position = nnx.Param(jnp.zeros((length, config.width))) if learned else None

    def __call__(self, tokens_BT: jax.Array, form: str) -> jax.Array:
        x_MD = spread(lookup(self.token[...], tokens_BT.reshape(-1), self.dtype, form))
        if self.position is None:
            return x_MD
        batch, length = tokens_BT.shape
        return shifted(x_MD, jnp.tile(self.position[...][:length], (batch, 1)))


class Transformer(nnx.Module):
    """tokens_BT -> logits_MV with M = B*T.  Post-norm models have no final norm, tied ones no readout."""

    def __init__(self, config: ModelConfig, length: int, dtype: str = "float32") -> None:
        assert config.vocab is not None
        self.embedding = Embedding(config, length, dtype)
        self.blocks = stack(lambda: Block(config), config.depth)
        self.final_norm = Norm(config, config.width) if _before(config) else None
        self.readout = None if config.tied else Linear(config.width, config.vocab, bias=False)

    def __call__(
        self, tokens_BT: jax.Array, *, attention_scale: jax.Array, logit_scale: jax.Array, forward: Forward
    ) -> jax.Array:
        length = tokens_BT.shape[1]
        attend = ATTENTION[forward.attention]

        def apply(block: Any, x_MD: jax.Array) -> jax.Array:
            return block(x_MD, length, attention_scale, attend)

        x_MD = through(self.blocks, self.embedding(tokens_BT, forward.lookup), apply, forward)
        return self._logits(x_MD, logit_scale)

    def activations(
        self, tokens_BT: jax.Array, *, attention_scale: jax.Array, logit_scale: jax.Array, forward: Forward
    ) -> dict[str, jax.Array]:
        """What the model computes on the way: embedding and logits [M, ...], and of every block (leading L) its input,
        attention logits, what its two branches add, and the stream after it (`residual`).
        """
        length = tokens_BT.shape[1]
        attend = ATTENTION[forward.attention]
        graphdef, blocks = nnx.split(self.blocks)

        def body(x_MD: jax.Array, block: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            module = nnx.merge(graphdef, block)
            parts = module.parts(x_MD, length, attention_scale, attend)
            logits = module.attention_logits(x_MD, length, attention_scale)
            return parts["residual"], {"input": x_MD, "attention_logits": logits, **parts}

        embedding_MD = self.embedding(tokens_BT, forward.lookup)
        x_MD, of_blocks = jax.lax.scan(body, embedding_MD, blocks, unroll=forward.unroll)
        return {"embedding": embedding_MD, "logits": self._logits(x_MD, logit_scale), **of_blocks}

    def block_outputs(self, inputs_LMD: jax.Array, length: int, *, scale: jax.Array, forward: Forward) -> jax.Array:
        """Every block applied to an input of its own, [L, M, D] -> [L, M, D]."""
        attend = ATTENTION[forward.attention]
        graphdef, blocks = nnx.split(self.blocks)
        return jax.lax.map(
            lambda both: nnx.merge(graphdef, both[0])(both[1], length, scale, attend), (blocks, inputs_LMD)
        )

    def _logits(self, x_MD: jax.Array, logit_scale: jax.Array) -> jax.Array:
        if self.final_norm is not None:
            x_MD = self.final_norm(x_MD)
        kernel_DV = self.embedding.token[...].T if self.readout is None else self.readout.kernel[...]
        return wide_product(x_MD, kernel_DV) * logit_scale


def attend_einsum(q_BHTN: jax.Array, k_BGTN: jax.Array, v_BGTN: jax.Array, scale: jax.Array) -> jax.Array:
    """Causal attention by masked einsums, the fastest form on CPU; softmax in at least float32."""
    repeats = q_BHTN.shape[1] // k_BGTN.shape[1]
    k_BHTN, v_BHTN = (repeated(x, repeats, axis=1) for x in (k_BGTN, v_BGTN))
    wide = jnp.promote_types(q_BHTN.dtype, jnp.float32)
    logits_BHTS = jnp.einsum("bhtn,bhsn->bhts", q_BHTN, k_BHTN, preferred_element_type=wide) * scale
    causal_TS = jnp.tril(jnp.ones(logits_BHTS.shape[-2:], bool))
    logits_BHTS = jnp.where(causal_TS, logits_BHTS, jnp.finfo(logits_BHTS.dtype).min)
    weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BHTN.dtype)
    return jnp.einsum("bhts,bhsn->bhtn", weights_BHTS, v_BHTN)


def _attend_library(implementation: Literal["xla", "cudnn"]) -> AttentionFn:
    """`jax.nn.dot_product_attention`, the door to fused kernels on GPU; it takes (B, T, H, N)."""

    def attend(q_BHTN: jax.Array, k_BGTN: jax.Array, v_BGTN: jax.Array, scale: jax.Array) -> jax.Array:
        if contraction_cut():  # the library sums gradients of keys and values over the queries that share them
            k_BGTN, v_BGTN = (repeated(x, q_BHTN.shape[1] // x.shape[1], axis=1) for x in (k_BGTN, v_BGTN))
        # The library's scale is a static float: a traced one multiplies the queries instead.
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BHTN * scale.astype(q_BHTN.dtype), k_BGTN, v_BGTN))
        y_BTHN = jax.nn.dot_product_attention(q, k, v, scale=1.0, is_causal=True, implementation=implementation)
        return y_BTHN.transpose(0, 2, 1, 3)

    return attend


ATTENTION: dict[str, AttentionFn] = {
    "einsum": attend_einsum,
    "xla": _attend_library("xla"),
    "cudnn": _attend_library("cudnn"),
}


def _rotate(x_BHTN: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (arXiv 2104.09864) on halves: angle `t * theta^(-2i/N)` for pair (i, i + N/2)."""
    length, dim = x_BHTN.shape[-2:]
    dtype = jnp.promote_types(x_BHTN.dtype, jnp.float32)
    inverse_N = theta ** (-jnp.arange(0, dim, 2, dtype=dtype) / dim)
    angle_TN = jnp.arange(length, dtype=dtype)[:, None] * inverse_N
    cos_TN, sin_TN = jnp.cos(angle_TN).astype(x_BHTN.dtype), jnp.sin(angle_TN).astype(x_BHTN.dtype)
    a, b = jnp.split(x_BHTN, 2, axis=-1)
    return jnp.concatenate([a * cos_TN - b * sin_TN, b * cos_TN + a * sin_TN], axis=-1)
