"""Anyone's runs as one table: guesses, units, dirty input, and what the tables of published runs become."""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.runs import source
from analysis.runs.optima import find_optima
from analysis.runs.row import snapped
from analysis.runs.source import load
from lab.check import InputError

pytestmark = pytest.mark.host

LOSS_LAW = ("params", "tokens", "loss")


def table(**changes: object) -> pd.DataFrame:
    """Two sizes, two token counts, five rates, one batch: 20 clean runs."""
    rows = [
        {"lr": lr, "batch_tokens": 2.0**18, "params": n, "tokens": d, "loss": 3 - 0.05 * math.log(n * d / 1e18)}
        for n in (1e8, 4e8)
        for d in (2e9, 8e9)
        for lr in (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)
    ]
    frame = pd.DataFrame(rows)
    frame["loss"] += 0.1 * np.log(frame["lr"] / 1e-3) ** 2
    return frame.assign(**changes)  # pyright: ignore[reportArgumentType]


def csv(folder: Path, frame: pd.DataFrame) -> Path:
    frame.to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv"


def with_value(column: str, row: int, value: Any) -> pd.DataFrame:
    frame = table().astype({column: object})
    frame.loc[row, column] = value
    return frame


def test_a_clean_table_is_taken_as_it_is(tmp_path: Path) -> None:
    runs = load(csv(tmp_path, table()))
    assert runs.name == "runs"
    assert list(runs.frame.columns[:6]) == ["lr", "batch", "params", "tokens", "loss", "status"]
    np.testing.assert_array_equal(runs.frame["lr"], table()["lr"])
    np.testing.assert_array_equal(runs.frame["loss"], table()["loss"])
    assert set(runs.frame["status"]) == {"done"}
    assert runs.notes == (
        "batch is taken from the column 'batch_tokens'",
        "batch is in tokens, as the column's name 'batch_tokens' says",
    )


