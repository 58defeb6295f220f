"""`lrlab laws`: the list, one law, laws side by side, and laws tried on measured runs."""

import argparse
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.literature.answer import answer, answers
from analysis.literature.figure import scale
from analysis.literature.publication import publications, published
from analysis.literature.trial import CONSTANT, NEAREST, trial
from lab.check import InputError
from sweeps import laws_parser
from sweeps import options as shared
from sweeps.cli import main

pytestmark = pytest.mark.host


def runs(law: str = "step", *, noise: float = 0.0, octaves: float = 0.0) -> pd.DataFrame:
    """Cells whose best rate and batch a law predicts, `octaves` off in the rate; quadratic in log2, grids around it."""
    rng = np.random.default_rng(0)
    rows = []
    for params in (1e8, 4e8):
        for tokens in (4e9, 2e10):
            at = {"params": params, "tokens": tokens}
            lr, batch = published(law).lr(**at), published(law).batch(**at)
            for i in np.arange(-3, 3.5, 0.5):
                for j in range(-2, 3):
                    loss = 3.0 + 0.02 * (i + 0.2 - octaves) ** 2 + 0.01 * (j - 0.3) ** 2
                    rows.append(
                        at
                        | {
                            "lr": lr * 2 ** (i + 0.2),
                            "batch": batch * 2 ** (j - 0.3),
                            "loss": loss + noise * rng.normal(),
                            "status": "done",
                        }
                    )
    return pd.DataFrame(rows)


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"law": None, "window": "1%", "cells": False, "json": False} | given))


# --- list and show ---


def test_the_list_names_every_law(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws"]) == 0
    plain = capsys.readouterr().out
    assert main(["laws", "list"]) == 0
    assert capsys.readouterr().out == plain
    for law in publications():
        assert law.name in plain and law.source in plain
    assert "1.79 N^-0.713 D^0.307 [printed]" in plain


@pytest.mark.parametrize("words", [["laws", "--json"], ["laws", "list", "--json"]])
def test_the_list_as_json(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    found = {law["name"]: law for law in json.loads(capsys.readouterr().out)}
    assert set(found) == {law.name for law in publications()}
    assert found["step"]["formulas"]["lr"]["exponents"] == {"params": -0.713, "tokens": 0.307}
    assert found["openeurollm_rounded"]["formulas"]["batch"]["coefficient"] == pytest.approx(9.901e-5 * 4096)
    assert found["deepseek"]["misprints"][0]["printed"].startswith("0.3188")


def test_one_law(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "show", "openai"]) == 0
    found = capsys.readouterr().out
    assert found.startswith("kaplan: OpenAI")
    assert "misprint: batch 2e18" in found
    assert main(["laws", "show", "marin", "--json"]) == 0
    assert "width" in json.loads(capsys.readouterr().out)["formulas"]["lr"]["needs"]


def test_a_near_miss_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "show", "stpe"]) == 2
    assert "stpe is not a published law (did you mean step?)" in capsys.readouterr().err


# --- compare ---


def test_laws_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "compare", "--params", "7e9", "--tokens", "1.4e12"]) == 0
    found = capsys.readouterr().out
    (step,) = (line.split() for line in found.splitlines() if line.startswith("step "))
    assert step[1:3] == ["0.0009166", "4.999e+06"]
    assert "law marin_muonh needs width and batch: add --width --batch" in found
    assert "step: tokens 1.4e+12 is 14 times outside the fit, 2e+09 .. 1e+11" in found
    assert "conditions: a number holds under these" in found
    assert "9 rates of 6 distinct laws" in found


def test_laws_side_by_side_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "laws compare --params 1.3e10 --tokens 1e13 --batch-tokens 4194304 --json"
    assert main(words.split()) == 0
    found = json.loads(capsys.readouterr().out)
    laws = {law["law"]: law for law in found["laws"]}
    assert laws["power_wsd"]["lr"] == pytest.approx(1.104226e-3, rel=1e-6)
    assert laws["step"]["extrapolation"]["tokens"] == 100
    assert laws["kaplan"]["lr"] is None
    assert "negative above" in laws["kaplan"]["lr_missing"]
    assert found["inputs"]["batch"] == 4194304


def test_both_spellings_of_the_batch_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for word in ("--batch", "--batch-tokens"):
        assert main(["laws", "compare", "--params", "1e9", "--tokens", "1e11", word, "2e6", "--json"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("compare --params -1 --tokens 1e9", "params=-1.0 is not a number above 0"),
        ("compare --params 1e9 --tokens nan", "tokens=nan is not a number above 0"),
    ],
)
def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str], words: str, line: str) -> None:
    assert main(["laws", *words.split()]) == 2
    assert line in capsys.readouterr().err


