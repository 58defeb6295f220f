"""docs/horizons.md tells what the records in docs/ give, and its retractions the evidence that they hold."""

import dataclasses
import functools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measured import DOCS, fails, interval, octaves, records, results, says, table
from scipy import stats

from analysis.drift import Cell, read_cells
from analysis.horizon import Horizon, horizons, summary
from analysis.horizon_law import Estimate
from analysis.inferiority import Comparison, Difference, Tuned, bounds, compare, tuned
from analysis.results import Results
from sweeps import compare_parser, horizon_parser

pytestmark = pytest.mark.host
PAGE, README = DOCS / "horizons.md", DOCS.parent / "README.md"
JUDGED = [8, 32]
CAPS = {-5.0: "2^-5, Power's cap here", -5.5: "2^-5.5", -6.0: "2^-6", -6.5: "2^-6.5", -7.0: "2^-7"}


@functools.cache
def measured(name: str) -> tuple[Horizon, ...]:
    return tuple(horizons(records(name)))


def shifted(name: str) -> Results:
    """The control: every loss moved by some thousandths."""
    frame = records(name).frame
    noise = np.random.default_rng(0).normal(0, 0.004, len(frame))
    return results(name, frame.assign(loss=frame["loss"] + noise))


def told(found: Estimate | None) -> str:
    assert found
    return interval(found.value, found.low, found.high)


def place(cell: Cell, digits: int, sep: str = "; ") -> str:
    found = cell.optimum
    assert found.loss
    return f"{'flat' if found.quality == 'flat' else octaves(found)}{sep}{found.loss:.{digits}f}"


def tokens_alone(plain: Horizon, decay: Horizon) -> None:
    assert (plain.group, decay.group) == ({"optimizer.weight_decay": 0.0}, {"optimizer.weight_decay": 0.1})
    wanted = [
        [f"{a.tokens:,}", *place(a.cell, 4, "|").split("|"), *place(b.cell, 4, "|").split("|")]
        for a, b in zip(plain.members, decay.members, strict=True)
    ]
    exponents = [told(one.exponents["tokens"]) for one in (plain, decay)]
    wanted.append(["exponent of tokens, 95 %", exponents[0], "", exponents[1], ""])
    assert table(PAGE, "tokens | no weight decay") == wanted
    says(PAGE, f"(in {plain.lossy} and {decay.lossy} of {plain.replicates} draws")
    for one in (plain, decay):  # "-0.32 (Bjorck et al.) ... lies outside both intervals"
        limits = one.exponents["tokens"]
        assert limits and limits.low and limits.low > -0.32


def grid(found: Horizon, axis: str) -> list[list[str]]:
    """Rows of budgets: the cells along one more axis."""
    cells = {(one.tokens, getattr(one, axis)): one.cell for one in found.members}
    across = sorted({key[1] for key in cells})
    return [
        [f"{tokens:,}", *(place(cells[tokens, at], 3) for at in across)] for tokens in sorted({k[0] for k in cells})
    ]


def batches(found: Horizon) -> None:
    assert table(PAGE, "tokens | 64 per update") == grid(found, "batch")
    exponents, at = found.exponents, {one.batch: one.exponent for one in found.by_batch}
    interaction, best = exponents["interaction"], exponents["best_batch"]
    assert interaction and best
    rows = {row[0]: row[1] for row in table(PAGE, "exponent of the best rate")}
    assert rows == {
        "tokens, at a fixed batch": told(exponents["tokens"]),
        "tokens, along the best batch (retracted)": told(exponents["tokens_along_best_batch"]),
        "tokens per update (retracted)": told(exponents["batch"]),
        "tokens, at 64 tokens per update": told(at[64]),
        **{f"at {batch}": told(at[batch]) for batch in (128, 256, 512, 1024)},
        "tokens times tokens per update, interaction (retracted)": interval(
            interaction.value, interaction.low, interaction.high, "+.3f"
        ),
        "best batch against tokens (retracted)": told(best),
    }
    first, last = found.best[0].batch, found.best[-1].batch
    assert first and last
    ends = [interval(one.value, one.low, one.high, ".0f") for one in (first, last)]
    says(
        PAGE,
        "from {} tokens {} at 262 thousand to {} {} at 2.1 million".format(
            *(word for end in ends for word in end.split(" ", 1))
        ),
        f"lose the optimum of some cell in {found.lossy} of {found.replicates} draws",
    )