def test_all_ways_in_are_one(tmp_path: Path) -> None:
    """CSV by commas, semicolons and tabs, with a byte-order mark, a frame, shuffled rows: one fingerprint."""
    frame = table()
    wanted = load(frame).fingerprint
    for number, (separator, encoding) in enumerate([(",", "utf-8"), (";", "utf-8"), ("\t", "utf-8-sig")]):
        path = tmp_path / f"{number}.csv"
        frame.to_csv(path, sep=separator, encoding=encoding, index=False)
        assert load(path).fingerprint == wanted
    shuffled = frame.sample(frac=1, random_state=0)[sorted(frame.columns)]
    assert load(shuffled).fingerprint == wanted
    assert load(with_value("loss", 3, 2.5)).fingerprint != wanted


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    table().to_parquet(tmp_path / "runs.parquet")
    assert load(tmp_path / "runs.parquet").fingerprint == load(table()).fingerprint
    (tmp_path / "no.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="is not a Parquet file"):
        load(tmp_path / "no.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'lr-scaling-lab\[parquet\]'"):
        load(tmp_path / "runs.parquet")


def test_parquet_without_pyarrow_is_one_line(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is installed")
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="needs pyarrow"):
        load(tmp_path / "runs.parquet")


@pytest.mark.parametrize(
    ("names", "note"),
    [
        ({"lr": "Learning Rate"}, "lr is taken from the column 'Learning Rate'"),
        ({"lr": "max_lr", "params": "N", "tokens": "D"}, "params is taken from the column 'N'"),
        ({"params": "non_embedding_param_size"}, "params is taken from the column 'non_embedding_param_size'"),
        ({"params": "Model Size", "loss": "smooth loss"}, "loss is taken from the column 'smooth loss'"),
        ({"lr": "peak-lr", "tokens": "data_size", "loss": "lm_loss"}, "tokens is taken from the column 'data_size'"),
    ],
)
def test_obvious_columns_are_guessed_and_told(names: dict[str, str], note: str) -> None:
    runs = load(table().rename(columns=names))
    assert note in runs.notes
    assert runs.fingerprint == load(table()).fingerprint


def test_tokens_from_flops() -> None:
    frame = table().rename(columns={"tokens": "Training FLOP"})
    frame["Training FLOP"] *= 6 * frame["params"]
    runs = load(frame)
    np.testing.assert_allclose(runs.frame["tokens"], table()["tokens"])
    assert any("FLOPs / (6 N)" in note for note in runs.notes)


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (lambda frame: frame.drop(columns="lr"), None, r"no column for lr: name it, as in --columns lr=COLUMN"),
        (lambda frame: frame.rename(columns={"lr": "lrn_rate"}), None, r"is it 'lrn_rate'\?.*--columns lr=lrn_rate"),
        (lambda frame: frame.drop(columns="loss"), None, "no column for loss"),
        (
            lambda frame: frame.rename(columns={"loss": "train/loss"}).assign(**{"eval/loss": 2.0}),
            None,
            "loss may be 'train/loss' or 'eval/loss': say which, as in --columns loss=eval/loss",
        ),
        (lambda frame: frame.assign(bs=0.0), None, "batch may be 'batch_tokens' or 'bs'"),
        (lambda frame: frame, {"lr": "lrr"}, r"no column 'lrr' \(did you mean lr\?\)"),
        (lambda frame: frame, {"tokns": "tokens"}, r"tokns is not one of .* \(did you mean tokens\?\)"),
        (lambda frame: frame, {"lr": "loss", "loss": "loss"}, "named for both"),
        (lambda frame: frame.iloc[:0], None, "holds no rows"),
    ],
)
def test_columns_that_cannot_be_told(
    change: Callable[[pd.DataFrame], pd.DataFrame], given: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load(change(table()), columns=given)
    assert "\n" not in str(refused.value)


def test_named_columns_displace_those_of_the_name() -> None:
    frame = table().assign(**{"smooth loss": table()["loss"] + 1})
    runs = load(frame, columns={"loss": "smooth loss"})
    np.testing.assert_array_equal(runs.frame["loss"], table()["loss"] + 1)
    np.testing.assert_array_equal(runs.frame["loss (file)"], table()["loss"])


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("lr", 4, "1e-3x", r"line 6: lr='1e-3x' is not a number"),
        ("params", 0, "7B", r"line 2: params='7B' is not a number"),
        ("loss", 2, "oom", r"line 4: loss='oom' is not a number"),
        ("loss", 2, -2.5, r"line 4: loss=-2.5, but losses are nats per token, above 0"),
        ("lr", 2, -1e-3, r"line 4: lr=-0.001, but lr is a number above 0"),
        ("lr", 2, 0.0, r"line 4: lr=0"),
        ("lr", 2, math.inf, r"line 4: lr=inf"),
        ("tokens", 2, math.inf, r"line 4: tokens=inf"),
        ("tokens", 2, 2.0, r"line 4: tokens=2 is less than 1000: give raw counts"),
        ("tokens", 2, 20_000.0, r"line 4: tokens=20000 with params=1e\+08 cannot be one unit"),
        ("params", 2, 100.0, r"line 4: params=100 is less than 1000: give raw counts"),
        ("params", 2, 1200.0, r"line 4: tokens=2e\+09 with params=1200 cannot be one unit"),
        ("batch_tokens", 2, 1e10, r"line 4: batch=1e\+10 with tokens=2e\+09 the batch in tokens exceeds the run"),
    ],
)
def test_values_that_cannot_be_name_their_line(
    tmp_path: Path, column: str, row: int, value: object, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load(csv(tmp_path, with_value(column, row, value)))
    assert "\n" not in str(refused.value)


def test_units_that_are_wrong_everywhere() -> None:
    with pytest.raises(InputError, match="all rows: tokens=2 is less than 1000"):
        load(table(tokens=table()["tokens"] / 1e9))


def test_rows_without_a_rate_or_a_size_are_left_out_and_named(tmp_path: Path) -> None:
    frame = table()
    frame.loc[[1, 7], "lr"] = np.nan
    frame.loc[3, "tokens"] = np.nan
    runs = load(csv(tmp_path, frame))
    assert len(runs.frame) == 17
    assert "2 without lr left out (lines 3, 9)" in runs.notes
    assert "1 without tokens left out (line 5)" in runs.notes
    with pytest.raises(InputError, match="no row has lr"):
        load(table(lr=np.nan))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "nan"])
