"""Runs in bfloat16: their gradients are float32's to 2 %, and nothing is summed in 16 bits, under every option."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sums

from lab import layer, transformer
from lab.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.layer import Forward
from lab.override import apply
from lab.program import Program, shape_of
from sweeps import ahead

LIMIT = 0.02
LENGTH = 64
# Rows of a batch, and of a quarter of it.
ROWS = (32 * LENGTH, 8 * LENGTH)
BASE = RunConfig(
    model=ModelConfig(width=64, depth=2, head_dim=16, vocab=256),
    parametrization=ParametrizationConfig(base_width=64),
    optimizer=OptimizerConfig(kind="sgd", lr=1.0, momentum=0.0, clip=None),
    schedule=ScheduleConfig(kind="constant", steps=1),
    data=DataConfig(sequences=32, length=LENGTH),
)
EVERYTHING = {
    "model.kv_heads": 1,
    "model.qk_norm": True,
    "model.bias": True,
    "model.norm": "layernorm",
    "model.position": "learned",
    "model.mlp": "swiglu",
}
# Changes of the run; how its forward pass executes; how its lanes do.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "lanes vmapped": ({}, {"lookup": "sorted"}, {"lanes": 2, "strategy": "vmap"}),
    "tied, in parts": ({"model.tied": True}, {"lookup": "onehot"}, {"accumulate": 4}),
    "everything": (EVERYTHING, {"remat": "dots"}, {"lanes": 2, "strategy": "both", "group": 2}),
    "post-norm": (
        {"model.placement": "post", "model.tied": True, "model.kv_heads": 2},
        {"remat": "full", "attention": "xla"},
        {},
    ),
    "residual network": (
        {"model.kind": "mlp", "model.block_layers": 2, "model.bias": True},
        {"lookup": "onehot"},
        {},
    ),
}


def tokens(sequences: int, vocab: int, length: int = LENGTH) -> np.ndarray:
    """A text in which a third of all tokens are the same."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, vocab, (sequences, length + 1))
    found[rng.random(found.shape) < 0.35] = 7
    return found.astype(np.uint16)


def program_of(changes: dict[str, Any], forward: dict[str, Any], how: dict[str, Any], dtype: str) -> Program:
    run = apply(BASE, changes | {"dtype": dtype}).resolve(vocab=256, fingerprint="0" * 16)
    settings = {"lanes": 1, "strategy": "map", "group": 1, "segment": 1} | how
    return Program(shape_of(run, forward=Forward(**{"unroll": False, **forward}), **settings))


