"""The final run: one run over all devices, in a store like a sweep's.

It is a sweep of one point and one lane, so that it trains by the same code and every command that reads a store reads
it.  What is its own: a mesh that cuts the state over all devices, a journal, and resume points that go over to another
mesh, platform or number of parts of the batch.
"""

import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import checkpoint, disk, group, store
from lab.check import InputError, require
from lab.config import ExecConfig, RunConfig
from lab.config.run import superseded
from lab.device import device_count
from lab.identity import from_dict
from lab.override import apply
from sweeps import begun, catalog, law_rate, plan, run_list, saved
from sweeps.journal import Journal, JournalConfig
from sweeps.launch import launch
from sweeps.law_rate import Rate
from sweeps.sweep import Sweep, resolved
from sweeps.this_machine import this_machine

NAME = "train"


def read(path: Path | None) -> Sweep:
    """The run of a file, as a sweep of one point: a configuration as JSON, a list of runs, or a sweep; None: defaults.

    Raises:
        InputError: no file, not a configuration, or several runs.
    """
    if path is None:
        return _sweep(RunConfig(), ExecConfig())
    if path.suffix == ".json":
        require(path.is_file(), f"--config {path} is not a file: give a configuration as JSON, or a .py file")
        data = store.read_json(path, "give a configuration as runs/RUN_ID/config.json of a store has it")
        if data.get("format") != run_list.FORMAT:
            try:
                return _sweep(from_dict(RunConfig, data), ExecConfig())
            except TypeError as error:
                raise InputError(f"--config {path} is no configuration of a run: {error}") from error
    require(path.suffix in (".json", ".py"), f"--config {path}: give a .json or .py file")
    found = catalog.load(str(path))
    require(len(found.points) == 1, f"{path} has {len(found.points)} runs, and this trains one: choose one with --set")
    return _sweep(next(iter(found)), found.execution)


def changed(sweep: Sweep, settings: Mapping[str, Any]) -> Sweep:
    """The run with values replaced as `--set NAME=VALUE` asks for, one lane, and every device on it.

    Devices that the other axes leave go to `fsdp`, unless that is set.  Another text has another fingerprint.

    Raises:
        InputError: an unknown name or value, or an axis of lanes.
    """
    values = dict(settings)
    if {"data.corpus", "data.tokenizer"} & set(values):
        values.setdefault("data.fingerprint", None)
    execution = {name.removeprefix("exec."): value for name, value in values.items() if name.startswith("exec.")}
    config = apply(next(iter(sweep)), {name: v for name, v in values.items() if not name.startswith("exec.")})
    how = apply(sweep.execution, execution)
    mesh = how.mesh
    require(how.lanes in (None, 1), f"exec.lanes={how.lanes}: a final run is one lane; leave it out")
    require(mesh.lane in (None, 1), f"exec.mesh.lane={mesh.lane}: a final run is one lane; leave it out")
    mesh = dataclasses.replace(mesh, lane=1)
    if "mesh.fsdp" not in execution and mesh.fsdp == 1:
        mesh = dataclasses.replace(mesh, fsdp=max(1, device_count() // mesh.within))
    return _sweep(config, dataclasses.replace(how, lanes=1, mesh=mesh))


def with_law(sweep: Sweep, root: Path, law: str, *, batch_by_hand: bool) -> tuple[Sweep, Rate]:
    """The run at the rate that a law predicts, or predicted when it was started.

    Raises:
        InputError: as `law_rate.ask` and `law_rate.recorded`.
    """
    config = next(iter(sweep))
    rate = law_rate.recorded(root, law, config, batch_by_hand=batch_by_hand)
    if rate is None:
        rows = sweep.execution.mesh.rows * (sweep.execution.accumulate or 1)
        rate = law_rate.ask(law, config, batch_by_hand=batch_by_hand, rows=rows)
    return _sweep(rate.config, sweep.execution), rate


def train(
    sweep: Sweep,
    root: Path,
    *,
    again: str,
    smoke: bool,
    console: Console,
    journal: JournalConfig,
    rate: Rate | None = None,
) -> int:
    """Train a run into a store, or go on with it.  Gives the exit status of `launch`.

    Raises:
        InputError: the run does not fit itself, its corpus, the devices, or the store.
    """
    sweep = _settled(sweep, root)
    (run,) = resolved(sweep, smoke=smoke)
    machine = this_machine()
    disk.require_folder(root, "--out")
    if (root / "sweep.json").is_file():
        held = set(store.read_sweep(root)["runs"])
        require(held == {run.run_id}, f"{root} holds {_told(held, root)}, not {run.run_id}: use another --out")
    ((unit,),) = (group.units for group in plan.plan([run], sweep.execution, machine=machine))
    parts = unit.execution.accumulate
    cut = f", the batch in {parts} parts" if parts > 1 else ""
    console.print(f"mesh: {unit.execution.mesh.label}{cut}", highlight=False)
    if rate is not None:
        store.write_atomic(root / law_rate.FILE, store.pretty(rate.record))
    with store.locked(root):
        group.agreed(functools.partial(_adopt, root, unit))
    follow = functools.partial(Journal, config=journal, machine=machine, console=console)
    return launch(sweep, root, again=again, smoke=smoke, console=console, follow=follow)


def _sweep(config: RunConfig, execution: ExecConfig) -> Sweep:
    return Sweep(
        name=NAME,
        question="one run",
        cost="its own",
        expected="a validation loss",
        base=config,
        points=[{"optimizer.lr": config.optimizer.lr}],
        execution=execution,
    )


def _settled(sweep: Sweep, root: Path) -> Sweep:
    """The sweep with its base resolved, so that a configuration and its resolved form are the same base."""
    config = next(iter(sweep))
    text = begun.load(config.data, begun.corpora(root))
    return _sweep(config.resolve(vocab=text.vocab, fingerprint=text.fingerprint), sweep.execution)


def _adopt(root: Path, unit: plan.Unit) -> None:
    """Give a unit the newest resume point of its run, wherever that was made.

    A unit's id tells how its lanes are computed and how its batch is cut; the state of one lane depends on neither.
    """
    mine = store.unit_folder(root, unit.unit_id) / "checkpoints"
    found = []
    for unit_id in store.unit_ids(root, "checkpoints"):
        path = store.unit_folder(root, unit_id) / "checkpoints"
        if not checkpoint.names(path):
            continue
        other = saved.read_unit(root, unit_id)
        same = other.execution.lanes == 1 and [run.run_id for run in other.runs] == [run.run_id for run in unit.runs]
        steps = [name for name in checkpoint.names(path) if name != saved.FINAL]
        if same and steps:
            found.append((steps[-1], path == mine, path))
    if not found or max(found)[2] == mine:
        return
    theirs = max(found)[2]
    saved.require_same_environment(root, [dataclasses.replace(unit, unit_id=theirs.parent.name)])
    checkpoint.clear(mine)
    shutil.rmtree(mine, ignore_errors=True)  # what others put there
    mine.parent.mkdir(parents=True, exist_ok=True)
    theirs.rename(mine)


def _told(runs: set[str], root: Path) -> str:
    """The runs of a store in words; numbers of 0.1.0 in bfloat16 are no beginning of a run of today."""
    if len(runs) > 1:
        return f"{len(runs)} runs"
    (run_id,) = runs
    old = superseded(store.read_config(root, run_id))
    return f"the run {run_id}{', trained in bfloat16 by version 0.1.0' if old else ''}"
