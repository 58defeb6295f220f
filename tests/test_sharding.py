"""Lanes, batches and states over eight devices: the same numbers as one device, and the communication that is expected.

Cases run in processes of their own, which have eight CPU devices.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.check import InputError
from lab.config import ExecConfig, MeshConfig, ModelConfig, RunConfig
from lab.device import execution
from lab.override import apply
from lab.sharding import check

PRELUDE = """
import json, re, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from lab import corpus, train
from lab.config import ExecConfig, MeshConfig, RunConfig
from lab.device import execution
from lab.mesh import on_host
from lab.override import apply
from lab.program import Program

BASE = apply(RunConfig(), {
    "model.width": 32, "model.head_dim": 8, "parametrization.base_width": 16, "schedule.steps": 4,
    "schedule.decay_fraction": 0.5, "data.sequences": 8, "data.length": 16, "evaluation.sequences": 20,
    "data.corpus": "text:" + sys.argv[1],
})

class Kept:
    # A jitted function, and the executable that it compiles ahead of its first call, or in it.
    def __init__(self, jitted):
        self.jitted, self.compiled = jitted, None

    def lower(self, *args):
        self.lowered = self.jitted.lower(*args)
        return self

    def compile(self):
        self.compiled = self.compiled or self.lowered.compile()
        return self.compiled

    def __call__(self, *args):
        return (self.compiled or self.lower(*args).compile())(*args)

def job(mesh, changes={}, rates=(2**-7, 2**-6, 2**-5, 2**-4), devices=8, **settings):
    found = corpus.load(BASE.data)
    runs = [
        apply(BASE, {"optimizer.lr": rate, **changes}).resolve(vocab=found.vocab, fingerprint=found.fingerprint)
        for rate in rates
    ]
    settings = {"strategy": "vmap", "segment": 4, "unroll": False, **settings}
    how = execution(
        ExecConfig(mesh=mesh, **settings), runs[0].model, platform="cpu", runs=len(runs), devices=devices
    )
    made = train.prepare(runs, how, found)
    if not isinstance(made.program._segment, Kept):
        made.program._segment = Kept(made.program._segment)
    return made

def trained(job):
    *_, last = train.train(job, train.start(job))
    return last.settled(), train.finish(job, last)

def numbers(job):
    last, results = trained(job)
    return last.loss, np.array([r.validation_loss for r in results]), on_host(last.state.params)

def apart(one, other):
    return [float(np.abs(a - b).max()) for a, b in zip(one[:2], other[:2])] + [
        max(float(np.abs(one[2][path] - other[2][path][: len(one[2][path])]).max()) for path in one[2])]

def collectives(program):
    # Of the executable that has trained, or of one that is compiled for this where none has.
    ran = getattr(program._segment, "compiled", None)
    text = (ran or program.lower(tokens=5000).compile()).as_text()
    return sorted(set(re.findall(r"(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)", text)))

ONE = MeshConfig(lane=1)
"""


def run(code: str, text: Path) -> Any:
    """What a piece of code prints as JSON, with eight devices and the corpus of a folder."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + code, str(text)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_sharded_lanes_agree_with_one_device_and_never_communicate(text: Path) -> None:
    """`vmap` and `map` over four devices, and lanes that are padded; a mesh over which batches are cut communicates."""
    found = run(
        """
alone = numbers(job(ONE, lanes=4))
spread = {name: job(MeshConfig(lane=4), lanes=lanes, strategy=strategy)
          for name, lanes, strategy in (("vmap", 4, "vmap"), ("map", 8, "map"), ("both", 8, "both"))}
control = job(MeshConfig(lane=1, data=2), lanes=4).program
control._segment = control._segment.jitted
print(json.dumps({
    "apart": {name: apart(alone, numbers(one)) for name, one in spread.items()},
    "collectives": {name: collectives(one.program) for name, one in spread.items()},
    "control": collectives(control),
    "devices": len(spread["vmap"].lane.seed.sharding.device_set),
}))
""",
        text,
    )
    assert found["devices"] == 4
    for name, (loss, validation, params) in found["apart"].items():
        assert loss < 1e-5 and validation < 1e-5 and params < 1e-4, name
    assert found["collectives"] == {"vmap": [], "map": [], "both": []}
    assert "all-reduce" in found["control"]


@pytest.mark.slow
@pytest.mark.stack
def test_data_fsdp_and_tensor_sharding_agree_with_one_device(text: Path) -> None:
    found = run(
        """
meshes = {
    "data": MeshConfig(lane=1, data=4), "fsdp": MeshConfig(lane=1, fsdp=4), "tensor": MeshConfig(lane=1, tensor=4),
    "lane x fsdp": MeshConfig(lane=2, fsdp=2),
}
alone = numbers(job(ONE, {}, (2**-7, 2**-6), lanes=2))
jobs = {name: job(mesh, {}, (2**-7, 2**-6), lanes=2) for name, mesh in meshes.items()}
print(json.dumps({
    "apart": {name: apart(alone, numbers(one)) for name, one in jobs.items()},
    "collectives": {name: collectives(one.program) for name, one in jobs.items()},
    "bytes": {name: max(sum(s.data.nbytes for leaf in jax.tree.leaves(train.start(one).state.params)
                            for s in leaf.addressable_shards if s.device.id == d) for d in range(4))
              for name, one in jobs.items()},
}))
""",
        text,
    )
    for name, (loss, validation, params) in found["apart"].items():
        assert loss < 2e-4 and validation < 2e-4 and params < 2e-3, name
    assert found["collectives"]["data"] == ["all-reduce"]
    assert "all-gather" in found["collectives"]["fsdp"] and "all-reduce" in found["collectives"]["tensor"]
    # Matrices are most of the state; gains are whole everywhere.
    assert found["bytes"]["fsdp"] < 0.3 * found["bytes"]["data"]
    assert found["bytes"]["tensor"] < 0.3 * found["bytes"]["data"]
    assert found["bytes"]["lane x fsdp"] < 0.3 * found["bytes"]["data"]


