"""Launching a sweep into a store: plan, skip what is done, work, and say how it went."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import checkpoint, group, store
from lab.check import InputError, require
from lab.config import SharpnessConfig
from lab.config.run import superseded
from sweeps import begun, measurement, saved
from sweeps import plan as planning
from sweeps.column import counted
from sweeps.estimate import repeats, texts
from sweeps.plan import Group
from sweeps.progress import Monitor, clock
from sweeps.run_list import base_digest
from sweeps.saved import forked
from sweeps.sweep import Run, Sweep, resolved
from sweeps.this_machine import this_machine
from sweeps.worker import Follow, Interrupted, StopRequest, work


def launch(sweep: Sweep, root: Path, *, again: str, smoke: bool, console: Console, follow: Follow | None = None) -> int:
    """Train every run of a sweep that has no record yet.  Gives an exit status: 0 done, 1 failures, 130 interrupted.

    `again` is the command that goes on after an interruption; `follow` gives what goes along with each unit, and tells
    how far it is.

    Raises:
        InputError: the sweep does not fit itself, its corpus or the store.
    """
    runs = resolved(sweep, smoke=smoke, begun=begun.corpora(root))
    if sweep.probe is not None:
        measurement.check(sweep.probe, runs)
    with store.locked(root) as note:
        for line in (*([note] if note else []), *group.agreed(lambda: _set_aside(root))):
            console.print(f"note: {line}")
        done = group.agreed(lambda: _losses(root))
        group.agreed(lambda: _describe(sweep, runs, root, done))
        lanes = group.agreed(lambda: saved.begun_lanes(root)) if sweep.execution.lanes is None else None
        if lanes is not None:
            sweep = dataclasses.replace(sweep, execution=dataclasses.replace(sweep.execution, lanes=lanes))
        groups = None
        if sweep.probe is not None:
            groups = _planned(sweep, runs)
            complete = set(group.agreed(functools.partial(_complete, sweep.probe, groups, root, done)))
            done = {run_id: loss for run_id, loss in done.items() if run_id in complete}
        finished = sum(run.run_id in done for run in runs)
        if finished == len(runs):
            _clear_forks(root, store.unit_ids(root, "fork"))
            console.print(_whole(sweep, len(runs), root))
            return 0
        groups = groups or _planned(sweep, runs)
        every = [unit for group in groups for unit in group.units]
        units = planning.pending(groups, done, functools.partial(_usable_fork, sweep, groups, root))
        group.agreed(lambda: saved.require_same_environment(root, units))
        awaited = {source.unit_id for unit in units for source in unit.sources}
        _clear_forks(root, {unit.unit_id for unit in every} - awaited)
        console.print(_opening(sweep, runs, groups, finished, root))
        monitor = Monitor(
            runs,
            done,
            sweep.optimum_axes[0],
            console,
            units=every,
            pending=units,
            fixed=sweep.fixed,
            lines=follow is None,
        )
        with StopRequest() as stop, monitor:
            try:
                failures = work(units, root, monitor, stop, sweep.probe, follow)
            except Interrupted:
                failures = None
        finished = sum(run.run_id in _losses(root) for run in runs)
    if sweep.probe is not None and monitor.probe_seconds:
        console.print(_probe_cost(monitor))
    if failures is None:
        console.print(f"interrupted: {finished} of {len(runs)} runs are done and kept; go on with\n  {again}")
        return 130
    if failures:
        console.print(f"{finished} of {len(runs)} runs done, {failures} units failed; try again with\n  {again}")
        return 1
    console.print(_whole(sweep, len(runs), root))
    return 0


def _set_aside(root: Path) -> list[str]:
    """Take damaged records out of the way, so that their runs are trained anew; a line for each."""
    lines = []
    for run_id, wrong in store.scan(root)[1].items():
        store.set_aside(root, run_id)
        lines.append(f"{wrong}: it is kept as record.json.damaged, and counts as not trained")
    return lines


def _losses(root: Path) -> dict[str, float | None]:
    """Validation losses of the finished runs."""
    return {run_id: record["validation"]["loss"] for run_id, record in store.read_records(root).items()}


def _complete(probe: SharpnessConfig, groups: Sequence[Group], root: Path, done: Collection[str]) -> list[str]:
    return sorted(measurement.measured(probe, groups, root, done))


def _planned(sweep: Sweep, runs: Sequence[Run]) -> list[Group]:
    return planning.plan(runs, sweep.execution, machine=this_machine(), probe=sweep.probe)


def _usable_fork(sweep: Sweep, groups: Sequence[Group], root: Path, unit_id: str) -> bool:
    """Whether a unit's fork is there, and nothing is to be measured on the way to it."""
    if not forked(root, unit_id):
        return False
    if sweep.probe is None:
        return True
    (unit,) = (unit for group in groups for unit in group.units if unit.unit_id == unit_id)
    probe = sweep.probe
    return group.agreed(lambda: not any(measurement.owed(probe, stage, root) for stage in unit.stages))


