"""docs/sharpness_measured.md tells what its two tables of points give, and its retraction the evidence they hold."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measured import DOCS, fails, interval, says, table

from analysis.results import describe
from analysis.sharpness.points import Points
from analysis.sharpness.section import Section, section
from analysis.sharpness.study import Study, contrasts
from analysis.sharpness.table import read_table

pytestmark = pytest.mark.host
PAGE = DOCS / "sharpness_measured.md"
LOW, EIGHTH = 2.0**-5, 2.0**-3
NAMES = {LOW: "1/32", EIGHTH: "1/8"}
LABELS = {"mup": "muP", "ntk": "ntk", "sp": "sp"}


@functools.cache
def points(axis: str) -> Points:
    return read_table(DOCS / f"sharpness_vs_{axis}.csv")


@functools.cache
def measured(axis: str) -> Section:
    return section(points(axis))


def shifted(axis: str) -> Section:
    """The control: every value of the points moved by a few per cent."""
    frame = points(axis).frame
    factor = np.exp(np.random.default_rng(0).normal(0, 0.03, len(frame)))
    return section(dataclasses.replace(points(axis), frame=frame.assign(value=frame["value"] * factor)))


def study(found: Section, quantity: str, *, change: bool = False, **group: Any) -> Study:
    """The only study of a quantity in the group that has these values; `lr` stands for its axis."""

    def fits(one: Study) -> bool:
        mine = {name.rpartition(".")[2]: value for name, value in one.track.group.items()}
        return all(mine.get(name) == value for name, value in group.items())

    (only,) = [s for s in found.studies if s.track.quantity == quantity and s.since_start == change and fits(s)]
    return only


def exponent(one: Study, digits: str = "+.2f") -> str:
    assert one.growth
    return interval(one.growth.value_T[-1], one.growth.low_T[-1], one.growth.high_T[-1], digits)


def widths(found: Section) -> None:
    rows = table(PAGE, " | rate | sharpness | its change")
    wanted = []
    for name, label in LABELS.items():
        for rate in (LOW, EIGHTH):
            at = {"name": name, "lr": rate}
            own = exponent(study(found, "preconditioned", **at)) + " at the edge" * ((name, rate) == ("sp", EIGHTH))
            moved = exponent(study(found, "preconditioned", change=True, **at))
            kernel = exponent(study(found, "tangent_kernel", **at))
            wanted.append([label, NAMES[rate], own, moved, kernel, exponent(study(found, "loss", **at), "+.3f")])
    assert rows[:-1] == wanted
    lost = study(found, "preconditioned", name="sp", lr=1.0).track
    assert lost.sizes == (32,) and set(lost.lost) == {64, 128, 256}  # "sp diverges from width 64 on"


def distances(found: Section) -> None:
    """muP against ntk, and how far muP's widths lie from the largest."""
    apart = {
        (two.track.group["optimizer.lr"], size): [round(100 * value) for value in gap.mean]
        for one, two, size, gap in contrasts(found.studies)
        if one.name == "preconditioned" and one.track.group["parametrization.name"] == "ntk"
    }
    words = {at: "{} ({} .. {})".format(*values) for at, values in apart.items()}
    first = words[EIGHTH, 32].replace(" (", " percentage points (")
    mup = study(found, "preconditioned", name="mup", lr=LOW).distances
    below = [
        "{:.0f} % ({:.0f} .. {:.0f})".format(*(-100 * part[-1] for part in (one.relative_T, one.high_T, one.low_T)))
        for one in mup.values()
    ]
    says(
        PAGE,
        f"by {first} at width 32 and rate 1/8 over all steps, by {words[EIGHTH, 64]} at width 64",
        f"at rate 1/32 by {words[LOW, 32]} and {words[LOW, 64]}",
        f"width 32 lies {below[0]} below width 256, 64 lies {below[1]} below, 128 {below[2]}",
    )
    for rate in (LOW, EIGHTH):
        assert study(found, "preconditioned", name="mup", lr=rate).verdict == "undecided"
        assert study(found, "loss", name="ntk", lr=rate).verdict == "consistent"
        assert study(found, "preconditioned", name="mup", lr=rate).averaged == (rate == EIGHTH)
    edge = study(found, "preconditioned", name="mup", lr=1.0)
    assert (edge.verdict, edge.averaged) == ("undecided", True)
    assert study(found, "preconditioned", name="ntk", lr=EIGHTH).verdict == "differs"  # Fig. 1 of the paper