def test_a_rate_takes_the_given_batch_before_the_laws_own() -> None:
    base = {"tokens": 4e10, "base_lr": 1e-3, "base_tokens": 1e10, "base_batch": 1e6}
    own, given = answer(published("scion"), base), answer(published("scion"), base | {"batch": 1e6})
    assert own.batch == given.batch == pytest.approx(1e6 * 4**0.45)
    assert given.lr == pytest.approx(1e-3 * 4**-0.56)
    assert own.lr == pytest.approx(1e-3 * 4**-0.56 * 4 ** (0.45 * 0.62))


def test_the_picture_over_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"laws compare --params 1e9 --tokens 1e11 --out {tmp_path / 'laws'}"
    assert main(words.split()) == 0
    assert (tmp_path / "laws" / "laws.png").stat().st_size > 10_000
    assert "picture:" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main(f"laws compare --params 1e9 --tokens 1e11 --out {tmp_path / 'file'}".split()) == 2
    assert "is a file: give a folder" in capsys.readouterr().err


def test_the_picture_draws_the_laws_and_no_others() -> None:
    inputs = {"params": 1e9, "tokens": 1e11, "loss": 2.5, "width": 2048.0}
    figure = scale(inputs)
    ratio, tokens = figure.axes[0], figure.axes[1]
    drawn = {str(line.get_label()): line for line in ratio.lines}
    assert "step" in drawn and "kaplan" in drawn
    assert "marin_muonh" not in drawn  # its width would have to follow N
    x, y = (np.asarray(part, float) for part in drawn["step"].get_data())
    slope = math.log(y[-1] / y[0]) / math.log(x[-1] / x[0])
    assert slope == pytest.approx(0.307 - 0.713)
    (line,) = (line for line in tokens.lines if line.get_label() == "step")
    x, y = (np.asarray(part, float) for part in line.get_data())
    assert math.log(y[-1] / y[0]) / math.log(x[-1] / x[0]) == pytest.approx(-0.713)
    with pytest.raises(InputError, match="needs params and tokens"):
        scale({"params": 1e9})


# --- test ---


def test_a_law_costs_nothing_where_it_holds() -> None:
    found = trial(runs()).means().set_index("law")
    assert found.loc["step", "quadratic"] == pytest.approx(0, abs=1e-9)
    assert found.loc["step", "offset"] == pytest.approx(-0.2)  # the best run lies 0.2 octaves above
    assert found.loc["step", "quadratic_cells"] == 4
    assert found["nearest"]["openeurollm"] > 0.5


def test_a_law_costs_the_square_of_its_error() -> None:
    frame = trial(runs(octaves=1.0), [published("step")], window=math.inf).means().set_index("law")
    assert frame.loc["step", "quadratic"] == pytest.approx(100 * 0.02 / 3.0, abs=1e-6)


def test_the_baselines_move_the_best_run_of_smaller_cells() -> None:
    table = trial(runs()).frame()
    near, smallest = (table[table["law"] == name].set_index(["params", "tokens"]) for name in (NEAREST, CONSTANT))
    assert near["lr"].isna().tolist() == [True, False, False, False]
    assert near.loc[(1e8, 4e9), "note"] == "no smaller cell"
    assert near.loc[(4e8, 2e10), "note"] == "from N 1e+08, D 2e+10"  # a factor 4 in N is nearer than 5 in D
    assert smallest["lr"].nunique() == 1
    assert smallest.loc[(1e8, 4e9), "nearest"] == 0


def test_laws_that_need_more_than_the_runs_tell_are_left_out() -> None:
    found = trial(runs())
    assert "law marin_muonh needs width: add --width" in found.skipped
    with_shape = trial(runs().assign(width=1024))
    assert not any("marin" in line for line in with_shape.skipped)
    rule = [one for one in found.trials if one.law == "bjorck"]
    assert [one.lr is None for one in rule] == [True, False, True, False]  # the first horizon of each size has no base


def test_a_cell_that_cannot_discriminate_says_so() -> None:
    close = [published(name) for name in ("step", "step_unrounded")]
    noisy = trial(runs(noise=0.01), close)
    assert all(not one.can for one in noisy.discriminations.values())
    assert all("cannot discriminate laws" in one.statement for one in noisy.discriminations.values())
    far = trial(runs(noise=1e-4), [*close, published("openeurollm")])
    assert all(one.can and one.worse == ("openeurollm",) for one in far.discriminations.values())


