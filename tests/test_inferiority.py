"""Non-inferiority: constants chosen elsewhere, rivals at the best of their settings, seeds as clusters."""

import json
import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import figure
from analysis.inferiority import Comparison, Tuned, compare, judge_margin, seeds_needed, tuned
from analysis.results import Results
from sweeps.compare_parser import summary, text

pytestmark = pytest.mark.host

BATCHES, TOKENS, SEEDS = (8, 16, 32), (2**19, 2**20), range(4)
COEFFICIENTS = (1.0, 2.0, 4.0)


def best_rate(batch: int) -> float:
    return 2.0**-7 * (batch / 8) ** 0.5


OFF = 0.2  # octaves from the rivals' optimum to the nearest of their rates
GRID = 0.03 * OFF**2  # what that costs them, nats


def frame_of(
    rng: np.random.Generator, *, given_up: float = 0.0, noise: float = 0.0, level: float = 0.1, off: float = 0.0
) -> pd.DataFrame:
    """WSD with a parabola in every cell; Power, best at coefficient 2, above its minimum by a share `given_up`."""
    levels = rng.normal(0, level, len(SEEDS))
    rows: list[dict[str, Any]] = []
    for batch, tokens, seed in product(BATCHES, TOKENS, SEEDS):
        floor = 2 - 0.1 * math.log2(tokens / 2**19) + levels[seed]
        at = {"data.sequences": batch, "schedule.tokens": tokens, "seed_init": seed, "seed_data": seed, "seed": seed}
        if batch != 16:
            for step in range(-3, 4):
                lr = best_rate(batch) * 2 ** (step / 2 + off)
                loss = floor + 0.03 * math.log2(lr / best_rate(batch)) ** 2
                rows.append(at | {"schedule.kind": "wsd", "optimizer.lr": lr, "loss": loss})
        for coefficient in COEFFICIENTS:
            loss = floor * (1 + given_up) + 0.05 * abs(math.log2(coefficient / 2))
            rows.append(
                at
                | {
                    "schedule.kind": "power",
                    "optimizer.lr": 0.03,
                    "schedule.power_coefficient": coefficient,
                    "loss": loss,
                }
            )
    frame = pd.DataFrame(rows).assign(status="done")
    frame["schedule.power_coefficient"] = frame["schedule.power_coefficient"].fillna(4.0)
    frame["loss"] += rng.normal(0, noise, len(frame))
    return frame


def results(frame: pd.DataFrame, more: Sequence[str] = ()) -> Results:
    axes = [
        *more,
        "schedule.kind",
        "data.sequences",
        "schedule.tokens",
        "schedule.power_coefficient",
        "seed",
        "optimizer.lr",
    ]
    return Results({"name": "test", "axes": axes, "optimum_axes": ["optimizer.lr"]}, frame, {}, {})


def compared(frame: pd.DataFrame, axes: Sequence[str] = (), **changes: Any) -> Comparison:
    arguments = {"challenger": "power", "judge": {"data.sequences": [8, 32]}, "margin": 0.002} | changes
    return compare(results(frame, axes), **arguments)


@pytest.mark.parametrize(("given_up", "verdict"), [(0.0, "non-inferior"), (0.001, "non-inferior"), (0.01, "inferior")])
def test_a_planted_difference_is_found_exactly(given_up: float, verdict: str) -> None:
    found = compared(frame_of(np.random.default_rng(0), given_up=given_up))
    assert found.constants["schedule.power_coefficient"] == 2.0
    assert found.tuning_excess == found.hindsight == 0
    (difference,) = found.differences
    assert difference.rival == "wsd"
    assert difference.mean == pytest.approx(given_up, abs=1e-9)
    assert difference.verdict == verdict
    assert len(difference.cells) == 4
    assert difference.edges == ()


def cell_of(frame: pd.DataFrame, batch: int = 8, tokens: int = 2**19) -> pd.DataFrame:
    return frame[
        (frame["schedule.kind"] == "wsd") & (frame["data.sequences"] == batch) & (frame["schedule.tokens"] == tokens)
    ]


def tuned_of(rows: pd.DataFrame, *names: str) -> Tuned:
    seeds = pd.MultiIndex.from_frame(rows[["seed_init", "seed_data"]].drop_duplicates())
    return tuned(rows, [*names, "optimizer.lr"], "optimizer.lr", seeds)


def test_what_rates_between_the_measured_ones_might_gain_is_told() -> None:
    """No rate lies on the optimum: the rival is judged at a measured one, and what that costs it stands beside it."""
    rows = cell_of(frame_of(np.random.default_rng(0), off=OFF))
    found = tuned_of(rows)
    grid = rows.groupby("optimizer.lr")["loss"].mean().min()
    assert not found.edge
    assert found.loss["other"].mean() == found.loss["own"].mean() == pytest.approx(grid)
    assert found.between * grid == pytest.approx(GRID, abs=1e-9)
    assert tuned_of(cell_of(frame_of(np.random.default_rng(0)))).between == pytest.approx(0, abs=1e-12)


