"""The benchmark's model and update in PyTorch: the computation of `lab.transformer`, written as PyTorch users write it.

Letters as in `lab.transformer`: B batch, T sequence, D width, H heads, N head dimension, V vocabulary; U updates.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from lab.config import ModelConfig, OptimizerConfig

# Where each of our parameters lives here.  Ours are stacked over layers and map from rows to columns, `nn.Linear`
# holds the transpose; query, key and value are one matrix here, which is the faster form in PyTorch.
LAYER_MATRICES = {
    "attention.qkv": ("attention/query", "attention/key", "attention/value"),
    "attention.output": ("attention/output",),
    "up": ("mlp/up",),
    "down": ("mlp/down",),
}
LAYER_GAINS = {"attention_norm": "attention_norm", "mlp_norm": "mlp_norm"}


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD: torch.Tensor, cos_TN: torch.Tensor, sin_TN: torch.Tensor) -> torch.Tensor:
        batch, length, width = x_BTD.shape
        split = self.qkv(x_BTD).view(batch, length, 3, self.heads, width // self.heads)
        q_BHTN, k_BHTN, v_BHTN = split.permute(2, 0, 3, 1, 4)
        q_BHTN, k_BHTN = rotate(q_BHTN, cos_TN, sin_TN), rotate(k_BHTN, cos_TN, sin_TN)
        y_BHTN = F.scaled_dot_product_attention(q_BHTN, k_BHTN, v_BHTN, is_causal=True)
        return self.output(y_BHTN.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + down(gelu(up(norm(x))))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.heads is not None and config.mlp_width is not None
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config.width, config.heads)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x_BTD: torch.Tensor, cos_TN: torch.Tensor, sin_TN: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_TN, sin_TN)
        return x_BTD + self.down(F.gelu(self.up(self.mlp_norm(x_BTD)), approximate="tanh"))


class Transformer(nn.Module):
    """Token windows [B, T+1] -> mean cross-entropy in nats."""

    cos_TN: torch.Tensor
    sin_TN: torch.Tensor

    def __init__(self, config: ModelConfig, length: int) -> None:
        super().__init__()
        assert config.vocab is not None and config.head_dim is not None
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.readout = nn.Linear(config.width, config.vocab, bias=False)
        inverse_N = config.rope_theta ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
        angle_TN = torch.arange(length)[:, None] * inverse_N
        self.register_buffer("cos_TN", angle_TN.cos(), persistent=False)
        self.register_buffer("sin_TN", angle_TN.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x_BTD = self.embedding(tokens[:, :-1])
        for block in self.blocks:
            x_BTD = block(x_BTD, self.cos_TN, self.sin_TN)
        logits_BTV = self.readout(self.final_norm(x_BTD))
        return F.cross_entropy(logits_BTV.flatten(0, 1), tokens[:, 1:].flatten())


def rotate(x_BHTN: torch.Tensor, cos_TN: torch.Tensor, sin_TN: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding on halves, as in `lab.transformer`."""
    a, b = x_BHTN.chunk(2, dim=-1)
    return torch.cat([a * cos_TN - b * sin_TN, b * cos_TN + a * sin_TN], dim=-1)


def from_params(params: Mapping[str, np.ndarray], config: ModelConfig, length: int) -> Transformer:
    """A model that holds the values of our parameters (by path, without a lane axis)."""
    named = {
        "embedding.weight": params["embedding/token"],
        "final_norm.weight": params["final_norm/gain"],
        "readout.weight": params["readout/kernel"].T,
    }
    for layer in range(config.depth):
        for name, sources in LAYER_MATRICES.items():
            kernels = [params[f"blocks/{source}/kernel"][layer].T for source in sources]
            named[f"blocks.{layer}.{name}.weight"] = np.concatenate(kernels)
        for name, source in LAYER_GAINS.items():
            named[f"blocks.{layer}.{name}.weight"] = params[f"blocks/{source}/gain"][layer]
    model = Transformer(config, length)
    model.load_state_dict({name: torch.tensor(value) for name, value in named.items()})
    return model


class Trainer:
    """Trains one model on fixed batches, one update after another."""

    lanes = 1

    def __init__(
        self,
        model: Transformer,
        windows: np.ndarray,
        *,
        optimizer: OptimizerConfig,
        compiled: bool,
        threads: int,
    ) -> None:
        """`windows` are the token windows [U, B, T+1]; a `compiled` model is compiled by its first update."""
        torch.set_num_threads(threads)
        assert optimizer.clip is not None
        self._model, self._clip = model, optimizer.clip
        self._loss = torch.compile(model, dynamic=False) if compiled else model
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=optimizer.lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._windows = torch.from_numpy(windows.astype(np.int64))

    @property
    def parameters(self) -> int:
        return sum(value.numel() for value in self._model.parameters())

    def train(self, updates: int) -> np.ndarray:
        """Loss and gradient norm before each update, [2, updates], on the first `updates` batches."""
        curve = [self._update(tokens) for tokens in self._windows[:updates]]
        return np.stack([torch.stack(values).numpy() for values in zip(*curve, strict=True)])

    def _update(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(tokens)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        return loss.detach(), norm


def forget_compiled() -> None:
    """Drop what `torch.compile` has cached, so that each width compiles anew, as in a process of its own."""
    warnings.filterwarnings("ignore", message=".*force_disable_caches")  # told once per compilation otherwise
    torch.compiler.config.force_disable_caches = True
    torch.compiler.reset()