def width(found: Horizon) -> None:
    assert table(PAGE, "tokens | width 32") == grid(found, "width")
    tokens, per = found.exponents["tokens"], found.exponents["width"]
    assert per and per.low and per.high
    says(
        PAGE,
        f"The exponent of tokens is {told(tokens)}",
        f"rises by {per.value:.2f} octave ({per.low:.2f} .. {per.high:.2f}) per doubling of the width",
    )


def controls(cells: list[Cell], plain: Horizon) -> None:
    """Weight decay and warm-up at 256 and 2048 tokens per update, beside the cells of `lr_vs_batch`."""
    rows = {(c.values["optimizer.weight_decay"], c.values["data.sequences"]): c for c in cells}
    theirs = {m.batch: m.cell for m in plain.members if m.tokens == 2**20}

    def words(cell: Cell) -> str:
        found = cell.optimum
        return octaves(found) if found.lr else f"flat, best run {math.log2(found.best_lr or 0):.2f}"

    ends = [[math.log2(v or 0) for v in (one.low, one.lr, one.high)] for one in (rows[0.1, b].optimum for b in (4, 32))]
    (a_low, a, a_high), (b_low, b, b_high) = ends
    rise = [
        (b - a) / 3,
        (b - a - math.hypot(b - b_low, a_high - a)) / 3,
        (b - a + math.hypot(b_high - b, a - a_low)) / 3,
    ]
    assert table(PAGE, " | 256 tokens per update | 2048") == [
        ["as above: warm-up 32,768 tokens, no weight decay", words(theirs[256]), words(theirs[2048]), ""],
        ["warm-up 32 updates, no weight decay", words(rows[0.0, 4]), words(rows[0.0, 32]), ""],
        [
            "warm-up 32,768 tokens, weight decay 0.1",
            words(rows[0.1, 4]),
            words(rows[0.1, 32]),
            interval(rise[0], rise[1], rise[2], ".2f"),
        ],
    ]
    step = math.log2(rows[0.0, 4].optimum.lr or 0) - math.log2(theirs[256].optimum.lr or 0)
    best = [rows[decay, 32].optimum.loss or 0 for decay in (0.1, 0.0)]
    says(
        PAGE,
        f"the same optimum within {step:.2f} octave",
        "{:.3f} against {:.3f} in these records".format(*best),
    )


def test_tokens_at_a_fixed_batch() -> None:
    tokens_alone(*measured("lr_vs_tokens"))
    fails(tokens_alone, *horizons(shifted("lr_vs_tokens")))


def test_tokens_and_batch() -> None:
    batches(*measured("lr_vs_batch"))
    fails(batches, *horizons(shifted("lr_vs_batch")))


def test_tokens_and_width() -> None:
    width(*measured("lr_vs_tokens_width"))
    fails(width, *horizons(shifted("lr_vs_tokens_width")))


def test_controls_of_the_batch() -> None:
    (plain,) = measured("lr_vs_batch")
    controls(read_cells(records("batch_controls"))[0], plain)
    fails(controls, read_cells(shifted("batch_controls"))[0], plain)


def test_the_exponents_by_numpy_alone() -> None:
    """Weighted least squares of the cells' log optima, weighted by the errors of their vertices."""
    (found,) = measured("lr_vs_batch")
    used = [one for one in found.members if one.cell.optimum.vertex_sd]
    at = np.log([[one.tokens, one.batch] for one in used])
    y = np.log([one.cell.optimum.lr or 0 for one in used])
    sd = np.array([one.cell.optimum.vertex_sd for one in used], float)
    design = np.column_stack([np.ones(len(y)), at]) / sd[:, None]
    (_, p, q), *_ = np.linalg.lstsq(design, y / sd, rcond=None)
    wanted = [found.exponents[name] for name in ("tokens", "batch")]
    assert [p, q] == pytest.approx([one.value for one in wanted if one], abs=0.005)


