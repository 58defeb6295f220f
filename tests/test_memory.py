"""The analytic memory estimate against the TPU compiler's figures, and what it must follow."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks import memory as comparison
from benchmarks.memory_case import CASES
from lab import memory
from lab.config import MeshConfig, ModelConfig
from sweeps import ahead

pytestmark = pytest.mark.host

FIGURES = comparison.figures()
MODEL = ModelConfig(width=512, depth=8, head_dim=64).resolve(vocab=8192)


def total(layout: memory.Layout, dtype: str = "float32", model: ModelConfig = MODEL) -> int:
    return memory.memory(model, layout, sequences=16, length=512, dtype=dtype).total


@pytest.mark.parametrize("name", [name for name in CASES if name in FIGURES])
def test_the_estimate_is_within_15_percent_of_the_compiler(name: str) -> None:
    assert abs(comparison.difference(name, FIGURES[name])) < comparison.BOUND


def test_the_table_is_what_the_command_writes() -> None:
    assert (comparison.DOCS / "memory.md").read_text() == comparison.table()


def test_arguments_are_the_state_and_the_corpus() -> None:
    """What the compiler calls arguments holds parameters, moments and tokens; tiles pad a width of 192 by 4 %."""
    for name, row in FIGURES.items():
        if name in CASES:
            found = comparison.estimate(CASES[name])
            share = 0.05 if CASES[name].width % 128 == 64 else 0.02
            assert found.state + found.corpus == pytest.approx(int(row["argument_bytes"]), rel=share, abs=2e6), name


def test_the_bound_sees_a_part_that_is_forgotten() -> None:
    """The control: without activations, or with one moment only, most programs are outside the bound."""
    for part in ("activations", "state"):
        outside = 0
        for name in (name for name in CASES if name in FIGURES):
            found = comparison.estimate(CASES[name])
            other = dataclasses.replace(found, **{part: 0}).total
            outside += abs(other / int(FIGURES[name]["peak_bytes"]) - 1) > comparison.BOUND
        assert outside > len(FIGURES) / 3, part


def test_memory_follows_remat_lanes_parts_and_mesh() -> None:
    one = memory.Layout(1, "vmap")
    kept = [total(dataclasses.replace(one, remat=remat)) for remat in ("none", "dots", "full")]
    assert kept == sorted(kept, reverse=True)
    assert total(one, "bfloat16") < total(one) < total(one, "float64")
    four = dataclasses.replace(one, lanes=4)
    assert total(four) == pytest.approx(4 * total(one), rel=1e-6)
    in_turn = memory.memory(MODEL, dataclasses.replace(four, strategy="map"), sequences=16, length=512, dtype="float32")
    assert in_turn.total < total(dataclasses.replace(four, strategy="both", group=2))
    assert in_turn.working - in_turn.state == pytest.approx(in_turn.state / four.lanes * 2 / 3, rel=1e-6)
    assert total(dataclasses.replace(one, accumulate=4)) < total(one)
    assert total(dataclasses.replace(one, unroll=True)) < total(one)
    for axis in ("data", "fsdp", "tensor"):
        assert total(dataclasses.replace(one, mesh=MeshConfig(lane=1, **{axis: 4}))) < total(one) / 2
    state = [
        memory.memory(
            MODEL, dataclasses.replace(one, mesh=mesh), sequences=16, length=512, dtype="float32", optimizer=optimizer
        ).state
        for mesh, optimizer in ((one.mesh, "adam"), (MeshConfig(lane=1, fsdp=4), "adam"), (one.mesh, "sgd"))
    ]
    assert state[0] == pytest.approx(4 * state[1], rel=1e-6) and 3 * state[2] == 2 * state[0]


@pytest.mark.nightly  # two minutes of the TPU compiler; the whole table is compiled again when it is refitted
@pytest.mark.skipif(not ahead.available(), reason="libtpu is not installed (extra tpu-aot)")
def test_the_compiler_still_says_what_the_table_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LRLAB_CACHE", str(tmp_path))
    found = comparison.asked("one-full")
    assert found["peak_bytes"] == pytest.approx(int(FIGURES["one-full"]["peak_bytes"]), rel=0.1)
    assert abs(comparison.difference("one-full", {k: str(v) for k, v in found.items()})) < comparison.BOUND
