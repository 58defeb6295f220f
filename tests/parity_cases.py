"""What both sides of a comparison with PyTorch start from: cases, initial weights, batches; and the stored losses.

Nothing here knows a scaling rule.  A case is what a person would choose (shapes, base rate, decay, eps), and weights
and batches are those of the wide model itself.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

STORED = Path(__file__).parent / "data" / "torch_losses.json"
STEPS, SEQUENCES, LENGTH, VOCAB, HEAD_DIM = 40, 8, 16, 64, 8
BETA1, MOMENTUM = 0.9, 0.9
TOKENS = 20_000


@dataclass(frozen=True)
class Case:
    """`attention` is the factor on attention logits, `alpha` the exponent of the depth ratio on residual branches."""

    rules: Literal["mup", "completep"]
    kind: Literal["sgd", "adam", "adamw"]
    lr: float
    width: int = 128
    base_width: int = 32
    depth: int = 2
    base_depth: int = 2
    attention: float = 8 / HEAD_DIM
    tied: bool = False
    alpha: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0
    eps: float = 1e-8


def _completep(alpha: float, eps: float) -> Case:
    return Case(
        "completep",
        "adamw",
        lr=1e-2,
        width=64,
        depth=4,
        attention=1 / HEAD_DIM,
        tied=True,
        alpha=alpha,
        beta2=0.95,
        weight_decay=0.1,
        eps=eps,
    )


# The large eps is where its rule shows; at 1e-8 it is below every gradient.
CASES: dict[str, Case] = {
    "MuSGD": Case("mup", "sgd", lr=0.2),
    "MuAdam": Case("mup", "adam", lr=5e-3),
    "MuAdamW": Case("mup", "adamw", lr=5e-3, weight_decay=0.1),
    "MuAdamW tied": Case("mup", "adamw", lr=5e-3, weight_decay=0.1, tied=True),
    "CompleteP alpha 1": _completep(1.0, 1e-8),
    "CompleteP alpha 1/2": _completep(0.5, 1e-8),
    "CompleteP alpha 1, eps 1e-4": _completep(1.0, 1e-4),
    "CompleteP alpha 1/2, eps 1e-4": _completep(0.5, 1e-4),
}


def weights(case: Case) -> dict[str, np.ndarray]:
    """Initial weights by path, kernels as (in, out), layers stacked in front; gains and biases are random too.

    All are multiples of 2^-20, so that float32 holds them exactly and no platform's logarithm shows in them.
    """
    width, layers, mlp = case.width, case.depth, 4 * case.width
    stds = {"embedding/token": 0.05, "embedding/position": 0.05, "readout/kernel": 0.02}
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/token": (VOCAB, width),
        "embedding/position": (LENGTH, width),
        **{f"blocks/{name}_norm/{part}": (layers, width) for name in ("attention", "mlp") for part in ("gain", "bias")},
        **{f"final_norm/{part}": (width,) for part in ("gain", "bias")},
    }
    linear = {f"attention/{name}": (width, width) for name in ("query", "key", "value", "output")}
    for name, (fan_in, fan_out) in {**linear, "mlp/up": (width, mlp), "mlp/down": (mlp, width)}.items():
        shapes[f"blocks/{name}/kernel"] = (layers, fan_in, fan_out)
        shapes[f"blocks/{name}/bias"] = (layers, fan_out)
    if not case.tied:
        shapes["readout/kernel"] = (width, VOCAB)
    rng = np.random.default_rng(1)
    found = {}
    for path, shape in sorted(shapes.items()):
        values = stds.get(path, 0.05) * rng.standard_normal(shape)
        found[path] = np.round(values * 2**20) / 2**20 + (1.0 if path.endswith("gain") else 0.0)
    return found


@functools.lru_cache(maxsize=1)
def tokens() -> np.ndarray:
    """A chain of 64 tokens: mostly the successor in a fixed random order, sometimes any token."""
    rng = np.random.default_rng(2)
    after, any_token, jump = rng.permutation(VOCAB), rng.integers(VOCAB, size=TOKENS), rng.random(TOKENS) < 0.3
    found = np.zeros(TOKENS, np.uint16)
    for i in range(1, TOKENS):
        found[i] = any_token[i] if jump[i] else after[found[i - 1]]
    return found


def windows() -> np.ndarray:
    """Tokens [U, B, T+1] of the updates, drawn here: what is stored depends on no rule of ours about batches."""
    starts = np.random.default_rng(3).integers(TOKENS - LENGTH, size=(STEPS, SEQUENCES))
    return tokens()[starts[..., None] + np.arange(LENGTH + 1)]


def fingerprint(case: Case) -> str:
    """Of all that a case starts from: its numbers, weights and batches."""
    seen = hashlib.sha256(repr(case).encode())
    for values in (*weights(case).values(), windows().astype(np.int64)):
        seen.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return seen.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def stored() -> Mapping[str, Any]:
    """The file of stored losses."""
    return json.loads(STORED.read_text())
