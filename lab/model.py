"""The models that runs train: which one a configuration names, its parameters, and their roles and dimensions.

The modules hold shapes and the forward pass.  Initial values come from `lab.initializer`, parametrizations multiply
parameters before they reach the model (`lab.program`), so no model depends on either.
"""

import functools
from typing import Any, Protocol

import jax
from flax import nnx

from lab import residual_mlp, transformer
from lab.check import entry
from lab.config import ModelConfig, ParametrizationConfig, RunConfig
from lab.layer import Forward
from lab.parametrization import TABLE
from lab.residual_mlp import ResidualMlp
from lab.role import Leaf, assign
from lab.transformer import Transformer

ROLES = {"transformer": transformer.ROLES, "mlp": residual_mlp.ROLES}


class Model(Protocol):
    """tokens_BT -> logits_MV with M = B*T, at least float32; position t depends on tokens up to t."""

    def __call__(
        self, tokens_BT: jax.Array, *, attention_scale: jax.Array, logit_scale: jax.Array, forward: Forward
    ) -> jax.Array: ...


def dims(config: ModelConfig, length: int) -> dict[str, int]:
    """The named fan dimensions of a resolved model that reads `length` tokens."""
    assert config.vocab is not None
    known = {"one": 1, "width": config.width, "vocab": config.vocab, "length": length}
    if entry({"mlp": True, "transformer": False}, config.kind, "model.kind"):
        return known
    assert config.heads is not None and config.kv_heads is not None and config.head_dim is not None
    assert config.mlp_width is not None
    return known | {
        "attention": config.heads * config.head_dim,
        "kv": config.kv_heads * config.head_dim,
        "head_dim": config.head_dim,
        "mlp": config.mlp_width,
    }


def base_dims(model: ModelConfig, length: int, parametrization: ParametrizationConfig) -> dict[str, int]:
    """The same dimensions at the base shape (1 where the parametrization is absolute); vocabulary and length stay."""
    base = parametrization
    growing = {"width": base.base_width}
    if model.kind == "transformer":
        assert base.base_head_dim is not None and base.base_kv_width is not None and base.base_mlp_width is not None
        growing |= {
            "attention": base.base_width,
            "kv": base.base_kv_width,
            "head_dim": base.base_head_dim,
            "mlp": base.base_mlp_width,
        }
    return dims(model, length) | (dict.fromkeys(growing, 1) if TABLE[base.name].absolute else growing)


@functools.lru_cache(maxsize=32)
def abstract(config: ModelConfig, length: int, dtype: str = "float32") -> tuple[Any, dict[str, Any]]:
    """(graph definition, parameter shapes by path) of a resolved model that computes in `dtype`; nothing is allocated.

    Cached: leave as is.
    """

    def build() -> nnx.Module:
        models = {"mlp": lambda: ResidualMlp(config, dtype), "transformer": lambda: Transformer(config, length, dtype)}
        return entry(models, config.kind, "model.kind")()

    graphdef, state = nnx.split(nnx.eval_shape(build))
    return graphdef, {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def leaves(config: RunConfig) -> dict[str, Leaf]:
    """Role, shape and fans of every parameter of a resolved run."""
    model, length = config.model, config.data.length
    return _leaves(model, length, tuple(sorted(base_dims(model, length, config.parametrization).items())))


def layout(model: ModelConfig, length: int) -> dict[str, Leaf]:
    """The same without a base shape: what a program needs to know about its leaves."""
    return _leaves(model, length, tuple(sorted(dims(model, length).items())))


@functools.lru_cache(maxsize=64)
def _leaves(model: ModelConfig, length: int, base: tuple[tuple[str, int], ...]) -> dict[str, Leaf]:
    _, variables = abstract(model, length)
    shapes = {path: variable.shape for path, variable in variables.items()}
    return assign(entry(ROLES, model.kind, "model.kind"), shapes, dims=dims(model, length), base_dims=dict(base))
