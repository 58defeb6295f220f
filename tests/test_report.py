"""Every number of a run's record on its way through a store: table, optimum, drift, report, export."""

import contextlib
import csv
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.results import Results, load
from lab import store
from lab.config import RunConfig
from sweeps import launch
from sweeps.cli import main
from sweeps.sweep import Sweep, axis, product, resolved

pytestmark = pytest.mark.host
WIDTHS, SEEDS = (16, 32, 64), (0, 1)
# Closer on the left, as where someone ran again around an optimum: windows are uneven, and so are the intervals.
OCTAVES = (-9.0, -8.0, -7.5, -7.25, -7.0, -6.75, -6.0, -5.0, -4.0)
AT = {16: -7.1, 32: -6.9, 64: -6.6}


def record(number: int, run_id: str, width: int, octave: float, seed: int) -> dict[str, Any]:
    """A record whose every number is another; the highest rate diverges, and at width 64 the one below it is high."""
    away = octave - AT[width]
    loss = 2.0 + 0.001 * width + 0.02 * (math.exp(0.8 * away) - 0.8 * away - 1) + 0.003 * (-1) ** (number % 3) * seed
    loss += 0.8 if (width, octave) == (64, -5.0) else 0.0
    lost = octave == -4.0
    return {
        "run_id": run_id,
        "schema": 1,
        "status": "diverged" if lost else "done",
        "validation": {"loss": None if lost else loss, "standard_error": 0.02 + 1e-5 * number, "tokens": 4096},
        "train_loss": loss - 0.1 - 1e-4 * number,
        "last_finite_loss": loss + 1,
        "diverged_step": 7 if lost else None,
        "parameters": {"non_embedding": 1000 * width, "embedding": 11, "total": 1000 * width + 11},
        "tokens": 768 + number,
        "times": {"seconds": 1.5 + number, "started": "", "finished": ""},
        "trunk_id": f"trunk{number}",
        "exec": {"platform": "cpu", "device": "test", "devices": 1, "lanes": 1, "strategy": "map", "versions": {}},
    }


