"""The worker: executes units one after another, checkpoints them, and writes their records."""

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
from lab.check import InputError
from lab.record import Provenance, Result, record
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
    failures = 0
    for unit in units:
        if stop.asked:
            raise Interrupted
        try:
            _run(unit, root, watcher, stop)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            failures += 1
            watcher.failed(unit, error)
    return failures


def _run(unit: Unit, root: Path, watcher: Watcher, stop: StopRequest) -> None:
    configs = [run.config for run in unit.runs]
    folder = store.unit_folder(root, unit.unit_id)
    attempt = _claim(folder)
    begun, clock = _now(), time.perf_counter()
    job = train.prepare(configs, unit.execution, corpus.load(configs[0].data))
    snapshot = _resume(job, folder / "checkpoints")
    watcher.started(unit, snapshot.step)
    for newest in _checkpointed(job, snapshot, folder / "checkpoints", unit, stop):
        watcher.advanced(unit, newest)
        snapshot = newest
    results = train.finish(job, snapshot)
    if unit.settings.keep == "final":
        checkpoint.save(folder / "checkpoints", FINAL, snapshot.state)
    provenance = _provenance(unit, attempt, begun, time.perf_counter() - clock)
    snapshot = snapshot.settled()
    for lane, (run, result) in enumerate(zip(unit.runs, results, strict=True)):
        curve = store.run_folder(root, run.run_id) / "curve.csv"
        store.write_atomic(curve, _curve(job, snapshot, lane))
        store.write_record(root, record(run.config, result, provenance(lane)))
    if unit.settings.keep == "none":
        checkpoint.clear(folder / "checkpoints")
    watcher.finished(unit, results)


def _checkpointed(
    job: train.Job, begin: train.Snapshot, folder: Path, unit: Unit, stop: StopRequest
) -> Iterator[train.Snapshot]:
    """Train, saving a resume point at the configured pace and when a stop is asked for."""
    saved = time.perf_counter()
    for snapshot in train.train(job, begin):
        yield snapshot
        due = time.perf_counter() - saved > unit.settings.checkpoint_seconds
        if snapshot.step < job.steps and (stop.asked or due):
            _save(folder, snapshot.settled())
            saved = time.perf_counter()
        if stop.asked and snapshot.step < job.steps:
            raise Interrupted


def _save(folder: Path, snapshot: train.Snapshot) -> None:
    tree = {"state": snapshot.state, "loss": snapshot.loss, "grad_norm": snapshot.grad_norm}
    checkpoint.save(folder, f"{snapshot.step:09d}", tree)


def _resume(job: train.Job, folder: Path) -> train.Snapshot:
    """The newest resume point of a unit, or its beginning."""
    fresh = train.start(job)
    steps = [name for name in checkpoint.names(folder) if name != FINAL]
    if not steps:
        return fresh
    step = int(steps[-1])
    metrics = np.zeros((step, len(job.configs)))
    with job.program.precision():
        like = {"state": fresh.state, "loss": metrics, "grad_norm": metrics}
        try:
            found = checkpoint.restore(folder, steps[-1], like)
        except Exception as error:
            raise InputError(
                f"{folder / steps[-1]} cannot be restored ({type(error).__name__}): delete it to train these runs anew"
            ) from error
    return train.Snapshot(step, found["state"], np.asarray(found["loss"]), np.asarray(found["grad_norm"]))


def _claim(folder: Path) -> int:
    """Write the next claim of a unit and give its number; several workers can tell who came first."""
    attempt = 1 + len(list((folder / "claims").glob("*.json")))
    claim = {"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "started": _now()}
    while not store.create_exclusive(folder / "claims" / f"{attempt:04d}.json", store.pretty(claim)):
        attempt += 1
        claim["attempt"] = attempt
    return attempt


def _provenance(unit: Unit, attempt: int, begun: str, seconds: float) -> Any:
    """The provenance of each lane of a unit, as a function of the lane."""
    import jax

    device, finished = jax.devices()[0], _now()

    def of(lane: int) -> Provenance:
        return Provenance(
            unit=unit.unit_id,
            lane=lane,
            attempt=attempt,
            lanes=unit.execution.lanes,
            strategy=unit.execution.strategy,
            platform=device.platform,
            device=device.device_kind,
            devices=1,
            settings=unit.settings,
            started=begun,
            finished=finished,
            seconds=round(seconds, 3),
        )

    return of


def _curve(job: train.Job, snapshot: train.Snapshot, lane: int) -> bytes:
    rates = schedule.rates(job.configs[lane])
    rows = zip(rates, snapshot.loss[:, lane], snapshot.grad_norm[:, lane], strict=True)
    lines = [f"{step},{lr:.8g},{loss:.6g},{norm:.6g}" for step, (lr, loss, norm) in enumerate(rows)]
    return ("\n".join(["step,lr,loss,grad_norm", *lines]) + "\n").encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