def betas(found: Section) -> None:
    def beta(one: Study) -> str:
        assert one.pooled
        value = one.pooled.beta
        return interval(value.value, value.low, value.high, ".2f")

    low, high = (study(found, "loss", name="mup", lr=rate) for rate in (LOW, EIGHTH))
    kernel = study(found, "tangent_kernel", name="ntk", lr=EIGHTH)
    moved = [study(found, "tangent_kernel", change=True, name=name, lr=EIGHTH) for name in ("ntk", "mup")]
    own = [study(found, "preconditioned", name=name, lr=EIGHTH) for name in ("mup", "ntk")]
    says(
        PAGE,
        f"the loss under muP has {beta(high).replace('0.03)', '+0.03)')} and {beta(low).replace('0.18)', '+0.18)')}",
        f"beta {beta(kernel)} for ntk at 1/8",
        f"since the start {beta(moved[0])} for ntk, {beta(moved[1])} for muP",
        f"Sharpness itself has {beta(own[0]).replace('0.51)', '+0.51)')} for muP, {beta(own[1])} for ntk at 1/8",
    )
    assert moved[1].pooled and 0.6 < 1 - moved[1].pooled.above < 0.72  # "two thirds of those within the noise"


def late_ratios(found: Section) -> None:
    """Where the late medians lie, by parametrization and rate."""
    late = {
        label: {size: round(one.median, 2) for size, one in by_size.items()} for label, by_size in found.ratios.items()
    }
    one = [value for name, sizes in late.items() if name.endswith("lr 1.0") for value in sizes.values()]
    eighth = [*late["mup, lr 0.125"].values(), *late["sp, lr 0.125"].values()]
    mup, sp = late["mup, lr 0.03125"].values(), late["sp, lr 0.03125"].values()
    ntk = late["ntk, lr 0.125"]
    says(
        PAGE,
        f"At rate 1 its late median is {min(one):.2f} to {max(one):.2f} in every cell that trains",
        f"At 1/8 it is {min(eighth):.2f} to {max(eighth):.2f} for muP and sp at every width",
        f"falls under ntk ({ntk[32]:.2f} at width 32, {ntk[256]:.2f} at 256)",
        f"At 1/32 muP has {min(mup):.2f} to {max(mup):.2f}, sp {min(sp):.2f} to {max(sp):.2f}",
    )


def depths(found: Section) -> None:
    def row(label: str, rate: str, **at: Any) -> list[str]:
        own = study(found, "preconditioned", **at)
        kernel, loss = study(found, "tangent_kernel", **at), study(found, "loss", **at)
        return [label, rate, exponent(own), exponent(kernel), exponent(loss, "+.3f"), own.verdict]

    def short(rate: float, edge: str) -> list[str]:
        both = [{"kind": "mlp", "base_depth": 2, "block_layers": layers, "lr": rate} for layers in (1, 2)]
        kernel, loss = ([study(found, name, **at) for at in both] for name in ("tangent_kernel", "loss"))
        late = [one.median for at in both for one in ratios(found, at).values()]
        verdicts = list(dict.fromkeys(study(found, "preconditioned", **at).verdict for at in both))
        return [
            "one, two layers",
            NAMES.get(rate, "1"),
            f"at the edge ({edge}{min(late):.2f} to {max(late):.2f})",
            ", ".join(f"{one.growth.value_T[-1]:+.2f}" for one in kernel if one.growth),
            ", ".join(f"{one.growth.value_T[-1]:+.3f}" for one in loss if one.growth),
            ", ".join(verdicts),
        ]

    block = {"kind": "mlp", "lr": LOW}
    assert table(PAGE, " | rate | sharpness | tangent kernel") == [
        row("one layer per block", "1/32", block_layers=1, base_depth=2, **block),
        row("the same, branches times L^-1/2", "1/32", block_layers=1, base_depth=1, **block),
        row("two layers per block", "1/32", block_layers=2, base_depth=2, **block),
        row("the same, branches times L^-1/2", "1/32", block_layers=2, base_depth=1, **block),
        short(EIGHTH, "ratios "),
        short(1.0, ""),
        row("transformer, AdamW", "2^-9", kind="transformer", lr=2.0**-9),
        row("transformer, AdamW", "2^-6", kind="transformer", lr=2.0**-6),
    ]
    ends = [ratios(found, {"kind": "transformer", "lr": 2.0**rate}).values() for rate in (-6, -9)]
    ends = [[one.median for one in part] for part in ends]
    near, far = ([f"{pick(part):.2f}" for pick in (min, max)] for part in ends)
    says(
        PAGE, f"Its ratio ends at {near[0]} to {near[1]} near the best rate and at {far[0]} to {far[1]} an eighth below"
    )