def test_a_steep_curve_is_read_between_its_three_lowest_rates() -> None:
    """Both neighbours of the best rate take part, also where their losses are far above it."""
    x = np.log(2.0) * np.arange(-3, 4)
    loss = 2 + 0.5 * (x - 0.1) ** 2
    rows = pd.DataFrame({"optimizer.lr": np.exp(x), "loss": loss, "seed_init": 0, "seed_data": 0, "status": "done"})
    rows = pd.concat([rows, rows.assign(seed_init=1)])
    assert (loss <= 1.02 * loss.min()).sum() == 1
    assert tuned_of(rows).between * loss.min() == pytest.approx(0.5 * 0.1**2, abs=1e-9)


def test_a_rival_is_the_best_of_all_its_settings() -> None:
    """A second, worse decay in the store changes nothing; one that is best in some cell is taken there."""
    axes = ["schedule.decay_fraction"]
    plain = frame_of(np.random.default_rng(0), given_up=0.02).assign(**{axes[0]: 0.2})
    wsd = plain["schedule.kind"] == "wsd"
    worse = plain[wsd].assign(**{axes[0]: 0.1}, loss=lambda rows: rows["loss"] + 0.06)
    alone, beside = (compared(frame, axes=axes) for frame in (plain, pd.concat([plain, worse])))
    assert [one.mean for one in alone.differences] == [pytest.approx(0.02)] * len(alone.differences)
    assert beside.differences[0].mean == pytest.approx(0.02)
    assert beside.differences[0].verdict == "inferior"
    mean = plain.loc[wsd, "loss"].to_numpy() / 2 + worse["loss"].to_numpy() / 2
    assert mean.min() > plain.loc[wsd, "loss"].min() + 0.02  # the control: an average of both would hide it

    better = worse.assign(loss=lambda rows: rows["loss"] - 0.08).query("`data.sequences` == 32")
    found = compared(pd.concat([plain, better]), axes=axes).differences[0]
    for (cell, share), chosen in zip(found.cells, found.chosen, strict=True):
        assert [one[axes[0]] for one in chosen] == [0.1 if cell["data.sequences"] == 32 else 0.2]
        assert share == pytest.approx(0.02) if cell["data.sequences"] == 8 else share > 0.025


def test_settings_without_a_value_are_settings() -> None:
    """`weight decay: none` of a rival is not left out of the choice, as a table keyed by NaN would."""
    name = "schedule.decay_fraction"
    plain = frame_of(np.random.default_rng(0), given_up=0.02)
    frame = plain.assign(**{name: np.where(plain["schedule.kind"] == "wsd", np.nan, 0.2)})
    assert compared(frame, axes=[name]).differences[0].mean == pytest.approx(0.02)


def test_no_seed_is_judged_at_a_rate_that_it_chose() -> None:
    """Two seeds, each with a loss that is low by luck: together, or by their own choice, they would take it."""
    rows = cell_of(frame_of(np.random.default_rng(0), level=0.0)).query("seed < 2").copy()
    for seed, step in ((0, 1), (1, 5)):
        lucky = (rows["seed"] == seed) & (rows["optimizer.lr"] == sorted(rows["optimizer.lr"].unique())[step])
        rows.loc[lucky, "loss"] = 1.9
    found = tuned_of(rows)
    assert [one["optimizer.lr"] for one in found.chosen] == [sorted(rows["optimizer.lr"].unique())[at] for at in (5, 1)]
    assert found.loss["other"].min() == pytest.approx(2 + 0.03)
    assert found.loss["own"].min() == 1.9  # the control, and what the upper bound leans on


def test_the_order_of_seeds_that_differ_in_their_data_alone_is_kept() -> None:
    """`seed_init` is 0 everywhere: paired by it alone, every seed would meet the rivals' mean."""
    frame = frame_of(np.random.default_rng(0), given_up=0.001).assign(seed_init=0)
    (difference,) = compared(frame, margin=0.002).differences
    assert difference.seeds == len(SEEDS)
    assert difference.mean == pytest.approx(0.001, abs=1e-9)
    assert difference.half_width < 1e-9
    assert frame["loss"].std() > 0.05  # levels of the seeds, which pairing takes out


def test_a_run_that_is_there_twice_is_refused() -> None:
    frame = frame_of(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"2 finished runs are there twice, as wsd at .*seeds 0 and 0"):
        compared(pd.concat([frame, frame.iloc[:1]]))


def test_a_margin_that_the_seeds_cannot_attain_is_refused_with_those_that_can() -> None:
    frame = frame_of(np.random.default_rng(0), noise=0.02)
    half = compared(frame, margin=None).differences[0].half_width
    assert compared(frame, margin=None).differences[0].verdict is None
    seeds = seeds_needed(half, 4, half / 3)
    line = rf"--margin {100 * half / 3:g}: 4 seeds .* to wsd to \+{100 * half:.2f} % only: .* about {seeds} seeds"
    with pytest.raises(ValueError, match=line):
        compared(frame, margin=half / 3)
    assert compared(frame, margin=1.001 * half).differences[0].verdict


