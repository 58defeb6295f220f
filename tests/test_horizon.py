"""Planted laws of tokens, batch and width, and intervals from redrawn seeds."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import figure
from analysis.horizon import LITERATURE, Horizon, budgets, horizons, summary
from analysis.horizon_law import Estimate, interval, least_squares
from analysis.results import Results
from lab.check import InputError
from lab.config import RunConfig
from sweeps import launch
from sweeps.cli import main
from sweeps.sweep import Sweep, axis, product, resolved

TOKENS = tuple(2**e for e in range(18, 22))
BATCHES = tuple(2**e for e in range(7, 13))
K = 0.1  # curvature of the planted valleys, nats per squared natural logarithm
AXES = ["data.sequences", "schedule.tokens", "model.width", "seed", "optimizer.lr"]
LENGTH = 64


def law(tokens: float, batch: float, width: float, interaction: float = 0.0) -> float:
    """ln of the planted optimum: exponents -0.3, 0.4 and -0.2 about 2^19.5 tokens, batch 2^9.5 and width 64."""
    x, y, z = math.log(tokens / 2**19.5), math.log(batch / 2**9.5), math.log(width / 64)
    return -7 * math.log(2) - 0.3 * x + 0.4 * y - 0.2 * z + interaction * x * y


def best_batch(tokens: float) -> float:
    """ln of the planted best batch: exponent 0.5."""
    return math.log(2**9.3) + 0.5 * math.log(tokens / 2**19.5)


def planted(
    tokens: Sequence[int] = TOKENS,
    batches: Sequence[int] = BATCHES,
    widths: Sequence[int] = (64,),
    *,
    seeds: int = 1,
    sd: float = 0.0,
    optimum: Callable[[float, float, float], float] = law,
    best: Callable[[float], float] = best_batch,
    lowest: float = -12.0,
    rates: int = 21,
) -> Results:
    """A sweep whose losses are parabolas in ln lr and ln B; each seed has a shifted grid and a level."""
    rng, rows = np.random.default_rng(0), []
    for batch in batches:
        for amount in tokens:
            for width in widths:
                for seed in range(seeds):
                    octaves = lowest + 0.5 * (np.arange(rates) + seed / seeds)
                    away = octaves * math.log(2) - optimum(amount, batch, width)
                    floor = 2 - 0.1 * math.log(amount / 2**18) + 0.01 * (math.log(batch) - best(amount)) ** 2
                    loss = floor + 0.5 * K * away**2 + 0.03 * seed + rng.normal(0, sd, rates)
                    place = {
                        "data.sequences": batch // LENGTH,
                        "data.length": LENGTH,
                        "schedule.tokens": amount,
                        "schedule.steps": amount // batch,
                        "model.width": width,
                        "parametrization.name": "mup",
                        "seed_init": seed,
                        "seed_data": seed,
                        "seed": seed,
                        "status": "done",
                    }
                    rows += [place | {"optimizer.lr": 2.0**o, "loss": y} for o, y in zip(octaves, loss, strict=True)]
    return Results({"name": "plan", "axes": AXES, "optimum_axes": ["optimizer.lr"]}, pd.DataFrame(rows), {}, {})


def only(results: Results) -> Horizon:
    (found,) = horizons(results)
    return found


def values(found: Horizon) -> dict[str, float | None]:
    return {name: value.value if value else None for name, value in found.exponents.items()}


def test_a_planted_law_comes_back() -> None:
    """Tokens, batch and width together; the best batch, its exponent, and the rate along it."""
    found = only(planted(widths=(32, 64, 128)))
    wanted = {"tokens": -0.3, "batch": 0.4, "width": -0.2, "best_batch": 0.5, "tokens_along_best_batch": -0.1}
    assert values(found) == pytest.approx(wanted | {"interaction": 0.0}, abs=1e-9)
    assert [one.exponent.value for one in found.by_batch] == pytest.approx([-0.3] * len(BATCHES), abs=1e-9)
    assert {one.cells for one in found.by_batch} == {12}
    assert len(found.best) == 12
    for one in found.best:
        assert one.quality == "interior"
        assert one.batch and one.lr
        assert math.log(one.batch.value) == pytest.approx(best_batch(one.tokens), abs=1e-9)
        assert math.log(one.lr.value) == pytest.approx(law(one.tokens, one.batch.value, one.width), abs=1e-9)
    assert math.log(found.rate(2**25, 2**14, 256) or 0) == pytest.approx(law(2**25, 2**14, 256), abs=1e-9)
    assert (found.seeds, found.replicates, found.left_out) == (1, 0, [])
    assert all(value is None or value.low is value.high is None for value in found.exponents.values())


def test_an_interaction_comes_back_and_the_exponent_rises_with_the_batch() -> None:
    found = only(planted(optimum=lambda d, b, w: law(d, b, w, interaction=0.05)))
    assert found.exponents["interaction"]
    assert found.exponents["interaction"].value == pytest.approx(0.05, abs=1e-9)
    assert found.exponents["width"] is None
    steps = [-0.3 + 0.05 * math.log(batch / 2**9.5) for batch in BATCHES]
    assert [one.exponent.value for one in found.by_batch] == pytest.approx(steps, abs=1e-9)


def test_without_noise_the_intervals_of_several_seeds_have_no_length() -> None:
    found = only(planted(seeds=4))
    assert (found.seeds, found.replicates, found.lossy) == (4, 400, 0)
    for value in [*found.exponents.values(), *(one.exponent for one in found.by_batch)]:
        if value:
            assert value.low == pytest.approx(value.value, abs=1e-9)
            assert value.high == pytest.approx(value.value, abs=1e-9)


def test_noise_gives_intervals_that_hold_the_truth_the_same_every_time() -> None:
    results = planted(seeds=4, sd=0.004)
    found = only(results)
    truth = {"tokens": -0.3, "batch": 0.4, "best_batch": 0.5, "tokens_along_best_batch": -0.1, "interaction": 0.0}
    for name, true in truth.items():
        value = found.exponents[name]
        assert value and value.low and value.high
        assert value.low < true < value.high
        assert value.high - value.low < 0.3
    assert summary([found]) == summary(horizons(results))


def test_an_interval_follows_its_formula() -> None:
    rows = np.array([1.0, 0.9, 1.1, 1.2, 0.8, math.nan])
    found = interval(rows, 4)
    half = 3.182446 * np.std([0.9, 1.1, 1.2, 0.8]) * math.sqrt(4 / 3)
    assert found
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1 - half, 1 + half), rel=1e-6)
    assert interval(rows, 1) == Estimate(1.0)  # one seed
    assert interval(np.array([1.0, 0.9, 1.1, *[math.nan] * 5]), 4) == Estimate(1.0)  # too few draws gave one
    assert interval(np.array([math.nan, 1.0, 2.0]), 4) is None


def test_least_squares_is_that_of_numpy_and_says_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(2, 7)), rng.normal(size=(3, 7)), rng.uniform(1, 9, 7)
    y[1, 2] = math.nan
    y[2, 1:] = math.nan
    found = least_squares(list(x), y, weight)
    for row in (0, 1):
        kept = np.isfinite(y[row])
        design = np.column_stack([np.ones(7), *x])[kept] * np.sqrt(weight[kept, None])
        wanted, *_ = np.linalg.lstsq(design, y[row, kept] * np.sqrt(weight[kept]), rcond=None)
        assert found[row] == pytest.approx(wanted, rel=1e-9)
    assert np.isnan(found[2]).all()
    assert np.isnan(least_squares([x[0], 2 * x[0]], y, weight)).all()


def test_cells_without_an_optimum_are_left_out_and_told() -> None:
    """Grids that end below the optimum of the largest batch, whose cells are then edges."""
    found = only(planted(lowest=-9.5, rates=8, seeds=2, sd=0.001))
    left_out = {(member.batch, member.cell.optimum.quality) for member in found.left_out}
    assert left_out
    assert all(quality.startswith("edge") for _, quality in left_out)
    assert values(found)["tokens"] == pytest.approx(-0.3, abs=0.05)
    told = summary([found])["groups"][0]["left_out"]
    assert [cell["quality"] for cell in told] == [member.cell.optimum.quality for member in found.left_out]


def test_a_best_batch_at_an_end_is_an_edge() -> None:
    low, high = (only(planted(best=lambda _, at=at: math.log(at))) for at in (64, 8192))
    assert {(one.quality, one.lowest, one.batch, one.lr) for one in low.best} == {("edge-low", 128, None, None)}
    assert {(one.quality, one.lowest) for one in high.best} == {("edge-high", 4096)}
    assert low.exponents["best_batch"] is low.exponents["tokens_along_best_batch"] is None
    assert low.exponents["tokens"]
    mixed = only(planted(best=lambda tokens: best_batch(tokens) - 1.5 * math.log(2)))
    assert [one.quality for one in mixed.best] == ["edge-low", *["interior"] * 3]
    assert values(mixed)["best_batch"] == pytest.approx(0.5, abs=1e-9)


def test_one_batch_has_no_best_batch_and_one_budget_no_exponent() -> None:
    found = only(planted(batches=(1024,)))
    assert values(found)["tokens"] == pytest.approx(-0.3, abs=1e-9)
    assert (found.by_batch, found.best) == ((), ())
    assert {name for name, value in found.exponents.items() if value} == {"tokens"}
    alone = only(planted(tokens=TOKENS[:1]))
    assert {name for name, value in alone.exponents.items() if value} == {"batch"}
    assert values(alone)["batch"] == pytest.approx(0.4, abs=1e-9)


def test_budgets_within_two_percent_are_one() -> None:
    assert budgets([1000, 2000, 1010, 1020, 1021]) == [1000, 2000, 1000, 1000, 1021]


def test_a_batch_that_does_not_divide_the_budget_joins_it() -> None:
    results = planted()
    frame = results.frame
    frame.loc[frame["data.sequences"] == 64, "schedule.steps"] -= 1  # 4096 tokens less
    found = only(results)
    assert len(found.best) == len(TOKENS)
    assert [one.quality for one in found.best] == ["interior"] * len(TOKENS)


def test_other_axes_make_groups() -> None:
    results = planted()
    other = results.frame.assign(**{"optimizer.weight_decay": 0.1})
    frame = pd.concat([results.frame.assign(**{"optimizer.weight_decay": 0.0}), other], ignore_index=True)
    found = horizons(Results(results.sweep | {"axes": [*AXES, "optimizer.weight_decay"]}, frame, {}, {}))
    assert [one.group for one in found] == [{"optimizer.weight_decay": 0.0}, {"optimizer.weight_decay": 0.1}]
    assert values(found[0]) == values(found[1])
    assert summary(found)["groups"][1]["group"] == {"weight_decay": 0.1}


def test_a_half_finished_sweep() -> None:
    """Pending cells are left out; a seed that some cells lack is drawn and gives them nothing."""
    results = planted(seeds=3, sd=0.002)
    frame = results.frame
    pending = (frame["schedule.tokens"] == TOKENS[-1]) | ((frame["data.sequences"] == 4) & (frame["seed"] == 2))
    frame.loc[pending, "status"], frame.loc[pending, "loss"] = "pending", math.nan
    found = only(results)
    assert {member.tokens for member in found.left_out} == {TOKENS[-1]}
    assert (found.seeds, len(found.best)) == (3, 3)
    short = [member for member in found.members if member.batch == 256 and member.tokens < TOKENS[-1]]
    assert len(short) == 3
    assert all(0 < member.lost < 40 for member in short)  # (1/3)^3 of 400 draws are the missing seed alone
    assert found.exponents["tokens"]
    assert found.exponents["tokens"].low is not None


def test_the_picture() -> None:
    one, two = figure.horizon(only(planted())).axes
    assert len([line for line in one.lines if line.get_linestyle() == "--"]) == len(BATCHES)
    assert len([line for line in two.lines if line.get_markersize() == 9]) == len(TOKENS)
    assert len(figure.horizon(only(planted(batches=(1024,)))).axes) == 1


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_command(
    seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = planted(batches=BATCHES[1:5], seeds=seeds, sd=0.001)
    monkeypatch.setattr("analysis.horizon.load", lambda _: results)
    assert main(["horizon", "anywhere", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    words = ("best batch, against tokens", "tokens, at 512 tokens per batch", "-0.510", "arXiv 2503.04715")
    assert all(word in said for word in words)
    assert ("one seed: no intervals" in said) == (seeds == 1)
    assert ("4 seeds drawn again 400 times, Student's t with 3 degrees of freedom" in said) == (seeds == 4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"horizon.png", "horizon.svg"}
    assert main(["horizon", "anywhere", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"groups", "literature"}
    assert [line["exponent"] for line in found["literature"]] == [line["exponent"] for line in LITERATURE]
    (group,) = found["groups"]
    assert group["seeds"] == seeds
    assert set(group["exponents"]["tokens"]) == {"value", "low", "high"}
    assert (group["exponents"]["tokens"]["low"] is None) == (seeds == 1)
    assert group["exponents"]["width"] is None
    assert set(group["tokens_by_batch"][0]) == {"batch_tokens", "value", "low", "high", "cells"}
    assert {"tokens", "batch_tokens", "lr", "quality"} <= set(group["best_batch"][0])
    assert len(group["cells"]) == 16


def test_a_store_without_a_finished_run(base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = axis("optimizer.lr", 2.0**-7, 2.0**-6)
    described(base, product(axis("schedule.steps", 12, 24), rates), tmp_path / "steps")
    assert main(["horizon", str(tmp_path / "steps")]) == 0
    assert "no exponent of tokens: 0 of 2 cells have an interior optimum" in capsys.readouterr().out
    assert main(["horizon", str(tmp_path / "steps"), "--json", "--out", str(tmp_path / "out")]) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert set(group["exponents"].values()) == {None}
    assert [(cell["tokens"], cell["quality"]) for cell in group["left_out"]] == [(768, "too-few"), (1536, "too-few")]


def test_what_has_no_horizon_is_one_clear_line(
    base: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described(base, product(axis("model.width", 16, 32), axis("optimizer.lr", 2.0**-7)), tmp_path / "wide")
    assert main(["horizon", str(tmp_path / "wide")]) == 2
    error = capsys.readouterr().err
    assert error == "lrlab: error: the sweep plan has no axis of tokens: vary schedule.tokens or schedule.steps\n"
    assert main(["horizon", str(tmp_path / "nowhere")]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["horizon", str(tmp_path / "wide"), "--out", str(tmp_path / "file")]) == 2
    assert "is a file: give a folder" in capsys.readouterr().err
    results = planted(tokens=TOKENS[:2], batches=(1024,))
    with pytest.raises(InputError, match="a horizon needs optima of optimizer.lr"):
        horizons(Results(results.sweep | {"optimum_axes": ["model.width"]}, results.frame, {}, {}))


def described(base: RunConfig, points: list[dict[str, Any]], root: Path) -> None:
    """A store as a launch leaves it before its first run."""
    sweep = Sweep(name="plan", question="", cost="", expected="", base=base, points=points)
    launch._describe(sweep, resolved(sweep), root, {})