@pytest.fixture(scope="module")
def root(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "store"
    points = product(
        axis("model.width", *WIDTHS), axis("seed", *SEEDS), axis("optimizer.lr", *(2.0**octave for octave in OCTAVES))
    )
    sweep = Sweep("planted", "Where?", "none", "there", base, points)
    runs = resolved(sweep)
    launch._describe(sweep, runs, root, {})
    for number, run in enumerate(runs):
        point = run.point
        octave = math.log2(point["optimizer.lr"])
        store.write_record(root, record(number, run.run_id, point["model.width"], octave, point["seed"]))
    return root


@pytest.fixture(scope="module")
def planted(root: Path) -> dict[str, dict[str, Any]]:
    return store.read_records(root)


def check_rows(frame: pd.DataFrame, planted: dict[str, dict[str, Any]]) -> None:
    assert sorted(frame["run_id"]) == sorted(planted)
    for row in frame.to_dict("records"):
        wanted = planted[row["run_id"]]
        loss = wanted["validation"]["loss"]
        assert row["status"] == wanted["status"]
        assert row["loss"] == loss or (loss is None and math.isnan(row["loss"]))
        assert row["loss_error"] == wanted["validation"]["standard_error"]
        for name in ("train_loss", "tokens"):
            assert row[name] == wanted[name], name
        assert row["diverged_step"] == wanted["diverged_step"] or math.isnan(row["diverged_step"])
        assert math.isnan(row["diverged_step"]) == (wanted["status"] == "done")
        assert row["params"] == wanted["parameters"]["non_embedding"]
        assert row["seconds"] == wanted["times"]["seconds"]
        assert row["trunk"] == wanted["trunk_id"]
        assert math.log2(row["optimizer.lr"]) in OCTAVES and row["model.width"] in WIDTHS


def test_records_become_rows(root: Path, planted: dict[str, dict[str, Any]]) -> None:
    frame = load(root).frame
    check_rows(frame, planted)
    for column in ("loss", "train_loss", "tokens", "params", "seconds", "loss_error"):  # the control
        with pytest.raises(AssertionError):
            check_rows(frame.assign(**{column: frame[column] + 1e-6}), planted)


def test_the_export_has_every_number(root: Path, planted: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    assert main(["export", str(root), "--csv", str(path)]) == 0
    check_rows(pd.read_csv(path), planted)
    with path.open() as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    for run_id, row in rows.items():  # as text: nothing is rounded on the way
        loss = planted[run_id]["validation"]["loss"]
        assert row["loss"] == ("" if loss is None else repr(loss))
    whole = load(root)
    again = Results(whole.sweep, pd.read_csv(path), {}, {})  # a table of runs gives the optima that the store gives
    cells = [report.read_cells(one)[0] for one in (whole, again)]
    assert [cell.optimum for cell in cells[0]] == [cell.optimum for cell in cells[1]]


@pytest.fixture(scope="module")
def printed(root: Path) -> str:
    """What `lrlab report` prints; it writes the page and the summary."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["report", str(root)]) == 0
    return said.getvalue()


@pytest.fixture(scope="module")
def told(root: Path, printed: str) -> dict[str, Any]:
    summary = json.loads((root / "report" / "summary.json").read_text())
    assert summary == json.loads(json.dumps(report.read(root).summary()))
    assert printed
    return summary


def means(planted: dict[str, dict[str, Any]], width: int) -> dict[float, float]:
    """Mean loss over the seeds by log2 rate, of a width's rates that no run diverged at; without the product."""
    rows = [(o, s) for o in OCTAVES for s in SEEDS]
    mine = [one for one in planted.values() if one["parameters"]["non_embedding"] == 1000 * width]
    by_number = sorted(mine, key=lambda one: one["tokens"])  # the order in which they were planned: by seed, then rate
    losses: dict[float, list[float]] = {}
    for (octave, _), one in zip(sorted(rows, key=lambda pair: (pair[1], pair[0])), by_number, strict=True):
        losses.setdefault(octave, []).append(math.nan if one["status"] == "diverged" else one["validation"]["loss"])
    return {octave: float(np.mean(found)) for octave, found in losses.items() if not np.isnan(found).any()}


def test_json_tells_the_optimum_of_the_means(told: dict[str, Any], planted: dict[str, dict[str, Any]]) -> None:
    """A parabola by numpy through the same window; best and largest stable rates, seeds and counts as planted."""
    assert [cell["width"] for cell in told["cells"]] == list(WIDTHS)
    for cell in told["cells"]:
        mean = means(planted, cell["width"])
        best = min(mean, key=lambda octave: mean[octave])
        kept = {o: y for o, y in mean.items() if o <= best or y <= mean[best] + 0.3}
        window = [o for o, y in kept.items() if y <= 1.02 * mean[best]]
        assert cell["points"] == len(window) >= 5
        x, y = np.array(window) * math.log(2), np.array([mean[o] for o in window])
        c, b, a = np.polyfit(x, y, 2)
        assert math.log(cell["lr_opt"]) == pytest.approx(-b / (2 * c), abs=1e-8)
        assert cell["loss"] == pytest.approx(a - b**2 / (4 * c), abs=1e-9)
        assert cell["curvature"] == pytest.approx(2 * c, rel=1e-8)
        assert cell["asymmetry"] == pytest.approx(np.polyfit(x - x.mean(), y, 3)[0], rel=1e-6)
        assert cell["lr_best"] == 2.0**best
        assert cell["lr_stable"] == 2.0 ** max(kept)
        assert (cell["seeds"], cell["diverged"], cell["pending"]) == (2, 1, 0)
        assert cell["far"] == (1 if cell["width"] == 64 else 0)  # its runs ended, too high to be fitted
        assert cell["quality"] == "interior"
        low, at, high = (math.log2(cell[name]) for name in ("lr_low", "lr_opt", "lr_high"))
        assert low < at < high
        assert abs((high - at) - (at - low)) > 1e-4  # sides that can be told apart
        step = math.log2(cell["next"][1] / cell["next"][0])
        assert step == pytest.approx(window[1] - window[0])
        assert math.sqrt(cell["next"][0] * cell["next"][1]) == pytest.approx(cell["lr_opt"])


def test_json_tells_the_drift_and_the_slope_of_its_own_cells(told: dict[str, Any]) -> None:
    first, *_, last = told["cells"]
    logs = [[math.log2(cell[name]) for name in ("lr_low", "lr_opt", "lr_high")] for cell in (first, last)]
    (a_low, a, a_high), (b_low, b, b_high) = logs
    (drift,) = told["drift"]
    assert (drift["axis"], drift["from"], drift["to"], drift["parametrization"]) == ("width", 16, 64, "mup")
    assert drift["octaves"] == pytest.approx(b - a)
    assert drift["octaves"] == pytest.approx(0.5, abs=0.2)  # as planted: -7.1 to -6.6
    assert drift["low"] == pytest.approx(b - a - math.hypot(b - b_low, a_high - a))
    assert drift["high"] == pytest.approx(b - a + math.hypot(b_high - b, a - a_low))
    (line,) = told["transfer"]
    assert line["low"] < line["slope"] < line["high"]
    y = [math.log2(cell["lr_opt"]) for cell in told["cells"]]
    sd = [math.log2(cell["lr_high"] / cell["lr_low"]) / 3.919928 for cell in told["cells"]]
    slope, _ = np.polyfit([0, 1, 2], y, 1, w=1 / np.array(sd))
    assert line["slope"] == pytest.approx(slope, rel=1e-6)
    for regret, cell in zip(line["regret"], told["cells"], strict=True):
        away = math.log(first["lr_opt"] / cell["lr_opt"])
        assert regret["lr"] == first["lr_opt"] and regret["size"] == cell["width"]
        assert regret["nats"] == pytest.approx(0.5 * cell["curvature"] * away**2, abs=1e-9)
        assert regret["percent"] == pytest.approx(100 * regret["nats"] / cell["loss"], abs=1e-7)
        assert regret["loss"] == pytest.approx(cell["loss"] + regret["nats"])


def lines_of(told: dict[str, Any]) -> list[str]:
    """What a person is to read, made from the JSON."""
    found = []
    for cell in told["cells"]:
        low, at, high = (math.log2(cell[name]) for name in ("lr_low", "lr_opt", "lr_high"))
        found += [f"{at:.2f} ({low:.2f} .. {high:.2f})", f"{cell['loss']:.4f}", f"{cell['lr_opt']:.4g}"]
    (drift,), (line,) = told["drift"], told["transfer"]
    found += [f"{drift['octaves']:+.2f}", f"{drift['low']:+.2f} .. {drift['high']:+.2f}"]
    found += [f"{line['slope']:+.3f}", f"{line['low']:+.3f} .. {line['high']:+.3f}"]
    last = line["regret"][-1]
    return [*found, f"{last['percent']:.2f} % ({last['nats']:.4f} nat)"]


def test_text_and_page_say_what_the_json_has(
    root: Path, printed: str, told: dict[str, Any], planted: dict[str, dict[str, Any]]
) -> None:
    page = (root / "report" / "report.html").read_text()
    cells = [html.unescape(cell) for cell in re.findall(r"<td>([^<]*)</td>", page)]
    for words in lines_of(told):
        assert words in printed, words
        assert words in cells, words
    row = r"<td>(\w{12})</td><td>(\d+)</td><td>(\d)</td><td>([\d.e-]+)</td><td>(done|diverged)</td><td>([\d.]+|-)</td>"
    runs = re.findall(row, page)
    assert len(runs) == len(planted)
    for run_id, width, _, _, status, loss in runs:
        wanted = planted[run_id]
        assert int(width) * 1000 == wanted["parameters"]["non_embedding"]
        assert status == wanted["status"]
        assert loss == ("-" if wanted["validation"]["loss"] is None else f"{wanted['validation']['loss']:.4f}")
