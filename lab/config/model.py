"""The transformer's shape."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lab.check import check_fields, positive, require

MAX_VOCAB = 1 << 20


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer.

    `heads` and `head_dim` determine each other (`heads * head_dim == width`); `kv_heads` defaults to `heads`,
    `mlp_width` to `4 * width`, `vocab` to the size of the tokenizer.
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

    def __post_init__(self) -> None:
        check_fields(self, "model")
        positive(self, "model", "width", "depth", "heads", "head_dim", "kv_heads", "mlp_width", "vocab")
        positive(self, "model", "norm_eps", "rope_theta")
        require(
            self.vocab is None or self.vocab <= MAX_VOCAB,
            f"model.vocab={self.vocab} is above {MAX_VOCAB}: check that it is a number of tokens",
        )
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
        """Fill in heads, kv_heads, mlp_width and vocab; `vocab` is what the tokenizer needs, None if unknown."""
        heads, head_dim = self._heads()
        require(
            self.vocab is not None or vocab is not None,
            "model.vocab is not set, and token files do not state it: set model.vocab (GPT-2's tokens: 50257)",
        )
        require(
            self.vocab is None or vocab is None or self.vocab >= vocab,
            f"model.vocab={self.vocab} is below the {vocab} tokens of the tokenizer: set it to {vocab} or more",
        )
        return dataclasses.replace(
            self,
            heads=heads,
            head_dim=head_dim,
            kv_heads=self.kv_heads or heads,
            mlp_width=self.mlp_width or 4 * self.width,
            vocab=self.vocab or vocab,
        )


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
