"""Hold-outs: published coverage facts, the interval score, and what they refuse."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from law_cells import openeurollm, steplaw_runs, surfaces

from analysis.power.holdout import leave_largest_tokens_out, leave_one_size_out, rolling, winkler
from lab.check import InputError

pytestmark = pytest.mark.host


def number(summary: pd.DataFrame, method: str, column: str) -> float:
    """One number of a summary."""
    return float(summary[column].to_numpy(float)[summary.index.get_loc(method)])


@pytest.fixture(scope="module")
def line() -> pd.DataFrame:
    """An exact law of 5 sizes and 4 budgets."""
    params, tokens = np.repeat(1e8 * 2.0 ** np.arange(5), 4), np.tile(1e9 * 4.0 ** np.arange(4), 5)
    return pd.DataFrame({"params": params, "tokens": tokens, "lr": 2 * params**-0.6 * tokens**0.2})


@pytest.mark.parametrize(("response", "rms", "mean"), [("lr", 0.50, 0.36), ("batch", 0.32, 0.27)])
def test_openeurollm_size_left_out(shared: Path, response: str, rms: float, mean: float) -> None:
    """Section 5 of the reference: coverage 82 % of the iid prediction interval, 36 and 27 % of the mean's, and the bar
    of 1.1 times the iid interval's score."""
    found = leave_one_size_out(openeurollm(shared), response).summary
    assert number(found, "iid", "rms_log2") == pytest.approx(rms, abs=0.01)
    assert number(found, "iid", "coverage") == pytest.approx(0.82, abs=0.005)
    assert number(found, "iid mean", "coverage") == pytest.approx(mean, abs=0.005)
    assert number(found, "law", "ratio") <= 1.1
    assert number(found, "law", "coverage") >= 0.95 and number(found, "law", "coverage_largest") >= 0.95
    assert number(found, "law", "rms_log2") < min(
        number(found, "nearest", "rms_log2"), number(found, "constant", "rms_log2")
    )
    assert number(found, "iid mean", "ratio") > 2


@pytest.mark.parametrize("response", ["lr", "batch"])
def test_steplaw_size_left_out(shared: Path, response: str) -> None:
    """Surfaces of Step Law: the iid prediction interval of the rate covers 88 %."""
    found = leave_one_size_out(surfaces(steplaw_runs(shared)), response).summary
    if response == "lr":
        assert number(found, "iid", "coverage") == pytest.approx(0.88, abs=0.006)
    assert number(found, "law", "ratio") <= 1.1
    assert number(found, "law", "coverage") >= number(found, "iid", "coverage") and number(found, "law", "cells") == 40
    assert number(found, "law", "rms_log2") < min(
        number(found, "nearest", "rms_log2"), number(found, "constant", "rms_log2")
    )


def test_rolling_predicts_larger_sizes_only(shared: Path) -> None:
    found = rolling(openeurollm(shared))
    assert number(found.summary, "law", "cells") == 18 + 9  # fits to three and to four of five sizes
    assert found.cells["params"].min() == 588544000
    assert number(found.summary, "law", "rms_log2") < number(found.summary, "nearest", "rms_log2")


def test_largest_budgets(shared: Path) -> None:
    found = leave_largest_tokens_out(openeurollm(shared))
    assert number(found.summary, "law", "cells") == 15 and found.cells["tokens"].min() == 1.2e11
    assert number(found.summary, "law", "coverage") == 1.0


def test_exact_law_is_predicted(line: pd.DataFrame) -> None:
    for found in (leave_one_size_out(line), rolling(line), leave_largest_tokens_out(line)):
        assert number(found.summary, "law", "rms_log2") < 1e-8
        assert number(found.summary, "constant", "rms_log2") > 0.1


def test_nearest_is_the_nearest_smaller_cell(line: pd.DataFrame) -> None:
    cells = rolling(line).cells
    here = (cells["method"] == "nearest") & (cells["params"] == 16e8) & (cells["tokens"] == 1e9)
    seen = [line[(line["params"] == size) & (line["tokens"] == 1e9)]["lr"].item() for size in (4e8, 8e8)]
    assert cells[here]["predicted"].tolist() == pytest.approx(seen)


def test_interval_score() -> None:
    y, low, high = np.array([0.0, 2.0, -1.0]), np.array([-1.0, -1.0, -0.5]), np.array([1.0, 1.0, 1.5])
    assert winkler(y, low, high) == pytest.approx([2.0, 2.0 + 40, 2.0 + 20])
    assert winkler(y, low, high, 0.8) == pytest.approx([2.0, 2.0 + 10, 2.0 + 5])


def test_censored_cells_take_no_part(line: pd.DataFrame) -> None:
    marked = line.assign(censored=[True] + [False] * 19)
    marked.loc[0, "lr"] = math.nan
    assert number(leave_one_size_out(marked).summary, "law", "cells") == 19


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda frame: leave_one_size_out(frame[frame["params"] < 8e8]), "3 sizes with an optimum"),
        (lambda frame: rolling(frame[frame["params"] < 4e8]), "2 sizes"),
        (lambda frame: leave_largest_tokens_out(frame[frame["tokens"] < 1e10]), "2 token budgets"),
        (lambda frame: leave_largest_tokens_out(frame, share=2), "share=2"),
        (lambda frame: leave_one_size_out(frame.drop(columns="tokens")), "no column tokens"),
        (lambda frame: leave_one_size_out(frame, "loss"), "response=loss"),
    ],
)
def test_bad_input_is_one_line(line: pd.DataFrame, call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call(line)
