"""Lanes over devices: a program whose lane axis is sharded needs no communication."""

import subprocess
import sys

import pytest

CODE = """
import re, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp
import numpy as np
from lab.config import RunConfig
from lab.device import execution
from lab.config import ExecConfig
from lab.override import apply
from lab.program import Batches, program, shape_of

base = apply(RunConfig(), {"model.width": 16, "model.head_dim": 8, "parametrization.base_width": 16})
runs = [apply(base, {"optimizer.lr": lr}).resolve(vocab=256, fingerprint="x") for lr in (0.1, 0.2, 0.3, 0.4)]
how = execution(ExecConfig(lanes=4, strategy="vmap"), runs[0].model, platform="cpu", runs=4)
shape = shape_of(runs[0], lanes=4, strategy="vmap", group=1, segment=4, forward=how.forward)
compiled = program(shape)
lane, _ = compiled.lanes(runs)
state = compiled.init(lane)
mesh = jax.make_mesh((4,), ("lane",), axis_types=(jax.sharding.AxisType.Auto,))
spread, copied = (jax.NamedSharding(mesh, spec) for spec in (jax.P("lane"), jax.P()))
columns = jax.NamedSharding(mesh, jax.P(None, "lane"))
lane, state = jax.device_put((lane, state), spread)
tokens = jnp.zeros(5000, jnp.uint8)
starts = jnp.zeros((4, 1, 16), jnp.int32)
batches = jax.device_put(Batches(tokens, starts, None), copied)
rates = jax.device_put(jnp.ones((4, 4)), columns)
text = compiled._segment.lower(lane, state, batches, rates, rates, np.int32(0), np.int32(4)).compile().as_text()
found = re.findall(r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter", text)
print("collectives:", len(found))
assert "sharding={devices=[4" in text or "num_partitions=4" in text
# the control: a sum over lanes does communicate
summed = jax.jit(lambda s: jax.tree.map(lambda x: x.sum(0), s.params), out_shardings=copied)
control = summed.lower(state).compile().as_text()
print("control:", len(re.findall(r"all-reduce", control)) > 0)
"""


@pytest.mark.slow
def test_sharded_lanes_compile_to_zero_collectives() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "collectives: 0\ncontrol: True\n"
