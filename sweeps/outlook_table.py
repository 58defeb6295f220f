"""An outlook for a person."""

from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.column import counted
from sweeps.progress import clock


def show(found: dict[str, Any], console: Console) -> None:
    """An outlook for a person."""
    table = Table("program", "runs", "units x lanes", "mesh", "memory per device", "collectives", "FLOPs", "time")
    for row in found["programs"]:
        cut = f", batch in {row['accumulate']} parts" if row["accumulate"] > 1 else ""
        table.add_row(
            row["program"],
            str(row["runs"]),
            f"{row['units']} x {row['lanes']} ({row['lanes_per_device']:g} per device{cut})",
            row["mesh"],
            _verdict(row),
            _collectives(row["collectives"]),
            f"{row['flops']:.3g}",
            clock(row["seconds"]),
        )
    efficiency = found["efficiency"]
    console.print(f"{found['sweep']}: {found['question']}")
    console.print(
        f"on {found['machine']}: {counted(found['chips'], 'chip')}, {counted(found['devices'], 'device')} with "
        f"{found['capacity_bytes'] / 2**30:.2f} GiB each"
    )
    if found["note"]:
        console.print(f"note: {found['note']}")
    console.print(table, soft_wrap=False)
    console.print(f"memory: {found['verdicts']}")
    for row in (row for row in found["programs"] if row["failure"]):
        console.print(f"{row['program']}: an estimate, since {row['failure']}")
    if any(row["probe_flops"] for row in found["programs"]):
        share = sum(row["probe_flops"] for row in found["programs"]) / found["flops"]
        console.print(f"the probe takes {share:.0%} of the training's FLOPs, included in the time")
    console.print(
        f"{found['flops']:.3g} FLOPs, about {clock(found['seconds'])} by roofline at {efficiency['large']:.0%} of the "
        f"peak, {found['chip_hours']:.3g} chip-hours; a resume point takes up to "
        f"{max(row['checkpoint_bytes'] for row in found['programs']) / 2**20:.0f} MiB"
    )
    console.print(f"efficiency: {efficiency['source']}")
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
