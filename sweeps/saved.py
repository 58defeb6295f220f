"""What a unit keeps on disk beside its records: what it is, resume points, its final state, and forks."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab import checkpoint, corpus, device, environment, store, train
from lab.check import InputError, require
from lab.config import ExecConfig, RunConfig
from lab.config.mesh import ONE
from lab.device import Execution, device_count
from lab.identity import from_dict
from sweeps.plan import Unit
from sweeps.stage import Stage
from sweeps.sweep import Run

FINAL = "final"
_UNIT = "unit.json"
_AGAIN = "run its sweep again with the same --out"


@dataclass(frozen=True)
class Saved:
    """A unit and the newest state that it has on disk, after `step` updates."""

    unit: Unit
    job: train.Job
    snapshot: train.Snapshot


def write_unit(root: Path, unit: Unit) -> None:
    """Say what a unit's lanes are, so that its states can be read without its sweep."""
    lanes = [
        {
            "runs": [run.run_id for run in stage.runs],
            "begin": stage.begin,
            "end": stage.end,
            "stage_id": stage.stage_id,
            "trunk_id": stage.trunk_id,
            "parent": stage.parent,
        }
        for stage in unit.stages
    ]
    text = {
        "lanes": lanes,
        "execution": dataclasses.asdict(unit.execution),
        "environment": environment.recorded(device.platform()),
    }
    store.write_atomic(store.unit_folder(root, unit.unit_id) / _UNIT, store.pretty(text))


def require_same_environment(root: Path, units: Sequence[Unit]) -> None:
    """Require that what units go on from was trained with what the environment says now, as far as it changes numbers.

    Raises:
        InputError: naming what differs, and the way back.
    """
    now = environment.recorded(device.platform())
    for unit_id in dict.fromkeys(name for unit in units for name in _begun_by(unit)):
        folder = store.unit_folder(root, unit_id)
        begun = checkpoint.names(folder / "checkpoints") or checkpoint.names(folder / "fork")
        then = _described(folder).get("environment") if begun else None  # units of 0.1.0 do not say
        if not isinstance(then, dict):
            continue
        for name in sorted(set(then) | set(now)):
            was, has = (f"{name}={found[name]}" if name in found else f"no {name}" for found in (then, now))
            require(
                was == has,
                f"unit {unit_id} was begun with {was} and would go on with {has}, which changes its numbers: set it as "
                f"it was, or delete {folder} to train these runs anew",
            )


def _begun_by(unit: Unit) -> list[str]:
    return [unit.unit_id, *(source.unit_id for source in unit.sources)]


def _described(folder: Path) -> dict[str, Any]:
    """What a unit says of itself; nothing where that cannot be read."""
    try:
        return store.read_json(folder / _UNIT, _AGAIN)
    except InputError:
        return {}


def read_unit(root: Path, unit_id: str) -> Unit:
    """A unit as it was written, with the configurations of its runs.

    Raises:
        InputError: it is not described, or damaged.
    """
    path = store.unit_folder(root, unit_id) / _UNIT
    require(path.is_file(), f"{path} is not there: {_AGAIN} and another one for units trained by an older version")
    found = store.read_json(path, _AGAIN)
    try:
        stages = tuple(
            Stage(
                stage_id=lane["stage_id"],
                trunk_id=lane["trunk_id"],
                begin=lane["begin"],
                end=lane["end"],
                runs=tuple(_run(root, run_id) for run_id in lane["runs"]),
                parent=lane["parent"],
            )
            for lane in found["lanes"]
        )
        execution = _here(from_dict(Execution, _with_remat(found["execution"])))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): {_AGAIN}") from error
    return Unit(unit_id, stages, execution, ExecConfig())


def _with_remat(execution: dict[str, Any]) -> dict[str, Any]:
    """An execution as it is written now: remat was once yes or no."""
    forward = dict(execution["forward"])
    forward["remat"] = {False: "none", True: "full"}.get(forward["remat"], forward["remat"])
    return execution | {"forward": forward}


def _here(execution: Execution) -> Execution:
    """An execution on this machine: on one device where it has not as many as the unit was trained on."""
    if execution.mesh.devices <= device_count():
        return execution
    return dataclasses.replace(execution, mesh=ONE)


def begun_lanes(root: Path) -> int | None:
    """Lanes of the units that have a resume point, if all have the same number: a launch that goes on keeps it."""
    found = set()
    for unit_id in store.unit_ids(root, _UNIT):
        folder = store.unit_folder(root, unit_id)
        if set(checkpoint.names(folder / "checkpoints")) - {FINAL}:
            how = _described(folder).get("execution")
            lanes = how.get("lanes") if isinstance(how, dict) else None
            found |= {lanes} if type(lanes) is int and lanes > 0 else set()
    return found.pop() if len(found) == 1 else None


