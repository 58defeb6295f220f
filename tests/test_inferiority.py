"""Non-inferiority: constants chosen elsewhere, rivals tuned by fitted vertices, seeds as clusters."""

import json
import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import figure
from analysis.inferiority import Comparison, compare, judge_margin, tuned_loss
from analysis.results import Results
from sweeps.compare_parser import summary, text

pytestmark = pytest.mark.host

BATCHES, TOKENS, SEEDS = (8, 16, 32), (2**19, 2**20), range(4)
COEFFICIENTS = (1.0, 2.0, 4.0)


def best_rate(batch: int) -> float:
    return 2.0**-7 * (batch / 8) ** 0.5


def frame_of(
    rng: np.random.Generator, *, given_up: float = 0.0, noise: float = 0.0, level: float = 0.1
) -> pd.DataFrame:
    """WSD with a parabola in every cell; Power, best at coefficient 2, above its minimum by a share `given_up`."""
    levels = rng.normal(0, level, len(SEEDS))
    rows: list[dict[str, Any]] = []
    for batch, tokens, seed in product(BATCHES, TOKENS, SEEDS):
        floor = 2 - 0.1 * math.log2(tokens / 2**19) + levels[seed]
        at = {"data.sequences": batch, "schedule.tokens": tokens, "seed_init": seed, "seed_data": seed, "seed": seed}
        if batch != 16:
            for step in range(-3, 4):
                lr = best_rate(batch) * 2 ** (step / 2 + 0.2)
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


def results(frame: pd.DataFrame) -> Results:
    axes = ["schedule.kind", "data.sequences", "schedule.tokens", "schedule.power_coefficient", "seed", "optimizer.lr"]
    return Results({"name": "test", "axes": axes, "optimum_axes": ["optimizer.lr"]}, frame, {}, {})


def compared(frame: pd.DataFrame, **changes: Any) -> Comparison:
    arguments = {"challenger": "power", "judge": {"data.sequences": [8, 32]}, "margin": 0.002} | changes
    return compare(results(frame), **arguments)


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


def test_a_grid_alone_would_favour_the_challenger() -> None:
    """The control: no grid point lies on the optimum, so the best measured rate costs the rival something."""
    frame = frame_of(np.random.default_rng(0))
    one = frame[
        (frame["schedule.kind"] == "wsd") & (frame["data.sequences"] == 8) & (frame["schedule.tokens"] == 2**19)
    ]
    tuned, interior = tuned_loss(one, "optimizer.lr")
    grid = one.groupby("optimizer.lr")["loss"].mean().min()
    assert interior
    assert grid - tuned.mean() == pytest.approx(0.03 * 0.2**2, abs=1e-9)


def test_a_steep_curve_is_tuned_between_its_three_lowest_rates() -> None:
    """Both neighbours of the best rate take part, also where their losses are far above it."""
    x = np.log(2.0) * np.arange(-3, 4)
    loss = 2 + 0.5 * (x - 0.1) ** 2
    rows = pd.DataFrame({"optimizer.lr": np.exp(x), "loss": loss, "seed_init": 0})
    tuned, interior = tuned_loss(rows, "optimizer.lr")
    assert (loss <= 1.02 * loss.min()).sum() == 1
    assert interior
    assert tuned.mean() == pytest.approx(2.0, abs=1e-9)


def test_seeds_are_paired_and_are_the_clusters() -> None:
    """A level of 0.1 nat per seed does not matter; noise of the runs does, and the bounds hold as often as they say."""
    hits, widths = 0, []
    for trial in range(200):
        frame = frame_of(np.random.default_rng(trial), given_up=0.001, noise=0.002)
        (difference,) = compared(frame).differences
        hits += difference.low <= 0.001 <= difference.high
        widths.append(difference.high - difference.low)
    assert 170 <= hits <= 194  # two one-sided bounds at 95 % hold together in 90 %
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
    with pytest.raises(ValueError, match="not every seed ran at every rate"):
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
    assert "power" in printed
    assert "inferior" in printed
    assert "1.00 %" in printed
