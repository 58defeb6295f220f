"""What a sweep would cost: runs, programs, shared updates, FLOPs, memory and time, before any of it is paid."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lab import corpus, count
from lab.config import SharpnessConfig
from sweeps import measurement
from sweeps import plan as planning
from sweeps.column import counted
from sweeps.plan import Group
from sweeps.progress import clock
from sweeps.sweep import Run, Sweep, resolved
from sweeps.this_machine import this_machine


def estimate(sweep: Sweep, *, smoke: bool = False) -> dict[str, Any]:
    """The plan of a sweep on this machine, as plain data.

    `steps_alone` counts the updates of every run by itself, `steps_planned` those that are trained when shared ones are
    trained once, and `saving` is their ratio; `tokens_alone` and `tokens_planned` are the same in tokens; `flops` are
    those of the planned updates and of the evaluations, `probe_flops` those of a probe.  `passes` is how often the
    longest run sees its corpus, `corpora` says how texts are parted.  `seconds` and `memory_bytes` are estimates.

    Raises:
        InputError: a run that contradicts itself or does not fit its corpus.
    """
    runs, machine = resolved(sweep, smoke=smoke), this_machine()
    groups = planning.plan(runs, sweep.execution, machine=machine, probe=sweep.probe)

    units = [unit for group in groups for unit in group.units]
    alone, planned = planning.steps(groups)
    if sweep.probe is not None:
        measurement.check(sweep.probe, runs)
    probing = 0.0 if sweep.probe is None else measurement.flops(sweep.probe, units)
    return {
        "sweep": sweep.name,
        "question": sweep.question,
        "runs": len(runs),
        "programs": len(groups),
        "units": len(units),
        "trunks": len({stage.trunk_id for unit in units for stage in unit.stages if stage.trunk_id}),
        "lanes": sorted({unit.execution.lanes for unit in units}),
        "steps_alone": alone,
        "steps_planned": planned,
        "saving": alone / planned,
        "tokens_alone": sum(count.training_tokens(run.config) for run in runs),
        "tokens_planned": planning.tokens(units),
        "passes": planning.passes(runs),
        "corpora": texts(runs),
        "flops": planning.flops(units),
        "probe_flops": probing,
        "memory_bytes": max(planning.memory(group, sweep.probe) for group in groups),
        "seconds": planning.seconds(groups, machine, extra=probing),
        "device": {
            "name": machine.name,
            "peak_flops": machine.peak(),
            "efficiency": machine.efficiency.lanes,
            "memory_bytes": machine.memory_bytes,
        },
        "groups": [_group(group, sweep.probe) for group in groups],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """An estimate for a person."""
    table = Table("program", "runs", "units x lanes", "updates", "tokens", "FLOPs", "memory (est.)")
    for row in found["groups"]:
        cut = f", batch in {row['accumulate']} parts" if row["accumulate"] > 1 else ""
        table.add_row(
            row["program"],
            str(row["runs"]),
            f"{row['units']} x {row['lanes']} ({row['strategy']}{cut})",
            f"{row['steps_planned']:,}",
            f"{row['tokens_planned']:.3g}",
            f"{row['flops']:.3g}",
            f"{row['memory_bytes'] / 2**20:.0f} MiB",
        )
    device, lanes = found["device"], ", ".join(map(str, found["lanes"]))
    alone, planned = found["steps_alone"], found["steps_planned"]
    shared = f"; each run alone would take {alone:,} ({found['saving']:.2f}x)" if planned < alone else ""
    console.print(f"{found['sweep']}: {found['question']}")
    console.print(table, soft_wrap=False)
    console.print(
        f"{counted(found['runs'], 'run')}, {counted(found['programs'], 'program')}, "
        f"{counted(found['programs'], 'compile')}, {counted(found['units'], 'unit')} of up to {lanes} lanes\n"
        f"{planned:,} updates{shared}\n"
        f"{found['tokens_planned']:.3g} training tokens, {found['flops']:.3g} FLOPs; at {device['efficiency']:.0%} of "
        f"{device['peak_flops']:.2g} FLOP/s ({device['name']}) about {clock(found['seconds'])}",
    )
    if found["probe_flops"]:
        console.print(f"the probe takes {found['probe_flops'] / found['flops']:.0%} of the training's FLOPs, included")
    for line in found["corpora"]:
        console.print(line)
    if found["passes"] > 1:
        console.print(f"note: {repeats(found['passes'])}")
    if found["memory_bytes"] > device["memory_bytes"]:
        console.print(
            f"warning: about {found['memory_bytes'] / 2**30:.0f} GiB needed and "
            f"{device['memory_bytes'] / 2**30:.0f} GiB there: use --set exec.lanes=N with fewer lanes",
        )


def repeats(passes: float) -> str:
    """What it means that a run is longer than its corpus."""
    return f"the longest run sees its corpus {passes:.1f} times: beyond one pass its data repeat"


def texts(runs: Sequence[Run]) -> list[str]:
    """Lines on the corpora of runs."""
    different = {run.config.data.fingerprint: run.config.data for run in runs}
    return [line for data in different.values() for line in corpus.described(data)]


def _group(group: Group, probe: SharpnessConfig | None) -> dict[str, Any]:
    how, (alone, planned) = group.units[0].execution, planning.steps([group])
    return {
        "program": group.label,
        "runs": len(group.runs),
        "units": len(group.units),
        "lanes": how.lanes,
        "strategy": how.strategy,
        "accumulate": how.accumulate,
        "steps_alone": alone,
        "steps_planned": planned,
        "tokens_planned": planning.tokens(group.units),
        "flops": planning.flops(group.units),
        "memory_bytes": planning.memory(group, probe),
    }
