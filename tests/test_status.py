"""What is being trained now, what all runs share, and runs that show no optimum; on stores without a trained run."""

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
import lab
from analysis import results
from analysis.drift import read_cells
from analysis.noise import Noise
from lab import store
from lab.config import ExecConfig, RunConfig
from sweeps import launch, plan, saved
from sweeps.cli import main
from sweeps.plan import Unit
from sweeps.sweep import Sweep, axis, product, replaced, resolved
from sweeps.this_machine import here

pytestmark = pytest.mark.host

POINTS = product(axis("model.width", 16, 32), axis("optimizer.lr", 2.0**-8, 2.0**-7, 2.0**-6))


def tiny(base: RunConfig) -> Sweep:
    return Sweep(name="tiny", question="?", cost="none", expected="none", base=base, points=POINTS)


def described(sweep: Sweep, root: Path) -> list[Unit]:
    """A planned store without a record, and its units."""
    runs = resolved(sweep)
    root.mkdir(exist_ok=True)
    launch._describe(sweep, runs, root, {})
    groups = plan.plan(runs, ExecConfig(lanes=2), machine=here("cpu"))
    return [unit for group in groups for unit in group.units]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A store that a launcher holds."""
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield tmp_path


def claimed(root: Path, unit: Unit, attempt: int) -> None:
    saved.write_unit(root, unit)
    path = store.unit_folder(root, unit.unit_id) / "claims" / f"{attempt:04d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


def counts(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    assert main(["status", str(root), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def test_runs_in_hand_are_told_from_pending_ones(
    base: RunConfig, held: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.1.0 said "6 pending" while it trained."""
    first, second, *_ = described(tiny(base), held)
    assert counts(held, capsys) == {"pending": 6}
    claimed(held, first, 1)
    assert counts(held, capsys) == {"training": 2, "pending": 4}
    claimed(held, second, 1)  # a worker has one unit at a time: its runs are what is trained
    assert counts(held, capsys) == {"training": 1, "pending": 5}
    assert main(["status", str(held)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "tiny: 5 pending, 1 training"
    assert "  width 16: 2 pending, 1 training" in told and "  width 32: 3 pending" in told


def test_without_a_launcher_nothing_is_trained(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit, *_ = described(tiny(base), tmp_path)
    claimed(tmp_path, unit, 1)
    assert counts(tmp_path, capsys) == {"pending": 6}  # no lock was ever made
    (tmp_path / ".lock").write_text("1")
    assert counts(tmp_path, capsys) == {"pending": 6}  # it was, and is free


def test_what_one_setting_makes_of_all_runs_names_no_cell(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = replaced(tiny(base), {"evaluation.sequences": [8], "model.width": [16]})
    assert sweep.fixed == ("evaluation.sequences",)
    described(sweep, tmp_path)
    assert store.read_sweep(tmp_path)["axes"] == ["optimizer.lr", "model.width"]
    assert [values for values, _ in results.load(tmp_path).cells()] == [{"model.width": 16}]
    assert set(results.load(tmp_path).frame["evaluation.sequences"]) == {8}
    assert main(["status", str(tmp_path)]) == 0
    assert "  width 16: 3 pending" in capsys.readouterr().out


def test_several_values_are_an_axis_and_so_is_a_value_that_kept_runs_lack(base: RunConfig, tmp_path: Path) -> None:
    assert replaced(tiny(base), {"evaluation.sequences": [4, 8]}).fixed == ()
    assert replaced(replaced(tiny(base), {"dtype": ["float64"]}), {"dtype": ["float32", "float64"]}).fixed == ()
    described(tiny(base), tmp_path)
    done: dict[str, Any] = dict.fromkeys(store.read_sweep(tmp_path)["runs"], 2.0)
    other = replaced(tiny(base), {"evaluation.sequences": [8]})
    launch._describe(other, resolved(other), tmp_path, done)
    assert "evaluation.sequences" in store.read_sweep(tmp_path)["axes"]


def frame(steps: int) -> pd.DataFrame:
    """Runs on a parabola around 2^-6, of so many updates."""
    rows = [
        {"status": "done", "loss": 2 + 0.01 * (x + 6) ** 2, "optimizer.lr": 2.0**x, "model.width": width}
        for width in (16, 32)
        for x in range(-9, -2)
    ]
    more = {"parametrization.name": "mup", "schedule.steps": steps, "seed_init": 0, "seed_data": 0, "run_id": "a"}
    return pd.DataFrame([row | more for row in rows])


def test_a_smoke_has_no_optimum() -> None:
    """0.1.0 called its optima interior."""
    noise = Noise(0.001, "given")
    sweep = {"name": "t", "axes": ["model.width", "optimizer.lr"], "optimum_axes": ["optimizer.lr"], "runs": {}}
    for steps, quality in ((2, "too-few"), (200, "interior")):
        found = results.Results(sweep, frame(steps), {}, {})
        cells, _ = read_cells(found, noise)
        assert {cell.optimum.quality for cell in cells} == {quality}
        assert all((cell.optimum.lr is None) == (steps == 2) for cell in cells)
        assert ("a smoke: no run has more than 2 updates, which show no optimum" in found.notes) == (steps == 2)


def test_names_of_the_packages_are_shown() -> None:
    """0.1.0's dir() showed nothing of what is exported."""
    for package in (lab, analysis):
        assert set(package.__all__) <= set(dir(package))