def test_a_loss_that_is_not_finite_is_a_diverged_run(tmp_path: Path, value: object) -> None:
    written = "NaN" if value is math.nan else value  # pandas writes nan as nothing
    for runs in (load(with_value("loss", 4, value)), load(csv(tmp_path, with_value("loss", 4, written)))):
        assert len(runs.frame) == 20
        assert runs.frame["status"].tolist().count("diverged") == 1
        assert math.isnan(runs.frame["loss"][4])
        assert "1 runs without a finite loss count as diverged" in runs.notes


def test_a_loss_that_is_empty_is_no_result(tmp_path: Path) -> None:
    """A run that has not ended, unless the table itself says that it diverged."""
    for value in ("", None):
        frame = table()
        frame["loss"] = frame["loss"].astype(object)
        frame.loc[4, "loss"] = value
        for runs, word in ((load(frame), "row 4"), (load(csv(tmp_path, frame)), "line 6")):
            assert len(runs.frame) == 19 and set(runs.frame["status"]) == {"done"}
            assert f"1 runs without a loss left out ({word})" in runs.notes
        words = ["done"] * 4 + ["diverged"] + ["done"] * 15
        assert load(csv(tmp_path, frame.assign(status=words))).frame["status"].tolist().count("diverged") == 1


def test_duplicates_go_and_replicates_stay() -> None:
    frame = pd.concat([table(), table().iloc[[3, 5]]], ignore_index=True)
    again = table().iloc[[3]].assign(loss=3.0)
    runs = load(pd.concat([frame, again], ignore_index=True))
    assert len(runs.frame) == 21
    assert "2 exact duplicates left out (rows 20, 21)" in runs.notes
    assert load(frame).fingerprint == load(table()).fingerprint


def test_a_tables_own_word_on_its_runs() -> None:
    words = ["done"] * 17 + ["diverged", "pending", "pending"]
    runs = load(table(status=words))
    assert runs.frame["status"].tolist() == ["done"] * 17 + ["diverged"]
    assert "2 runs are not finished and left out" in runs.notes
    other = load(table(status="finished")).frame
    assert set(other["status"]) == {"done"}
    assert set(other["status (file)"]) == {"finished"}


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    """Refused by name where they differ; pandas would call the second `loss.1` and leave the first."""
    frame = pd.concat([table(), table()[["loss"]] + 1], axis=1)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    for either in (frame, tmp_path / "runs.csv"):
        with pytest.raises(InputError, match="two columns of one name, 'loss', that differ: rename one"):
            load(either)
    assert load(pd.concat([table(), table()[["lr"]]], axis=1)).fingerprint == load(table()).fingerprint  # the control