def test_powers_convention() -> None:
    """Rate over batch at the three best batches of each budget: what -0.51 is an exponent of."""
    (found,) = measured("lr_vs_batch")
    cells = pd.DataFrame(
        [(m.tokens, m.batch, m.cell.optimum.lr, m.cell.optimum.loss) for m in found.members if m.cell.optimum.lr],
        columns=pd.Index(["tokens", "batch", "lr", "loss"]),
    )
    best = cells.sort_values("loss").groupby("tokens").head(3)
    line: Any = stats.linregress(np.log(best["tokens"]), np.log(best["lr"] / best["batch"]))
    half = stats.t.ppf(0.975, len(best) - 2) * line.stderr
    words = interval(line.slope, line.slope - half, line.slope + half)
    assert len(best) == 12 and line.slope - half < -0.51 < 0 < line.slope + half
    says(PAGE, f"give {words[:-1]}; twelve cells", f"not excluded: {words} in that convention")


def test_the_short_warm_up() -> None:
    """32 against 128 updates of warm-up at width 32, 1024 tokens per update and 524,288 tokens, from the two sweeps."""
    short = next(m.cell.optimum for m in measured("lr_vs_tokens")[0].members if m.tokens == 2**19)
    cells = read_cells(records("lr_vs_width"))[0]
    long = next(c.optimum for c in cells if (c.width, c.parametrization) == (32, "mup"))
    assert short.lr and long.lr and short.loss and long.loss
    frames = [records(name).frame for name in ("lr_vs_tokens", "lr_vs_width")]
    warm = [frame.loc[frame["schedule.steps"] == 512, "schedule.warmup_steps"].unique().tolist() for frame in frames]
    assert warm == [[32], [128]]
    says(
        PAGE,
        f"{octaves(short)} with loss {short.loss:.4f} after 32 updates",
        f"and {octaves(long)} with loss {long.loss:.4f} after 128 updates",
        f"{math.log2(long.lr / short.lr):.2f} octave higher, and {short.loss - long.loss:.3f} nat better",
    )
    steps = records("lr_vs_batch").frame.groupby("data.sequences")["schedule.warmup_steps"].unique()
    assert [steps[batch].tolist() for batch in (1, 2, 4, 16, 32)] == [[512], [256], [128], [32], [16]]


@functools.cache
def compared() -> Comparison:
    return compare(records("power_vs_wsd"), challenger="power", judge={"data.sequences": JUDGED}, margin=None)


def power(found: Comparison) -> None:
    by: dict[str, Difference] = {one.rival: one for one in found.differences}
    rows = table(PAGE, "judged cell | loss above tuned WSD")
    losses = [[f"{100 * value:+.2f} %" for _, value in by[name].cells] for name in ("wsd", "cosine")]
    assert [row[1:] for row in rows[:-1]] == [list(pair) for pair in zip(*losses, strict=True)]
    pooled = [
        f"{100 * one.mean:+.2f} % ({100 * one.low:+.2f} .. {100 * one.high:+.2f})" for one in (by["wsd"], by["cosine"])
    ]
    assert rows[-1][1:] == pooled
    constants = found.constants
    widths = [100 * by[name].half_width for name in ("wsd", "cosine")]
    says(
        PAGE,
        "four seeds can attain +{:.2f} % against WSD and +{:.2f} % against cosine".format(*widths),
        f"b {constants['schedule.power_exponent']:g}, a {constants['schedule.power_coefficient']:g}",
        f"would give up {100 * found.hindsight:.2f} % less",
    )


def test_the_power_schedule() -> None:
    power(compared())
    again = compare(shifted("power_vs_wsd"), challenger="power", judge={"data.sequences": JUDGED}, margin=None)
    fails(power, again)


def judged(frame: pd.DataFrame, kind: str) -> dict[tuple, pd.DataFrame]:
    rows = frame[(frame["schedule.kind"] == kind) & frame["data.sequences"].isin(JUDGED)]
    return dict(list(rows.groupby(["data.sequences", "schedule.tokens"])))


