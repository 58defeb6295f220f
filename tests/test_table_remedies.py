"""What is suggested where a table cannot be read: the option, the product, the power or the spelling, as pasted."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_tables import table

from analysis.runs.source import load
from lab.check import InputError
from sweeps import options

pytestmark = pytest.mark.host


def test_what_is_asked_one_after_another_is_answered_one_after_another() -> None:
    """Each answer is an option of its own; until now the last --columns and the last --repeats alone counted."""
    parser = argparse.ArgumentParser()
    options.add_source(parser)
    words = "--columns lr=max_lr --columns loss=eval/loss,params=n --repeats run --repeats a,b"
    found = parser.parse_args(shlex.split(words))
    assert options.columns(found.columns) == {"lr": "max_lr", "loss": "eval/loss", "params": "n"}
    assert options.readings(found) == {"repeats": ["run", "a", "b"]}
    with pytest.raises(InputError, match="--columns names lr twice"):  # the control
        options.columns(["lr=a", "lr=b"])
    nothing = parser.parse_args([])
    assert options.columns(nothing.columns) is None and options.readings(nothing) == {}


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"tokens": 1e9}, "tokens=D (B)*1e9"),
        ({"params": 1e6}, "params=N (M)*1e6"),
        ({"params": 1e9}, "params=N (B)*1e9"),
        ({"lr": 1e-3}, "lr=lr (e-6)*1e-3"),
    ],
)
def test_other_units_are_a_product_away(scale: dict[str, float], words: str) -> None:
    """The refusal names the table's own column, and what it says works when pasted."""
    ((name, factor),) = scale.items()
    column = words.partition("=")[2].rpartition("*")[0]
    frame = table()
    frame[name] = frame[name] / factor * (500 / 0.125 if name == "lr" else 1)
    with pytest.raises(InputError, match="less than 1000|above 10") as told:
        load(frame.rename(columns={name: column}), columns={name: column})
    pasted = shlex.split(str(told.value).partition("as in --columns ")[2].replace("?;", " "))[0]
    assert pasted == words and "\n" not in str(told.value)
    runs = load(frame.rename(columns={name: column}), columns=options.columns(pasted), as_is=True)
    np.testing.assert_allclose(runs.frame[name], table()[name] * (4000 if name == "lr" else 1))
    if name != "lr":  # the control: one row in other units is no unit of the table, and a product would not mend it
        one = table().assign(**{name: table()[name].where(table().index > 0, table()[name] / factor)})
        with pytest.raises(InputError, match="less than 1000") as told:
            load(one)
        assert "--columns" not in str(told.value)


@pytest.mark.parametrize(
    ("column", "undone", "of"),
    [
        ("log2_lr", "lr=2**log2_lr", np.log2),
        ("log10(lr)", "lr=10**log10(lr)", np.log10),
        ("ln lr", "lr=exp(ln lr)", np.log),
    ],
)
def test_a_logarithm_is_a_power_away(column: str, undone: str, of: Any) -> None:
    """Until now the advice led to "lr=-13, but lr is a number above 0: correct or drop the rows", of all rows."""
    frame = table().assign(**{column: of(table()["lr"])}).drop(columns="lr")
    with pytest.raises(InputError, match="no column for lr; of a logarithm take the power") as told:
        load(frame)
    pasted = shlex.split(str(told.value).rpartition("--columns ")[2])[0]
    assert pasted == undone
    np.testing.assert_allclose(load(frame, columns=options.columns(pasted)).frame["lr"], table()["lr"])
    with pytest.raises(InputError, match="no column 'log2_lrr'"):
        load(frame, columns={"lr": "2**log2_lrr"})
    with pytest.raises(InputError, match="lr=COLUMN"):  # the control: the logarithm of something else
        load(frame.rename(columns={column: "log2_width"}))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("125M", "write 125e6"),
        ("1.5 B", "write 1.5e9"),
        ("25,000,000", "write 25000000"),
        ("25.000.000", "write 25000000"),
        ("25 000 000", "write 25000000"),
        ("25,000", "correct it, or empty the cell"),  # the controls: a decimal comma, perhaps; and no number at all
        ("many", "correct it, or empty the cell"),
    ],
)
def test_how_a_number_is_written_is_told(text: str, remedy: str) -> None:
    frame = table().astype({"params": object})
    frame.loc[3, "params"] = text
    with pytest.raises(InputError, match=f"params='{text}' is not a number: {remedy}$"):
        load(frame)


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    text = table(lauf="groß").to_csv(index=False)
    path = tmp_path / "runs.csv"
    path.write_bytes(text.encode("windows-1252"))
    with pytest.raises(InputError, match=r"\(line 2, byte 0xdf\): convert it, as in iconv -f windows-1252") as told:
        load(path)
    assert str(told.value).endswith(f"{path} > {tmp_path / 'utf8_runs.csv'}")
    path.write_bytes(text.encode("utf-8"))  # the control: what the conversion makes
    assert len(load(path).frame) == 42


def test_the_greek_rate_is_a_rate() -> None:
    assert load(table().rename(columns={"lr": "\u03b7"})).frame["lr"].equals(table()["lr"])
    with pytest.raises(InputError, match="no column for lr"):  # the control
        load(table().rename(columns={"lr": "\u03b2"}))


@pytest.mark.parametrize("column", ["model", "Alice's model", "model name"])
def test_the_choice_among_repeats_works_when_pasted(column: str) -> None:
    """Whatever the column is called: a name with an apostrophe used to end the shell's quotes."""
    both = pd.concat([table().assign(**{column: name}) for name in ("a", "b")], ignore_index=True)
    with pytest.raises(InputError, match="which no law averages over") as told:
        load(both)
    words = shlex.split(str(told.value).partition("choose with ")[2].partition(", or say")[0])
    assert words == ["--where", f"{column}=a"]
    assert shlex.split(str(told.value).partition("or say ")[2].partition(" if it")[0]) == ["--repeats", column]
