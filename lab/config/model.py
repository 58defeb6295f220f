"""The model's shape."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from lab.check import check_fields, positive, require
from lab.config.field import added

MAX_VOCAB = 1 << 20

# What each kind does not have: sizes that are cleared when a run is resolved, so that ids do not depend on them, and
# choices that are refused unless they are left as they are.
_UNUSED_SIZES = {
    "transformer": ("block_layers", "context"),
    "mlp": ("heads", "head_dim", "kv_heads", "mlp_width", "norm_eps", "rope_theta"),
}
_REFUSED_BY_MLP = ("mlp", "norm", "placement", "position", "qk_norm", "tied")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer, or (`kind="mlp"`) a residual network that reads a few tokens (`lab.residual_mlp`).

    `heads` and `head_dim` determine each other (`heads * head_dim == width`); `kv_heads` defaults to `heads`,
    `mlp_width` to `4 * width`, `vocab` to the size of the tokenizer.

    - `block_layers`: of the residual network, width x width layers in each of its `depth` blocks, 1 or 2.
    - `context`: of the residual network, how many tokens a position sees, itself included.

    Of the other fields the residual network has `width`, `depth`, `bias` and `vocab`.
    """

    width: int = 64
    depth: int = 2
    heads: int | None = None
    head_dim: int | None = None
    kv_heads: int | None = None
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_width: int | None = None
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    placement: Literal["pre", "post"] = "pre"
    position: Literal["learned", "rope"] = "rope"
    rope_theta: float = 10_000.0
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    vocab: int | None = None
    kind: Literal["transformer", "mlp"] = added(schema=2, frozen="transformer")
    block_layers: int = added(schema=2, frozen=1)
    context: int = added(schema=2, frozen=8)

    def __post_init__(self) -> None:
        check_fields(self, "model")
        positive(self, "model", "width", "depth", "heads", "head_dim", "kv_heads", "mlp_width", "vocab", "context")
        positive(self, "model", "norm_eps", "rope_theta")
        require(
            self.vocab is None or self.vocab <= MAX_VOCAB,
            f"model.vocab={self.vocab} is above {MAX_VOCAB}: check that it is a number of tokens",
        )
        require(self.block_layers in (1, 2), f"model.block_layers={self.block_layers} is not one of 1, 2")
        if self.kind == "mlp":
            self._check_residual()
        else:
            self._check_attention()

    def _check_residual(self) -> None:
        for name in _REFUSED_BY_MLP:
            value, default = getattr(self, name), _defaults(name)[name]
            require(
                value == default,
                f"model.{name}={value} is a part of the transformer, and model.kind=mlp does not have it: leave "
                f"model.{name} at {default}",
            )

    def _check_attention(self) -> None:
        heads, head_dim = self._heads()
        require(
            self.position != "rope" or head_dim % 2 == 0,
            f"model.head_dim={head_dim} is odd, and model.position=rope rotates pairs: use an even head_dim or "
            "model.position=learned",
        )
        if self.kv_heads is not None:
            require(
                heads % self.kv_heads == 0,
                f"model.kv_heads={self.kv_heads} does not divide model.heads={heads}: use one of {_divisors(heads)}",
            )

    def _heads(self) -> tuple[int, int]:
        """(heads, head_dim), each derived from the other where one is None."""
        if self.heads is None:
            head_dim = 16 if self.head_dim is None else self.head_dim
            below = max(1, self.width // head_dim) * head_dim
            require(
                self.width % head_dim == 0,
                f"model.head_dim={head_dim} does not divide model.width={self.width}: use width {below} or "
                f"{below + head_dim}, or set model.heads",
            )
            return self.width // head_dim, head_dim
        require(
            self.width % self.heads == 0,
            f"model.heads={self.heads} does not divide model.width={self.width}: use one of {_divisors(self.width)}",
        )
        head_dim = self.width // self.heads
        require(
            self.head_dim in (None, head_dim),
            f"model.heads={self.heads} x model.head_dim={self.head_dim} is not model.width={self.width}: give one "
            "of the two",
        )
        return self.heads, head_dim

    def resolve(self, *, vocab: int | None) -> "ModelConfig":
        """Fill in heads, kv_heads, mlp_width and vocab; `vocab` is what the tokenizer needs, None if unknown.

        Sizes that the kind does not have become their defaults.
        """
        require(
            self.vocab is not None or vocab is not None,
            "model.vocab is not set, and token files do not state it: set model.vocab (GPT-2's tokens: 50257)",
        )
        require(
            self.vocab is None or vocab is None or self.vocab >= vocab,
            f"model.vocab={self.vocab} is below the {vocab} tokens of the tokenizer: set it to {vocab} or more",
        )
        known = dataclasses.replace(self, vocab=self.vocab or vocab, **_defaults(*_UNUSED_SIZES[self.kind]))
        if self.kind == "mlp":
            return known
        heads, head_dim = self._heads()
        return dataclasses.replace(
            known,
            heads=heads,
            head_dim=head_dim,
            kv_heads=self.kv_heads or heads,
            mlp_width=self.mlp_width or 4 * self.width,
        )


def _defaults(*names: str) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(ModelConfig) if field.name in names}


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
