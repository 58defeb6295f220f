"""Runs whose numbers a mend has changed: other ids, and old records that are shown, marked, and never taken for new."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import resolve
from rich.console import Console

from analysis import report
from analysis.results import CURRENT, OLD, load
from analysis.runs import source
from lab import store
from lab.check import InputError
from lab.config import RunConfig
from lab.config.run import superseded
from lab.identity import canonical, digest, dump, from_dict, run_id
from lab.override import apply
from lab.record import Provenance, Result, record
from sweeps import plan
from sweeps.cli import main
from sweeps.final_run import train
from sweeps.journal import JournalConfig
from sweeps.launch import launch
from sweeps.run_list import base_digest
from sweeps.sweep import Run, Sweep, axis, product, resolved
from sweeps.this_machine import here

pytestmark = pytest.mark.stack

RATES = (2.0**-7, 2.0**-6)
OLD_LOSS = 9.0


def sweep_of(base: RunConfig, dtype: str = "bfloat16", **settings: Any) -> Sweep:
    config = apply(base, {"dtype": dtype, "schedule.steps": 3, "schedule.warmup_steps": 0, "schedule.decay_steps": 1})
    points = product(axis("optimizer.lr", *RATES), axis("seed", 0))
    return Sweep("test", "?", "none", "none", config, points, **settings)


def without(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "numerics"}


def old_run(run: Run) -> Run:
    """The run as 0.1.0 knew it."""
    config = from_dict(RunConfig, without(dataclasses.asdict(run.config)))
    return Run(digest(dump(without(canonical(run.config)))), config, run.point)


def old_store(root: Path, sweep: Sweep) -> list[Run]:
    """What 0.1.0 left of a finished sweep: configurations without the field, and their records."""
    runs = [old_run(run) for run in resolved(sweep)]
    for run in runs:
        result = Result("done", OLD_LOSS, 0.1, 100, OLD_LOSS, OLD_LOSS, None)
        where = Provenance("u", 0, 1, 1, "map", 1, "cpu", "cpu", 1, sweep.execution, "then", "then", 1.0)
        made = record(run.config, result, where)
        kept = made | {"run_id": run.run_id, "config": without(made["config"])}
        store.write_atomic(store.run_folder(root, run.run_id) / "config.json", store.pretty(kept["config"]))
        assert store.write_record(root, kept)
    described = {
        "schema": 1,
        "name": sweep.name,
        "question": sweep.question,
        "cost": sweep.cost,
        "expected": sweep.expected,
        "base": base_digest(sweep.base),
        "configuration": without(dataclasses.asdict(sweep.base)),
        "optimum_axes": ["optimizer.lr"],
        "axes": ["optimizer.lr", "seed"],
        "runs": {run.run_id: run.point for run in runs},
    }
    store.write_atomic(root / "sweep.json", store.pretty(described))
    return runs


def launched(sweep: Sweep, root: Path) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    assert launch(sweep, root, again="again", smoke=False, console=console) == 0
    return console.export_text()


def test_only_bfloat16_has_another_id(base: RunConfig) -> None:
    for dtype, numerics in (("float32", 1), ("float64", 1), ("bfloat16", 2)):
        run = resolve(base, dtype=dtype)
        assert run.numerics == numerics and not superseded(dataclasses.asdict(run))
        assert (run_id(run) == digest(dump(without(canonical(run))))) == (numerics == 1)
    # Resolving is idempotent, and an old configuration keeps its old id until it is resolved to be trained.
    run = resolve(base, dtype="bfloat16")
    assert run.resolve(vocab=None, fingerprint=str(run.data.fingerprint)) == run
    old = from_dict(RunConfig, without(dataclasses.asdict(run)))
    assert superseded(dataclasses.asdict(old)) and superseded(without(dataclasses.asdict(run)))
    assert run_id(old) == digest(dump(without(canonical(run)))) != run_id(run)
    assert old.resolve(vocab=None, fingerprint=str(run.data.fingerprint)) == run
    assert base_digest(apply(base, {"dtype": "bfloat16"})) == digest(
        dump(without(canonical(dataclasses.replace(base, dtype="bfloat16", optimizer=base.optimizer.resolve()))))
    )


def test_numerics_are_not_set_by_hand(base: RunConfig) -> None:
    with pytest.raises(InputError, match="numerics is not set by hand: it follows from dtype"):
        apply(base, {"numerics": 1})


def test_nothing_of_an_old_run_is_gone_on_with(base: RunConfig) -> None:
    """Units, and the stages that runs share, have other names: their resume points and forks are not theirs."""
    names = []
    for dtype in ("bfloat16", "float32"):
        sweep = sweep_of(base, dtype)
        sweep = dataclasses.replace(
            sweep, points=product(axis("optimizer.lr", *RATES), axis("schedule.steps", 4, 8, 12))
        )
        new = resolved(sweep)
        machine = here("cpu")
        both = [plan.plan(runs, sweep.execution, machine=machine) for runs in (new, [old_run(run) for run in new])]
        units = [{unit.unit_id for group in groups for unit in group.units} for groups in both]
        stages = [
            {stage.stage_id for group in groups for unit in group.units for stage in unit.stages} for groups in both
        ]
        names.append((units[0] & units[1], stages[0] & stages[1]))
    assert names[0] == (set(), set())
    assert all(names[1])  # the control: in float32 they are the same


def test_old_records_are_shown_and_marked_and_trained_anew(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, sweep = tmp_path / "store", sweep_of(base)
    old = {run.run_id for run in old_store(root, sweep)}
    before = {path: path.read_bytes() for path in (root / "runs").rglob("*.json")}
    shown = load(root)
    assert set(shown.frame["run_id"]) == old and set(shown.frame["numerics"]) == {OLD}
    assert [values["numerics"] for values, _ in shown.cells()] == [OLD]
    text = launched(sweep, root)
    assert "2 runs of 0.1.0 in bfloat16 stay as they are, and are trained anew" in text

    # Both are there, and no cell has runs of both; the files of the old ones are untouched.
    found = load(root)
    assert {path: path.read_bytes() for path in before} == before
    assert len(found.frame) == 4 and (found.frame["status"] == "done").all()
    cells = {values["numerics"]: rows for values, rows in found.cells()}
    assert set(cells) == {OLD, CURRENT} and set(cells[OLD]["run_id"]) == old
    assert (cells[OLD]["loss"] == OLD_LOSS).all() and (cells[CURRENT]["loss"] < OLD_LOSS).all()
    runs = source.load(root)
    assert runs.frame.groupby("variant")["loss"].nunique().loc[f"numerics {OLD}"] == 1
    assert any("trained in bfloat16 by version 0.1.0" in note for note in runs.notes)
    assert any("trained in bfloat16 by version 0.1.0" in note for note in report.read(root).notes())
    for words in (["status", str(root)], ["export", str(root), "--csv", str(tmp_path / "runs.csv")]):
        assert main(words) == 0
        assert "2 runs were trained in bfloat16 by version 0.1.0" in capsys.readouterr().out
    assert OLD in (tmp_path / "runs.csv").read_text()
    assert main(["status", str(root), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 1

    # The new ones are finished: nothing is left to do.
    assert "all 2 runs" in launched(sweep, root)


def test_records_of_float32_are_finished_runs(base: RunConfig, tmp_path: Path) -> None:
    """The control: nothing is marked, and nothing trained anew."""
    sweep = sweep_of(base, "float32")
    old = old_store(tmp_path, sweep)
    text = launched(sweep, tmp_path)
    assert "all 2 runs" in text and "0.1.0" not in text
    found = load(tmp_path)
    assert set(found.frame["run_id"]) == {run.run_id for run in old}
    assert found.notes == [] and "numerics" not in found.sweep["axes"]


def test_a_final_run_of_0_1_0_is_not_gone_on_with(base: RunConfig, tmp_path: Path) -> None:
    sweep = dataclasses.replace(sweep_of(base), points=[{"optimizer.lr": RATES[0]}])
    old_store(tmp_path, sweep)
    with pytest.raises(
        InputError, match=r"trained in bfloat16 by version 0\.1\.0, not [0-9a-f]{12}: use another --out"
    ):
        train(sweep, tmp_path, again="again", smoke=False, console=Console(), journal=JournalConfig())
