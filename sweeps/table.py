"""The report's tables on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from analysis.report import Report

_PIPE_WIDTH = 120


def show(report: Report) -> None:
    """Print the optimum of each cell, drift, slope and regret along each axis, and what the intervals rest on."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, width=_PIPE_WIDTH)
    optima, *along = report.tables()
    console.print(_table(*optima))
    for header, rows in along:
        if rows:
            console.print()
            console.print(_table(header, rows))
    for note in report.notes():
        console.print(note, soft_wrap=True)
    pending = sum(cell.pending for cell in report.cells)
    if pending:
        console.print(f"\n{pending} runs are still to be trained", soft_wrap=True)
    console.print(f"\nintervals: {report.noise.source}, and the grid's bias", soft_wrap=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for word in header:
        table.add_column(word, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
