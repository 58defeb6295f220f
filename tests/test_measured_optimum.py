"""docs/optimum.md tells what the simulated cells and sweeps in docs/optimum_*.csv give."""

import math

import pandas as pd
import pytest
from measured import DOCS, fails, says, table

pytestmark = pytest.mark.host
PAGE = DOCS / "optimum.md"


def told(cells: pd.DataFrame, digits: int, *, bar: bool = False) -> list[list[str]]:
    """Per truth: mean and lowest coverage, where that is, rows below the `bar`, most cells without an interval."""
    rows = []
    for name, part in cells.groupby("truth", sort=False):
        least = part.sort_values("coverage", kind="stable").iloc[0]
        at = f"{least['spacing']:g} octave, {least['seeds']} seeds"
        mean, low, without = part["coverage"].mean(), least["coverage"], part["without"].max()
        below = [str((part["coverage"] < 0.9).sum())] if bar else []
        lowest, most = (f"{100 * share:.{digits}f} %" for share in (low, without))
        rows.append([str(name), f"{100 * mean:.1f} %", lowest, at, *below, most])
    return rows


def coverage(cells: pd.DataFrame) -> None:
    assert table(PAGE, "truth | mean coverage") == told(cells, 1)
    ratio = cells["ratio"].dropna()
    says(PAGE, f"{ratio.min():.1f} to {ratio.max():.1f} times as wide")


def verdicts(sweeps: pd.DataFrame) -> None:
    count = sweeps[["transfers", "moves", "undecided"]].to_numpy().sum()
    wrong = (sweeps["wrong"] * count / len(sweeps)).sum()
    still, moved = (sweeps[sweeps["slope"] == slope] for slope in (0.0, 1.0))
    share = count / 3
    says(
        PAGE,
        f"{wrong:.0f} of {count:,} sweeps got a wrong verdict",
        f"{100 * still['transfers'].sum() / share:.0f} % of those whose optimum stays are told to transfer",
        f"{100 * moved['moves'].sum() / share:.0f} % of those whose rate moves by an octave per doubling are",
    )


def test_the_coverage_of_optima() -> None:
    cells = pd.read_csv(DOCS / "optimum_coverage.csv")
    assert len(cells) == cells["truth"].nunique() * 16
    coverage(cells)
    fails(coverage, cells.assign(coverage=cells["coverage"] - 0.01))


def test_the_verdicts_of_sweeps() -> None:
    sweeps = pd.read_csv(DOCS / "optimum_verdicts.csv")
    verdicts(sweeps)
    fails(verdicts, sweeps.assign(wrong=sweeps["wrong"] + 0.01))


def fresh(cells: pd.DataFrame) -> None:
    assert table(PAGE, "fresh truth | mean coverage") == told(cells, 0, bar=True)


def test_the_coverage_of_fresh_truths() -> None:
    cells = pd.read_csv(DOCS / "optimum_coverage_fresh.csv")
    fresh(cells)
    fails(fresh, cells.assign(coverage=cells["coverage"] - 0.01))


def regrets(cells: pd.DataFrame) -> None:
    def percent(name: str) -> list[str]:
        return ["" if math.isnan(share) else f"{100 * share:.0f} %" for share in cells[name].to_numpy(float)]

    short = ["" if math.isnan(value) else f"{value:.3f} %" for value in cells["short"].to_numpy(float)]
    columns = (cells["truth"], percent("upper"), percent("lower"), short, percent("kept"), percent("keeping"))
    assert table(PAGE, "truth | upper bound holds") == [list(row) for row in zip(*columns, strict=True)]


def test_the_coverage_of_regret_bounds() -> None:
    cells = pd.read_csv(DOCS / "regret_coverage.csv")
    regrets(cells)
    fails(regrets, cells.assign(upper=cells["upper"] - 0.01))
