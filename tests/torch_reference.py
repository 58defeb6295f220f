"""Rivals in PyTorch: the model of `parity_cases` trained by `mup` and by CompleteP's rules.  Needs the extra `parity`.

    python tests/torch_reference.py        # trains every case in float64 and rewrites tests/data/torch_losses.json

Letters: B batch, T tokens, D width, H heads, N head dimension, V vocabulary.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import mup  # pyright: ignore[reportMissingImports]
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from parity_cases import BETA1, CASES, HEAD_DIM, LENGTH, MOMENTUM, STORED, VOCAB, Case, fingerprint, weights, windows
from torch import nn  # pyright: ignore[reportMissingImports]

COMMAND = "python tests/torch_reference.py"
# Models this small gain nothing from threads, and lose much where others use the same cores.
torch.set_num_threads(1)


class Block(nn.Module):
    """Pre-norm attention and MLP; `branch` multiplies what each adds to the stream."""

    def __init__(self, width: int, attention: float, branch: float) -> None:
        super().__init__()
        self.scale, self.branch = attention, branch
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD + self.branch * self.attend(self.attention_norm(x_BTD))
        return x_BTD + self.branch * self.down(F.gelu(self.up(self.mlp_norm(x_BTD)), approximate="tanh"))

    def attend(self, x_BTD: torch.Tensor) -> torch.Tensor:
        q_BHTN, k_BHTN, v_BHTN = (
            linear(x_BTD).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        logits_BHTS = self.scale * q_BHTN @ k_BHTN.transpose(-1, -2)
        future_TS = torch.ones(logits_BHTS.shape[-2:], dtype=torch.bool).triu(1)
        weights_BHTS = logits_BHTS.masked_fill(future_TS, -torch.inf).softmax(-1)
        return self.output((weights_BHTS @ v_BHTN).transpose(1, 2).flatten(2))


class Model(nn.Module):
    """Learned positions, blocks, final norm; logits are `logits` times the readout, `mup`'s own for its cases."""

    def __init__(self, case: Case, width: int) -> None:
        super().__init__()
        completep = case.rules == "completep"
        branch = (case.depth / case.base_depth) ** -case.alpha if completep else 1.0
        self.logits = case.base_width / width if completep else 1.0
        self.token, self.position = nn.Embedding(VOCAB, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, case.attention, branch) for _ in range(case.depth))
        self.final_norm = nn.LayerNorm(width)
        if completep:
            self.readout = nn.Linear(width, VOCAB, bias=False)
            if case.tied:
                self.readout.weight = self.token.weight
        elif case.tied:
            self.readout = mup.MuSharedReadout(self.token.weight, bias=False)
        else:
            self.readout = mup.MuReadout(width, VOCAB, bias=False)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.token(tokens_BT) + self.position.weight
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.logits * self.readout(self.final_norm(x_BTD))


def model(case: Case, dtype: torch.dtype) -> Model:
    """The case's model with its initial weights, and base shapes where `mup` needs them."""
    found = Model(case, case.width).to(dtype)
    if case.rules == "mup":
        mup.set_base_shapes(found, Model(case, case.base_width), rescale_params=False)
    values = weights(case)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            parameter.copy_(_value(values, name))
    return found


def optimizer(case: Case, network: Model) -> torch.optim.Optimizer:
    """`mup`'s optimizers, or AdamW with one group per parameter after CompleteP's table.

    Gains and biases are never decayed; `mup` would decay them.
    """
    named = list(network.named_parameters())
    if case.rules == "completep":
        return torch.optim.AdamW([_completep(case, name, p) for name, p in named], betas=(BETA1, case.beta2))
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": case.weight_decay},
        {"params": [p for _, p in named if p.ndim == 1], "weight_decay": 0.0},
    ]
    if case.kind == "sgd":
        return mup.MuSGD(groups, lr=case.lr, momentum=MOMENTUM)
    kind = {"adam": mup.MuAdam, "adamw": mup.MuAdamW}[case.kind]
    return kind(groups, lr=case.lr, betas=(BETA1, case.beta2), eps=case.eps)


def _completep(case: Case, name: str, parameter: nn.Parameter) -> dict[str, Any]:
    """Table 1 of Dey et al. (arXiv 2505.01618), eps scaled in all groups, as the authors' code does."""
    m, depth = case.width / case.base_width, case.depth / case.base_depth
    in_block, matrix = name.startswith("blocks."), parameter.ndim > 1
    lr, eps, decay = case.lr, case.eps / m, case.weight_decay if matrix else 0.0
    if in_block:
        lr *= depth ** (case.alpha - 1)
        eps *= depth**-case.alpha
        if matrix:
            lr /= m
            decay *= m
    return {"params": [parameter], "lr": lr, "eps": eps, "weight_decay": decay}


def losses(case: Case, dtype: str) -> list[float]:
    """Training loss of every update, before it, in nats per token."""
    network = model(case, getattr(torch, dtype))
    descent = optimizer(case, network)
    found = []
    for tokens_BT in torch.from_numpy(windows().astype(np.int64)):
        descent.zero_grad()
        loss = F.cross_entropy(network(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())
        loss.backward()
        descent.step()
        found.append(loss.item())
    return found


def _value(values: dict[str, np.ndarray], name: str) -> torch.Tensor:
    """Our initial value of a parameter here: `blocks.1.query.weight` is layer 1 of `blocks/attention/query/kernel`."""
    *parents, kind = name.split(".")
    if parents[0] in ("token", "position"):
        return torch.from_numpy(values[f"embedding/{parents[0]}"])
    part = "bias" if kind == "bias" else "gain" if parents[-1].endswith("norm") else "kernel"
    if parents[0] != "blocks":
        found = values[f"{parents[0]}/{part}"]
    else:
        group = {"up": "mlp/", "down": "mlp/"}.get(parents[2], "" if parents[2].endswith("norm") else "attention/")
        found = values[f"blocks/{group}{parents[2]}/{part}"][int(parents[1])]
    return torch.from_numpy(found.T if part == "kernel" else found)


def main() -> None:
    """Rewrite the stored losses."""
    cases = {
        name: {"fingerprint": fingerprint(case), "losses": losses(case, "float64")} for name, case in CASES.items()
    }
    stamp = {
        "command": COMMAND,
        "python": sys.version.split()[0],
        "dtype": "float64",
        **{package: version(package) for package in ("torch", "mup", "numpy")},
    }
    STORED.parent.mkdir(exist_ok=True)
    STORED.write_text(json.dumps(stamp | {"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
