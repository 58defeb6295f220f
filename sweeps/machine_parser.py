"""The words of `lrlab tpu`: machines as a table, and one with all its figures."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.machine import Machine

_HEADER = ("name", "chip", "chips", "hosts", "devices", "topology", "HBM GiB", "PFLOP/s", "mesh")
_MEASURED = "measured"


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `tpu` with its actions; `command` makes the parser of one action."""
    does = "machines that sweeps are planned for: TPU slices, boxes of GPUs, a CPU"
    group = commands.add_parser("tpu", help=does, description=f"{does[0].upper()}{does[1:]}.")
    actions = group.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    listed = command(actions, "list", _list, "every machine; names count chips", "--json")
    listed.add_argument("--json", action="store_true", help="print as JSON")
    show = command(actions, "show", _show, "all figures of a machine, and how to start a sweep on it", "v5e-16")
    show.add_argument("name", metavar="NAME", help="a name of lrlab tpu list")
    show.add_argument("--json", action="store_true", help="print as JSON")
    does = "what two campaigns of learning-rate runs would cost, by a model of time: the tables of docs/campaigns.md"
    cost = command(actions, "campaign", _campaign, does, "--on v5e-256,h100-8")
    cost.add_argument("--on", metavar="NAME1,NAME2", help="machines (default: five of them)")
    cost.add_argument("--json", action="store_true", help="print as JSON")


def _list(options: argparse.Namespace) -> int:
    from sweeps import machine

    found = [machine.named(name) for name in machine.names()]
    print(json.dumps([dataclasses.asdict(one) for one in found], indent=1) if options.json else table(found))
    return 0


def _show(options: argparse.Namespace) -> int:
    from sweeps import machine

    found = machine.named(options.name)
    print(json.dumps(dataclasses.asdict(found), indent=1) if options.json else text(found))
    return 0


def _campaign(options: argparse.Namespace) -> int:
    from sweeps import campaign_table, machine

    chosen = campaign_table.MACHINES if options.on is None else [name.strip() for name in options.on.split(",")]
    machines = [machine.named(name) for name in chosen]
    if options.json:
        print(json.dumps(campaign_table.costs(machines), indent=1))
    else:
        print(campaign_table.markdown(machines))
    return 0


def table(machines: "list[Machine]") -> str:
    """One line per machine; HBM is the usable memory and PFLOP/s the bfloat16 peak of all its chips."""
    from sweeps.column import aligned

    rows = [
        (
            machine.name,
            machine.generation,
            f"{machine.chips:,}",
            f"{machine.hosts:,}",
            f"{machine.devices:,}",
            machine.topology.name if machine.topology else "-",
            f"{machine.usable_hbm_gib * machine.chips:,.0f}" if machine.hbm_gib else _MEASURED,
            f"{machine.peak() / 1e15:,.2f}" if machine.peak() else _MEASURED,
            machine.mesh.label,
        )
        for machine in machines
    ]
    return "\n".join(aligned([_HEADER, *rows], left=2))


def text(machine: "Machine") -> str:
    """All figures of a machine for a person."""
    from sweeps.column import aligned, counted

    chips, hosts = counted(machine.chips, "chip"), counted(machine.hosts, "host")
    peak, links, wide = machine.peak_flops, machine.interconnect, machine.efficiency
    rows = [
        ("machine", f"{machine.name}: {chips}, {hosts}, {counted(machine.devices, 'device')}"),
        ("memory", f"{machine.usable_hbm_gib:g} of {machine.hbm_gib:g} GiB per chip" if machine.hbm_gib else _MEASURED),
        ("bandwidth", _rate(machine.hbm_bytes_per_second, "B/s") + " per chip"),
        ("peak", f"bfloat16 {_rate(peak.bfloat16, 'FLOP/s')}, float32 {_rate(peak.float32, 'FLOP/s')} per chip"),
        ("efficiency", f"{wide.lanes:.0%} small models in lanes, {wide.large:.0%} one large run ({wide.source})"),
        ("sweep mesh", machine.mesh.label),
        ("run mesh", machine.train_mesh.label),
    ]
    if machine.topology is not None:
        extra = "".join(f", {name}={value}" for name, value in machine.topology.arguments.items())
        rows.append(("topology", machine.topology.name + extra))
    if links is not None:
        rows.append(
            ("links", f"{links.links} {links.kind} per chip, {_rate(links.link_bytes_per_second, 'B/s')} one way")
        )
        rows.append(("network", f"{_rate(links.dcn_bytes_per_second_per_host, 'B/s')} one way per host"))
    rows += [("name", machine.naming_note)] if machine.naming_note else []
    rows += [("flag", f"{flag} ({machine.flags_variable})") for flag in machine.compiler_flags]
    rows += [("note", note) for note in machine.notes]
    rows += [("launch", line) for line in machine.launch]
    return "\n".join(aligned(rows, left=2))


def _rate(value: float | None, unit: str) -> str:
    """`8.19e11` as `819 GB/s`; a figure that is missing or 0 is not stated."""
    if not value:
        return _MEASURED if unit == "FLOP/s" and value is not None else "not stated"
    for letter, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= size:
            return f"{value / size:.4g} {letter}{unit}"
    return f"{value:.4g} {unit}"