def test_runs_of_one_batch_are_curves() -> None:
    frame = runs()
    lowest = frame.groupby(["params", "tokens"])["batch"].transform("min")
    found = trial(frame[frame["batch"] == lowest]).frame()
    step = found[found["law"] == "step"]
    assert step["quadratic"].to_numpy(float) == pytest.approx(0, abs=1e-9)
    assert set(step["note"]) == {"one batch: the setting's own is not tested"}
    assert trial(frame[frame["batch"] == lowest].drop(columns="batch")).cells


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (runs().drop(columns="params"), "the runs have no params"),
        (runs().assign(variant=["a", "b"] * 130), "the runs are of 2 variants \\(a; b\\): choose one"),
        (runs().assign(loss=math.nan), "the runs have no loss"),
        (runs().assign(loss=math.inf), "no cell has a run with a finite loss"),
    ],
)
def test_runs_without_what_is_needed_are_refused(frame: pd.DataFrame, line: str) -> None:
    with pytest.raises(InputError, match=line):
        trial(frame)


def test_the_report_of_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert laws_parser.report(runs(noise=1e-3), options(cells=True)) == 0
    found = capsys.readouterr().out
    for word in (
        "nearest smaller cell",
        "mean regret in per cent",
        "N 1e+08, D 4e+09: best run",
        "left out: law meituan",
    ):
        assert word in found
    assert laws_parser.report(runs(), options(json=True, law=["step"])) == 0
    means = json.loads(capsys.readouterr().out)["means"]
    assert {row["law"] for row in means} == {"step", NEAREST, CONSTANT}


def test_laws_are_tried_on_a_file_of_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {}

    def load(source: str, *, columns: Any = None, batch_unit: Any = None, where: Any = None) -> Any:
        given.update(source=source, columns=columns, batch_unit=batch_unit, where=where)
        return types.SimpleNamespace(frame=runs(), notes=("lr is taken from the column 'eta'",))

    source = types.ModuleType("analysis.runs.source")
    source.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "analysis.runs.source", source)
    words = "laws test runs.csv --columns lr=eta,batch=bsz --batch-unit sequences:2048 --law step --window 2%"
    words += " --where seed=1 --where optimizer=adamw"
    assert main(words.split()) == 0
    assert given == {
        "source": "runs.csv",
        "columns": {"lr": "eta", "batch": "bsz"},
        "batch_unit": "sequences:2048",
        "where": {"seed": 1.0, "optimizer": "adamw"},
    }
    assert capsys.readouterr().out.startswith("lr is taken from the column 'eta'")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lr", "has the part 'lr'"),
        ("lr=a,lr=b", "names lr twice"),
        ("token=D", r"token is not a quantity \(did you mean tokens\?\)"),
    ],
)
def test_wrong_columns_are_refused(text: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        shared.columns(text)


@pytest.mark.parametrize("texts", [["seed"], ["=1"], ["a=1", "a=2"]])
def test_wrong_choices_of_runs_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match="--where"):
        shared.where(texts)


def test_one_cell_has_no_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    frame = runs()
    one = frame[(frame["params"] == 1e8) & (frame["tokens"] == 4e9)]
    assert laws_parser.report(one, options(cells=True)) == 0
    found = capsys.readouterr().out
    assert NEAREST not in found and "nan" not in found
    assert "law bjorck needs a shorter horizon of the same size" in found


def test_windows() -> None:
    assert laws_parser.parse_window("2%") == laws_parser.parse_window("2") == 0.02
    assert laws_parser.parse_window("all") == math.inf
    for text in ("wide", "0", "-1%", "nan"):
        with pytest.raises(InputError, match="--window"):
            laws_parser.parse_window(text)


def test_at_home_and_away(shared: Path) -> None:
    """Each law is best on the data it was fitted to; nearest runs, per cent."""
    table = pd.read_csv(shared / "laws" / "steplaw_train.csv")
    names = {"non_embedding_param_size": "params", "data_size": "tokens", "lr": "lr", "lm_loss": "loss"}
    home = table[list(names)].rename(columns=names).assign(batch=table["bsz"] * 2048)
    laws = [published(name) for name in ("step", "openeurollm", "deepseek", "porian")]
    found = trial(home, laws).means().set_index("law")["nearest"]
    assert found.idxmin() == "step"
    assert found["step"] == pytest.approx(0.101, abs=2e-3)
    assert found.drop("step").drop([NEAREST, CONSTANT]).min() > 5 * found["step"]


def test_every_law_answers_or_says_why() -> None:
    for one in answers({"params": 1e9, "tokens": 1e11}):
        assert (one.lr is None) == bool(one.lr_why)
        assert (one.batch is None) == bool(one.batch_why)
