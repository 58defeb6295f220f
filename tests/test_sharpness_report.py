"""Sharpness of whole sweeps: what was planted is found, drawn, reported and printed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import sharpness_store as planted

from analysis import report
from analysis.sharpness import figure, study_figure
from analysis.sharpness.__main__ import main, markdown
from analysis.sharpness.newest import newest_table
from analysis.sharpness.points import Points, count, read, since
from analysis.sharpness.section import section
from analysis.sharpness.study import contrasts, rate
from analysis.sharpness.table import export, read_table
from analysis.sharpness.track import tracks
from lab.config import RunConfig

WIDTHS = (16, 32)


@pytest.fixture(scope="module")
def sweep(base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharpness") / "planted"
    planted.diverging(base, root)
    return root


@pytest.fixture(scope="module")
def points(sweep: Path) -> Points:
    return read(sweep)


@pytest.fixture
def single(base: RunConfig, tmp_path: Path) -> tuple[Path, str]:
    return planted.one_width(base, tmp_path)


def test_a_diverged_run_is_left_out_whole(points: Points) -> None:
    track = next(
        track
        for track in tracks(points, "preconditioned")
        if track.group == {"parametrization.name": "mup", "optimizer.lr": planted.RATES[1]}
    )
    assert track.lost == {16: 1}
    assert [len(track.seeds(place)) for place in range(4)] == [2, 3, 3, 3]
    assert track.values_NST.shape == (4, 3, len(planted.STEPS))
    cells = dict(section(points).tables())["Sharpness by cell"][1]
    assert [row[2:4] for row in cells if row[0].startswith("mup, lr 0.0625")] == [["2", "1"], *[["3", "0"]] * 3]


def test_what_was_planted_is_found(points: Points) -> None:
    found = section(points)
    by_name = {(one.track.group["parametrization.name"], rate(one.track.group), one.name): one for one in found.studies}
    low = planted.RATES[0]
    assert by_name["mup", low, "preconditioned"].verdict == "consistent"
    ntk = by_name["ntk", low, "preconditioned"]
    assert ntk.verdict == "differs"
    assert ntk.growth and abs(ntk.growth.value_T + 0.5).max() < 0.05
    assert ntk.distances[16].relative_T[-1] == pytest.approx(math.sqrt(8) - 1, rel=0.1)
    for name in ("mup", "ntk"):
        loss, kernel = by_name[name, low, "loss, change"].pooled, by_name[name, low, "tangent_kernel, change"].pooled
        assert loss and kernel
        assert loss.beta.value == pytest.approx(0.5, abs=0.05)
        assert kernel.beta.value == pytest.approx(1.0, abs=0.02)
        assert loss.readable and kernel.readable
    noise = by_name["mup", low, "preconditioned"].pooled
    assert noise and not noise.readable
    apart = [
        (size, one)
        for study, other, size, one in contrasts(found.studies)
        if study.name == "preconditioned" and rate(study.track.group) == rate(other.track.group) == low
    ]
    assert [size for size, _ in apart] == [16, 32, 64]
    assert all(one.mean[1] > 0 for _, one in apart)
    label = "ntk, lr 0.0625"
    for width, ratio in zip(planted.WIDTHS, (1, 0.5**0.5, 0.5, 0.125**0.5), strict=True):
        assert found.ratios[label][width].median == pytest.approx(ratio, rel=0.05)


def test_rates_of_each_parametrization_are_matched_by_order(points: Points) -> None:
    """NTK at ten times the rate of muP: the lower with the lower, the higher with the higher."""
    frame = points.frame.copy()
    ntk = frame["parametrization.name"] == "ntk"
    frame.loc[ntk, "optimizer.lr"] *= 10
    moved = Points(frame, points.axes, points.size_axis, "p0", points.batch, {})
    pairs = {(rate(a.track.group), rate(b.track.group)) for a, b, _, _ in contrasts(section(moved).studies)}
    assert pairs == {(10 * value, value) for value in planted.RATES}
    frame = frame[~(ntk & (frame["optimizer.lr"] > 0.2))]
    fewer = Points(frame, points.axes, points.size_axis, "p0", points.batch, {})
    assert contrasts(section(fewer).studies) == []


def test_points_from_a_step_on(points: Points) -> None:
    later = since(points, 8)
    assert later.frame["step"].min() == 8
    changes = [one for one in section(later).studies if one.since_start]
    assert all(one.track.steps_T[0] == 8 for one in changes)


def test_figures_show_what_was_measured(points: Points) -> None:
    found = section(points)
    drawn = found.figures()
    names = ["sharpness", "sharpness_ratio", "sharpness_consistency_mup", "sharpness_consistency_ntk"]
    assert list(drawn) == [*names, "sharpness_growth"]
    first = drawn["sharpness"].axes[0]
    labels = [line.get_label() for line in first.lines]
    assert labels == ["width 16", "width 32", "width 64", "width 128", "edge"]
    edge = first.lines[-1]
    np.testing.assert_allclose(np.asarray(edge.get_ydata(), float), planted.THRESHOLD / planted.RATES[0])
    assert len(drawn["sharpness_ratio"].axes) == 2 * 4
    consistency = drawn["sharpness_consistency_ntk"].axes
    assert len(consistency) == 4 * 2
    words = [line.get_label() for line in consistency[2].lines if "beta" in str(line.get_label())]
    assert len(words) == 3 and str(words[0]).startswith("width 16: beta ")
    assert len(drawn["sharpness_growth"].axes) == 4 * 2


def test_edges_that_differ_between_sizes_are_drawn_apart(points: Points) -> None:
    frame = points.frame.copy()
    frame.loc[(frame["quantity"] == "edge") & (frame["model.width"] == 16), "value"] *= 2
    drawn = figure.sharpness(Points(frame, points.axes, points.size_axis, "", points.batch, {}))
    assert len(drawn.axes[0].lines) == 4 + 4


def test_one_size_one_seed_and_one_step_are_drawn(single: tuple[Path, str]) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 0))
    found = section(read(root))
    assert list(found.figures()) == ["sharpness", "sharpness_ratio"]
    assert [title for title, _ in found.tables()] == ["Sharpness by cell", "Growth and consistency by quantity"]
    assert study_figure.figures(found.points, found.studies) == {}
    json.dumps(found.summary(), allow_nan=False)


def test_initial_values_alone_have_distances_and_no_verdict(base: RunConfig, tmp_path: Path) -> None:
    results = planted.planned(base, tmp_path, model__width=(16, 32), seed=(0, 1))
    for number, run_id in enumerate(results.frame["run_id"]):
        planted.write(tmp_path, planted.point(run_id, 0, top=10.0 + number))
    found = section(read(tmp_path))
    first = found.studies[0]
    assert first.distances[16].relative_T == pytest.approx(-2 / 12.5)
    assert (first.verdict, first.pooled, first.exponents) == ("undecided", None, {16: None})
    assert list(found.figures()) == ["sharpness", "sharpness_ratio", "sharpness_growth"]
    json.dumps(found.summary(), allow_nan=False)


def test_all_runs_diverged(single: tuple[Path, str]) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 0))
    planted.write(root, planted.dead(run_id, 4))
    found = section(read(root))
    assert found.figures() == {}
    assert found.tables() == []
    assert "div" in newest_table(found.points)[1][0][4]


def test_the_report_has_the_section_only_where_there_are_points(base: RunConfig, tmp_path: Path) -> None:
    planted.widths(base, tmp_path, widths=WIDTHS)
    empty, page = report.write(tmp_path)
    assert "sharpness" not in empty.summary()
    assert len(empty.tables()) == 3
    assert "harpness" not in page.read_text()

    root = tmp_path / "measured"
    planted.plant(root, planted.widths(base, root, widths=WIDTHS, rates=planted.RATES[:1]))
    found, page = report.write(root)
    (entry,) = json.loads((root / "report" / "summary.json").read_text())["sharpness"]
    assert (entry["probe_id"], entry["batch"], entry["axis"], entry["margin"]) == ("p0", planted.BATCH, "width", 0.1)
    assert entry["measurement"]["length"] == 16
    by_cell = {
        (one["parametrization"], one["lr"], one["quantity"], one["since_start"]): one for one in entry["studies"]
    }
    one = by_cell["ntk", planted.RATES[0], "preconditioned", False]
    assert one["verdict"] == "differs"
    assert [size["width"] for size in one["sizes"]] == list(WIDTHS)
    assert one["distances"][0]["verdicts"] == ["differs"] * len(planted.STEPS)
    assert entry["contrasts"][0]["against"]["parametrization"] == "mup"
    assert len(entry["late_ratio"]) == 4
    text = page.read_text()
    assert "<h2>Sharpness along width, probe p0</h2>" in text
    assert text.count('src="data:image/png') == len(list((root / "report").glob("*.png")))
    assert {path.stem for path in (root / "report").glob("sharpness*.png")} == set(found.sharpness[0].figures())
    assert len(found.tables()) == 6
    assert "+-10 %" in text


def test_the_report_shows_every_probe_apart(single: tuple[Path, str]) -> None:
    root, run_id = single
    for probe_id in ("p0", "p1"):
        planted.write(root, planted.point(run_id, 0, probe_id=probe_id))
    found, page = report.write(root)
    assert [one["probe_id"] for one in found.summary()["sharpness"]] == ["p0", "p1"]
    assert (root / "report" / "sharpness_2.png").is_file()
    assert page.read_text().count("<h2>Sharpness along width, probe p") == 2


def test_the_command_draws_from_a_table(points: Points, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = points.frame
    few = (frame["parametrization.name"] == "ntk") & (frame["optimizer.lr"] == planted.RATES[0])
    few &= frame["quantity"].isin(["preconditioned", "ratio", "edge"]) & frame["model.width"].isin(WIDTHS)
    path = tmp_path / "points.csv"
    export(Points(frame[few], points.axes, points.size_axis, "", points.batch, {}), path)
    assert main([str(path), "--out", str(tmp_path / "pictures"), "--from-step", "1"]) == 0
    text = capsys.readouterr().out
    assert "## Sharpness by cell" in text
    assert "| ntk, lr 0.015625 | 16 | 3 | 0 | 128 |" in text
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
    assert main([str(path), "--axis", "depth"]) == 2
    assert capsys.readouterr().err.startswith("error: --axis depth: the points have no model.depth")
    assert main([str(path), "--from-step", "1000"]) == 2
    assert main([str(path), "--margin", "0"]) == 2
    assert main([str(path), "--window", "1", "0.5"]) == 2
    assert main([str(tmp_path / "nothing.csv")]) == 2


def test_the_command_writes_the_table_of_a_store(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "--csv", str(tmp_path / "points.csv"), "--margin", "0.5", "--paired"]) == 0
    assert capsys.readouterr().out.startswith("624 points in")
    assert count(read_table(tmp_path / "points.csv")) == 624


def test_markdown_of_a_table() -> None:
    assert markdown((["a", "b"], [["1", "x|y"]])) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
