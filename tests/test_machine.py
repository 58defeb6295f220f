"""Machines: strict files, figures that agree, topologies as libtpu knows them, and the command that lists them."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lab.check import InputError
from sweeps import cli, machine, machine_parser, this_machine
from sweeps.machine import Machine

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
V5E = (ROOT / "tpu_configs" / "v5e-16.toml").read_text()
H200 = (ROOT / "tpu_configs" / "h200-8.toml").read_text()
ALL = [machine.named(name) for name in machine.names()]
TPUS = [one for one in ALL if one.platform == "tpu"]

QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra tpu, Linux x86-64)"
)


def with_libtpu(code: str, given: Any) -> Any:
    """What `code` prints as JSON in a process of its own, where libtpu may be loaded; it finds `given` in argv[1]."""
    command = [sys.executable, "-c", code, json.dumps(given)]
    done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("chips = 16", "chips = 16\ncolour = 1", "unknown key colour"),
        ("chips = 16", "chips = 16\nhost = 4", "unknown key host (did you mean hosts?)"),
        ("links = 4", "link = 4", "unknown key interconnect.link (did you mean links?)"),
        ("hosts = 4\n", "", "hosts is missing"),
        ("large = 0.4", "", "efficiency.large is missing"),
        ("hosts = 4", 'hosts = "4"', "hosts='4' is not a whole number"),
        ("large = 0.4", "large = true", "efficiency.large=True is not a number"),
        ("large = 0.4", "large = 40.0", "efficiency.large=40.0 is not above 0 and up to 1"),
        ('platform = "tpu"', 'platform = "gpu"', "platform=gpu is not tpu, where v5e belongs"),
        ('generation = "v5e"', 'generation = "v5"', "generation=v5 is not one of v4, v5e, v5p"),
        ("hosts = 4", "hosts = 2", "chips=16 is not hosts * chips_per_host = 8"),
        ("v5e:4x4", "v5e:4x8", "topology.name=v5e:4x8 has 32 chips, not 16"),
        ("v5e:4x4", "v6e:4x4", "topology.name=v6e:4x4 is not of generation v5e"),
        ('"v5e:4x4"', '""', "topology.name='' is not FAMILY:AxB"),
        ('[topology]\nname = "v5e:4x4"', "", "topology is missing"),
        ('name = "v5e:4x4"', 'name = "v5e:4x4"\nchips_per_host_bounds = [2, 4, 1]', "hold not 4 chips"),
        ("lane = 16", "lane = 8", "mesh has 8 places and the machine 16 devices"),
        ("fsdp = 16", "fsdp = 32", "train_mesh has 32 places and the machine 16 devices"),
        ("lane = 16", "lane = 0", "mesh.lane=0 is not above 0"),
        ("usable_hbm_gib = 15.75", "usable_hbm_gib = 17.0", "usable_hbm_gib=17.0 is more than hbm_gib=16.0"),
        ("bfloat16 = 1.97e14", "bfloat16 = 0.0", "peak_flops.bfloat16=0.0 is not above 0"),
        ("--xla_enable_async_all_gather=true", "xla_enable_async", "compiler_flags: xla_enable_async is not --xla_"),
        ("[mesh]", "[mesh", "Expected ']'"),
    ],
)
def test_wrong_files_are_refused_with_one_line(old: str, new: str, line: str) -> None:
    assert V5E.count(old) >= 1
    machine.read(V5E, "right.toml")
    with pytest.raises(InputError, match=re.escape(line)) as error:
        machine.read(V5E.replace(old, new, 1), "wrong.toml")
    assert str(error.value).startswith("wrong.toml: ")
    assert "\n" not in str(error.value)


def test_a_gpu_has_no_topology() -> None:
    with pytest.raises(InputError, match="is not of generation h200"):
        machine.read(H200 + '[topology]\nname = "v5e:2x4"\n', "wrong.toml")


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_figures_of_every_file_agree(one: Machine) -> None:
    assert (
        one.devices
        == one.mesh.devices
        == one.train_mesh.devices
        == one.hosts * one.chips_per_host * one.devices_per_chip
    )
    assert one.mesh.lane == one.devices
    assert one.train_mesh.lane == 1
    assert one.train_mesh.tensor <= one.chips_per_host * one.devices_per_chip
    assert one.device_memory_bytes * one.devices == pytest.approx(one.memory_bytes)
    assert one.launch
    assert any("lrlab sweep" in line for line in one.launch)
    text = (ROOT / "tpu_configs" / f"{one.name}.toml").read_text()
    assert set(tomllib.loads(text)) <= {field.name for field in dataclasses.fields(Machine)}
    if one.platform != "cpu":
        assert "guess" in one.efficiency.source or "measured" in one.efficiency.source
        assert 0.9 < one.usable_hbm_gib / one.hbm_gib <= 1 or one.platform == "gpu"
        assert one.peak() == one.chips * one.peak_flops.bfloat16 >= one.peak("float32")  # type: ignore[operator]


def test_machines_of_a_generation_differ_in_size_only() -> None:
    per_chip = ("hbm_gib", "usable_hbm_gib", "hbm_bytes_per_second", "peak_flops", "efficiency", "compiler_flags")
    for generation in machine.GENERATIONS:
        same = [one for one in ALL if one.generation == generation]
        assert len(same) >= 1
        for field in per_chip:
            assert len({getattr(one, field) for one in same}) == 1, (generation, field)
        wired = [one.interconnect for one in same if one.interconnect is not None]
        assert len({(links.links, links.link_bytes_per_second) for links in wired}) <= 1


@pytest.mark.parametrize(
    ("generation", "both_ways"), [("v5e", 400e9), ("v5p", 1200e9), ("v6e", 800e9), ("tpu7x", 1200e9), ("h200", 900e9)]
)
def test_links_add_up_to_the_published_sum_of_both_directions(generation: str, both_ways: float) -> None:
    one = next(one for one in ALL if one.generation == generation and one.interconnect)
    assert one.interconnect is not None
    assert 2 * one.interconnect.bytes_per_second == pytest.approx(both_ways)


def test_from_one_host_up_to_a_pod() -> None:
    for generation, pod in {"v4": 4096, "v5e": 256, "v5p": 8960, "v6e": 256, "tpu7x": 9216}.items():
        same = [one for one in ALL if one.generation == generation]
        assert same[0].hosts == 1
        assert same[-1].chips == pod
    assert {"v5e-16", "h100-8", "h200-1", "h200-8", "cpu"} <= set(machine.names())


def test_names_count_chips_and_the_trap_is_visible() -> None:
    assert machine.named("v5litepod-16") == machine.named("v5e-16")
    assert machine.named("v5e-16").naming_note is None
    assert machine.named("v4-16").naming_note == (
        "v4-16 counts chips: 16 chips; where TensorCores are counted it is called v4-32"
    )
    with pytest.raises(InputError, match="v5p-8 is no machine here.*if v5p-8 counts TensorCores it is v5p-4"):
        machine.named("v5p-8")
    with pytest.raises(InputError, match=r"v5e-17 is not a machine \(did you mean v5e-16\?\): see lrlab tpu list"):
        machine.named("v5e-17")
    for one in TPUS:
        cores = {"v4": 2, "v5p": 2, "tpu7x": 2}.get(one.generation, 1)
        if one.alias is not None:
            assert one.alias.endswith(f"-{cores * one.chips}")


@needs_libtpu
def test_topologies_are_what_libtpu_says() -> None:
    code = """
