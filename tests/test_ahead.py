"""Programs compiled ahead of time by the TPU compiler, and what stands where it is missing or fails."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_case import LARGE
from lab.check import InputError
from lab.config import (
    DataConfig,
    ExecConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
    SharpnessConfig,
)
from lab.layer import Forward
from lab.program import Shape
from sweeps import ahead
from sweeps.cli import main
from sweeps.machine import Machine, named
from sweeps.plan import Group, plan
from sweeps.room import room, widest
from sweeps.sweep import Sweep, resolved

needs_libtpu = pytest.mark.skipif(not ahead.available(), reason="libtpu is not installed (extra tpu-aot)")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LRLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ahead"


def shape(mesh: MeshConfig, **changes: Any) -> Shape:
    model = ModelConfig(width=32, depth=2, head_dim=8).resolve(vocab=256)
    forward = Forward("xla", unroll=False)
    base = Shape(model, "adam", "float32", 16, 16, mesh.sizes[0], "vmap", 16, 4, forward, 1, mesh)
    return dataclasses.replace(base, **changes)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "v5e-4",
        pytest.param("v5p-4", marks=pytest.mark.nightly),
        pytest.param("v4-4", marks=pytest.mark.nightly),
        pytest.param("v6e-4", marks=pytest.mark.nightly),
    ],
)
def test_lanes_never_communicate_and_sharded_parameters_do(name: str) -> None:
    """Two programs of one slice in one process: lanes over the chips; one run sharded over them."""
    machine = named(name)
    questions = [
        ahead.Question(shape(machine.mesh, lanes=8), 5000),
        ahead.Question(shape(machine.train_mesh), None),
    ]
    lanes, sharded = ahead.verdicts(questions, machine)
    assert lanes.fits and lanes.collectives == {}
    assert sharded.fits and sharded.collectives["all-gather"] > 0
    assert {"all-reduce", "reduce-scatter"} & set(sharded.collectives)
    assert lanes.argument_bytes and lanes.peak_bytes and lanes.peak_bytes >= lanes.argument_bytes


def crowded(lanes: int) -> Shape:
    """Lanes with a large vocabulary, 12 bytes of state per parameter."""
    model = ModelConfig(width=512, depth=1, head_dim=64).resolve(vocab=1 << 17)
    return shape(MeshConfig(lane=1), model=model, lanes=lanes, sequences=2, length=8)


# The most lanes of `crowded` that v5e-4 holds, by the bisection below.
MOST = 7


def assert_the_boundary(machine: Machine, within: ahead.Verdict, beyond: ahead.Verdict) -> None:
    assert within.fits and not beyond.fits
    assert within.memory_bytes is not None and beyond.memory_bytes is not None
    assert within.memory_bytes <= machine.device_memory_bytes < beyond.memory_bytes < 1.2 * machine.device_memory_bytes
    assert "exceeds" in beyond.message or "Used" in beyond.message


@needs_libtpu
@pytest.mark.slow
def test_one_lane_more_than_the_memory_holds_does_not_fit() -> None:
    machine = named("v5e-4")
    questions = [ahead.Question(crowded(lanes), None) for lanes in (MOST, MOST + 1)]
    assert_the_boundary(machine, *ahead.verdicts(questions, machine))


@needs_libtpu
@pytest.mark.nightly
def test_the_verdict_turns_at_the_memory_by_bisection_over_lanes() -> None:
    """Ten compiles; the boundary that it finds stands above, and is what the test before asks about."""
    machine = named("v5e-4")
    asked: dict[int, ahead.Verdict] = {}

    def fits(lanes: int) -> bool:
        asked[lanes] = ahead.verdict(crowded(lanes), machine, tokens=None)
        return asked[lanes].fits

    bucket = widest([1, 2, 4, 8, 16, 32, 64], lambda lanes: lanes <= 4, fits)
    assert asked[bucket].fits and not asked[2 * bucket].fits
    most, least = bucket, 2 * bucket  # that fit, that do not: to the single lane
    while least - most > 1:
        middle = (most + least) // 2
        most, least = (middle, least) if fits(middle) else (most, middle)
    assert most == MOST
    assert_the_boundary(machine, asked[most], asked[least])


@needs_libtpu
@pytest.mark.slow
def test_a_7b_model_does_not_fit_four_small_chips() -> None:
    """A refusal takes seconds; that v5e-16 holds it takes minutes, and stands in docs/memory.md."""
    case = LARGE["7B-v5e-4"]
    found = ahead.verdicts([case.question], named(case.machine))[0]
    assert not found.fits and found.needed_bytes is not None
    assert found.needed_bytes > named(case.machine).device_memory_bytes


@pytest.mark.usefixtures("pretended")
def test_a_verdict_is_kept_and_a_broken_one_is_asked_for_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = named("v5e-4")
    line = json.dumps(dataclasses.asdict(ahead.Verdict(True, "fits", 1.0, {}, peak_bytes=7)))

    def answers(*args: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(args, 0, line + "\n", "")

    monkeypatch.setattr(subprocess, "run", answers)
    first = ahead.verdict(shape(machine.mesh), machine, tokens=5000)
    (file,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", _never)
        assert ahead.verdict(shape(machine.mesh), machine, tokens=5000) == first
        with pytest.raises(AssertionError):
            ahead.verdict(shape(machine.mesh, sequences=32), machine, tokens=5000)
    file.write_text("{broken")
    assert ahead.verdict(shape(machine.mesh), machine, tokens=5000) == first
    assert json.loads(file.read_text())["fits"]


def _never(*args: Any, **settings: Any) -> None:
    raise AssertionError(f"a process was started: {args} {settings}")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """libtpu as far as anyone can see."""
    monkeypatch.setattr(ahead, "available", lambda: True)
    monkeypatch.setattr(ahead, "versions", lambda: {"jax": "0", "libtpu": "0"})


@pytest.mark.usefixtures("pretended")
def test_a_compiler_that_dies_or_takes_too_long_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = named("v5e-4")

    def dies(*args: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(
            args, -6, "", "noise\njax.errors.JaxRuntimeError: INTERNAL: no\n*** Aborted\n"
        )

    def waits(*_: Any, **settings: Any) -> Any:
        raise subprocess.TimeoutExpired("python", settings["timeout"])

    for run, words in ((dies, "ended with status -6 .*INTERNAL: no"), (waits, "took longer than 7 s a program")):
        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(InputError, match=words) as caught:
            ahead.verdict(shape(machine.mesh), machine, tokens=None, limit=7)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("pretended")
def test_programs_that_were_compiled_before_a_crash_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = named("v5e-4")
    line = json.dumps(dataclasses.asdict(ahead.Verdict(True, "fits", 1.0, {}, peak_bytes=7)))

    def half(*args: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(args, -6, line + "\n", "")

    monkeypatch.setattr(subprocess, "run", half)
    questions = [ahead.Question(shape(machine.mesh, sequences=count), None) for count in (16, 32)]
    with pytest.raises(InputError, match="program 2 of 2"):
        ahead.verdicts(questions, machine)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(subprocess, "run", _never)
    assert ahead.verdict(questions[0].shape, machine, tokens=None).peak_bytes == 7


def test_without_libtpu_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "available", lambda: False)
    with pytest.raises(InputError, match=r"libtpu is not installed: pip install 'lr-scaling-lab\[tpu-aot\]'"):
        ahead.verdict(shape(MeshConfig(lane=4)), named("v5e-4"), tokens=None)
    with pytest.raises(InputError, match="cpu is no TPU slice"):
        ahead.verdict(shape(MeshConfig(lane=1)), named("cpu"), tokens=None)


def test_the_fingerprint_sees_program_slice_and_options(pretended: None) -> None:
    del pretended
    machine = named("v5e-4")
    base = ahead.Question(shape(machine.mesh), 5000)
    flags = dataclasses.replace(machine, compiler_flags=())
    prints = [
        ahead.fingerprint(base, machine),
        ahead.fingerprint(dataclasses.replace(base, tokens=None), machine),
        ahead.fingerprint(ahead.Question(shape(machine.mesh, lanes=8), 5000), machine),
        ahead.fingerprint(base, named("v6e-4")),
        ahead.fingerprint(base, flags),
    ]
    assert len(set(prints)) == len(prints) and prints[0] == ahead.fingerprint(base, machine)


def test_communication_is_counted_once_per_pair_of_start_and_done() -> None:
    text = """
  %a = f32[8]{0} all-reduce-start(%x), to_apply=%add
  %b = f32[8]{0} all-reduce-done(%a)
  ROOT %c = (f32[8]{0}, f32[4]{0}) all-gather(%b, %d), dimensions={0}
  %e = f32[8]{0} fusion(%all-to-all.1), calls=%f
