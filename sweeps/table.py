"""Tables on a terminal, and those of a report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from lab.text import shown

if TYPE_CHECKING:
    from analysis.report import Report

_PIPE_WIDTH = 120


def show(report: "Report") -> None:
    """Print the optimum of each cell, drift, slope and regret along each axis, and what the intervals rest on."""
    terminal = console()
    optima, *along = report.tables()
    terminal.print(table(*optima))
    for header, rows in along:
        if rows:
            terminal.print()
            terminal.print(table(header, rows))
    for number, answer in enumerate(report.answers()):
        terminal.print(answer if number else f"\n{answer}", soft_wrap=True)
    for note in report.notes():
        terminal.print(note, soft_wrap=True)
    pending = sum(cell.pending for cell in report.cells)
    if pending:
        terminal.print(f"\n{pending} runs are still to be trained", soft_wrap=True)
    terminal.print(f"\nintervals: {report.noise.source}", soft_wrap=True)


def console(*, soft_wrap: bool = False) -> Console:
    """The terminal, or lines of a fixed length where the output goes elsewhere; `soft_wrap` lets text run on."""
    found = _Terminal(markup=False, highlight=False, soft_wrap=soft_wrap)
    if not found.is_terminal:
        found.width = _PIPE_WIDTH
    return found


class _Terminal(Console):
    """A console that writes out what a text from outside would do to it."""

    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*(shown(part) if isinstance(part, str) else part for part in objects), **settings)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows of text under bold words, without lines."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for word in header:
        made.add_column(word, no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made