def state_of(program: Program) -> Any:
    """A state with weights of ordinary size, also where a run begins with zeros."""
    rng = np.random.default_rng(1)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract_state())

    def values(path: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = rng.normal(size=shape)
        scaled = 1 + 0.1 * drawn if path.endswith("gain") else drawn * (shape[-2] if "kernel" in path else 9) ** -0.5
        return scaled.astype(np.float32)

    params = {path: values(path, leaf.shape) for path, leaf in state.params.items()}
    return state._replace(params=params, alive=np.ones_like(state.alive))


def gradients(programs: dict[str, Program], state: Any) -> tuple[str, dict[str, dict[str, np.ndarray]]]:
    """The lowered text of one update of SGD at rate 1 in every dtype, and what it takes from each weight."""
    batch = jnp.asarray(tokens(BASE.data.sequences, 256))
    assert (batch == 7).mean() > 0.3
    run = BASE.resolve(vocab=256, fingerprint="0" * 16)

    def updated(state: Any) -> Any:
        found = {}
        for dtype, program in programs.items():
            run_of_model = dataclasses.replace(run, model=program.shape.model)
            lane, _ = program.lanes([run_of_model.resolve(vocab=256, fingerprint="0" * 16)] * program.shape.lanes)

            def one(lane: Any, state: Any, program: Program = program) -> Any:
                return program.train_step(lane, state, batch, 1.0, 0.0, 0)[0].params  # type: ignore[arg-type]

            found[dtype] = program.over_lanes(one)(lane, state)
        return found

    lowered = jax.jit(updated).lower(state)
    moved = lowered.compile()(state)
    return lowered.as_text(), {
        dtype: {path: state.params[path] - np.asarray(value) for path, value in params.items()}
        for dtype, params in moved.items()
    }


def apart(found: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """The relative distance of each leaf's gradient from float32's."""
    exact, low = found["float32"], found["bfloat16"]
    return {path: float(np.linalg.norm(low[path] - exact[path]) / np.linalg.norm(exact[path])) for path in exact}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_float32(name: str) -> None:
    programs = {dtype: program_of(*CASES[name], dtype) for dtype in ("float32", "bfloat16")}
    text, found = gradients(programs, state_of(programs["float32"]))
    assert sums.in_lowered(text) == [] == sums.over_rows(text, ROWS)
    errors = apart(found)
    assert max(errors.values()) < LIMIT, errors
    assert min(errors.values()) > 1e-5  # the products are in bfloat16


def test_the_lookup_of_0_1_0_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: weights that are rounded before they are used, whose gradients are then in bfloat16 too."""
    monkeypatch.setattr(transformer, "lookup", lambda table, row, dtype, _: table.astype(dtype)[row])
    monkeypatch.setattr(layer, "product", lambda x, w: x @ w.astype(x.dtype))
    programs = {dtype: program_of({}, {}, {}, dtype) for dtype in ("float32", "bfloat16")}
    text, found = gradients(programs, state_of(programs["float32"]))
    assert any("add" in line for line in sums.in_lowered(text)) and sums.over_rows(text, ROWS)
    errors = apart(found)
    assert errors.pop("embedding/token") > 1.5 * LIMIT
    assert max(errors.values()) < LIMIT


@pytest.mark.parametrize("kind", ["adamw", "lion", "muon", "adafactor"])
def test_no_optimizer_sums_in_16_bits(kind: str) -> None:
    changes = {"optimizer.kind": kind, "model.width": 32, "model.bias": True, "parametrization.base_width": 32}
    text = program_of(changes, {}, {"lanes": 2, "strategy": "vmap"}, "bfloat16").lower(tokens=None).as_text()
    assert "bf16" in text and sums.in_lowered(text) == []


def test_logits_are_not_rounded() -> None:
    program = program_of({}, {}, {}, "bfloat16")
    state = state_of(program)
    lane, _ = program.lanes([BASE.resolve(vocab=256, fingerprint="0" * 16)])
    params, lane = jax.tree.map(lambda leaf: leaf[0], (state.params, lane))
    logits = np.asarray(jax.jit(program.logits)(params, lane, jnp.asarray(tokens(2, 256))[:, :-1]))
    assert logits.dtype == np.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.9


MESHES = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
sys.path.insert(0, "tests")
import sums, test_bfloat16 as case
from lab import product
from lab.config import MeshConfig

CHANGES = {**case.EVERYTHING, "model.tied": True}

def lowered(dtype, forward={}, **axes):
    program = case.program_of(CHANGES, forward, {"mesh": MeshConfig(lane=1, **axes)}, dtype)
    return program, program.lower(tokens=None)

def moved(program, compiled):
    before = case.state_of(program).params
    with program.context():
        state = program.state(case.state_of(program))
        run = case.apply(case.BASE, CHANGES).resolve(vocab=256, fingerprint="0" * 16)
        lane, _ = program.lanes([run])
        batches = program.batches(case.tokens(32, 256)[None, None])
        one = program._padded(np.ones((1, 1)))
        new, _ = compiled(lane, state, batches, one, 0 * one, np.int32(0), np.int32(1))
    return {path: before[path] - np.asarray(value) for path, value in new.params.items()}

program, text = lowered("float32")
exact = moved(program, text.compile())
found = []
for axes, forward in (
    ({"data": 4}, {"lookup": "sorted", "remat": "dots", "attention": "xla"}),
    ({"data": 2, "fsdp": 2, "tensor": 2}, {"lookup": "onehot"}),
):
    program, text = lowered("bfloat16", forward, **axes)
    compiled = text.compile()
    errors = case.apart({"float32": exact, "bfloat16": moved(program, compiled)})
    found.append([sums.in_lowered(text.as_text()), sums.in_compiled(compiled.as_text()), max(errors.values())])

product.contraction_cut = lambda: False
control = lowered("bfloat16", tensor=2)[1].compile()
print(json.dumps([found, sums.in_compiled(control.as_text())]))
"""


@pytest.mark.slow
@pytest.mark.stack
def test_nothing_is_summed_in_16_bits_between_devices() -> None:
    """Eight CPU devices; the control: products asked for in bfloat16, whose parts are then added up."""
    done = subprocess.run([sys.executable, "-c", MESHES], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    found, control = json.loads(done.stdout)
    for lowered, compiled, error in found:
        assert lowered == [] and compiled == []
        assert error < LIMIT
    assert any("all-reduce" in line for line in control)


TPU = """
import json, sys
from jax.experimental import topologies
sys.path.insert(0, "tests")
import sums
from lab import product
from lab.config import MeshConfig, ModelConfig
from lab.layer import Forward
from lab.program import Program, Shape
from sweeps.machine import named

machine = named("v5e-4")
devices = topologies.get_topology_desc(
    platform="tpu", topology_name=machine.topology.name, **machine.topology.arguments).devices
model = ModelConfig(width=128, depth=2, head_dim=32, bias=True, qk_norm=True, kv_heads=1).resolve(vocab=512)

def text():
    mesh = MeshConfig(lane=1, fsdp=2, tensor=2)
    shape = Shape(model, "adam", "bfloat16", 8, 32, 1, "vmap", 1, 1, Forward("xla", False), 1, mesh)
    return Program(shape, devices).lower(tokens=None).compile(compiler_options=dict(machine.compiler_options)).as_text()

found = sums.in_compiled(text())
product.rounded = lambda x, dtype: x.astype(dtype)
print(json.dumps([found, sums.in_compiled(text())]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not ahead.available(), reason="libtpu is not installed (extra tpu-aot)")
def test_nothing_is_summed_in_16_bits_between_tpus() -> None:
    """The control: sums that are converted to bfloat16 right after are made in it by that compiler."""
    done = subprocess.run(
        [sys.executable, "-c", TPU],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | ahead.ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, control = json.loads(done.stdout.splitlines()[-1])
    assert found == []
    assert any("all-reduce" in line for line in control)
