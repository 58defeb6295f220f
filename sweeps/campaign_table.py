"""The cost of the campaigns as tables in Markdown and as plain data (`sweeps.campaign`)."""

from collections.abc import Sequence
from typing import Any

from lab.config import ModelConfig
from sweeps import campaign, roofline
from sweeps.campaign import Part
from sweeps.machine import Machine, named

MACHINES = ("v5e-256", "v5p-512", "v6e-256", "h100-8", "h200-8")
RULES = {"sp": "standard", "mup": "muP"}

# (width, depth, vocabulary, length, sequences): from the laboratory's own small sweeps to Step Law's smallest size.
_SMALL = (
    (64, 2, 256, 64, 16),
    (128, 4, 8192, 256, 32),
    (256, 6, 32_768, 512, 32),
    (512, 8, 32_768, 1024, 64),
    (576, 9, 65_536, 2048, 100),
)
_LANES = (4, 16, 64)


def costs(machines: Sequence[Machine]) -> list[dict[str, Any]]:
    """One entry per campaign, rule, trunks, machine and way: FLOPs, days, chip-hours, share of the 70B run's FLOPs."""
    large = campaign.flops([campaign.large_run()])
    return [
        {
            "campaign": name,
            "parametrization": rules,
            "trunks": trunks,
            "machine": machine.name,
            "way": way,
            "flops": campaign.flops(parts),
            "share_of_70b": campaign.flops(parts) / large,
            "days": seconds / 86_400,
            "chip_hours": seconds / 3600 * machine.chips,
        }
        for name, rules, trunks, parts in _campaigns()
        for machine in machines
        for way in campaign.WAYS
        for seconds in (campaign.seconds(parts, machine, way),)
    ]


def markdown(machines: Sequence[Machine]) -> str:
    """All tables."""
    return "\n\n".join((_work(), *(_days(name, machines) for name in ("Step Law", "70B")), _large(machines), _gains()))


def _campaigns() -> list[tuple[str, str, bool, Sequence[Part]]]:
    both = [(rules, trunks) for rules in RULES for trunks in (False, True)]
    law = [("Step Law", r, t, campaign.step_law(trunks=t, mup=r == "mup")) for r, t in both]
    return [*law, *(("70B", r, t, campaign.target(r, trunks=t)) for r, t in both)]


def _label(rules: str, trunks: bool) -> str:
    return f"{RULES[rules]}, {'trunks' if trunks else 'every run from the start'}"


def _work() -> str:
    large = campaign.flops([campaign.large_run()])
    rows = []
    for name, rules, trunks, parts in _campaigns():
        total = campaign.flops(parts)
        rows.append((name, _label(rules, trunks), f"{total:.3g}", f"{total / large:.3f}"))
    rows.append(("the 70B run itself", "", f"{large:.3g}", "1"))
    return _table(("campaign", "parametrization, sharing", "FLOPs", "of the 70B run"), rows)


def _days(name: str, machines: Sequence[Machine]) -> str:
    rows = []
    for _, rules, trunks, parts in (row for row in _campaigns() if row[0] == name):
        for machine in machines:
            seconds = {way: campaign.seconds(parts, machine, way) for way in campaign.WAYS}
            hours = seconds["lanes"] / 3600 * machine.chips
            days = (f"{value / 86_400:,.1f}" for value in seconds.values())
            rows.append((_label(rules, trunks), machine.name, *days, f"{hours:,.0f}"))
    ways = [f"days, {way}" for way in campaign.WAYS]
    return _table((f"{name} campaign", "machine", *ways, "chip-hours, lanes"), rows)


def _large(machines: Sequence[Machine]) -> str:
    part, rows = campaign.large_run(), []
    for machine in machines:
        if roofline.chips_needed(part.work, machine) is None:
            rows.append((machine.name, "does not fit", "-"))
            continue
        seconds = campaign.seconds([part], machine, "one run at a time")
        rows.append((machine.name, f"{seconds / 86_400:,.1f}", f"{seconds / 3600 * machine.chips:,.0f}"))
    return _table(("the 70B run on", "days", "chip-hours"), rows)


def _gains() -> str:
    machines = [named(name) for name in ("v5e-4", "v6e-4", "h100-8")]
    rows = []
    for width, depth, vocab, length, sequences in _SMALL:
        model = ModelConfig(width, depth, heads=max(1, width // 64), vocab=vocab).resolve(vocab=None)
        update = roofline.work(model, length, sequences)
        gains = [f"{roofline.lane_gain(update, machine, lanes):.1f}" for machine in machines for lanes in _LANES]
        rows.append((f"width {width}, depth {depth}", f"{sequences} x {length}", f"{update.flops:.2g}", *gains))
    heads = [f"{machine.generation}, {lanes} lanes" for machine in machines for lanes in _LANES]
    return _table(("gain on one chip", "batch", "FLOPs of an update", *heads), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
