"""What a sweep would take on a machine that is not here: lanes by its memory, its compiler's verdict, time and cost.

`lrlab plan SWEEP --on MACHINE`.  No accelerator is touched: where libtpu is installed each program of a TPU slice is
compiled ahead of time in another process (`sweeps.ahead`), else an estimate stands, and is called one.
"""

import dataclasses
import math
from typing import Any

from lab import memory
from lab.device import Execution
from sweeps import ahead, ladder, measurement, roofline
from sweeps import plan as planning
from sweeps.machine import Machine, named
from sweeps.plan import Group
from sweeps.room import room
from sweeps.sweep import Sweep, resolved
from sweeps.this_machine import measured


def outlook(sweep: Sweep, name: str, *, compile: bool = True, check_largest: bool = False) -> dict[str, Any]:
    """The plan of a sweep on a machine, as plain data; `compile` asks the TPU compiler where there is one.

    `memory_bytes` and `capacity_bytes` are per device, `seconds` the roofline's time of all updates, without compiles
    and evaluations, and `chip_hours` follow from it.

    Raises:
        InputError: no such machine, a run that contradicts itself, or a mesh that does not fit.
    """
    machine = measured(named(name))
    compiles = compile and machine.topology is not None and ahead.available()
    runs = resolved(sweep)
    if sweep.probe is not None:
        measurement.check(sweep.probe, runs)
    groups = planning.plan(runs, sweep.execution, machine=machine, probe=sweep.probe)
    rows = [_program(group, sweep, machine, compiles) for group in groups]
    return {
        "sweep": sweep.name,
        "question": sweep.question,
        "machine": machine.name,
        "note": machine.naming_note,
        "chips": machine.chips,
        "devices": machine.devices,
        "efficiency": dataclasses.asdict(machine.efficiency),
        "capacity_bytes": int(machine.device_memory_bytes),
        "verdicts": _source(machine, compile),
        "programs": rows,
        "flops": sum(row["flops"] for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "chip_hours": sum(row["chip_hours"] for row in rows),
        "largest_model": ladder.largest(machine, compiles and check_largest),
    }


def _source(machine: Machine, compile: bool) -> str:
    if machine.topology is None:
        return f"analytic estimate: {machine.name} is no TPU slice"
    if not ahead.available():
        return f"analytic estimate, {ahead.INSTALL}"
    if not compile:
        return "analytic estimate, as asked (--no-compile)"
    return "compiler: " + ", ".join(f"{name} {version}" for name, version in ahead.versions().items())


def _program(group: Group, sweep: Sweep, machine: Machine, compiles: bool) -> dict[str, Any]:
    """One program with the lanes that the machine holds."""
    found = room(group, sweep.execution, machine, probe=sweep.probe, compiles=compiles)
    how, verdict, capacity = found.execution, found.verdict, int(machine.device_memory_bytes)
    chosen = dataclasses.replace(sweep.execution, lanes=how.lanes, accumulate=how.accumulate)
    (packed,) = planning.plan(group.runs, chosen, machine=machine)
    probing = 0.0 if sweep.probe is None else measurement.flops(sweep.probe, packed.units)
    seconds = _seconds(packed, how, machine) + probing / (machine.peak(group.dtype) * machine.efficiency.lanes)
    exceeds = found.needed_bytes is not None and found.needed_bytes > capacity
    cut = f" exec.accumulate={how.accumulate}" if how.accumulate > 1 else ""
    return {
        "program": group.label,
        "runs": len(group.runs),
        "units": len(packed.units),
        "lanes": how.lanes,
        "lanes_per_device": how.lanes / how.mesh.devices,
        "accumulate": how.accumulate,
        "mesh": how.mesh.label,
        "set": f"exec.lanes={how.lanes}{cut}",
        "fits": found.fits,
        "checked": "analytic" if verdict is None else "compiler",
        "failure": found.failure,
        "compiles": found.compiles,
        "memory_bytes": found.needed_bytes,
        "estimated_bytes": found.estimated_bytes,
        "exceeds_bytes": found.needed_bytes - capacity if exceeds and found.needed_bytes is not None else None,
        "collectives": None if verdict is None else verdict.collectives,
        "versions": None if verdict is None else verdict.versions,
        "flops": planning.flops(packed.units),
        "probe_flops": probing,
        "seconds": seconds,
        "chip_hours": seconds * machine.chips / 3600,
        "checkpoint_bytes": memory.state_bytes(group.runs[0].config, how.lanes),
    }


def _seconds(group: Group, how: Execution, machine: Machine) -> float:
    """Time of all updates: a transformer's on an accelerator by roofline, else FLOPs at the usual share of the peak."""
    if machine.platform == "cpu" or group.model.kind == "mlp":
        return planning.flops(group.units) / (machine.peak(group.dtype) * machine.efficiency.lanes)
    work = roofline.work(group.model, group.length, group.sequences)
    chips = max(1, how.mesh.within // machine.devices_per_chip)
    places = max(1, how.mesh.devices // machine.devices_per_chip // chips)
    found = 0.0
    for unit in group.units:
        each = math.ceil(len(unit.stages) / places)
        found += unit.stages[0].steps * roofline.update_seconds(work, machine, lanes=each, chips=chips)
    return found