def test_the_seeds_that_a_refusal_asks_for_are_enough() -> None:
    """By simulation of a normal difference: 80 % of sweeps without one are below the margin, with half of them 45 %."""
    sd, margin = 0.01, 0.005
    half = float(stats.t.ppf(0.95, 3)) * sd / 2
    seeds, rng = seeds_needed(half, 4, margin), np.random.default_rng(0)

    def share(n: int) -> float:
        draws = rng.normal(0, sd, (4000, n))
        return float(np.mean(draws.mean(1) + stats.t.ppf(0.95, n - 1) * draws.std(1, ddof=1) / n**0.5 < margin))

    assert 0.77 < share(seeds) < 0.86
    assert share(seeds // 2) < 0.6


def test_only_the_rivals_that_are_named_are_judged() -> None:
    frame = frame_of(np.random.default_rng(0))
    wsd = frame[frame["schedule.kind"] == "wsd"]
    both = pd.concat([frame, wsd.assign(**{"schedule.kind": "cosine"})])
    assert [one.rival for one in compared(both).differences] == ["wsd", "cosine"]
    assert [one.rival for one in compared(both, rivals=["cosine"]).differences] == ["cosine"]
    with pytest.raises(ValueError, match=r"--rival linear: .*schedule\.kind=wsd, power, cosine"):
        compared(both, rivals=["linear"])


def test_seeds_are_paired_and_are_the_clusters() -> None:
    """A level of 0.1 nat per seed does not matter; noise of the runs does, and the bounds hold as often as they say."""
    hits, widths = 0, []
    for trial in range(30):
        frame = frame_of(np.random.default_rng(trial), given_up=0.001, noise=0.002)
        (difference,) = compared(frame, margin=None).differences
        hits += difference.low <= 0.001 <= difference.high
        widths.append(difference.high - difference.low)
    assert hits >= 23  # two one-sided bounds at 95 % hold together in 90 %; counted by test_inferiority_simulation.py
    assert np.mean(widths) < 0.01


def test_constants_are_chosen_where_nothing_is_judged() -> None:
    frame = frame_of(np.random.default_rng(0))
    tuning = (frame["schedule.kind"] == "power") & (frame["data.sequences"] == 16)
    frame.loc[tuning & (frame["schedule.power_coefficient"] == 4.0), "loss"] -= 0.2
    found = compared(frame)
    assert found.constants["schedule.power_coefficient"] == 4.0
    assert found.hindsight == pytest.approx(0.05 / 1.95, rel=0.1)
    assert found.differences[0].verdict == "inferior"


def test_a_rival_whose_optimum_is_on_the_edge_is_named() -> None:
    frame = frame_of(np.random.default_rng(0))
    frame = frame[
        (frame["schedule.kind"] != "wsd")
        | (frame["optimizer.lr"] < 0.7 * best_rate(8))
        | (frame["data.sequences"] != 8)
    ]
    assert len(compared(frame).differences[0].edges) == 2


def test_verdicts() -> None:
    assert judge_margin(-0.01, 0.001, 0.002) == "non-inferior"
    assert judge_margin(-0.01, 0.003, 0.002) == "undecided"
    assert judge_margin(0.0021, 0.003, 0.002) == "inferior"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"challenger": "cosine"}, r"--challenger cosine: the finished runs have schedule\.kind=wsd, power"),
        ({"judge": {"data.sequence": [8]}}, r"--judge data\.sequence: the sweep has no such setting \(did you mean"),
        ({"judge": {"data.sequences": [64]}}, "matches no finished run"),
        ({"judge": {"data.sequences": [8, 16, 32]}}, "leaves no cell to choose power's constants on"),
    ],
)
def test_refusals(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        compared(frame_of(np.random.default_rng(0)), **changes)


def test_unfinished_sweeps_are_refused() -> None:
    frame = frame_of(np.random.default_rng(0))
    wsd = frame["schedule.kind"] == "wsd"
    with pytest.raises(ValueError, match="wsd has no finished run at"):
        compared(frame[~(wsd & (frame["data.sequences"] == 32))])
    with pytest.raises(ValueError, match="not every seed ran at every setting"):
        compared(frame[~(wsd & (frame["seed"] == 1) & (frame["optimizer.lr"] == frame["optimizer.lr"][wsd].iloc[2]))])
    with pytest.raises(ValueError, match="one seed gives no interval"):
        compared(frame[frame["seed"] == 0])


def test_what_is_printed() -> None:
    found = compared(frame_of(np.random.default_rng(0), given_up=0.01))
    as_json = json.loads(json.dumps(summary(found)))
    assert as_json["constants"] == {"schedule.power_coefficient": 2.0, "optimizer.lr": 0.03}
    assert as_json["differences"][0]["percent"] == pytest.approx(1.0)
    (plot,) = figure.comparison(found).axes
    points = [line for line in plot.lines if line.get_marker() == "o"]
    assert [np.size(line.get_ydata()) for line in points] == [len(one.cells) for one in found.differences]
    printed = text(found)
    assert f"4 seeds can attain +{100 * found.differences[0].half_width:.2f} %" in printed
    assert "power" in printed
    assert "inferior" in printed
    assert "1.00 %" in printed