def test_blank_lines_do_not_shift_the_numbers(tmp_path: Path) -> None:
    path = csv(tmp_path, with_value("lr", 4, "x"))
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(InputError, match="line 7: lr='x'"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"lr,params,tokens,loss\n", "holds no rows"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "is not a text file in UTF-8"),
        (b"a story\nof runs\n", "is not a CSV table: it has one column"),
        (b"lr,loss\n1,2\n1,2,3,4\n", "is not a CSV table"),
        (b"{\n  'lr': [1, 2]\n}\n", "is not a CSV table"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path / "runs.csv")
    assert "\n" not in str(refused.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        load(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="holds no sweep"):
        load(tmp_path)
    with pytest.raises(InputError, match="--columns is for tables"):
        load(tmp_path, columns={"lr": "x"})


@pytest.mark.parametrize(("unit", "factor"), [("sequences:2048", 2048), ("sequences:1024", 1024), ("tokens", 1)])
def test_the_batch_unit(unit: str, factor: int) -> None:
    frame = table().rename(columns={"batch_tokens": "bs"}).assign(bs=128)
    runs = load(frame, batch_unit=unit, as_is=unit == "tokens")
    assert set(runs.frame["batch"]) == {128.0 * factor}
    assert runs.conditions.get("sequence length") == (factor if factor > 1 else None)


def test_a_batch_unit_is_not_guessed() -> None:
    frame = table().rename(columns={"batch_tokens": "bs"})
    with pytest.raises(InputError, match=r"unit of the batch column 'bs' \(128 to 128\) cannot be guessed: give"):
        load(frame.assign(bs=128))
    assert set(load(frame).frame["batch"]) == {2.0**18}
    lossy = load(frame.assign(bs=128), require=LOSS_LAW)
    assert "batch" not in lossy.frame
    assert any("batch is left out" in note for note in lossy.notes)
    assert "batch" not in load(table().drop(columns="batch_tokens")).frame


@pytest.mark.parametrize("unit", ["sequences", "sequences:0", "seqs:2048", "2048", "tokens:1", "sequences:-2"])
def test_a_batch_unit_that_is_none(unit: str) -> None:
    with pytest.raises(InputError, match="neither tokens nor sequences:LENGTH"):
        load(table(), batch_unit=unit)


def test_rates_in_several_roundings_are_one_node() -> None:
    lr = np.array([3.45e-4, 3.453e-4, 3.453e-4, 4.88e-4, 4.883e-4, 6.9e-4])
    assert snapped(lr).tolist() == [3.453e-4, 3.453e-4, 3.453e-4, 4.88e-4, 4.88e-4, 6.9e-4]
    drawn = np.exp(np.random.default_rng(0).uniform(-9, -4, 20_000))
    assert (snapped(drawn) == drawn).mean() > 0.99  # a continuum has no nodes


def test_a_choice_of_rows() -> None:
    frame = table().assign(optimizer=["adamw", "lion"] * 10)
    assert len(load(frame, where={"optimizer": "lion"}).frame) == 10
    assert load(frame, where={"optimizer": "lion"}).conditions["optimizer"] == "lion"
    with pytest.raises(InputError, match="no row has optimizer=sgd; it has adamw, lion"):
        load(frame, where={"optimizer": "sgd"})
    with pytest.raises(InputError, match=r"no column 'optimiser' \(did you mean optimizer\?\)"):
        load(frame, where={"optimiser": "lion"})


@pytest.mark.parametrize(
    ("frame", "quality"),
    [
        (table()[table()["lr"] == 1e-3], {"too-few"}),  # one rate
        (table(loss=np.nan), {"too-few"}),  # all diverged
        (table()[table()["lr"] <= 1e-3], {"edge-high"}),
        (table()[table()["lr"] >= 1e-3], {"edge-low"}),
        (table(), {"interior"}),
    ],
)
def test_grids_without_an_optimum_have_labels(frame: pd.DataFrame, quality: set[str]) -> None:
    found = find_optima(load(frame))
    assert len(found) == 4
    assert set(found["quality"]) == quality
    assert found["lr"].notna().all() == (quality == {"interior"})


def test_step_law(shared: Path) -> None:
    runs = load(shared / "laws" / "steplaw_train.csv", batch_unit="sequences:2048")
    assert len(runs.frame) == 2702
    assert runs.frame["lr"].nunique() == 26
    assert runs.frame["lr_node"].nunique() == 14
    assert any("26 learning rates" in note and "14 nodes" in note for note in runs.notes)
    assert runs.conditions == {"sequence length": 2048, "params": "N non-embedding"}
    with pytest.raises(InputError, match="cannot be guessed"):
        load(shared / "laws" / "steplaw_train.csv")


def test_the_repository_of_step_law_has_two_losses(shared: Path) -> None:
    path = shared / "laws" / "steplaw_repo_dense.csv"
    exact = load(path, batch_unit="sequences:2048")
    assert "loss is the column of that name, not 'smooth loss'" in exact.notes
    runs = load(path, columns={"loss": "smooth loss"}, batch_unit="sequences:2048")
    assert not exact.frame["loss"].equals(runs.frame["loss"])
    assert (len(runs.frame), runs.frame.groupby(["params", "tokens"]).ngroups) == (1911, 17)


def test_chinchilla(shared: Path) -> None:
    runs = load(shared / "laws" / "chinchilla_svg.csv", require=LOSS_LAW)
    table = pd.read_csv(shared / "laws" / "chinchilla_svg.csv")
    np.testing.assert_allclose(runs.frame["tokens"], table["Training FLOP"] / (6 * table["Model Size"]), rtol=1e-14)
    assert len(runs.frame) == 245


def test_fingerprints_do_not_depend_on_how_numbers_are_written(shared: Path) -> None:
    path = shared / "laws" / "openeurollm_runs.csv"
    wanted = load(path, batch_unit="sequences:4096").fingerprint
    again = pd.read_csv(path).rename(columns={"gbsz": "batch tokens"})
    again["batch tokens"] *= 4096
    assert load(again).fingerprint == wanted
    assert source.fingerprint(load(again).frame) == wanted
