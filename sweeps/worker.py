"""The worker: executes units one after another, checkpoints and forks them, and writes their records."""

import dataclasses
import datetime
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from lab import checkpoint, corpus, schedule, store, train
from lab.check import InputError, require
from lab.config import RunConfig
from lab.record import Lineage, Provenance, Result, record
from sweeps.plan import Unit

FINAL = "final"


class Watcher(Protocol):
    """What a worker tells about its work."""

    def started(self, unit: Unit, step: int) -> None: ...
    def advanced(self, unit: Unit, snapshot: train.Snapshot) -> None: ...
    def finished(self, unit: Unit, results: Sequence[Result]) -> None: ...
    def failed(self, unit: Unit, error: Exception) -> None: ...


class Interrupted(Exception):
    """Work was asked to stop and has saved what it had."""


@dataclass
class StopRequest:
    """Turns SIGINT and SIGTERM into a flag that is looked at between segments; a second SIGINT ends at once."""

    asked: bool = False
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


def work(units: Sequence[Unit], root: Path, watcher: Watcher, stop: StopRequest) -> int:
    """Execute units in order; a unit that fails is reported and does not stop the others.  Gives the failures.

    Raises:
        Interrupted: a stop was asked for; the current unit is checkpointed.
    """
    failed: list[Unit] = []
    for number, unit in enumerate(units):
        if stop.asked:
            raise Interrupted
        lost = {source.unit_id for source in unit.sources} & {other.unit_id for other in failed}
        try:
            if lost:
                raise InputError(f"it goes on from unit {' and '.join(sorted(lost))}, which failed")
            _run(unit, root, watcher, stop)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            failed.append(unit)
            watcher.failed(unit, error)
        else:
            waiting = {source.unit_id for other in (*units[number + 1 :], *failed) for source in other.sources}
            for source in {source.unit_id for source in unit.sources} - waiting:
                checkpoint.clear(store.fork_folder(root, source))
    return len(failed)


def forked(root: Path, unit_id: str) -> bool:
    """Whether the state that other units start from is in the store."""
    return bool(checkpoint.names(store.fork_folder(root, unit_id)))


def _run(unit: Unit, root: Path, watcher: Watcher, stop: StopRequest) -> None:
    configs = [stage.runs[0].config for stage in unit.stages]
    folder = store.unit_folder(root, unit.unit_id)
    attempt = _claim(folder)
    begun, clock = _now(), time.perf_counter()
    job = train.prepare(configs, unit.execution, corpus.load(configs[0].data), stop=unit.end)
    snapshot = _resume(job, folder / "checkpoints") or _beginning(job, unit, root)
    watcher.started(unit, snapshot.step)
    for newest in _checkpointed(job, snapshot, folder / "checkpoints", unit, stop):
        watcher.advanced(unit, newest)
        snapshot = newest
    snapshot = snapshot.settled()
    if unit.forks:
        _save(store.fork_folder(root, unit.unit_id), job, snapshot)
    results = _record(unit, job, snapshot, root, _provenance(unit, attempt, begun, clock)) if unit.runs else []
    if unit.settings.keep == "none" or not unit.runs:
        checkpoint.clear(folder / "checkpoints")
    watcher.finished(unit, results)


def _record(unit: Unit, job: train.Job, snapshot: train.Snapshot, root: Path, provenance: Any) -> list[Result]:
    """Evaluate the runs that end with a unit, and write their records."""
    if unit.settings.keep == "final":
        checkpoint.save(store.unit_folder(root, unit.unit_id) / "checkpoints", FINAL, snapshot.state)
    by_lane = train.finish(job, snapshot)
    results = []
    for lane, (stage, result) in enumerate(zip(unit.stages, by_lane, strict=True)):
        lineage = Lineage(stage.trunk_id, stage.parent, stage.begin)
        for run in stage.ending:
            results.append(result)
            curve = store.run_folder(root, run.run_id) / "curve.csv"
            store.write_atomic(curve, _curve(run.config, snapshot, lane))
            store.write_record(root, record(run.config, result, provenance(lane), lineage))
    return results


def _checkpointed(
    job: train.Job, begin: train.Snapshot, folder: Path, unit: Unit, stop: StopRequest
) -> Iterator[train.Snapshot]:
    """Train, saving a resume point at the configured pace and when a stop is asked for."""
    saved = time.perf_counter()
    for snapshot in train.train(job, begin):
        yield snapshot
        due = time.perf_counter() - saved > unit.settings.checkpoint_seconds
        if snapshot.step < job.steps and (stop.asked or due):
            _save(folder, job, snapshot.settled())
            saved = time.perf_counter()
        if stop.asked and snapshot.step < job.steps:
            raise Interrupted


