"""What a sweep would take on a machine that is not here: lanes by its memory, its compiler's verdict, time and cost.

`lrlab plan SWEEP --on MACHINE`.  No accelerator is touched: where libtpu is installed each program of a TPU slice is
compiled ahead of time in another process (`sweeps.ahead`), else an estimate stands, and is called one.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from lab import corpus, count, memory
from lab.config import ExecConfig, MeshConfig, ModelConfig
from lab.device import Execution, execution
from lab.layer import Forward
from lab.program import Shape, shape_of
from lab.train import DEVICE_BYTES
from sweeps import ahead, roofline
from sweeps import plan as planning
from sweeps.column import counted
from sweeps.machine import Machine, named
from sweeps.plan import Group
from sweeps.progress import clock
from sweeps.sweep import Run, Sweep, resolved
from sweeps.this_machine import measured

# Like Llama's: (name, width, depth, heads, key/value heads, MLP width), arXiv 2302.13971 table 2 and 2407.21783 table 3
# from 7B on; below, such shapes at customary sizes.
LADDER: tuple[tuple[str, int, int, int, int, int], ...] = (
    ("125M", 768, 12, 12, 12, 2048),
    ("350M", 1024, 24, 16, 16, 2816),
    ("760M", 1536, 24, 16, 16, 4096),
    ("1.3B", 2048, 24, 16, 16, 5632),
    ("3B", 3072, 26, 24, 24, 8192),
    ("7B", 4096, 32, 32, 32, 11008),
    ("13B", 5120, 40, 40, 40, 13824),
    ("33B", 6656, 60, 52, 52, 17920),
    ("70B", 8192, 80, 64, 8, 28672),
    ("405B", 16384, 126, 128, 8, 53248),
)
LARGE_VOCAB, LARGE_LENGTH = 32000, 2048


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
    groups = planning.plan(runs, sweep.execution, machine=machine, probe=sweep.probe)
    rows = [_program(group, sweep.execution, machine, compiles) for group in groups]
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
        "largest_model": _largest(machine, compiles and check_largest),
    }


def _source(machine: Machine, compile: bool) -> str:
    if machine.topology is None:
        return f"analytic estimate: {machine.name} is no TPU slice"
    if not ahead.available():
        return f"analytic estimate, {ahead.INSTALL}"
    if not compile:
        return "analytic estimate, as asked (--no-compile)"
    return "compiler: " + ", ".join(f"{name} {version}" for name, version in ahead.versions().items())


def _program(group: Group, settings: ExecConfig, machine: Machine, compiles: bool) -> dict[str, Any]:
    """One program with the lanes that the machine holds."""
    asked: dict[int, ahead.Verdict] = {}

    def compiled(lanes: int) -> ahead.Verdict:
        if lanes not in asked:
            asked[lanes] = ahead.verdict(**_question(group, _how(group, settings, machine, lanes), machine))
        return asked[lanes]

    def estimated(lanes: int) -> bool:
        return _estimate(group, _how(group, settings, machine, lanes)) <= machine.device_memory_bytes

    least = execution(
        settings, group.model, platform=machine.platform, runs=_widest(group), devices=machine.devices
    ).mesh.lane
    assert least is not None
    most = max(least, 1 << max(0, _widest(group) - 1).bit_length())
    if machine.platform == "cpu":  # lanes save it compiles alone: the usual bucket will do
        most = group.units[0].execution.lanes
    lanes = settings.lanes or widest(least, most, estimated, (lambda n: compiled(n).fits) if compiles else None)
    how = _how(group, settings, machine, lanes)
    (packed,) = planning.plan(group.runs, _settings(settings, lanes, how), machine=machine)
    found = compiled(lanes) if compiles else None
    return _row(packed, how, machine, found, len(asked))


def widest(least: int, most: int, estimated: Callable[[int], bool], fits: Callable[[int], bool] | None) -> int:
    """The most lanes, `least` times a power of two up to `most`, that fit; `least` where nothing does.

    The estimate says where to begin; with `fits` (a compile, slow) the first neighbour that contradicts ends
    the search.
    """
    sizes = [least << power for power in range((most // least).bit_length())]
    begin = max((i for i, size in enumerate(sizes) if estimated(size)), default=0)
    if fits is None:
        return sizes[begin]
    if fits(sizes[begin]):
        while begin + 1 < len(sizes) and fits(sizes[begin + 1]):
            begin += 1
        return sizes[begin]
    while begin > 0:
        begin -= 1
        if fits(sizes[begin]):
            break
    return sizes[begin]


def _widest(group: Group) -> int:
    """The most stages of a group that may be lanes of one unit."""
    sizes: dict[tuple[int, int], int] = {}
    for unit in group.units:
        sizes[unit.begin, unit.end] = sizes.get((unit.begin, unit.end), 0) + len(unit.stages)
    return max(sizes.values())


def _settings(settings: ExecConfig, lanes: int, how: Execution | None = None) -> ExecConfig:
    parts = settings.accumulate if how is None else how.accumulate
    return dataclasses.replace(settings, lanes=lanes, accumulate=parts)


def _how(group: Group, settings: ExecConfig, machine: Machine, lanes: int) -> Execution:
    """The execution with so many lanes; a batch is cut only where the fewest lanes do not fit with a whole one."""
    parts = group.units[0].execution.accumulate if lanes == group.units[0].execution.mesh.lane else 1
    chosen = dataclasses.replace(settings, lanes=lanes, accumulate=settings.accumulate or parts)
    return execution(chosen, group.model, platform=machine.platform, runs=lanes, devices=machine.devices)


def _estimate(group: Group, how: Execution) -> int:
    first = group.runs[0].config
    assert how.mesh.lane is not None
    layout = memory.Layout(
        how.lanes // how.mesh.lane,
        how.strategy,
        how.group,
        how.accumulate,
        how.forward.remat,
        how.mesh,
        how.forward.unroll,
    )
    return memory.memory(
        first.model,
        layout,
        sequences=first.data.sequences,
        length=first.data.length,
        dtype=first.dtype,
        optimizer=first.optimizer.kind,
        corpus_bytes=_tokens(group.runs[0]) or 0,
    ).total


def _tokens(run: Run) -> int | None:
    """Bytes of a corpus that lies on the devices, None for a larger one."""
    size = corpus.load(run.config.data).train.nbytes
    return size if size <= DEVICE_BYTES else None


def _question(group: Group, how: Execution, machine: Machine) -> dict[str, Any]:
    first = group.runs[0]
    shape = shape_of(
        first.config,
        lanes=how.lanes,
        strategy=how.strategy,
        group=how.group,
        segment=how.segment,
        forward=how.forward,
        accumulate=how.accumulate,
        mesh=how.mesh,
    )
    seeds = len({run.config.seed_data for run in group.runs})
    return {"shape": shape, "machine": machine, "tokens": _tokens(first), "seeds": seeds}


def _row(group: Group, how: Execution, machine: Machine, found: ahead.Verdict | None, compiles: int) -> dict[str, Any]:
    assert how.mesh.lane is not None
    estimate, capacity = _estimate(group, how), machine.device_memory_bytes
    needs = estimate if found is None else found.memory_bytes
    seconds = _seconds(group, how, machine)
    return {
        "program": group.label,
        "runs": len(group.runs),
        "units": len(group.units),
        "lanes": how.lanes,
        "lanes_per_device": how.lanes / how.mesh.devices,
        "accumulate": how.accumulate,
        "mesh": how.mesh.label,
        "set": f"exec.lanes={how.lanes}",
        "fits": estimate <= capacity if found is None else found.fits,
        "checked": "analytic" if found is None else "compiler",
        "compiles": compiles,
        "memory_bytes": needs,
        "estimated_bytes": estimate,
        "exceeds_bytes": None if needs is None or needs <= capacity else int(needs - capacity),
        "collectives": None if found is None else found.collectives,
        "versions": None if found is None else found.versions,
        "flops": planning.flops(group.units),
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


def _largest(machine: Machine, compile: bool) -> dict[str, Any] | None:
    """The largest of `LADDER` that one run of it fits, a sequence per part of the batch; None if none does."""
    for name, model in reversed([(row[0], _large(row)) for row in LADDER]):
        mesh = machine.train_mesh
        assert model.heads is not None
        if model.width % mesh.fsdp or model.heads % mesh.tensor:
            continue
        layout = memory.Layout(1, "vmap", 1, 1, "full", mesh)
        needs = memory.memory(model, layout, sequences=mesh.rows, length=LARGE_LENGTH, dtype="bfloat16").total
        if needs > machine.device_memory_bytes:
            continue
        found = ahead.verdict(large_shape(model, mesh), machine, tokens=None) if compile else None
        if found is None or found.fits:
            return {
                "name": name,
                "parameters": count.parameters(model, LARGE_LENGTH).total,
                "mesh": mesh.label,
                "memory_bytes": needs if found is None else found.memory_bytes,
                "checked": "analytic" if found is None else "compiler",
            }
    return None


def large_shape(model: ModelConfig, mesh: MeshConfig) -> Shape:
    """One large run: a sequence per part of the batch, bfloat16 with float32 master weights, full remat, AdamW."""
    forward = Forward("xla", False, "full")
    return Shape(model, "adam", "bfloat16", mesh.rows, LARGE_LENGTH, 1, "vmap", 1, 1, forward, 1, mesh)


def _large(row: tuple[str, int, int, int, int, int]) -> ModelConfig:
    _, width, depth, heads, kv_heads, mlp_width = row
    config = ModelConfig(width=width, depth=depth, heads=heads, kv_heads=kv_heads, mlp="swiglu", mlp_width=mlp_width)
    return config.resolve(vocab=LARGE_VOCAB)


def show(found: dict[str, Any], console: Console) -> None:
    """An outlook for a person."""
    table = Table("program", "runs", "units x lanes", "mesh", "memory per device", "collectives", "FLOPs", "time")
    for row in found["programs"]:
        table.add_row(
            row["program"],
            str(row["runs"]),
            f"{row['units']} x {row['lanes']} ({row['lanes_per_device']:g} per device)",
            row["mesh"],
            _verdict(row),
            _collectives(row["collectives"]),
            f"{row['flops']:.3g}",
            clock(row["seconds"]),
        )
    share = found["efficiency"]
    console.print(f"{found['sweep']}: {found['question']}")
    console.print(
        f"on {found['machine']}: {counted(found['chips'], 'chip')}, {counted(found['devices'], 'device')} with "
        f"{found['capacity_bytes'] / 2**30:.2f} GiB each"
    )
    if found["note"]:
        console.print(f"note: {found['note']}")
    console.print(table, soft_wrap=False)
    console.print(f"memory: {found['verdicts']}")
    console.print(
        f"{found['flops']:.3g} FLOPs, about {clock(found['seconds'])} by roofline at {share['large']:.0%} of the peak, "
        f"{found['chip_hours']:.3g} chip-hours; a resume point takes up to "
        f"{max(row['checkpoint_bytes'] for row in found['programs']) / 2**20:.0f} MiB"
    )
    console.print(f"efficiency: {share['source']}")
    largest = found["largest_model"]
    if largest is None:
        console.print("largest model that fits: none of the standard shapes")
    else:
        console.print(
            f"largest model that fits: {largest['name']} ({largest['parameters']:.3g} parameters, {largest['mesh']}, "
            f"bfloat16, full remat, {largest['memory_bytes'] / 2**30:.1f} GiB per device, {largest['checked']})"
        )


def _verdict(row: dict[str, Any]) -> str:
    needs = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.0f} MiB "
    if row["fits"]:
        return f"{needs}fits ({row['checked']})"
    over = "" if row["exceeds_bytes"] is None else f" by {row['exceeds_bytes'] / 2**20:.0f} MiB"
    return f"{needs}exceeds{over} ({row['checked']})"


def _collectives(found: dict[str, int] | None) -> str:
    if found is None:
        return "not compiled"
    return ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"
