"""Points of a sharpness probe: read, refused, exported and read again."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sharpness_store as planted

from analysis.sharpness.newest import newest, newest_plain, newest_table
from analysis.sharpness.points import Points, count, read, read_all
from analysis.sharpness.section import section
from analysis.sharpness.table import export, read_table
from analysis.sharpness.track import tracks
from lab import store
from lab.check import InputError
from lab.config import RunConfig

pytestmark = pytest.mark.host


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


def test_every_value_of_a_point_is_a_row_with_its_run(single: tuple[Path, str]) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 4, lr=0.02, top=30.0))
    found = read(root)
    rows = found.frame.set_index(["quantity", "index"])
    assert count(found) == 1
    assert (found.probe_id, found.batch, found.size_axis) == ("p0", planted.BATCH, "model.width")
    assert found.measurement["tokens"] == 512
    wanted = {
        ("preconditioned", 0): (30.0, 1e-3),
        ("preconditioned", 1): (15.0, 2e-3),
        ("preconditioned/smallest", 0): (-0.1, 1e-4),
        ("trace", 0): (90.0, 0.1),
        ("directional", 0): (6.0, math.nan),
        ("blocks/blocks/0", 0): (15.0, 0.1),
        ("blocks/head", 0): (10.0, 0.2),
        ("loss", 0): (2.0, math.nan),
        ("gradient_norm", 0): (0.4, math.nan),
        ("edge", 0): (100.0, math.nan),
        ("ratio", 0): (0.3, 1e-5),
    }
    for key, (value, error) in wanted.items():
        assert rows.loc[key, "value"] == pytest.approx(value)
        assert rows.loc[key, "error"] == pytest.approx(error, nan_ok=True)
    assert len(rows) == len(wanted) + 3  # the tangent kernel has two values and a smallest one
    about = found.frame.iloc[0]
    assert (about["run_id"], about["step"], about["tokens"], about["lr_t"]) == (run_id, 4, 256, 0.02)
    assert (about["model.width"], about["optimizer.lr"], about["seed_init"], about["status"]) == (
        16,
        0.01,
        0,
        "pending",
    )


def test_only_what_was_asked_for_is_there_and_null_is_nan(single: tuple[Path, str]) -> None:
    root, run_id = single
    spectrum = {"values": [None, 1.0], "residuals": [None, 0.1], "smallest": None, "steps": 4, "warm": False}
    planted.write(root, planted.point(run_id, 0, quantities={"hessian": spectrum}, edge=None, gradient_norm=None))
    found = read(root)
    assert found.sharpness == "hessian"
    assert set(found.frame["quantity"]) == {"hessian", "hessian/smallest", "loss", "gradient_norm"}
    assert found.quantities == ["hessian", "loss"]
    assert found.frame["value"].isna().sum() == 3
    assert newest_table(found)[1][0][-3:] == ["-", "-", "2"]


def test_the_rate_may_be_zero_at_the_end(single: tuple[Path, str]) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 12, lr=0.0))
    values = read(root).frame.set_index("quantity")["value"]
    assert values.isna()["edge"]
    assert values["ratio"] == 0.0


def test_the_training_loss_is_that_of_the_next_update(single: tuple[Path, str]) -> None:
    root, run_id = single
    curve = store.run_folder(root, run_id) / "curve.csv"
    curve.write_text("step,lr,loss,grad_norm\n0,0.1,5.0,1\n1,0.1,4.5,1\n2,0.1,4.25,1\n")
    for step in (0, 2, 3):
        planted.write(root, planted.point(run_id, step))
    frame = read(root).frame
    found = frame[frame["quantity"] == "train_loss"]
    assert list(zip(found["step"], found["value"], strict=True)) == [(0, 5.0), (2, 4.25)]
    curve.write_text("a,b\n")
    with pytest.raises(InputError, match=r"curve\.csv is not a readable curve"):
        read(root)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"schema": 2}, "schema 2, this version reads 1: install a newer one"),
        ({"quantities": {"hessian": {"values": 3.0}}}, r"damaged quantity .*: delete it and measure again"),
        ({"quantities": {"trace": {}}}, r"damaged quantity \(KeyError\('value'\)\)"),
        ({"quantities": []}, "quantities is not a JSON object"),
        ({"measurement": {}}, "does not say on which batch it was measured"),
    ],
)
def test_damaged_points_are_refused_in_one_line(single: tuple[Path, str], changes: dict[str, Any], line: str) -> None:
    root, run_id = single
    path = planted.write(root, planted.point(run_id, 0) | changes)
    with pytest.raises(InputError, match=line) as refused:
        read(root)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unreadable_json_and_missing_fields_are_refused(single: tuple[Path, str]) -> None:
    root, run_id = single
    path = planted.write(root, planted.point(run_id, 0))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"is not readable JSON .*: delete it and measure again"):
        read(root)
    found = planted.point(run_id, 0)
    del found["step"]
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="has no 'step'"):
        read(root)


def test_other_probes_and_files_of_a_writer_are_not_points(single: tuple[Path, str]) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 0, probe_id="other", kind="gradients"))
    path = planted.write(root, planted.point(run_id, 0))
    (path.parent / ".tmp-x.json").write_text("{")
    assert count(read(root)) == 1


def test_probes_and_batches_are_never_mixed(single: tuple[Path, str]) -> None:
    root, run_id = single
    with pytest.raises(InputError, match="has no sharpness points: measure them"):
        read(root)
    for step in (0, 1):
        planted.write(root, planted.point(run_id, step))
    planted.write(root, planted.point(run_id, 0, probe_id="p1", batch="0" * 12))
    planted.write(root, planted.point(run_id, 1, probe_id="p1"))
    assert [(one.probe_id, one.batch, count(one)) for one in read_all(root)] == [
        ("p0", planted.BATCH, 2),
        ("p1", "0" * 12, 1),
        ("p1", planted.BATCH, 1),
    ]
    with pytest.raises(InputError, match=r"cannot be compared.*: choose one of probe p0, batch abcdef012345 \(2"):
        read(root)
    with pytest.raises(InputError, match="cannot be compared"):
        read(root, "p1")
    assert count(read(root, "p0")) == 2
    assert read(root, "p1", "0" * 12).frame["step"].unique().tolist() == [0]
    with pytest.raises(InputError, match="no points of probe p7"):
        read(root, "p7")


def test_groups_leave_out_what_follows_the_size(base: RunConfig, tmp_path: Path) -> None:
    """Head dimensions that grow with the width tell nothing that the width does not; the rate does."""
    from sweeps.sweep import axis, product, zipped

    grid = product(zipped(axis("model.width", 16, 32), axis("model.head_dim", 8, 16)), axis("optimizer.lr", 0.1, 0.2))
    results = planted.planned_points(base, tmp_path, grid)
    for run_id in results.frame["run_id"]:
        planted.write(tmp_path, planted.point(run_id, 0))
    found = read(tmp_path)
    assert found.axes == ("model.width", "model.head_dim", "optimizer.lr")
    assert found.group_axes == ("optimizer.lr",)
    assert [track.sizes for track in tracks(found, "preconditioned")] == [(16, 32)] * 2


def test_depth_is_the_size_where_it_varies(base: RunConfig, tmp_path: Path) -> None:
    results = planted.planned(base, tmp_path, model__depth=(2, 3), optimizer__lr=(0.1,))
    for run_id in results.frame["run_id"]:
        planted.write(tmp_path, planted.point(run_id, 0))
    assert read(tmp_path).size_axis == "model.depth"


def test_the_table_comes_back(points: Points, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    rows = export(points, path, top=2, errors=True)
    assert rows == count(points) == len(pd.read_csv(path))
    again = read_table(path)
    assert (again.axes, again.size_axis, again.batch) == (points.axes, points.size_axis, points.batch)
    keys = ["run_id", "step", "quantity", "index"]
    kept = points.frame[points.frame["value"].notna()]
    both = kept.merge(again.frame[again.frame["value"].notna()], on=keys, suffixes=("", "_again"), how="outer")
    assert len(both) == len(kept)
    for name in ("value", "error", "lr_t"):
        np.testing.assert_allclose(both[name + "_again"], both[name], rtol=1e-5)
    before, after = section(points).tables(), section(again).tables()
    assert [row[-1] for row in after[0][1][1]] == [row[-1] for row in before[0][1][1]]
    assert [row[:3] for row in after[0][1][1]] == [row[:3] for row in before[0][1][1]]


def test_the_compact_table_has_the_largest_only(points: Points, tmp_path: Path) -> None:
    export(points, tmp_path / "points.csv")
    header = [str(name) for name in pd.read_csv(tmp_path / "points.csv")]
    at = header.index("step")
    assert header[:at] == [
        "run_id",
        "batch",
        "parametrization.name",
        "model.width",
        "optimizer.lr",
        "seed_init",
        "seed_data",
    ]
    assert not [name for name in header if "[" in name or name.endswith(".error")]
    with pytest.raises(InputError, match="does not exist"):
        export(points, tmp_path / "nowhere" / "points.csv")
    export(points, tmp_path / "points.csv", only=["ratio"])
    assert list(pd.read_csv(tmp_path / "points.csv"))[-3:] == ["alive", "loss", "ratio"]
    with pytest.raises(InputError, match=r"ratoi was not measured.*did you mean ratio"):
        export(points, tmp_path / "points.csv", only=["ratoi"])
    with pytest.raises(InputError, match="top=0"):
        export(points, tmp_path / "points.csv", top=0)


def test_identities_that_look_like_numbers_stay_texts(single: tuple[Path, str], tmp_path: Path) -> None:
    root, run_id = single
    planted.write(root, planted.point(run_id, 0, batch="012345678901"))
    export(read(root), tmp_path / "points.csv")
    text = (tmp_path / "points.csv").read_text().replace(run_id, "00012e456789")
    (tmp_path / "points.csv").write_text(text)
    found = read_table(tmp_path / "points.csv")
    assert (found.batch, found.frame["run_id"].unique().tolist()) == ("012345678901", ["00012e456789"])


def test_tables_of_other_things_are_refused(points: Points, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    with pytest.raises(InputError, match="is not a file"):
        read_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table of sharpness points: it has no column run_id, batch"):
        read_table(path)
    path.write_text("")
    with pytest.raises(InputError, match="not a readable CSV"):
        read_table(path)
    export(points, path)
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(planted.BATCH, "0" * 12)
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="measurement batches"):
        read_table(path)


def test_the_newest_point_of_every_run(points: Points, sweep: Path) -> None:
    found = newest(points)
    assert len(found) == len(store.read_sweep(sweep)["runs"])
    assert (found["step"] == planted.STEPS[-1]).all()
    header, rows = newest_table(points)
    assert header[:7] == ["run", "width", "parametrization", "lr", "seed", "step", "sharpness"]
    assert header[7:10] == ["residual", "edge", "ratio"]
    assert [len(row) for row in rows] == [len(header)] * len(rows)
    (dead,) = [row for row in rows if "div" in row[5]]
    assert dead[6:10] == ["-"] * 4
    plain = json.loads(json.dumps(newest_plain(points), allow_nan=False))
    assert plain[0]["model.width"] == 16
    assert plain[0]["ratio"] == pytest.approx(plain[0]["preconditioned"] * plain[0]["optimizer.lr"] / 2.0)
