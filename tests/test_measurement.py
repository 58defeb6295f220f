"""Probes along sweeps: points where the cadence says, once, for every run, and nothing of a run changes."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lab import count, sharpness, store, train
from lab.check import InputError
from lab.config import ExecConfig, RunConfig, SharpnessConfig
from lab.device import execution
from sweeps import estimate, launch, measurement, plan, probe_cost, saved, worker
from sweeps.cli import main
from sweeps.stage import stages
from sweeps.sweep import Sweep, axis, product, replaced, resolved
from sweeps.this_machine import here

PROBE = SharpnessConfig(sequences=4, steps=20, every=8)
POINTS = [0, 1, 2, 4, 8, 10]


def make(base: RunConfig, probe: SharpnessConfig | None = PROBE, steps: tuple[int, ...] = (10,)) -> Sweep:
    """Two rates, one of them so large that it diverges; several lengths share a trunk.  Segments end at 3, 6, 9."""
    fixed = {"schedule.decay_steps": 2, "schedule.warmup_steps": 0}
    points = product([fixed], axis("optimizer.lr", 2.0**-6, 1e30), axis("schedule.steps", *steps))
    how = ExecConfig(segment=3)
    return Sweep("probed", "?", "none", "none", base=base, points=points, probe=probe, execution=how)


def run_sweep(sweep: Sweep, root: Path) -> str:
    terminal = Console(file=io.StringIO(), width=200)
    assert launch.launch(sweep, root, again="", smoke=False, console=terminal) == 0
    return terminal.file.getvalue()  # type: ignore[attr-defined]


def points_of(root: Path, run_id: str, probe: SharpnessConfig = PROBE) -> dict[int, dict[str, Any]]:
    folder = store.point_file(root, run_id, sharpness.probe_id(probe), 0).parent
    return {int(path.stem): json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@pytest.fixture(scope="module")
def probed(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The store of a measured sweep, and what its launch printed."""
    root = tmp_path_factory.mktemp("probed")
    return root, run_sweep(make(base), root)


def test_points_lie_where_the_cadence_says_and_diverged_runs_have_no_numbers(
    base: RunConfig, probed: tuple[Path, str]
) -> None:
    root, _ = probed
    good, bad = resolved(make(base))
    assert sorted(points_of(root, good.run_id)) == POINTS
    points = points_of(root, bad.run_id)
    assert [points[step]["alive"] for step in POINTS] == [True, True, False, False, False, False]
    assert points[10]["quantities"] == {}
    assert points[10]["loss"] is None
    point = points_of(root, good.run_id)[8]
    assert point["tokens"] == 8 * base.data.tokens_per_step
    assert point["measurement"]["tokens"] == 4 * base.data.length
    assert point["edge"]["ratio"] == pytest.approx(
        point["lr"] * point["quantities"]["preconditioned"]["values"][0] / point["edge"]["threshold"]
    )
    assert points_of(root, good.run_id)[10]["lr"] == points_of(root, good.run_id)[8]["lr"] / 2  # of the last update


