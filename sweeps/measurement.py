"""Measuring along a sweep: the points of a probe that a unit owes, their records, and what they cost.

A point is the record of one run after a number of updates.  It is written when it is measured, once; points that are
there are not measured again, so a sweep that is resumed goes on, and a probe can be added to runs that are done: they
are trained again to where it looks.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lab import corpus, group, sharpness, store, train
from lab.config import SharpnessConfig
from lab.config.probe import KIND, SCHEMA
from lab.mesh import on_host
from sweeps import probe_cost
from sweeps.plan import Group, Unit
from sweeps.stage import Stage
from sweeps.sweep import Run


class Meter:
    """Measures a unit where its probe is due.  `seconds` is what it has cost so far, compiles included."""

    def __init__(self, config: SharpnessConfig, unit: Unit, job: train.Job, root: Path) -> None:
        self._config, self._unit, self._job, self._root = config, unit, job, root
        self._id = sharpness.probe_id(config)
        self.stops = tuple(group.agreed(lambda: _stops(config, unit, root)))
        self.seconds = 0.0
        self._probe: sharpness.Probe | None = None

    def missed(self, step: int) -> bool:
        """Whether a job that goes on from `step` has passed a point that is not there."""
        return any(stop < step for stop in self.stops)

    def measure_if_due(self, snapshot: train.Snapshot) -> None:
        """Write the points that are due at a snapshot's step."""
        if snapshot.step in self.stops:
            self.measure(snapshot)

    def measure(self, snapshot: train.Snapshot) -> None:
        """Write the points of a snapshot's step; those that are there stay."""
        import jax

        jax.block_until_ready(snapshot.state)
        begun = time.perf_counter()
        found = self._compiled().measure(snapshot.state)
        seconds = time.perf_counter() - begun
        for lane, stage in enumerate(self._unit.stages):
            for run in stage.runs:
                self._write(run, lane, snapshot.step, found[lane], seconds)
        self.seconds += time.perf_counter() - begun

    def _compiled(self) -> sharpness.Probe:
        if self._probe is None:
            run, shape = self._job.configs[0], self._job.program.shape
            rows = shape.sequences // shape.accumulate
            batch = sharpness.measurement_batch(self._config, run, corpus.load(run.data), rows)
            self._probe = sharpness.Probe(self._config, self._job.program, self._job.lane, batch)
        return self._probe

    def _write(self, run: Run, lane: int, step: int, found: dict[str, Any], seconds: float) -> None:
        hyper = self._job.lane.hyper
        momenta = {name: float(on_host(getattr(hyper, name))[lane]) for name in ("beta1", "momentum")}
        identity = {"run_id": run.run_id, "probe_id": self._id, "schema": SCHEMA, "kind": KIND}
        point = sharpness.point(self._compiled(), run.config, found, step=step, hyper=momenta)
        where = {"unit": self._unit.unit_id, "lane": lane, "lanes": self._unit.execution.lanes}
        path = store.point_file(self._root, run.run_id, self._id, step)
        store.create_exclusive(path, store.pretty(identity | point | where | {"seconds": round(seconds, 3)}))


def _stops(config: SharpnessConfig, unit: Unit, root: Path) -> list[int]:
    return sorted({step for stage in unit.stages for step in owed(config, stage, root)})


def check(config: SharpnessConfig, runs: Sequence[Run]) -> None:
    """Require that every run can be measured.

    Raises:
        InputError: naming the setting that does not fit.
    """
    for run in runs:
        sharpness.check(config, run.config)


def due(config: SharpnessConfig, stage: Stage) -> tuple[int, ...]:
    """Where a stage is measured: by the cadence after its begin (which belongs to its parent), and where a run ends."""
    ends = {stage.end} if stage.ending else set()
    begin = stage.begin + 1 if stage.begin else 0
    return tuple(sorted(ends | set(config.cadence(begin, stage.end))))


def owed(config: SharpnessConfig, stage: Stage, root: Path) -> tuple[int, ...]:
    """The points of a stage that a run of it lacks."""
    probe_id = sharpness.probe_id(config)
    return tuple(
        step
        for step in due(config, stage)
        if any(not store.point_file(root, run.run_id, probe_id, step).exists() for run in stage.runs)
    )


def measured(config: SharpnessConfig, groups: Sequence[Group], root: Path, done: Collection[str]) -> set[str]:
    """The runs in `done` that owe no point."""
    stages = [stage for group in groups for unit in group.units for stage in unit.stages]
    owing = {run.run_id for stage in stages if owed(config, stage, root) for run in stage.runs}
    return set(done) - owing


def flops(config: SharpnessConfig, units: Sequence[Unit]) -> float:
    """FLOPs of a probe over the units' stages."""
    stages = [stage for unit in units for stage in unit.stages]
    return sum(probe_cost.flops(config, stage.runs[0].config, _count(config, stage)) for stage in stages)


def _count(config: SharpnessConfig, stage: Stage) -> int:
    """How many points are `due`; a run of any length is planned without a list of them."""
    begin = stage.begin + 1 if stage.begin else 0
    last = config.count(stage.end, stage.end) if stage.end >= begin else 0
    return config.count(begin, stage.end) + (1 if stage.ending and not last else 0)
