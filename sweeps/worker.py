"""The worker: executes units one after another, checkpoints and forks them, and writes their records."""

import contextlib
import datetime
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from lab import checkpoint, corpus, disk, group, schedule, store, train
from lab.check import InputError
from lab.config import RunConfig, SharpnessConfig
from lab.record import Lineage, Provenance, Result, record
from sweeps import saved
from sweeps.measurement import Meter
from sweeps.plan import Unit


class Watcher(Protocol):
    """What a worker tells about its work."""

    def started(self, unit: Unit, step: int) -> None: ...
    def advanced(self, unit: Unit, snapshot: train.Snapshot) -> None: ...
    def measured(self, unit: Unit, seconds: float) -> None: ...
    def finished(self, unit: Unit, results: Sequence[Result]) -> None: ...
    def failed(self, unit: Unit, error: Exception) -> None: ...


class Follower(Protocol):
    """What goes along with the training of a unit, as a log does; segments end at its `stops`.

    `pause` holds while something else than training happens, at a snapshot that it settles.
    """

    stops: Sequence[int]

    def advanced(self, snapshot: train.Snapshot) -> None: ...
    def pause(self, snapshot: train.Snapshot) -> contextlib.AbstractContextManager[train.Snapshot]: ...
    def finished(self, results: Sequence[Result]) -> None: ...


# A unit, its job, its store, and the snapshot that training goes on from.
Follow = Callable[[Unit, train.Job, Path, train.Snapshot], Follower]


class Interrupted(Exception):
    """Work was asked to stop and has saved what it had."""