def tuned_cell(cell: pd.DataFrame) -> Tuned:
    seeds = pd.MultiIndex.from_frame(cell[["seed_init", "seed_data"]].drop_duplicates()).sort_values()
    return tuned(cell, ["optimizer.lr"], "optimizer.lr", seeds)


def constant_rates(frame: pd.DataFrame) -> None:
    """WSD at one rate everywhere against WSD tuned in every cell: a pooled test over seeds."""
    rows = []
    for octave, label in CAPS.items():
        per = []
        for cell in judged(frame, "wsd").values():
            own = cell[np.isclose(cell["optimizer.lr"], 2.0**octave)].set_index(["seed_init", "seed_data"])["loss"]
            per.append(100 * (tuned_cell(cell).loss.rdiv(own.sort_index(), axis=0) - 1))
        mean, low, high = bounds(*(np.mean([one[name] for one in per], axis=0) for name in ("other", "own")))
        rows.append([label, f"{mean:+.2f} % ({low:+.2f} .. {high:+.2f})"])
    assert table(PAGE, "WSD at one constant rate") == rows


def test_the_cap_that_was_not_tuned() -> None:
    constant_rates(records("power_vs_wsd").frame)
    fails(constant_rates, shifted("power_vs_wsd").frame)
    rows = {row[0]: row[1] for row in table(PAGE, "WSD at one constant rate")}
    cap, half = rows["2^-5, Power's cap here"], rows["2^-6"]
    says(PAGE, f"gives up {cap.replace('+', '')} to tuned WSD", f"one at 2^-6 {half}")
    says(README, "a WSD at that cap gives up 8.0 %, one at half of it nothing")
    assert cap.startswith("+7.99 %") and half == "-0.15 % (-0.27 .. +0.12)"
    says(PAGE, "non-inferior to tuned WSD at a margin of 0.2 %")


def test_rivals_cell_by_cell() -> None:
    """The best measured rate of WSD, WSD against cosine, and Power's two exponents, by means over seeds alone."""
    frame = records("power_vs_wsd").frame
    wsd, cosine, mine = (judged(frame, kind) for kind in ("wsd", "cosine", "power"))
    means = [cell.groupby("optimizer.lr")["loss"].mean() for cell in wsd.values()]
    best = [math.log2(mean.index.to_numpy(float)[mean.to_numpy().argmin()]) for mean in means]
    assert sorted(best) == [-6.5, *[-6.0] * 5]  # "the best measured rate in five of the six cells"
    lowest = [[cell.groupby("optimizer.lr")["loss"].mean().min() for cell in one.values()] for one in (cosine, wsd)]
    ahead = [100 * (theirs / ours - 1) for theirs, ours in zip(*lowest, strict=True)]
    says(PAGE, f"WSD beats cosine by {min(ahead):.1f} to {max(ahead):.1f} %")
    worse = 0
    for cell in mine.values():
        mean = cell.groupby(["schedule.power_exponent", "schedule.power_coefficient"])["loss"].mean()
        lowest = mean.groupby(level=0).min()
        worse += int(lowest[-0.51] > lowest[-0.25])
    assert worse == 5  # "worse than -0.25 in five of the six cells"


def test_what_the_page_sums_up_is_what_it_shows() -> None:
    (plain,) = measured("lr_vs_batch")
    both = [told(one.exponents["tokens"]) for one in measured("lr_vs_tokens")]
    rows = {row[0]: row[1] for row in table(PAGE, "question | what these records say")}
    first = rows["the exponent of tokens at a fixed batch"]
    assert first.startswith(f"{told(plain.exponents['tokens'])} over all cells")
    assert f"{both[0].split()[0]} and {both[1].split()[0]} in `lr_vs_tokens`" in first


