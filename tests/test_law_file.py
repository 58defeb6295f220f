"""A law's file as people leave it: edited, cut, merged; whatever it holds, reading gives a law or one line."""

import copy
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_tables import table

from analysis import law as law_file
from analysis.calculator import fit
from analysis.runs.source import load
from lab.check import InputError

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    frame = table()
    diverged = frame.assign(lr=frame["lr"] * 2**7)[frame["lr"] > 5e-4].assign(loss=math.nan)
    law = fit(load(pd.concat([frame, diverged])), "lr", draws=20).law
    assert law.edge is not None and law.rivals
    return json.loads(json.dumps(law.to_dict(), allow_nan=False))


def refused(folder: Path, text: str) -> str:
    path = folder / "law.json"
    path.write_text(text)
    with pytest.raises(InputError) as found:
        law_file.read(path)
    assert "\n" not in str(found.value) and "law.json" in str(found.value)
    return str(found.value)


def changed(data: dict[str, Any], path: Sequence[Any], value: Any) -> str:
    data = copy.deepcopy(data)
    part: Any = data
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"format":' + "9" * 5000 + "}", "{", "[]", '"x"', "3"]
)
def test_texts_that_are_no_law(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("lr", "coefficient"), 0.1, "lr.coefficient says 0.1, and the fit that predictions come from says"),
        (("lr", "exponents", "params"), -0.4, "lr.exponents says -0.4, and the fit"),
        (("lr", "ci", "params"), [-0.6, -0.4], "lr.ci says -0.6"),
        (("lr", "counts"), "9 optima", "lr.counts says '9 optima'"),
        (("divergence", "coefficient"), 7.0, "divergence.coefficient says 7"),
        (("units", "batch"), "sequences", "units.batch says 'sequences'"),
        (("lr", "fit", "coefficients", 0), "x", "coefficients.0.='x' is no finite number"),
        (("lr", "fit", "coefficients"), "abc", "law.lr.coefficients"),
        (("lr", "fit", "coefficients"), [1.0], "law.json"),
        (("lr", "fit", "between"), math.nan, "law.lr.between=nan is no finite number"),
        (("lr", "fit", "between"), -1.0, "a negative scatter"),
        (("lr", "fit", "nodes", 0, "weight"), 0.0, "a node of weight 0"),
        (("lr", "fit", "nodes", 0, "weight"), math.nan, "weight=nan"),
        (("lr", "fit", "nodes", 0, "variance"), -0.1, "a node of variance -0.1"),
        (("lr", "fit", "nodes", 0, "covariance", 0, 0), -1.0, "a node that is not"),
        (("lr", "fit", "nodes"), [1], "law.json"),
        (("lr", "fit", "ranges"), 0, "law.lr.ranges=0"),
        (("lr", "fit", "ranges", 0, 1), 0.0, "a range that is none"),
        (("lr", "fit", "cells"), True, "cells"),
        (("lr", "fit", "cells"), 10**400, "many digits"),
        (("lr", "fit"), 5, "damaged"),
        (("lr",), [1], "damaged"),
        (("divergence",), 0, "damaged"),
        (("divergence",), {"edge": 0}, "damaged"),
        (("penalty",), [1], "damaged"),
        (("penalty", "lr"), 0, "penalty has a curvature that is none"),
        (("penalty", "lr"), "a", "penalty.lr='a'"),
        (("fixed",), {"batch": 0}, "fixed batch=0 is not above 0"),
        (("fixed",), [], "law.fixed"),
        (("conditions",), "x", "law.conditions"),
        (("notes",), "abc", "notes='abc' is no list"),
        (("other_estimators", 0, "exponents"), "a", "rivals.0..exponents"),
        (("law",), "foo", "law.kind='foo'"),
        (("law",), "lr+batch", "without one of the batch"),
        (("version",), [2], "has version"),
        (("format",), 3, "is no law"),
    ],
)
def test_what_is_edited_is_refused_by_name(
    tmp_path: Path, told: dict[str, Any], path: tuple[Any, ...], value: Any, words: str
) -> None:
    """0.1.0: seven tracebacks, and a readable half that nobody read."""
    text = refused(tmp_path, changed(told, path, value))
    assert re.search(words, text), text


def test_what_is_not_edited_is_read(tmp_path: Path, told: dict[str, Any]) -> None:
    """The control: the file itself, and a note that was added."""
    path = tmp_path / "law.json"
    for text in (json.dumps(told), changed(told, ("notes",), [*told["notes"], "mine"]), changed(told, ("name",), "b")):
        path.write_text(text)
        assert json.loads(json.dumps(law_file.read(path).to_dict()))["lr"] == told["lr"]


def test_a_name_twice_is_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    text = json.dumps(told).replace('"name":', '"name": "other", "name":', 1)
    assert "'name' twice" in refused(tmp_path, text)


def test_a_law_of_the_loss_too(tmp_path: Path) -> None:
    frame = table().groupby(["params", "tokens"], as_index=False)["loss"].min()
    found = fit(load(frame, require=("params", "tokens", "loss")), "loss", form="tokens", draws=0).law
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert "loss.E says 9" in refused(tmp_path, changed(data, ("loss", "E"), 9.0))
    assert "E" in refused(tmp_path, changed(data, ("loss", "fit", "E"), "x"))
