"""Draw every figure and print every table of sharpness points, from a store or from an exported table.

python -m analysis.sharpness docs/sharpness_vs_width.csv --out pictures
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figure import save
from analysis.sharpness.distance import MARGIN
from analysis.sharpness.late import WINDOW
from analysis.sharpness.points import SIZE_AXES, Points, read, since
from analysis.sharpness.section import Table, section
from analysis.sharpness.study import Settings
from analysis.sharpness.table import export, read_table
from lab.check import InputError, require


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 and one line on stderr where something that was given cannot be."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def markdown(table: Table) -> str:
    """A table of text in Markdown."""
    header, rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _run(options: argparse.Namespace) -> None:
    require(0 < options.margin < 1, f"--margin {options.margin} is not a share of S_inf between 0 and 1")
    first, last = options.window
    require(0 <= first < last <= 1, f"--window {first:g} {last:g} is not a part of a run: give two shares, as 0.5 1")
    points = _points(options)
    if options.csv is not None:
        only = options.only.split(",") if options.only else None
        rows = export(points, options.csv, top=options.top, errors=options.errors, only=only)
        print(f"{rows} points in {options.csv}\n")
    found = section(points, Settings(options.margin, options.paired, (first, last)))
    for title, table in found.tables():
        print(f"## {title}\n\n{markdown(table)}\n")
    for note in found.notes():
        print(note)
    if options.out is not None:
        for name, drawn in found.figures().items():
            print(save(drawn, options.out, name)[0])


def _points(options: argparse.Namespace) -> Points:
    points = (
        read(options.source, options.probe, options.batch) if options.source.is_dir() else read_table(options.source)
    )
    if options.axis is not None:
        axis = f"model.{options.axis}"
        require(axis in points.frame, f"--axis {options.axis}: the points have no {axis}")
        points = dataclasses.replace(points, size_axis=axis)
    found = since(points, options.from_step)
    require(len(found.frame) > 0, f"--from-step {options.from_step}: there are no points from there on")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis.sharpness", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="a table that --csv wrote, or a folder of lrlab sweep --out")
    parser.add_argument("--out", type=Path, help="folder for the figures (PNG and SVG)")
    parser.add_argument("--csv", type=Path, help="write the points as a table, one row per run and step")
    parser.add_argument("--top", type=int, default=1, help="largest eigenvalues of each kind in that table (default 1)")
    parser.add_argument("--only", help="quantities in that table, as in preconditioned,ratio,edge (default all)")
    parser.add_argument("--errors", action="store_true", help="residuals and standard errors in that table")
    parser.add_argument("--probe", help="probe id, where a folder holds several")
    parser.add_argument("--batch", help="measurement batch, where a folder holds several")
    parser.add_argument("--axis", choices=[name.rpartition(".")[2] for name in SIZE_AXES], help="what sizes differ in")
    parser.add_argument("--margin", type=float, default=MARGIN, help="of S_inf, for the verdicts (default 0.1)")
    parser.add_argument("--paired", action="store_true", help="seeds are the same draw at every size")
    parser.add_argument("--window", type=float, nargs=2, default=WINDOW, help="of a run, for the late ratio (0.5 1)")
    parser.add_argument("--from-step", type=int, default=0, help="leave out earlier points")
    return parser


if __name__ == "__main__":
    sys.exit(main())
