"""Launching a sweep into a store: plan, skip what is done, work, and say how it went."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lab import store
from lab.check import require
from lab.identity import canonical, digest, dump
from sweeps import plan as planning
from sweeps.plan import Group
from sweeps.progress import Monitor, clock
from sweeps.sweep import Run, Sweep, resolved
from sweeps.worker import Interrupted, StopRequest, work


def launch(sweep: Sweep, root: Path, *, again: str, smoke: bool, console: Console) -> int:
    """Train every run of a sweep that has no record yet.  Gives an exit status: 0 done, 1 failures, 130 interrupted.

    `again` is the command that goes on after an interruption.

    Raises:
        InputError: the sweep does not fit itself, its corpus or the store.
    """
    runs = resolved(sweep, smoke=smoke)
    with store.locked(root):
        done = {run_id: record["validation"]["loss"] for run_id, record in store.read_records(root).items()}
        _describe(sweep, runs, root, done)
        finished = sum(run.run_id in done for run in runs)
        if finished == len(runs):
            console.print(f"all {len(runs)} runs of {sweep.name} are in {root}")
            return 0
        from lab.device import platform

        groups = planning.plan(runs, sweep.execution, platform=platform())
        units = planning.pending(groups, done)
        console.print(_opening(sweep, runs, groups, finished, root))
        with StopRequest() as stop, Monitor(runs, done, sweep.optimum_axes[0], console) as monitor:
            try:
                failures = work(units, root, monitor, stop)
            except Interrupted:
                failures = None
        finished = len(set(store.read_records(root)) & {run.run_id for run in runs})
    if failures is None:
        console.print(f"interrupted: {finished} of {len(runs)} runs are done and kept; go on with\n  {again}")
        return 130
    if failures:
        console.print(f"{finished} of {len(runs)} runs done, {failures} units failed; try again with\n  {again}")
        return 1
    console.print(f"all {len(runs)} runs of {sweep.name} are in {root}")
    return 0


def dry_run(sweep: Sweep, *, smoke: bool, console: Console) -> None:
    """Print what a sweep would cost: programs, lanes, compiles, tokens, FLOPs, memory and time."""
    from rich.table import Table

    from lab.device import platform

    runs, kind = resolved(sweep, smoke=smoke), platform()
    groups, figures = planning.plan(runs, sweep.execution, platform=kind), planning.device(kind)
    table = Table("program", "runs", "units x lanes", "tokens", "FLOPs", "memory (estimate)")
    for group in groups:
        how = group.units[0].execution
        table.add_row(
            group.label,
            str(len(group.runs)),
            f"{len(group.units)} x {how.lanes} ({how.strategy})",
            f"{planning.tokens(group.runs):.3g}",
            f"{planning.flops(group.runs):.3g}",
            f"{planning.memory(group) / 2**20:.0f} MiB",
        )
    console.print(f"{sweep.name}: {sweep.question}")
    console.print(table, soft_wrap=False)
    units = sum(len(group.units) for group in groups)
    lanes = ", ".join(str(n) for n in sorted({unit.execution.lanes for group in groups for unit in group.units}))
    console.print(
        f"{_counted(len(runs), 'run')}, {_counted(len(groups), 'program')}, {_counted(len(groups), 'compile')}, "
        f"{_counted(units, 'unit')} of up to {lanes} lanes\n"
        f"{planning.tokens(runs):.3g} training tokens, {planning.flops(runs):.3g} FLOPs; at {figures.efficiency:.0%} "
        f"of {figures.peak_flops:.2g} FLOP/s ({figures.name}) about {clock(planning.seconds(groups, figures))}",
    )
    largest = max(planning.memory(group) for group in groups)
    if largest > figures.memory_bytes:
        console.print(
            f"warning: about {largest / 2**30:.0f} GiB needed and {figures.memory_bytes / 2**30:.0f} GiB there: use "
            "--set exec.lanes=N with fewer lanes",
        )


def _opening(sweep: Sweep, runs: Sequence[Run], groups: Sequence[Group], finished: int, root: Path) -> str:
    kept = f", {finished} already done" if finished else ""
    what = f"{_counted(len(runs), 'run')} in {_counted(len(groups), 'program')}"
    return f"{sweep.name}: {sweep.question}\n{what}{kept}; records go to {root}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _describe(sweep: Sweep, runs: Sequence[Run], root: Path, done: Collection[str]) -> None:
    """Write `sweep.json` and every run's `config.json`; runs of an earlier grid stay listed if they are finished.

    Raises:
        InputError: the folder holds another sweep.
    """
    base = digest(dump(canonical(dataclasses.replace(sweep.base, optimizer=sweep.base.optimizer.resolve()))))
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
    text = {
        "schema": 1,
        "name": sweep.name,
        "question": sweep.question,
        "cost": sweep.cost,
        "expected": sweep.expected,
        "base": base,
        "optimum_axes": list(sweep.optimum_axes),
        "axes": axes,
        "runs": points,
    }
    store.write_atomic(root / "sweep.json", store.pretty(text))
    for run in runs:
        store.write_config(root, run.run_id, run.config)