@pytest.mark.slow
@pytest.mark.stack
def test_rows_of_the_embedding_are_found_where_the_batch_lies(text: Path) -> None:
    """data and fsdp together: no activation changes its place; the control looks up in a table that is cut."""
    found = run(
        """
from lab import lookup, transformer
from lab.config import ModelConfig
from lab.layer import Forward
from lab.program import Shape
model = ModelConfig(width=64, depth=2, head_dim=8).resolve(vocab=1024)
mesh = MeshConfig(lane=1, data=2, fsdp=4)
shape = Shape(model, "adam", "float32", 16, 32, 1, "vmap", 1, 4, Forward("xla", False), 1, mesh)
gathered = collectives(Program(shape, jax.devices()))
lookup.looked_up = transformer.spread = lambda array: array
print(json.dumps([gathered, collectives(Program(shape, jax.devices()))]))
""",
        text,
    )
    assert found[0] == ["all-gather", "all-reduce"]
    assert "all-to-all" in found[1]


@pytest.mark.slow
def test_accumulation_remat_precisions_and_optimizers_of_whole_tensors_on_a_mesh(text: Path) -> None:
    """One process for all cases; Muon and Adafactor look at whole tensors, which no device holds."""
    found = run(
        """
mesh = MeshConfig(lane=1, fsdp=2, tensor=2)
cases = {
    "accumulate": ({}, {"accumulate": 2, "remat": "dots"}), "float64": ({"dtype": "float64"}, {"remat": "full"}),
    "bfloat16": ({"dtype": "bfloat16"}, {}),
}
apart_by = {name: apart(numbers(job(ONE, changes, (2**-6,))), numbers(job(mesh, changes, (2**-6,), **settings)))
            for name, (changes, settings) in cases.items()}
for changes in ({"optimizer.kind": "muon", "model.mlp": "swiglu"}, {"optimizer.kind": "adafactor", "model.tied": True}):
    pair = (job(mesh, changes, (2**-7, 2**-6), lanes=2) for mesh in (ONE, MeshConfig(lane=2, fsdp=2, tensor=2)))
    apart_by[changes["optimizer.kind"]] = apart(*map(numbers, pair))
print(json.dumps(apart_by))
""",
        text,
    )
    limits = {"float64": 1e-12, "bfloat16": 0.05}
    for name, (loss, validation, _) in found.items():
        assert max(loss, validation) < limits.get(name, 2e-4), name
    assert found["bfloat16"][0] > 1e-5  # the control: the comparison sees rounding
    assert max(found["muon"][2], found["adafactor"][2]) < 2e-3


def test_a_mesh_that_does_not_fit_is_refused_in_one_line() -> None:
    run_config = apply(RunConfig(), {"model.width": 48, "model.head_dim": 16, "parametrization.base_width": 16})
    resolved = run_config.resolve(vocab=256, fingerprint="x")
    for mesh, words in (
        (MeshConfig(lane=1, data=5), "does not divide data.sequences=16"),
        (MeshConfig(lane=1, fsdp=32), "does not divide data.sequences=16"),
        (MeshConfig(lane=1, fsdp=16, data=1), None),
        (MeshConfig(lane=1, tensor=2), "does not divide model.heads=3"),
    ):
        if words is None:
            check(resolved, mesh, 1)
            continue
        with pytest.raises(InputError, match=words):
            check(resolved, mesh, 1)
    with pytest.raises(InputError, match=r"asks for 8 devices, and there are 4"):
        execution(ExecConfig(mesh=MeshConfig(fsdp=8)), resolved.model, platform="cpu", runs=4, devices=4)
    with pytest.raises(InputError, match=r"exec.mesh.lane=3 does not divide the 4 lanes"):
        execution(ExecConfig(lanes=4, mesh=MeshConfig(lane=3)), resolved.model, platform="cpu", runs=4, devices=4)


@pytest.mark.parametrize(
    ("platform", "devices", "runs", "lanes", "lane"),
    [("gpu", 8, 500, 128, 8), ("gpu", 6, 500, 64, 4), ("gpu", 8, 3, 8, 8), ("gpu", 1, 500, 16, 1), ("cpu", 1, 9, 4, 1)],
)
def test_lanes_use_every_device_of_a_box(platform: str, devices: int, runs: int, lanes: int, lane: int) -> None:
    how = execution(ExecConfig(), ModelConfig(), platform=platform, runs=runs, devices=devices)
    assert (how.lanes, how.mesh.lane) == (lanes, lane)
