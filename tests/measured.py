"""What the documents say was measured, and the records behind it: tables of a document, and a CSV as a sweep's results.

A number in a document is checked as the text that it is, so that a changed digit in the document or in a record fails.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from analysis.optimum import Optimum
from analysis.results import Results
from sweeps import catalog

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
Rows = list[list[str]]


def results(name: str, frame: pd.DataFrame) -> Results:
    """A table of runs as the results of the bundled sweep that made it."""
    axes = list(dict.fromkeys(axis for point in catalog.load(name).points for axis in point))
    return Results({"name": name, "axes": axes, "optimum_axes": ["optimizer.lr"]}, frame, {}, {})


@functools.cache
def records(name: str) -> Results:
    """The records of a bundled sweep, `docs/NAME.csv`."""
    return results(name, pd.read_csv(DOCS / f"{name}.csv"))


def tables(text: str) -> list[Rows]:
    """The tables of a Markdown text: header and rows, cells without their bold marks; lines of dashes left out."""
    found: list[Rows] = []
    inside = False
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            inside = False
            continue
        if not inside:
            found.append([])
        inside = True
        cells = [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]
        if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            found[-1].append(cells)
    return found


def table(document: Path, head: str) -> Rows:
    """The rows below the only header of a document whose cells, joined by ` | `, begin with `head`."""
    (found,) = [one for one in tables(document.read_text()) if " | ".join(one[0]).startswith(head)]
    return found[1:]


def says(document: Path, *phrases: str) -> None:
    """Assert that a document holds the phrases, wherever its lines break."""
    text = " ".join(document.read_text().replace("**", "").split())
    for phrase in phrases:
        assert phrase in text, phrase


def fails(check: Callable[..., None], *arguments: object) -> None:
    """Assert that a check of a document does not hold: its negative control."""
    with pytest.raises(AssertionError):
        check(*arguments)


def octaves(found: Optimum) -> str:
    """`-6.04 (-6.39 .. -5.69)`: log2 of the optimum with its 95 % interval."""
    assert found.lr and found.low and found.high
    return interval(math.log2(found.lr), math.log2(found.low), math.log2(found.high), ".2f")


def interval(value: float, low: float | None, high: float | None, digits: str = "+.2f") -> str:
    """`+0.18 (+0.08 .. +0.28)`."""
    assert low is not None and high is not None
    return f"{_plain(value, digits)} ({_plain(low, digits)} .. {_plain(high, digits)})"


def percent(value: float) -> str:
    """Two digits that tell: `0.19 %`, `4.4 %`, `46 %`."""
    return f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f} %"


def columns(rows: Sequence[Sequence[str]], *places: int) -> Rows:
    """Some columns of a table."""
    return [[row[place] for place in places] for row in rows]


def _plain(value: float, digits: str) -> str:
    """A number in digits; what rounds to 0 has the sign of a positive one, as `+0.00`, where digits ask for a sign."""
    text = format(value, digits)
    return text.replace("-", "+" if digits.startswith("+") else "") if float(text) == 0 else text