def _whole(sweep: Sweep, runs: int, root: Path) -> str:
    return f"the run of {sweep.name} is in {root}" if runs == 1 else f"all {runs} runs of {sweep.name} are in {root}"


def _probe_cost(monitor: Monitor) -> str:
    training = monitor.seconds - monitor.probe_seconds
    share = f", {monitor.probe_seconds / training:.0%} of the training time" if training > 0 else ""
    return f"the probe took {clock(monitor.probe_seconds)}, compiles included{share}"


def _opening(sweep: Sweep, runs: Sequence[Run], groups: Sequence[Group], finished: int, root: Path) -> str:
    kept = f", {finished} already done" if finished else ""
    alone, planned = planning.steps(groups)
    shared = f"; {alone - planned:,} of {alone:,} updates are shared" if planned < alone else ""
    what = f"{counted(len(runs), 'run')} in {counted(len(groups), 'program')}"
    seen = planning.passes(runs)
    note = "".join(f"\n{line}" for line in texts(runs))
    note += f"\nnote: {repeats(seen)}" if seen > 1 else ""
    old = sum(_of_old(root, run_id) for run_id in store.read_sweep(root)["runs"])
    if old:
        note += f"\nnote: {counted(old, 'run')} of 0.1.0 in bfloat16 stay as they are, and are trained anew"
    return f"{sweep.name}: {sweep.question}\n{what}{kept}{shared}; records go to {root}{note}"


def _of_old(root: Path, run_id: str) -> bool:
    """Whether a run was made by numerics of before, where its file says: one of another grid may be damaged."""
    try:
        return superseded(store.read_config(root, run_id))
    except InputError:
        return False


def _clear_forks(root: Path, unit_ids: Collection[str]) -> None:
    """Delete forks that a launch which was killed at the wrong moment left behind."""
    for unit_id in unit_ids:
        checkpoint.clear(store.fork_folder(root, unit_id))


def _fixed(sweep: Sweep, points: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The sweep's fixed names that are the same in runs of an earlier launch too."""
    return {name for name in sweep.fixed if len({repr(point.get(name)) for point in points.values()}) == 1}


def _describe(sweep: Sweep, runs: Sequence[Run], root: Path, done: Collection[str]) -> None:
    """Write `sweep.json` and every run's `config.json`; runs of an earlier grid stay listed if they are finished.

    Raises:
        InputError: the folder holds another sweep.
    """
    base = base_digest(sweep.base)
    kept: dict[str, Any] = {}
    if (root / "sweep.json").is_file():
        before = store.read_sweep(root)
        require(
            before["name"] == sweep.name and before["base"] == base,
            f"{root} holds the sweep {before['name']}, made with another base configuration: use another --out",
        )
        kept = {run_id: point for run_id, point in before["runs"].items() if run_id in done}
    points = {run.run_id: run.point for run in runs} | kept
    axes = list(dict.fromkeys(name for point in points.values() for name in point))
    axes = [name for name in axes if name not in _fixed(sweep, points)]
    text = {
        "schema": 1,
        "name": sweep.name,
        "question": sweep.question,
        "cost": sweep.cost,
        "expected": sweep.expected,
        "base": base,
        "configuration": dataclasses.asdict(sweep.base),
        "optimum_axes": list(sweep.optimum_axes),
        "axes": axes,
        "runs": points,
    }
    store.write_atomic(root / "sweep.json", store.pretty(text))
    for run in runs:
        store.write_config(root, run.run_id, run.config)
