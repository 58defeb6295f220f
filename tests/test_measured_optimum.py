"""docs/optimum.md tells what the simulated cells and sweeps in docs/optimum_*.csv give."""

import pandas as pd
import pytest
from measured import DOCS, fails, says, table

pytestmark = pytest.mark.host
PAGE = DOCS / "optimum.md"


def coverage(cells: pd.DataFrame) -> None:
    """Per truth the mean and the lowest coverage, where that is, and the most cells without an interval."""
    rows = []
    for name, part in cells.groupby("truth", sort=False):
        least = part.loc[part["coverage"].idxmin()]
        at = f"{least['spacing']:g} octave, {least['seeds']} seeds"
        mean, low, without = part["coverage"].mean(), least["coverage"], part["without"].max()
        rows.append([str(name), f"{100 * mean:.1f} %", f"{100 * low:.1f} %", at, f"{100 * without:.1f} %"])
    assert table(PAGE, "truth | mean coverage") == rows
    ratio = cells["ratio"].dropna()
    says(PAGE, f"{ratio.min():.1f} to {ratio.max():.1f} times as wide")


def verdicts(sweeps: pd.DataFrame) -> None:
    worst = sweeps.loc[sweeps["wrong"].idxmax()]
    told = sweeps[sweeps["slope"].isin([0.0, 1.0]) & (sweeps["truth"] == "parabola") & (sweeps["seeds"] == 8)]
    right = (told["transfers"].where(told["slope"] == 0, told["moves"])).mean() / told.iloc[0, 4:7].sum()
    says(
        PAGE,
        f"at most {100 * worst['wrong']:.1f} % of the verdicts are wrong",
        f"with eight seeds {100 * right:.0f} % of those on a parabola decide",
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