import json, sys
from collections import Counter
from jax.experimental import topologies
found = []
for name, extra in json.loads(sys.argv[1]):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **extra).devices
    hosts = Counter(device.process_index for device in devices)
    chips = len({tuple(device.coords) for device in devices})
    found.append([len(devices), len(hosts), sorted(set(hosts.values())), chips, devices[0].device_kind])
print(json.dumps(found))
"""
    asked = [(one.topology.name, one.topology.arguments) for one in TPUS if one.topology is not None]
    assert len(asked) == len(TPUS)
    for one, (devices, hosts, per_host, chips, kind) in zip(TPUS, with_libtpu(code, asked), strict=True):
        assert (devices, hosts, per_host) == (one.devices, one.hosts, [one.chips_per_host * one.devices_per_chip])
        assert chips == one.chips
        described = [Described(kind)] * one.devices
        assert this_machine.here("tpu", described) == one


@needs_libtpu
def test_libtpu_takes_the_flags_and_has_the_memory() -> None:
    """Flags on a program with collectives; memory off the refusal of one that is too large, rounded down by <= .01."""
    code = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
found = []
for name, extra, options in json.loads(sys.argv[1]):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **extra).devices
    split = jax.NamedSharding(jax.sharding.Mesh(np.array(devices), ("fsdp",)), jax.P("fsdp"))
    square = jax.ShapeDtypeStruct((len(devices) * 128, 512), jnp.bfloat16, sharding=split)
    step = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w.T) @ w).astype(jnp.float32)), out_shardings=split)
    text = step.lower(square, square).compile(compiler_options=options).as_text()
    try:
        step.lower(square, square).compile(compiler_options={"xla_tpu_no_such_flag": "true"})
        refused = False
    except Exception:
        refused = True
    large = jax.ShapeDtypeStruct((len(devices), 200, 2**28), jnp.float32, sharding=split)
    try:
        jax.jit(lambda a: a * 2 + 1, out_shardings=split).lower(large).compile()
        gib = None
    except Exception as error:
        gib = float(re.search(r"available HBM \\(([0-9.]+)G\\)", str(error)).group(1))
    found.append(["all-gather" in text or "all-reduce" in text or "reduce-scatter" in text, refused, gib])
print(json.dumps(found))
"""
    smallest = [one for one in TPUS if one.chips == 4]
    assert {one.generation for one in smallest} == {one.generation for one in TPUS}
    asked = [(one.topology.name, one.topology.arguments, one.compiler_options) for one in smallest if one.topology]
    for one, (collectives, refused, gib) in zip(smallest, with_libtpu(code, asked), strict=True):
        assert collectives and refused
        assert gib * one.devices_per_chip == pytest.approx(one.usable_hbm_gib, abs=0.011 * one.devices_per_chip)