@pytest.mark.exact
def test_a_probe_changes_no_run_and_says_what_it_cost(
    base: RunConfig, tmp_path: Path, probed: tuple[Path, str]
) -> None:
    root, told = probed
    run_sweep(make(base, None), tmp_path)
    plain, measured = store.read_records(tmp_path), store.read_records(root)
    assert plain.keys() == measured.keys()
    for run_id, record in plain.items():
        assert record["validation"] == measured[run_id]["validation"]
        files = [store.run_folder(folder, run_id) / "curve.csv" for folder in (tmp_path, root)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert "of the training time" in told
    # The probe comes later: what was trained is trained again to where it looks, and the same is found.
    run_sweep(make(base), tmp_path)
    for run_id in plain:
        assert store.read_records(tmp_path)[run_id] == plain[run_id]
        one, other = points_of(root, run_id), points_of(tmp_path, run_id)
        assert [{**one[step], "seconds": 0} for step in one] == [{**other[step], "seconds": 0} for step in one]
    assert "all 2 runs of probed are in" in run_sweep(make(base), tmp_path)


def test_points_that_are_missing_are_measured_and_others_left(
    base: RunConfig, tmp_path: Path, probed: tuple[Path, str]
) -> None:
    sweep = make(base)
    shutil.copytree(probed[0], tmp_path, dirs_exist_ok=True)
    run, bad = resolved(sweep)
    before = points_of(tmp_path, run.run_id)
    gone, kept = (store.point_file(tmp_path, run.run_id, sharpness.probe_id(PROBE), step) for step in (4, 8))
    gone.unlink()
    untouched = kept.stat().st_mtime_ns
    groups = plan.plan([run, bad], sweep.execution, machine=here("cpu"), probe=PROBE)
    assert run.run_id not in measurement.measured(PROBE, groups, tmp_path, {run.run_id, bad.run_id})
    run_sweep(sweep, tmp_path)
    after = points_of(tmp_path, run.run_id)
    assert kept.stat().st_mtime_ns == untouched
    top = [one[4]["quantities"]["preconditioned"]["values"][0] for one in (before, after)]
    assert top[0] == pytest.approx(top[1], rel=0.05)  # the new one starts cold: equal up to what so few steps resolve


@pytest.mark.slow
@pytest.mark.stack
def test_runs_of_a_tree_have_the_points_of_their_trunk(base: RunConfig, tmp_path: Path) -> None:
    sweep = replaced(make(base, steps=(10, 20)), {"optimizer.lr": [2.0**-6]})
    run_sweep(sweep, tmp_path)
    short, long = sorted(resolved(sweep), key=lambda run: run.config.schedule.steps or 0)
    ones, others = points_of(tmp_path, short.run_id), points_of(tmp_path, long.run_id)
    assert sorted(ones) == POINTS
    assert sorted(others) == [0, 1, 2, 4, 8, 16, 20]
    for step in (0, 1, 2, 4, 8):
        assert ones[step]["quantities"] == others[step]["quantities"]
        assert ones[step]["unit"] == others[step]["unit"]
    assert {step for stage in stages([short, long]) for step in measurement.due(PROBE, stage)} == {*ones, *others}


def test_states_that_are_kept_can_be_measured(
    base: RunConfig, probed: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = probed
    good = resolved(make(base))[0]
    settings = ["--set", "probe.sequences=4", "--set", "probe.steps=24", "--set", "probe.top=2"]
    assert main(["sharpness", str(root), *settings]) == 0
    table = capsys.readouterr().out
    assert good.run_id in table
    assert " div" in table
    config = dataclasses.replace(PROBE, steps=24, top=2)
    (point,) = points_of(root, good.run_id, config).values()
    assert point["step"] == 10
    found, along = (one["quantities"]["preconditioned"]["values"] for one in (point, points_of(root, good.run_id)[10]))
    assert len(found) == 2
    assert found[0] == pytest.approx(along[0], rel=1e-2)
    (unit,) = root.glob("units/*")
    assert main(["sharpness", str(unit / "checkpoints" / "final"), *settings, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [10, 10]


class Quitting:
    """A watcher that asks for a stop after the first segment."""

    def __init__(self, stop: worker.StopRequest) -> None:
        self.stop = stop

    def started(self, unit: plan.Unit, step: int) -> None: ...
    def advanced(self, unit: plan.Unit, snapshot: train.Snapshot) -> None:
        self.stop.asked = bool(unit.stages) and snapshot.step > 0

    def measured(self, unit: plan.Unit, seconds: float) -> None: ...
    def finished(self, unit: plan.Unit, results: Any) -> None: ...
    def failed(self, unit: plan.Unit, error: Exception) -> None: ...


def test_a_run_that_was_interrupted_is_measured_where_it_is_and_then_in_full(
    base: RunConfig, probed: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted without a probe: its resume point can be measured, and a probe begins anew and finds all points."""
    plain = make(base, None)
    runs, stop = resolved(plain), worker.StopRequest()
    units = plan.pending(plan.plan(runs, plain.execution, machine=here("cpu")), ())
    launch._describe(plain, runs, tmp_path, ())
    with pytest.raises(worker.Interrupted):
        worker.work(units, tmp_path, Quitting(stop), stop)
    assert main(["sharpness", str(tmp_path), "--set", "probe.sequences=4", "--set", "probe.steps=20", "--json"]) == 0
    assert {row["step"] for row in json.loads(capsys.readouterr().out)} == {3}
    run_sweep(make(base), tmp_path)
    for run in runs:
        points, straight = points_of(tmp_path, run.run_id), points_of(probed[0], run.run_id)
        assert set(points) == {*POINTS, 3}  # 3 was measured where it was interrupted, and is none of the cadence
        assert [points[step]["loss"] for step in POINTS] == [straight[step]["loss"] for step in POINTS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sharpness", "ROOT/runs"], "is neither the folder of a sweep nor a state in it"),
        (["sharpness", "ROOT/none"], "is not a folder"),
        (["sharpness", "ROOT", "--set", "optimizer.lr=1"], r"only probe.* settings apply"),
        (["sharpness", "ROOT", "--set", "probe.stpes=3"], "did you mean steps"),
        (["sharpness", "ROOT", "--set", "probe.steps=3,4"], "takes one value here"),
        (["plan", "quickstart", "--set", "probe.steps=3"], "has no probe: add --probe sharpness"),
        (["plan", "quickstart", "--probe", "sharpness", "--set", "probe.steps=3,4"], "takes one value, not 2"),
        (
            ["plan", "quickstart", "--probe", "sharpness", "--set", "optimizer.kind=muon"],
            "which optimizer.kind=muon has not",
        ),
    ],
)
def test_wrong_input_is_one_line(
    probed: tuple[Path, str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([word.replace("ROOT", str(probed[0])) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_store_without_states_says_how_to_get_them(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = replaced(make(base, None), {"exec.keep": ["none"]})
    run_sweep(sweep, tmp_path)
    assert main(["sharpness", str(tmp_path)]) == 2
    assert "keeps no trained state: train with --keep final" in capsys.readouterr().err


def test_damaged_units_are_one_line(probed: tuple[Path, str], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(probed[0], root)
    (unit,) = root.glob("units/*")
    damages: list[tuple[Callable[[Path], Any], str]] = [
        (lambda path: path.write_text("{}"), "is damaged"),
        (lambda path: path.write_text("{"), "is not readable JSON"),
        (lambda path: path.unlink(), "is not there: run its sweep again"),
    ]
    for damage, message in damages:
        damage(unit / "unit.json")
        with pytest.raises(InputError, match=message):
            saved.newest(root, unit.name)


def test_a_plan_knows_what_a_probe_costs(base: RunConfig) -> None:
    plain, with_probe = estimate.estimate(make(base, None)), estimate.estimate(make(base))
    assert plain["probe_flops"] == 0
    assert with_probe["flops"] == plain["flops"]
    assert with_probe["seconds"] > plain["seconds"]
    assert with_probe["memory_bytes"] > plain["memory_bytes"]
    # 6 points of 2 runs: 1 + 20 x 2.7 gradients of 4 sequences, then 1 + 10 x 2.7; a run makes 10 updates of 4.
    run = resolved(make(base))[0].config
    assert [probe_cost.gradients(PROBE, 4, steps) for steps in (20, 10)] == pytest.approx([55, 28])
    assert with_probe["probe_flops"] == pytest.approx(2 * (55 + 5 * 28) * count.step_flops(run))


def test_the_memory_of_a_probe_follows_lanes_and_basis(base: RunConfig) -> None:
    run = resolved(make(base))[0].config

    def memory(probe: SharpnessConfig, **settings: Any) -> int:
        how = execution(ExecConfig(lanes=4, **settings), run.model, platform="cpu", runs=4)
        return probe_cost.memory(probe, run, how)

    one, long = PROBE, dataclasses.replace(PROBE, steps=28)
    vectors = np.array([memory(long) - memory(one), memory(long, strategy="vmap") - memory(one, strategy="vmap")])
    parameters = count.parameters(run.model, run.data.length).total
    np.testing.assert_allclose(vectors / (8 * 4 * parameters), [1, 4])
    both = dataclasses.replace(PROBE, quantities="preconditioned+hessian")
    assert memory(both) - memory(one) == 4 * 4 * parameters