def ratios(found: Section, at: dict[str, Any]) -> dict[Any, Any]:
    """Late ratios by depth of the group with these values."""
    return found.ratios[describe(study(found, "preconditioned", **at).track.group)]


def raw(axis: str) -> pd.DataFrame:
    return pd.read_csv(DOCS / f"sharpness_vs_{axis}.csv", keep_default_na=False, na_values=[""])


def averages(frame: pd.DataFrame) -> None:
    """The retraction: ratio to the edge at rate 1/8, mean over updates 128 to 256 and over seeds, by pandas alone."""
    late = frame[(frame["optimizer.lr"] == EIGHTH) & (frame["step"] >= 128)]
    by_run = late.groupby(["parametrization.name", "model.width", "seed_init"])["ratio"].mean()
    mean = by_run.groupby(level=[0, 1]).mean()
    wanted = [[label, *(f"{mean[name, n]:.3f}" for n in (32, 64, 128, 256))] for name, label in LABELS.items()]
    assert table(PAGE, "width | 32 | 64 | 128 | 256") == wanted


def steps(frame: pd.DataFrame) -> None:
    """The retraction: how the sharpness of one layer per block grows from depth to depth, and its values."""
    here = frame[(frame["model.block_layers"] == 1) & (frame["model.kind"] == "mlp") & (frame["optimizer.lr"] == LOW)]
    mean = here.groupby(["parametrization.base_depth", "step", "model.depth"])["preconditioned"].mean()
    end, start, control = mean[2, 256], mean[2, 0], mean[1, 256]
    rise = [math.log2(end[2 * n] / end[n]) for n in (2, 4, 8)]
    says(
        PAGE,
        "the exponent of the sharpness is {:.2f}, {:.2f} and {:.2f}".format(*rise),
        "ends at {:.0f}, {:.0f}, {:.0f} and {:.0f}".format(*end),
        "at {:.1f}, {:.1f}, {:.1f} and {:.1f})".format(*control),
        "before training ({:.1f}, {:.1f}, {:.1f}, {:.1f} at the start)".format(*start),
    )


def test_widths() -> None:
    again = shifted("width")
    for check in (widths, distances, betas, late_ratios):
        check(measured("width"))
        fails(check, again)


def test_depths() -> None:
    depths(measured("depth"))
    fails(depths, shifted("depth"))


def test_time_averages_at_the_edge() -> None:
    frame = raw("width")
    averages(frame)
    fails(averages, frame.assign(ratio=1.003 * frame["ratio"]))


def test_steps_from_depth_to_depth() -> None:
    frame = raw("depth")
    steps(frame)
    factor = np.where(frame["model.depth"] == 8, 1.01, 1.0)
    fails(steps, frame.assign(preconditioned=frame["preconditioned"] * factor))


def test_the_tangent_kernel_follows_the_width_at_the_start() -> None:
    frame = raw("width")
    here = frame[(frame["optimizer.lr"] == EIGHTH) & (frame["step"] == 0)]
    mean = here.groupby(["parametrization.name", "model.width"])["tangent_kernel"].mean()
    start = [float(np.polyfit(np.log(mean[name].index), np.log(mean[name]), 1)[0]) for name in ("mup", "ntk")]
    assert f"{start[0]:.2f}" == f"{start[1]:.2f}"
    ends = [
        [study(measured("width"), "tangent_kernel", name=name, lr=rate).growth for rate in (LOW, EIGHTH)]
        for name in ("mup", "ntk")
    ]
    mup, ntk = ([f"{one.value_T[-1]:.2f}" for one in part if one] for part in ends)
    says(
        PAGE,
        f"its exponent is {start[0]:.2f} at the start, as ntk's, and then rises to {mup[0]} and {mup[1]}",
        f"while ntk's falls to {ntk[0]} and {ntk[1]}",
    )