def test_what_the_horizon_command_prints_is_what_was_found() -> None:
    """Cells, exponents and best batches, as text and as JSON, with the sides of their intervals in order."""
    (found,) = measured("lr_vs_batch")
    header, rows = horizon_parser._cells(found)
    assert [row[3] for row in rows] == [octaves(m.cell.optimum) if m.cell.optimum.lr else "-" for m in found.members]
    assert [row[header.index("loss")] for row in rows] == [f"{m.cell.optimum.loss:.4f}" for m in found.members]
    told = {row[0]: row[1:3] for row in horizon_parser._exponents(found)[1]}
    kept = [one for one in found.exponents.values() if one] + [one.exponent for one in found.by_batch]
    assert list(told.values()) == [[f"{one.value:+.3f}", f"{one.low:+.3f} .. {one.high:+.3f}"] for one in kept]
    assert told["tokens, at 64 tokens per batch"][0].startswith("-0.146")
    best = [row[2:6] for row in horizon_parser._best(found)[1]]
    assert best == [
        [f"{b.value:.0f}", f"{b.low:.0f} .. {b.high:.0f}", f"{r.value:.4g}", f"{r.low:.4g} .. {r.high:.4g}"]
        for b, r in ((one.batch, one.lr) for one in found.best)
        if b and r
    ]
    (group,) = json.loads(json.dumps(summary([found])))["groups"]
    for name, one in found.exponents.items():
        assert group["exponents"][name] == (None if one is None else dataclasses.asdict(one))
    for cell, member in zip(group["cells"], found.members, strict=True):
        mine = member.cell.optimum
        assert [cell[name] for name in ("low", "lr", "high", "loss")] == [mine.low, mine.lr, mine.high, mine.loss]
        assert mine.lr is None or cell["low"] < cell["lr"] < cell["high"]
    for line, one in zip(group["best_batch"], found.best, strict=True):
        for name, estimate in (("batch_tokens", one.batch), ("lr", one.lr)):
            assert estimate and estimate.low and estimate.high
            ends = (estimate.low, estimate.value, estimate.high)
            assert (line[f"{name}_low"], line[name], line[f"{name}_high"]) == ends
            assert ends[0] < ends[1] < ends[2]


def test_what_the_comparison_prints_is_what_was_found() -> None:
    found = compared()
    printed = compare_parser.text(found)
    for one, line in zip(found.differences, compare_parser.summary(found)["differences"], strict=True):
        ends = [100 * value for value in (one.low, one.mean, one.high)]
        assert [line[name] for name in ("low", "percent", "high")] == ends
        assert ends[0] < ends[1] < ends[2]
        assert f"against {one.rival} tuned in every cell: {ends[1]:+.2f} % of its loss" in printed
        assert f"bounds {ends[0]:+.2f} .. {ends[2]:+.2f}, 4 seeds)" in printed
        assert f"4 seeds can attain +{ends[2] - ends[1]:.2f} %" in printed


def test_the_pooled_test_by_numpy_alone() -> None:
    """Mean over cells of each seed's relative difference; Student's one-sided bounds with three degrees of freedom."""
    frame, found = records("power_vs_wsd").frame, compared()
    setting = found.constants
    mine = frame[np.logical_and.reduce([frame[name] == value for name, value in setting.items()])]
    per_seed = []
    for seed in range(4):
        apart = []
        for at, cell in judged(frame, "wsd").items():
            own = mine[(mine["data.sequences"] == at[0]) & (mine["schedule.tokens"] == at[1])]
            own = own[(own["schedule.kind"] == "power") & (own["seed_init"] == seed)]
            others = cell[cell["seed_init"] % 2 != seed % 2].groupby("optimizer.lr")["loss"].mean()
            rival = cell[(cell["optimizer.lr"] == others.idxmin()) & (cell["seed_init"] == seed)]
            apart.append(float(own["loss"].iloc[0]) / float(rival["loss"].iloc[0]) - 1)
        per_seed.append(np.mean(apart))
    (one,) = [difference for difference in found.differences if difference.rival == "wsd"]
    half = 2.3533634 * np.std(per_seed, ddof=1) / 2
    assert [one.low, one.mean] == pytest.approx([np.mean(per_seed) - half, np.mean(per_seed)], rel=1e-6)