"""
    assert ahead.collectives(text) == {"all-gather": 1, "all-reduce": 1}


def test_communication_in_fusions_of_a_tpu_is_counted_by_channel_and_named_for_what_it_does() -> None:
    text = """
%async_collective_fusion.1 (p: bf16[8]) -> bf16[8] {
  %all-gather.1 = bf16[32]{0} all-gather(%p), channel_id=3, dimensions={0}
}
%async_collective_fusion.2 (p: bf16[8]) -> bf16[8] {
  %all-gather.2 = bf16[32]{0} all-gather(%p), channel_id=3, dimensions={0}
}
%all-reduce-scatter.7.clone (p: bf16[32]) -> bf16[8] {
  %all-reduce.7 = bf16[32]{0} all-reduce(%p), channel_id=9, to_apply=%add
}
ENTRY %main (p: bf16[32]) -> bf16[8] {
  %f = bf16[8]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.7.clone
  %all-reduce.8 = f32[] all-reduce(%q), channel_id=10, to_apply=%add
}
"""
    assert ahead.collectives(text) == {"all-gather": 1, "all-reduce": 1, "reduce-scatter": 1}


@pytest.mark.parametrize(
    ("begin", "limit", "expected", "most"), [(4, 16, 16, 4), (32, 4, 4, 4), (8, 8, 8, 2), (1, 0, 1, 1)]
)
def test_the_search_over_lanes_asks_neighbours_only(begin: int, limit: int, expected: int, most: int) -> None:
    asked = []

    def fits(lanes: int) -> bool:
        asked.append(lanes)
        return lanes <= limit

    assert widest([1, 2, 4, 8, 16, 32], lambda lanes: lanes <= begin, fits) == expected
    assert len(asked) <= most


def pretend(monkeypatch: pytest.MonkeyPatch, fits: Callable[[Shape], bool]) -> list[Shape]:
    """A compiler for which these programs fit, in 1 GiB; gives what it is asked."""
    asked: list[Shape] = []

    def verdict(shape: Shape, machine: Machine, **_: Any) -> ahead.Verdict:
        del machine
        asked.append(shape)
        return ahead.Verdict(fits(shape), "", 0.0, {}, peak_bytes=2**30 if fits(shape) else None)

    monkeypatch.setattr(ahead, "verdict", verdict)
    return asked


def group_of(sequences: int, length: int) -> Group:
    model, schedule = ModelConfig(width=512, depth=8, head_dim=64), ScheduleConfig(steps=1, decay_fraction=0)
    base = RunConfig(model=model, data=DataConfig(sequences=sequences, length=length), schedule=schedule)
    sweep = Sweep(name="s", question="?", cost="", expected="", base=base, points=({},))
    return plan(resolved(sweep), ExecConfig(), machine=named("v5e-4"))[0]


def test_a_batch_is_cut_only_where_the_fewest_lanes_do_not_fit_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, group = named("v5e-4"), group_of(sequences=1024, length=1024)
    parts = room(group, ExecConfig(), machine, compiles=False).execution.accumulate
    assert parts > 1
    # (parts from which the compiler lets it pass, those that are chosen, whether they fit, what is compiled)
    expected = [
        (1, 1, True, [1]),
        (parts, parts, True, [1, parts]),
        (2 * parts, 2 * parts, True, [1, parts, 2 * parts]),
        (10**6, 1, False, [1, parts, 2 * parts, 4 * parts]),
    ]
    for least, chosen, fits, compiled in expected:
        asked = pretend(monkeypatch, lambda shape, least=least: shape.accumulate >= least)
        found = room(group, ExecConfig(), machine, compiles=True)
        assert (found.execution.accumulate, found.fits) == (chosen, fits)
        assert [shape.accumulate for shape in asked] == compiled and found.execution.lanes == 4


def test_a_probe_takes_room_beside_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, group = named("v5e-4"), group_of(sequences=8, length=64)
    pretend(monkeypatch, lambda _: True)
    alone = room(group, ExecConfig(), machine, compiles=True)
    probed = room(group, ExecConfig(), machine, probe=SharpnessConfig(), compiles=True)
    assert alone.needed_bytes == 2**30 < (probed.needed_bytes or 0)


def test_where_the_compiler_fails_the_plan_has_an_estimate_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pretended: None
) -> None:
    del pretended

    def fails(*_: Any, **__: Any) -> Any:
        raise ahead.CompilerError("the TPU compiler ended with status -6")

    monkeypatch.setattr(ahead, "verdict", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert main(["plan", "quickstart", "--on", "v5e-4", "--check-largest", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["largest_model"]["checked"] == "analytic"
    for row in found["programs"]:
        assert row["fits"] and row["checked"] == "analytic" and "status -6" in row["failure"]
    assert main(["plan", "quickstart", "--on", "v5e-4"]) == 0
    assert "an estimate, since the TPU compiler ended with status -6" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["v4-16", "h200-8", "cpu"])
def test_a_plan_for_a_machine_that_is_not_here(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", _never)
    monkeypatch.setattr(ahead, "available", lambda: False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert main(["plan", "quickstart", "--on", name, "--json"]) == 0
    found, machine = json.loads(capsys.readouterr().out), named(name)
    assert found["machine"] == name and found["note"] == machine.naming_note
    assert found["verdicts"].startswith("analytic estimate")
    assert ("pip install 'lr-scaling-lab[tpu-aot]'" in found["verdicts"]) == (machine.platform == "tpu")
    assert found["largest_model"]["memory_bytes"] <= found["capacity_bytes"]
    for row in found["programs"]:
        assert row["fits"] and row["memory_bytes"] <= found["capacity_bytes"] and row["collectives"] is None
        assert row["chip_hours"] == pytest.approx(row["seconds"] * machine.chips / 3600)
        assert row["lanes"] & (row["lanes"] - 1) == 0 and row["checkpoint_bytes"] > 0
    assert main(["plan", "quickstart", "--on", name]) == 0
    assert "analytic estimate" in capsys.readouterr().out


def test_a_machine_that_nobody_knows_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["--on", "v5e-17"], "v5e-17 is not a machine"),
        (["--no-compile"], "--no-compile and --check-largest are about a machine: name it with --on"),
    ):
        assert main(["plan", "quickstart", *words]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