@dataclass
class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP into a flag that is looked at between segments; a second SIGINT ends at once.

    SIGHUP stays ignored where it is (`nohup`).
    """

    asked: bool = False
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _leave_terminal()
        self.asked = True


def _leave_terminal() -> None:
    """Send what would go to a terminal that is closed nowhere: a line that fails must not cost the resume point."""
    for handle in (1, 2):
        try:
            os.write(handle, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, handle)
            os.close(nowhere)


def work(
    units: Sequence[Unit],
    root: Path,
    watcher: Watcher,
    stop: StopRequest,
    probe: SharpnessConfig | None = None,
    follow: Follow | None = None,
) -> int:
    """Execute units in order, measuring what `probe` asks for along them; `follow` gives what else goes along.

    A unit that fails is reported and does not stop the others.  Gives the failures.

    Raises:
        Interrupted: a stop was asked for; the current unit is checkpointed.
        DiskFull: there is no room for what a unit writes.
    """
    failed: list[Unit] = []
    for number, unit in enumerate(units):
        if group.anywhere(stop.asked):
            raise Interrupted
        lost = {source.unit_id for source in unit.sources} & {other.unit_id for other in failed}
        try:
            if lost:
                raise InputError(f"it goes on from unit {' and '.join(sorted(lost))}, which failed")
            _run(unit, root, watcher, stop, probe, follow)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            full = disk.full(error, root)  # the next unit would not fit either
            if full is not None:
                raise full from None
            if group.joined():  # the others wait for this process: the group is one unit of failure
                raise
            failed.append(unit)
            watcher.failed(unit, error)
        else:
            waiting = {source.unit_id for other in (*units[number + 1 :], *failed) for source in other.sources}
            for source in {source.unit_id for source in unit.sources} - waiting:
                checkpoint.clear(store.fork_folder(root, source))
    return len(failed)


def _run(
    unit: Unit, root: Path, watcher: Watcher, stop: StopRequest, probe: SharpnessConfig | None, follow: Follow | None
) -> None:
    attempt = _claim(store.unit_folder(root, unit.unit_id))
    saved.write_unit(root, unit)
    begun, clock = _now(), time.perf_counter()
    job = saved.prepared(unit)
    meter = Meter(probe, unit, job, root) if probe is not None else None
    snapshot = saved.resume(root, unit, job)
    if snapshot is None or (meter is not None and meter.missed(snapshot.step)):
        snapshot = saved.beginning(root, unit, job)
    follower = follow(unit, job, root, snapshot) if follow is not None else None
    watcher.started(unit, snapshot.step)
    for newest in _checkpointed(job, snapshot, root, unit, stop, meter, follower):
        watcher.advanced(unit, newest)
        snapshot = newest
    snapshot = snapshot.settled()
    if follower is not None:
        follower.advanced(snapshot)
    if meter is not None:
        watcher.measured(unit, meter.seconds)
    if unit.forks:
        saved.save_fork(root, unit, job, snapshot)
    provenance = _provenance(unit, attempt, begun, clock)
    results = _record(unit, job, snapshot, root, provenance, follower) if unit.runs else []
    if unit.settings.keep == "none" or not unit.runs:
        saved.clear(root, unit)
    watcher.finished(unit, results)


def _record(
    unit: Unit, job: train.Job, snapshot: train.Snapshot, root: Path, provenance: Any, follower: Follower | None
) -> list[Result]:
    """Evaluate the runs that end with a unit, and write their records."""
    if unit.settings.keep == "final":
        saved.save_final(root, unit, snapshot)
    by_lane = train.finish(job, snapshot)
    if follower is not None:
        follower.finished(by_lane)
    results = []
    for lane, (stage, result) in enumerate(zip(unit.stages, by_lane, strict=True)):
        lineage = Lineage(stage.trunk_id, stage.parent, stage.begin)
        for run in stage.ending:
            results.append(result)
            curve = store.run_folder(root, run.run_id) / "curve.csv"
            store.write_atomic(curve, _curve(run.config, snapshot, lane, result))
            text = corpus.load(run.config.data)
            store.write_record(root, record(run.config, result, provenance(lane), lineage, text.overlap))
    return results


def _checkpointed(
    job: train.Job,
    begin: train.Snapshot,
    root: Path,
    unit: Unit,
    stop: StopRequest,
    meter: Meter | None,
    follower: Follower | None,
) -> Iterator[train.Snapshot]:
    """Train and measure, saving a resume point at the configured pace and when a stop is asked for."""
    last = time.perf_counter()
    if meter is not None:
        meter.measure_if_due(begin)
    stops = [*(meter.stops if meter is not None else ()), *(follower.stops if follower is not None else ())]
    for snapshot in train.train(job, begin, stops):
        if follower is not None:
            follower.advanced(snapshot)
        if meter is not None:
            meter.measure_if_due(snapshot)
        yield snapshot
        asked = group.anywhere(stop.asked)
        due = group.agreed(lambda last=last: time.perf_counter() - last > unit.settings.checkpoint_seconds)
        if snapshot.step < job.steps and (asked or due):
            with follower.pause(snapshot) if follower else contextlib.nullcontext(snapshot.settled()) as settled:
                saved.save(root, unit, job, settled)
            last = time.perf_counter()
        if asked and snapshot.step < job.steps:
            raise Interrupted


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
            devices=unit.execution.mesh.devices,
            settings=unit.settings,
            started=begun,
            finished=_now(),
            seconds=round(time.perf_counter() - clock, 3),
        )

    return of


def _curve(config: RunConfig, snapshot: train.Snapshot, lane: int, result: Result) -> bytes:
    """The updates of a run; of a diverged one up to the update that was not finite, after which nothing is trained."""
    steps = len(snapshot.loss) if result.diverged_step is None else result.diverged_step + 1
    rows = zip(schedule.rates(config), snapshot.loss[:, lane], snapshot.grad_norm[:, lane], strict=True)
    lines = [f"{step},{lr:.8g},{loss:.6g},{norm:.6g}" for step, (lr, loss, norm) in enumerate(rows)][:steps]
    return ("\n".join(["step,lr,loss,grad_norm", *lines]) + "\n").encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