@dataclasses.dataclass
class Described:
    """What `this_machine.here` reads of a JAX device."""

    device_kind: str
    limit: int | None = None

    def memory_stats(self) -> dict[str, int] | None:
        return None if self.limit is None else {"bytes_limit": self.limit}


def test_this_machine_is_told_by_its_devices() -> None:
    assert this_machine.here("gpu", [Described("NVIDIA H200")]) == machine.named("h200-1")
    assert this_machine.here("gpu", [Described("NVIDIA H100 80GB HBM3")] * 8) == machine.named("h100-8")
    pair = this_machine.here("gpu", [Described("NVIDIA H100 80GB HBM3")] * 2)
    assert (pair.name, pair.chips, pair.peak()) == ("h100-2", 2, 2 * 989.4e12)
    other = this_machine.here("gpu", [Described("NVIDIA A100-SXM4-40GB", limit=30 * 2**30)])
    assert other.name == "NVIDIA A100-SXM4-40GB (unknown, figures of h200-1)"
    assert other.memory_bytes == 30 * 2**30
    assert this_machine.here("tpu", [Described("TPU v5 lite")] * 32).chips == 32
    assert this_machine.here("tpu", [Described("TPU7x")] * 2).chips == 1


def test_a_cpu_is_measured() -> None:
    raw, one = machine.named("cpu"), this_machine.here("cpu")
    assert raw.peak() == raw.memory_bytes == 0
    assert one.peak() == one.peak("float32") == 2 * one.peak("float64") > 1e8
    assert one.memory_bytes > 2**28
    eight = this_machine.here("cpu", [Described("cpu")] * 8)
    assert eight.devices == eight.mesh.lane == 8
    assert eight.memory_bytes == one.memory_bytes == pytest.approx(8 * eight.device_memory_bytes)
    assert this_machine.measured(machine.named("h200-1")) == machine.named("h200-1")


def test_the_table_of_the_documentation_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tpu", "list"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == machine_parser.table(ALL)
    assert printed in (ROOT / "docs" / "machines.md").read_text()


def test_show_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tpu", "show", "v4-64"]) == 0
    text = capsys.readouterr().out
    for part in ("64 chips, 16 hosts", "30.75 of 32 GiB", "275 TFLOP/s", "v4:4x4x4", "it is called v4-128", "gcloud"):
        assert part in text
    for name in machine.names():
        assert cli.main(["tpu", "show", name]) == 0
        assert name in capsys.readouterr().out
    assert cli.main(["tpu", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == machine.names()
    assert math.prod(found[0]["mesh"].values()) == 4
    assert cli.main(["tpu", "show", "v5e16"]) == 2
    assert (
        capsys.readouterr().err == "lrlab: error: v5e16 is not a machine (did you mean v5e-16?): see lrlab tpu list\n"
    )
