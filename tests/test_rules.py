"""The commands `parametrization` and `coord-check`, and one clear line for whatever is wrong."""

import json
from pathlib import Path

import pytest

from lab.parametrization import TABLE
from sweeps.cli import main

SHOW = ["parametrization", "show", "mup", "--width", "1024", "--base-width", "256", "--depth", "8"]


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_show_gives_every_leaf_relative_to_the_base(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed([*SHOW, "--optimizer", "adamw", "--json"], capsys))
    leaves = {leaf["path"]: leaf for leaf in found["leaves"]}
    hidden, readout, gain = (leaves[p] for p in ("blocks/mlp/up/kernel", "readout/kernel", "final_norm/gain"))
    keys = ("role", "init_std", "forward", "lr", "eps", "weight_decay")
    assert [hidden[key] for key in keys] == ["hidden", 0.5, 1, 0.25, 0.25, 4]
    assert [readout[key] for key in keys] == ["readout", 1, 0.25, 1, 0.25, 1]
    assert [gain[key] for key in keys] == ["gain", 1, 1, 1, 0.25, 0]


@pytest.mark.parametrize("name", [name for name in TABLE if not TABLE[name].absolute])
def test_at_base_width_every_relative_parametrization_is_the_identity(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["parametrization", "show", name, "--width", "256", "--base-width", "256", "--json"]
    for leaf in json.loads(printed(arguments, capsys))["leaves"]:
        assert {leaf[key] for key in ("init_std", "forward", "lr", "eps")} == {1}
        assert leaf["weight_decay"] in (0, 1)


def test_show_as_a_table_and_with_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([*SHOW, "--depth-rule", "complete", "--base-depth", "2", "--set", "model.tied=true"], capsys)
    assert "mup, width 1024 over 256, depth 8, adamw" in text
    assert "logits x 0.25" in text
    (down,) = [line for line in text.splitlines() if line.startswith("blocks/mlp/down/kernel")]
    assert down.split()[-5:] == ["0.5", "0.25", "0.25", "0.0625", "4"]


def test_list_names_every_parametrization(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(json.loads(printed(["parametrization", "list", "--json"], capsys))) == list(TABLE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["parametrization", "show", "mpu", *SHOW[3:]], "parametrization.name=mpu is not one of sp_gpt2.*did you mean"),
        ([*SHOW, "--ablate", "hiden.lr"], r"hiden.lr is not a rule \(did you mean hidden.lr\?\)"),
        ([*SHOW, "--optimizer", "adamax"], "optimizer.kind=adamax is not one of"),
        ([*SHOW, "--depth-rule", "sqrt"], "set it to the depth at which you tune"),
        ([*SHOW, "--set", "model.tied=true", "--alignment", "none"], "model.tied=true contradicts"),
        ([*SHOW, "--set", "seed=1,2"], "--set seed takes one value here, not 2"),
        (["coord-check", "mup", "--widths", "16,x"], "16,x is not a list of sizes"),
        (["coord-check", "mup", "--widths", "16,32"], "a slope needs at least three sizes"),
        (["coord-check", "mup", "--widths", "32,16,64"], "are not in growing order"),
        (["coord-check", "mup", "--steps", "1"], "--steps 1: a check needs at least 2 updates"),
        (["coord-check", "mup", "--ablate", "lr"], "lr is not a rule that can be judged alone"),
        (["coord-check", "mup", "--widths", "16,20,32"], "model.head_dim=8 does not divide model.width=20"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("lrlab: error: ")
    with pytest.raises(AssertionError, match=line):
        raise AssertionError(error)


@pytest.mark.slow
def test_coordinate_checks_from_the_command_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["coord-check", "mup", "--widths", "8,16,64", "--steps", "2"]
    for setting in ("data.sequences=4", "data.length=16", f"data.corpus=text:{text}"):
        small += ["--set", setting]
    status = main([*small, "--out", str(tmp_path), "--json"])
    assert (json.loads(capsys.readouterr().out)["verdict"], status) in [("pass", 0), ("undecided", 3)]
    header, first, *_ = (tmp_path / "coordinates.csv").read_text().splitlines()
    assert header == "statistic,width,seed,step,rms"
    assert first == "change/embedding,8,0,0,0"
    assert (tmp_path / "coordinates.png").stat().st_size > 10_000
    assert main([*small, "--ablate", "hidden.init"]) == 1
    assert "FAIL" in capsys.readouterr().out