def newest(root: Path, unit_id: str) -> Saved | None:
    """A unit's final state, or its newest resume point; None where it keeps neither.

    Raises:
        InputError: what is there cannot be read.
    """
    folder = store.unit_folder(root, unit_id) / "checkpoints"
    names = checkpoint.names(folder)
    if not names:
        return None
    unit = read_unit(root, unit_id)
    job = prepared(unit)
    if FINAL in names:
        state = _tree_of(folder, FINAL, job, _abstract(job)["state"], _AGAIN)
        empty = np.zeros((0, len(job.configs)))
        return Saved(unit, job, train.Snapshot(unit.end, state, empty, empty))
    snapshot = resume(root, unit, job)
    assert snapshot is not None
    return Saved(unit, job, snapshot)


def prepared(unit: Unit) -> train.Job:
    """The job of a unit: its lanes up to its end."""
    configs = [stage.runs[0].config for stage in unit.stages]
    return train.prepare(configs, unit.execution, corpus.load(configs[0].data), stop=unit.end)


def save(root: Path, unit: Unit, job: train.Job, snapshot: train.Snapshot) -> None:
    """Write a settled snapshot as the unit's resume point."""
    checkpoint.save(_folder(root, unit), _name(snapshot), _tree(job, snapshot))


def save_fork(root: Path, unit: Unit, job: train.Job, snapshot: train.Snapshot) -> None:
    """Write a settled snapshot for the units that start from it."""
    checkpoint.save(store.fork_folder(root, unit.unit_id), _name(snapshot), _tree(job, snapshot))


def save_final(root: Path, unit: Unit, snapshot: train.Snapshot) -> None:
    checkpoint.save(_folder(root, unit), FINAL, snapshot.state)


def clear(root: Path, unit: Unit) -> None:
    """Delete a unit's resume points and final state."""
    checkpoint.clear(_folder(root, unit))


def forked(root: Path, unit_id: str) -> bool:
    """Whether the state that other units start from is in the store."""
    return bool(checkpoint.names(store.fork_folder(root, unit_id)))


def resume(root: Path, unit: Unit, job: train.Job) -> train.Snapshot | None:
    """The newest resume point of a unit, if it has one."""
    folder = _folder(root, unit)
    steps = [name for name in checkpoint.names(folder) if name != FINAL]
    if not steps:
        return None
    found = _restored(job, folder, steps[-1], "delete it to train these runs anew")
    runs = len(job.configs)
    return dataclasses.replace(found, loss=found.loss[:, :runs], grad_norm=found.grad_norm[:, :runs])


def beginning(root: Path, unit: Unit, job: train.Job) -> train.Snapshot:
    """A unit before its first update: fresh, or where its lanes leave the forks that they start from."""
    if not unit.sources:
        return train.start(job)
    forks = {}
    for unit_id in {source.unit_id for source in unit.sources}:
        folder = store.fork_folder(root, unit_id)
        require(forked(root, unit_id), f"{folder} holds no state: run the sweep again to train it anew")
        forks[unit_id] = _restored(job, folder, checkpoint.names(folder)[-1], "delete it and run the sweep again")
    return train.branch(job, [(forks[source.unit_id], source.lane) for source in unit.sources])


def _folder(root: Path, unit: Unit) -> Path:
    return store.unit_folder(root, unit.unit_id) / "checkpoints"


def _name(snapshot: train.Snapshot) -> str:
    return f"{snapshot.step:09d}"


def _tree(job: train.Job, snapshot: train.Snapshot) -> dict[str, Any]:
    """What a settled snapshot consists of on disk; metrics are [updates, K], zero for padding."""
    missing = job.program.shape.lanes - len(job.configs)
    loss, grad_norm = (np.pad(values, ((0, 0), (0, missing))) for values in (snapshot.loss, snapshot.grad_norm))
    return {"state": snapshot.state, "loss": loss, "grad_norm": grad_norm}


def _abstract(job: train.Job, steps: int = 0) -> dict[str, Any]:
    """The shapes of `_tree` after so many updates."""
    metrics = np.zeros((steps, job.program.shape.lanes))
    return {"state": job.program.abstract_state(), "loss": metrics, "grad_norm": metrics}


def _restored(job: train.Job, folder: Path, name: str, remedy: str) -> train.Snapshot:
    """A saved snapshot with all its K lanes, of this job or of another of the same program."""
    found = _tree_of(folder, name, job, _abstract(job, int(name)), remedy)
    return train.Snapshot(int(name), found["state"], np.asarray(found["loss"]), np.asarray(found["grad_norm"]))


def _tree_of(folder: Path, name: str, job: train.Job, like: Any, remedy: str) -> Any:
    with job.program.context():
        try:
            return checkpoint.restore(folder, name, like)
        except Exception as error:
            raise InputError(f"{folder / name} cannot be restored ({type(error).__name__}): {remedy}") from error


def _run(root: Path, run_id: str) -> Run:
    return Run(run_id, from_dict(RunConfig, store.read_config(root, run_id)), {})