def _save(folder: Path, job: train.Job, snapshot: train.Snapshot) -> None:
    checkpoint.save(folder, _name(snapshot), _tree(job, snapshot))


def _name(snapshot: train.Snapshot) -> str:
    return f"{snapshot.step:09d}"


def _tree(job: train.Job, snapshot: train.Snapshot) -> dict[str, Any]:
    """What a settled snapshot consists of on disk; metrics are [updates, K], zero for padding."""
    missing = job.program.shape.lanes - len(job.configs)
    loss, grad_norm = (np.pad(values, ((0, 0), (0, missing))) for values in (snapshot.loss, snapshot.grad_norm))
    return {"state": snapshot.state, "loss": loss, "grad_norm": grad_norm}


def _restored(job: train.Job, folder: Path, name: str, remedy: str) -> train.Snapshot:
    """A saved snapshot with all its K lanes, of this job or of another of the same program."""
    import jax

    metrics = np.zeros((int(name), job.program.shape.lanes))
    with job.program.precision():
        like = {"state": jax.eval_shape(job.program.init, job.lane), "loss": metrics, "grad_norm": metrics}
        try:
            found = checkpoint.restore(folder, name, like)
        except Exception as error:
            raise InputError(f"{folder / name} cannot be restored ({type(error).__name__}): {remedy}") from error
    return train.Snapshot(int(name), found["state"], np.asarray(found["loss"]), np.asarray(found["grad_norm"]))


def _resume(job: train.Job, folder: Path) -> train.Snapshot | None:
    """The newest resume point of a unit, if it has one."""
    steps = [name for name in checkpoint.names(folder) if name != FINAL]
    if not steps:
        return None
    found = _restored(job, folder, steps[-1], "delete it to train these runs anew")
    runs = len(job.configs)
    return dataclasses.replace(found, loss=found.loss[:, :runs], grad_norm=found.grad_norm[:, :runs])


def _beginning(job: train.Job, unit: Unit, root: Path) -> train.Snapshot:
    """A unit before its first update: fresh, or where its lanes leave the forks that they start from."""
    if not unit.sources:
        return train.start(job)
    forks = {}
    for unit_id in {source.unit_id for source in unit.sources}:
        folder = store.fork_folder(root, unit_id)
        require(forked(root, unit_id), f"{folder} holds no state: run the sweep again to train it anew")
        forks[unit_id] = _restored(job, folder, checkpoint.names(folder)[-1], "delete it and run the sweep again")
    return train.branch(job, [(forks[source.unit_id], source.lane) for source in unit.sources])


def _claim(folder: Path) -> int:
    """Write the next claim of a unit and give its number; several workers can tell who came first."""
    attempt = 1 + len(list((folder / "claims").glob("*.json")))
    claim = {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "started": _now()}
    while not store.create_exclusive(folder / "claims" / f"{attempt:04d}.json", store.pretty(claim)):
        attempt += 1
        claim["attempt"] = attempt
    return attempt


def _provenance(unit: Unit, attempt: int, begun: str, clock: float) -> Any:
    """The provenance of each lane of a unit, as a function of the lane; `clock` is when the work began."""
    import jax

    device = jax.devices()[0]

    def of(lane: int) -> Provenance:
        return Provenance(
            unit=unit.unit_id,
            lane=lane,
            attempt=attempt,
            lanes=unit.execution.lanes,
            strategy=unit.execution.strategy,
            accumulate=unit.execution.accumulate,
            platform=device.platform,
            device=device.device_kind,
            devices=1,
            settings=unit.settings,
            started=begun,
            finished=_now(),
            seconds=round(time.perf_counter() - clock, 3),
        )

    return of


def _curve(config: RunConfig, snapshot: train.Snapshot, lane: int) -> bytes:
    rates = schedule.rates(config)
    rows = zip(rates, snapshot.loss[:, lane], snapshot.grad_norm[:, lane], strict=True)
    lines = [f"{step},{lr:.8g},{loss:.6g},{norm:.6g}" for step, (lr, loss, norm) in enumerate(rows)]
    return ("\n".join(["step,lr,loss,grad_norm", *lines]) + "\n").encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
