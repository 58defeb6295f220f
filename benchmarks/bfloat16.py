"""The gradient of a lookup, four ways in one call: time of an update, errors of gradients, and whether reruns agree.

    python benchmarks/bfloat16.py [--smoke]

Width 512, depth 4, 32 x 256 tokens, bfloat16, for a small and a large vocabulary, on the device that JAX finds.
`bfloat16` is the sum of version 0.1.0, which is kept here alone; the others are `exec.lookup`.  Every program trains 64
updates three times from one state: to compile, and twice for the time (the smaller counts) and the comparison of all
leaves of the state, bit by bit.  Lanes are equal runs, and are compared with each other as well.  `--smoke` is a size
that a CPU runs in a minute.
"""

import argparse
import functools
import time
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from lab import transformer
from lab.config import (
    DataConfig,
    ExecConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.device import execution, platform
from lab.layer import Forward
from lab.override import apply
from lab.program import Program, State, shape_of

OLD = "bfloat16"
FORMS = (OLD, "scatter", "onehot", "sorted")


@dataclass(frozen=True)
class Size:
    width: int
    depth: int
    sequences: int
    length: int
    updates: int
    # (vocabulary, lanes) that are timed.
    timed: tuple[tuple[int, int], ...]


FULL = Size(512, 4, 32, 256, 64, ((256, 1), (50_304, 1), (256, 16)))
SMOKE = Size(32, 1, 4, 32, 4, ((64, 1), (300, 1), (64, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description="The gradient of a lookup, four ways.", allow_abbrev=False)
    parser.add_argument("--smoke", action="store_true", help="a size that a CPU runs in a minute")
    size = SMOKE if parser.parse_args().smoke else FULL
    device = jax.devices()[0]
    print(
        f"{device.device_kind}, jax {jax.__version__}: width {size.width}, depth {size.depth}, {size.sequences} x "
        f"{size.length} tokens, bfloat16, {size.updates} updates",
        flush=True,
    )
    print(f"{'vocabulary':>10} {'lanes':>5} {'sum':<9} {'ms/update/lane':>14} {'compile s':>9}  rerun   equal lanes")
    for vocab, lanes in size.timed:
        for form in FORMS:
            print(timed(size, vocab, lanes, form), flush=True)
    vocab = size.timed[0][0]
    print(f"\nrelative error of each leaf's gradient against float32, vocabulary {vocab}")
    print(errors(size, vocab), flush=True)


def config_of(size: Size, vocab: int, dtype: str) -> RunConfig:
    base = RunConfig(
        model=ModelConfig(width=size.width, depth=size.depth, head_dim=min(64, size.width // 2), vocab=vocab),
        parametrization=ParametrizationConfig(base_width=size.width),
        optimizer=OptimizerConfig(lr=2.0**-10),
        schedule=ScheduleConfig(kind="constant", steps=size.updates),
        data=DataConfig(sequences=size.sequences, length=size.length),
    )
    return apply(base, {"dtype": dtype}).resolve(vocab=vocab, fingerprint="0" * 16)


def program_of(size: Size, vocab: int, lanes: int, form: str, dtype: str = "bfloat16") -> Program:
    run = config_of(size, vocab, dtype)
    settings = ExecConfig(lanes=lanes, strategy="vmap", segment=size.updates)
    how = execution(settings, run.model, platform=platform(), runs=lanes)
    forward = Forward(how.forward.attention, how.forward.unroll, lookup="scatter" if form == OLD else form)
    shape = shape_of(run, lanes=lanes, strategy="vmap", group=lanes, segment=size.updates, forward=forward)
    return Program(shape)


def text(size: Size, vocab: int, updates: int) -> np.ndarray:
    """Windows [S, U, B, T+1] in which the most frequent token has 29 %, the others follow Zipf's law."""
    rng = np.random.default_rng(0)
    chance = 1.0 / np.arange(1, vocab)
    chance = np.concatenate([[0.29], 0.71 * chance / chance.sum()])
    return rng.choice(vocab, (updates, 1, size.sequences, size.length + 1), p=chance).astype(np.uint16)


def state_of(program: Program) -> Any:
    """A host state of equal lanes, with weights of ordinary size."""
    rng = np.random.default_rng(1)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract_state())

    def values(path: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = np.ones(shape[1:]) if path.endswith("gain") else 0.05 * rng.normal(size=shape[1:])
        return np.broadcast_to(drawn.astype(np.float32), shape)

    params = {path: values(path, leaf.shape) for path, leaf in state.params.items()}
    return state._replace(params=params, alive=np.ones_like(state.alive))


def old_lookup(table_VD: jax.Array, row_M: jax.Array, dtype: Any, form: str) -> jax.Array:
    """As in 0.1.0: the table is rounded first, and so its gradient is added up in bfloat16."""
    del form
    return table_VD.astype(dtype)[row_M]


def looked_up_as(form: str) -> Any:
    return mock.patch.object(transformer, "lookup", old_lookup if form == OLD else transformer.lookup)


def timed(size: Size, vocab: int, lanes: int, form: str) -> str:
    """One line: the smaller of two times, and what two runs of the same updates have in common."""
    program = program_of(size, vocab, lanes, form)
    lane, _ = program.lanes([config_of(size, vocab, "bfloat16")] * lanes)
    batches, host = program.batches(text(size, vocab, size.updates)), state_of(program)
    rates = np.full((size.updates, lanes), 2.0**-10)

    def trained() -> tuple[float, State]:
        state = jax.block_until_ready(program.state(host))
        begun = time.perf_counter()
        new, _ = program.segment(lane, state, batches, rates, 0 * rates, begin=0, steps=size.updates)
        jax.block_until_ready(new)
        return time.perf_counter() - begun, new

    with looked_up_as(form):
        first, _ = trained()
    (one, before), (other, after) = trained(), trained()
    best = min(one, other)
    rerun = equal(before, after)
    alike = all(equal(of_lane(after, 0), of_lane(after, lane)) for lane in range(1, lanes))
    told = ("yes" if rerun else "no", ("yes" if alike else "no") if lanes > 1 else "-")
    cost = 1e3 * best / size.updates / lanes
    return f"{vocab:>10} {lanes:>5} {form:<9} {cost:>14.3f} {first - best:>9.1f}  {told[0]:<7} {told[1]}"


@jax.jit
def equal(one: Any, other: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]))


def of_lane(state: Any, lane: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[lane], state)


def errors(size: Size, vocab: int) -> str:
    """A line per leaf: the error of 0.1.0's sum and of each form."""
    exact = gradient(size, vocab, "scatter", "float32")
    found = {form: gradient(size, vocab, form, "bfloat16") for form in (OLD, "onehot", "sorted")}
    lines = [f"{'':<32}" + "".join(f"{form:>10}" for form in found)]
    for path, right in exact.items():
        apart = [np.linalg.norm(one[path] - right) / np.linalg.norm(right) for one in found.values()]
        lines.append(f"{path:<32}" + "".join(f"{value:>10.4f}" for value in apart))
    return "\n".join(lines)


def gradient(size: Size, vocab: int, form: str, dtype: str) -> dict[str, np.ndarray]:
    program = program_of(size, vocab, 1, form, dtype)
    lane, _ = program.lanes([config_of(size, vocab, dtype)])
    params, lane = jax.tree.map(lambda leaf: leaf[0], (state_of(program).params, lane))
    tokens = jnp.asarray(text(size, vocab, 1)[0, 0])

    @jax.jit
    @functools.partial(jax.grad)
    def of_loss(params: Any) -> jax.Array:
        return jnp.mean(program.loss(params, lane, tokens))

    precision = "highest" if dtype == "float32" else None
    with looked_up_as(form), jax.default_matmul_precision(precision):
        return {path: np.asarray(value, np.float64) for path, value in of_loss(params).items()}


if __name__ == "__main__":
    main()
