"""The report's tables on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from analysis.report import Report


def show(report: Report) -> None:
    """Print the optimum of each cell, the drift along each axis, and what the intervals rest on."""
    console = Console(markup=False, highlight=False)
    optima, moved = report.tables()
    console.print(_table(*optima))
    if moved[1]:
        console.print(_table(*moved))
    console.print(f"intervals: {report.noise.source}, and the grid's bias", style="dim", soft_wrap=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for word in header:
        table.add_column(word, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
