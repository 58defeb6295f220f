"""A decoder-only transformer written from the papers, sequence by sequence and head by head, in numpy or jax.numpy.

It shares no code with `lab`: what both say is what the papers say.  RMSNorm (arXiv 1910.07467), LayerNorm (1607.06450),
rotary positions on halves (2104.09864, as in GPT-NeoX), grouped queries (2305.13245), RMSNorm of queries and keys
(2302.05442, 2309.14322), SwiGLU (2002.05202), GELU in its tanh form (1606.08415), pre- and post-norm (2002.04745).

Weights are a flat mapping by path, kernels (in, out), layers stacked in front.  `xp` is numpy, or jax.numpy where a
gradient is asked for: the arithmetic is the same.
"""

import math
from collections.abc import Mapping
from typing import Any

from lab.config import ModelConfig

Weights = Mapping[str, Any]


def logits(xp: Any, weights: Weights, tokens_T: Any, model: ModelConfig, scale: float) -> Any:
    """Logits [T, V] of one sequence; `scale` multiplies attention scores."""
    stream_TD = weights["embedding/token"][tokens_T]
    if model.position == "learned":
        stream_TD = stream_TD + weights["embedding/position"][: len(tokens_T)]
    for layer in range(model.depth):
        of_layer = {
            path.removeprefix("blocks/"): value[layer] for path, value in weights.items() if path.startswith("blocks/")
        }
        stream_TD = _block(xp, of_layer, stream_TD, model, scale)
    if model.placement == "pre":
        stream_TD = _norm(xp, weights, "final_norm", stream_TD, model)
    return stream_TD @ (weights["embedding/token"].T if model.tied else weights["readout/kernel"])


def token_losses(xp: Any, weights: Weights, window: Any, model: ModelConfig, scale: float) -> Any:
    """Cross-entropy in nats [T] of each next token of a window [T + 1]."""
    found_TV = logits(xp, weights, window[:-1], model, scale)
    top_T = found_TV.max(axis=1)
    normaliser_T = top_T + xp.log(xp.exp(found_TV - top_T[:, None]).sum(axis=1))
    return normaliser_T - found_TV[xp.arange(len(window) - 1), window[1:]]


def scores(xp: Any, w: Weights, x_TD: Any, model: ModelConfig, scale: float) -> list[Any]:
    """Attention scores [T, T] of every query head before the softmax and the mask; `w` is one layer's weights."""
    assert model.heads is not None and model.kv_heads is not None
    queries, keys = _linear(w, "attention/query", x_TD), _linear(w, "attention/key", x_TD)
    found = []
    for head in range(model.heads):
        shared_by = model.heads // model.kv_heads
        query_TN, key_TN = _head(queries, head, model), _head(keys, head // shared_by, model)
        if model.qk_norm:
            query_TN = _rms(xp, query_TN, model.norm_eps) * w["attention/qk/query_gain"]
            key_TN = _rms(xp, key_TN, model.norm_eps) * w["attention/qk/key_gain"]
        if model.position == "rope":
            query_TN, key_TN = (_rotated(xp, part, model.rope_theta) for part in (query_TN, key_TN))
        found.append(query_TN @ key_TN.T * scale)
    return found


def _block(xp: Any, w: Weights, x_TD: Any, model: ModelConfig, scale: float) -> Any:
    if model.placement == "pre":
        x_TD = x_TD + _attention(xp, w, _norm(xp, w, "attention_norm", x_TD, model), model, scale)
        return x_TD + _mlp(xp, w, _norm(xp, w, "mlp_norm", x_TD, model), model)
    x_TD = _norm(xp, w, "attention_norm", x_TD + _attention(xp, w, x_TD, model, scale), model)
    return _norm(xp, w, "mlp_norm", x_TD + _mlp(xp, w, x_TD, model), model)


def _attention(xp: Any, w: Weights, x_TD: Any, model: ModelConfig, scale: float) -> Any:
    assert model.heads is not None and model.kv_heads is not None
    values = _linear(w, "attention/value", x_TD)
    past_TT = xp.arange(len(x_TD))[:, None] >= xp.arange(len(x_TD))
    parts = []
    for head, score_TT in enumerate(scores(xp, w, x_TD, model, scale)):
        value_TN = _head(values, head // (model.heads // model.kv_heads), model)
        score_TT = xp.where(past_TT, score_TT, -xp.inf)
        weight_TT = xp.exp(score_TT - score_TT.max(axis=1)[:, None])
        parts.append(weight_TT / weight_TT.sum(axis=1)[:, None] @ value_TN)
    return _linear(w, "attention/output", xp.concatenate(parts, axis=1))


def _mlp(xp: Any, w: Weights, x_TD: Any, model: ModelConfig) -> Any:
    up_TF = _linear(w, "mlp/up", x_TD)
    if model.mlp == "swiglu":
        gate_TF = _linear(w, "mlp/gate", x_TD)
        return _linear(w, "mlp/down", gate_TF / (1 + xp.exp(-gate_TF)) * up_TF)
    inner_TF = math.sqrt(2 / math.pi) * (up_TF + 0.044715 * up_TF**3)
    return _linear(w, "mlp/down", 0.5 * up_TF * (1 + xp.tanh(inner_TF)))


def _linear(w: Weights, name: str, x_TI: Any) -> Any:
    y_TO = x_TI @ w[f"{name}/kernel"]
    return y_TO + w[f"{name}/bias"] if f"{name}/bias" in w else y_TO


def _norm(xp: Any, w: Weights, name: str, x_TD: Any, model: ModelConfig) -> Any:
    if model.norm == "rmsnorm":
        return _rms(xp, x_TD, model.norm_eps) * w[f"{name}/gain"]
    centred_TD = x_TD - x_TD.mean(axis=1)[:, None]
    y_TD = _rms(xp, centred_TD, model.norm_eps) * w[f"{name}/gain"]
    return y_TD + w[f"{name}/bias"] if f"{name}/bias" in w else y_TD


def _rms(xp: Any, x_TD: Any, eps: float) -> Any:
    return x_TD / xp.sqrt((x_TD**2).mean(axis=1) + eps)[:, None]


def _head(x_TK: Any, head: int, model: ModelConfig) -> Any:
    assert model.head_dim is not None
    return x_TK[:, head * model.head_dim : (head + 1) * model.head_dim]


def _rotated(xp: Any, x_TN: Any, theta: float) -> Any:
    """Pair (i, i + N/2) as a complex number, turned by `t theta^(-2 i / N)` at position t."""
    length, size = x_TN.shape
    turned_TP = (x_TN[:, : size // 2] + 1j * x_TN[:, size // 2 :]) * xp.exp(
        1j * xp.arange(length)[:, None] / theta ** (2 * xp.arange(size // 2) / size)
    )
    return xp.concatenate([turned_TP.real, turned_TP.imag], axis=1)
