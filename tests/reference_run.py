"""A whole run written again: text, batches, schedule, gradient, update and validation, from the configuration's words.

The model is `reference_transformer`, its gradient jax's of that reference, everything else numpy and bytes of files.
Of `lab` it takes initial weights and the order of the windows (pinned in test_batch); runs are float64, so that both
sides agree to rounding.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference_transformer

from lab import batch
from lab.config import ModelConfig, RunConfig

Weights = dict[str, np.ndarray]
# Updates in, (rate, share of a decayed weight that is removed) of each out.
Plan = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Rules:
    """What a parametrization comes to for one model: factors by path, and the factor on attention scores.

    Paths that are not named have 1 for `forward`, `lr` and `eps`, and are not decayed.
    """

    attention: float
    forward: Mapping[str, float]
    lr: Mapping[str, float]
    eps: Mapping[str, float]
    decay: Mapping[str, float]


@dataclass(frozen=True)
class Trained:
    """Losses and gradient norms [U] of the updates that were made, and the weights after them.

    A run ends at the first update that is not finite, which changes nothing.
    """

    loss: np.ndarray
    grad_norm: np.ndarray
    weights: Weights


def streams(folder: Path, fraction: float = 0.05) -> tuple[bytes, bytes]:
    """(training, validation) bytes of a folder of 20 files or more that all differ, every document ended by a 0.

    Documents are drawn for validation by the sha256 of their names until they hold `fraction` of the bytes, passing
    over one that would bring more than 1.1 times that.
    """
    texts = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert len(texts) >= 20
    wanted, held, drawn = fraction * sum(map(len, texts.values())), 0, set()
    for name in sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if held < wanted and held + len(texts[name]) <= 1.1 * wanted:
            held += len(texts[name])
            drawn.add(name)
    train = b"".join(texts[name] + b"\0" for name in texts if name not in drawn)
    return train, b"".join(texts[name] + b"\0" for name in texts if name in drawn)


def validation_windows(text: bytes, length: int, sequences: int) -> np.ndarray:
    """Windows [E, T + 1] spread evenly over all the whole windows that follow each other in a text."""
    whole = (len(text) - 1) // length
    begins = [math.floor(number * whole / sequences) * length for number in range(sequences)]
    return np.array([list(text[begin : begin + length + 1]) for begin in begins])


def training_windows(text: bytes, run: RunConfig) -> np.ndarray:
    """The batches [U, B, T + 1] of a run."""
    steps, sequences, length = run.schedule.steps, run.data.sequences, run.data.length
    assert steps is not None
    starts = batch.starts(run.seed_data, begin=0, steps=steps, sequences=sequences, length=length, tokens=len(text))
    return np.array([[list(text[begin : begin + length + 1]) for begin in row] for row in starts])


def wsd(peak: float, steps: int, warmup: int, decay: int, floor: float) -> np.ndarray:
    """Rates of a warm-up, a constant and a linear decay, one update after another."""
    rates = []
    for update in range(steps):
        if update < warmup:
            rates.append(peak * (update + 1) / warmup)
        elif update < steps - decay:
            rates.append(peak)
        else:
            share = (update - (steps - decay)) / decay
            rates.append(peak * (floor + (1 - floor) * (1 - share)))
    return np.array(rates)


def mean_losses(weights: Weights, windows: np.ndarray, model: ModelConfig, rules: Rules) -> np.ndarray:
    """Mean loss [E] of each window, in numpy alone."""
    scaled = {path: value * rules.forward.get(path, 1.0) for path, value in weights.items()}
    return np.array(
        [np.mean(reference_transformer.token_losses(np, scaled, window, model, rules.attention)) for window in windows]
    )


def train(run: RunConfig, weights: Weights, windows_UBT: np.ndarray, plan: Plan, rules: Rules) -> Trained:
    """SGD or AdamW from the initial weights over all batches."""
    gradient = _gradient(run.model, tuple(sorted(rules.forward.items())), rules.attention)
    move = {"sgd": _sgd, "adamw": _adamw}[run.optimizer.kind]
    losses, norms, state = [], [], {}
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges, diverges
        for number, (tokens, rate, removed) in enumerate(zip(windows_UBT, *plan, strict=True)):
            loss, grads = gradient(weights, tokens)
            norm = math.sqrt(sum(float(np.sum(value**2)) for value in grads.values()))
            losses.append(loss)
            norms.append(norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                break
            if run.optimizer.clip is not None and norm > run.optimizer.clip:
                grads = {path: value * run.optimizer.clip / norm for path, value in grads.items()}
            directions = move(run, grads, state, rules, number + 1)
            weights = {
                path: value
                - rate * rules.lr.get(path, 1.0) * directions[path]
                - removed * rules.decay.get(path, 0.0) * value
                for path, value in weights.items()
            }
    return Trained(np.array(losses), np.array(norms), weights)


def _sgd(run: RunConfig, grads: Weights, state: dict[str, Any], rules: Rules, number: int) -> Weights:
    del rules, number
    for path, value in grads.items():
        state[path] = run.optimizer.momentum * state.get(path, 0.0) + value
    return dict(state)


def _adamw(run: RunConfig, grads: Weights, state: dict[str, Any], rules: Rules, number: int) -> Weights:
    beta1, beta2, found = run.optimizer.beta1, run.optimizer.beta2, {}
    for path, value in grads.items():
        mean, square = state.get(path, (0.0, 0.0))
        mean, square = beta1 * mean + (1 - beta1) * value, beta2 * square + (1 - beta2) * value**2
        state[path] = mean, square
        eps = run.optimizer.eps * rules.eps.get(path, 1.0)
        found[path] = mean / (1 - beta1**number) / (np.sqrt(square / (1 - beta2**number)) + eps)
    return found


@functools.lru_cache
def _gradient(model: ModelConfig, forward: tuple[tuple[str, float], ...], scale: float) -> Callable[..., Any]:
    """(mean loss, gradient by path) of weights and a batch [B, T + 1], in float64."""
    factors = dict(forward)

    def mean(weights: Mapping[str, jax.Array], tokens: jax.Array) -> jax.Array:
        scaled = {path: value * factors.get(path, 1.0) for path, value in weights.items()}
        rows = jax.vmap(lambda row: reference_transformer.token_losses(jnp, scaled, row, model, scale))
        return rows(tokens).mean()

    compiled = jax.jit(jax.value_and_grad(mean))

    def both(weights: Weights, tokens: np.ndarray) -> tuple[float, Weights]:
        with jax.enable_x64(True):
            loss, grads = compiled(weights, tokens)
            return float(loss), {path: np.asarray(value) for path, value in grads.items()}

    return both
