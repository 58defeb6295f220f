"""Coordinates: how large activations, their changes, updates and gradients are along the first updates of runs.

Root mean squares of each run on one fixed batch, by name:

    value/X    an activation: embedding, attention_logits, attention, mlp (what the branches add), residual (the stream
               after the last block), logits; of blocks over all layers
    change/X   its change since initialisation
    update/P   the change of a parameter since initialisation, by path
    gradient/P the gradient of the loss by a parameter
    lazy/blocks  how far the blocks are from their linearisation: rms(f(w) - f(w0) - J(w - w0)) / rms(f(w) - f(w0))
               for each block as a function of its own parameters, at its input at initialisation, over all layers
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lab import train
from lab.check import require
from lab.config import ExecConfig, RunConfig
from lab.corpus import Corpus
from lab.device import execution, platform
from lab.lane import Lane
from lab.objective import measured
from lab.optimizer import Params
from lab.product import at_least_float32
from lab.program import Program, shape_of
from lab.program import program as build
from lab.transformer import Transformer

BATCH = 8
# Runs are trained this many at a time, whatever their number: every call then finds the programs of the one before.
LANES = 8


def trajectories(configs: Sequence[RunConfig], corpus: Corpus, *kinds: str) -> list[dict[str, np.ndarray]]:
    """Statistics of each run before its first update and after every update: arrays [steps + 1] by name.

    Runs of one program and length are lanes of one job.  `kinds` are the first words of the names to compute (`change`,
    `lazy`, ...); fewer compile faster.

    Raises:
        InputError: a run of another model than the transformer.
    """
    for config in configs:
        require(
            config.model.kind == "transformer",
            f"model.kind={config.model.kind}: coordinates are measured on the parts of a transformer; use "
            "model.kind=transformer",
        )
    groups: dict[Any, list[int]] = {}
    for index, config in enumerate(configs):
        groups.setdefault((_program(config), config.schedule.steps), []).append(index)
    found: dict[int, dict[str, np.ndarray]] = {}
    for members in groups.values():
        for start in range(0, len(members), LANES):
            part = members[start : start + LANES]
            table = _job([configs[index] for index in part], corpus, kinds)
            for lane, index in enumerate(part):
                found[index] = {name: values[:, lane] for name, values in table.items()}
    return [found[index] for index in range(len(configs))]


def statistics(program: Program, lane: Lane, first: Params, params: Params, tokens: jax.Array) -> dict[str, jax.Array]:
    """One lane's statistics on tokens [B, T+1], as scalars by name; `first` are its initial parameters."""
    forward, scales = program.shape.forward, {"attention_scale": lane.attention, "logit_scale": lane.logits}

    def model_of(params: Params) -> Transformer:
        model = program.model(params, lane)
        assert isinstance(model, Transformer)
        return model

    def activations(params: Params) -> dict[str, jax.Array]:
        inputs = tokens[:, :-1].astype(jnp.int32)
        found = model_of(params).activations(inputs, **scales, forward=forward)
        return found | {"residual": found["residual"][-1]}

    before, now = activations(first), activations(params)
    # In at least float32: products below it have no forward derivative, and laziness is a small difference.
    exact = build(measured(program.shape))

    def blocks(params: Params) -> jax.Array:
        model, inputs = exact.model(params, lane), at_least_float32(before["input"])
        assert isinstance(model, Transformer)
        return model.block_outputs(inputs, program.shape.length, scale=lane.attention, forward=exact.shape.forward)

    gradients = jax.grad(lambda params: jnp.mean(program.loss(params, lane, tokens)))(params)
    moved = jax.tree.map(jnp.subtract, params, first)
    origin, tangent = jax.jvp(blocks, (first,), (moved,))
    change = blocks(params) - origin
    names = [name for name in now if name != "input"]
    return (
        {f"value/{name}": _rms(now[name]) for name in names}
        | {f"change/{name}": _rms(now[name] - before[name]) for name in names}
        | {f"update/{path}": _rms(value) for path, value in moved.items()}
        | {f"gradient/{path}": _rms(value) for path, value in gradients.items()}
        | {"lazy/blocks": _rms(change - tangent) / jnp.maximum(_rms(change), jnp.finfo(change.dtype).tiny)}
    )


def _job(configs: Sequence[RunConfig], corpus: Corpus, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays [steps + 1, runs] by name."""
    # Layers are scanned: with so few updates compiling is most of the time.
    settings = ExecConfig(lanes=LANES, segment=1, unroll=False)
    how = execution(settings, configs[0].model, platform=platform(), runs=LANES)
    job = train.prepare(configs, how, corpus)
    program, snapshot = job.program, train.start(job)
    first = jax.tree.map(jnp.copy, snapshot.state.params)
    measure = _measure(program, frozenset(kinds))
    with program.context():
        tokens = jnp.asarray(job.validation[:BATCH])
        steps = [measure(job.lane, first, snapshot.state.params, tokens)]
        steps += [measure(job.lane, first, newest.state.params, tokens) for newest in train.train(job, snapshot)]
    return {
        name: np.stack([np.asarray(step[name], np.float64) for step in steps])[:, : len(configs)] for name in steps[0]
    }


@functools.lru_cache(maxsize=32)
def _measure(program: Program, kinds: frozenset[str]) -> Callable[..., dict[str, jax.Array]]:
    """Statistics of these kinds, [K] by name, of lanes [K], initial parameters [K], parameters [K], tokens [B, T+1]."""

    def measure(lanes: Lane, first: Params, params: Params, tokens: jax.Array) -> dict[str, jax.Array]:
        def one(lane: Lane, first: Params, params: Params) -> dict[str, jax.Array]:
            found = statistics(program, lane, first, params, tokens)
            return {name: value for name, value in found.items() if name.split("/")[0] in kinds}

        return program.over_lanes(one)(lanes, first, params)

    return jax.jit(measure)


def _program(config: RunConfig) -> Any:
    how = execution(ExecConfig(), config.model, platform=platform(), runs=1)
    return shape_of(config, lanes=1, strategy="map", group=1, segment=1, forward=how.forward)


def _rms(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.mean(x * x))
