"""The words of `lrlab compare`: what a schedule with fixed constants gives up, for a person and as JSON."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.check import require
from sweeps import settings

if TYPE_CHECKING:
    from analysis.inferiority import Comparison


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `compare`; `command` makes its parser."""
    does = "what a schedule with fixed constants gives up against rivals tuned in every cell"
    example = "results/power_vs_wsd --challenger power --judge data.sequences=8,32"
    parser = command(commands, "compare", _compare, does, example)
    parser.add_argument("dir", metavar="DIR", type=Path)
    parser.add_argument("--challenger", metavar="KIND", required=True, help="its schedule.kind")
    judged = "the judged cells; the challenger's constants are chosen on the others"
    settings.add(parser, "--judge", metavar="NAME=V1,V2", help=judged, required=True)
    parser.add_argument("--margin", type=float, default=0.2, help="per cent of loss that do not matter (default 0.2)")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the picture there")


def _compare(options: argparse.Namespace) -> int:
    from analysis.inferiority import compare
    from analysis.results import load

    out: Path | None = options.out
    require(out is None or not out.exists() or out.is_dir(), f"--out {out} is a file: give a folder")
    require(options.margin > 0, f"--margin {options.margin} is not positive: give per cent of loss, as in 0.2")
    found = compare(
        load(options.dir),
        challenger=options.challenger,
        judge=settings.parse(options.settings, "--judge"),
        margin=options.margin / 100,
    )
    print(json.dumps(summary(found), indent=1) if options.json else text(found))
    if out is not None:
        from analysis import figure

        picture = figure.save(figure.comparison(found), out, "comparison")[0]
        if not options.json:
            print(f"picture: {picture}")
    return 0


def summary(found: "Comparison") -> dict[str, Any]:
    """A comparison as plain data; differences in per cent of the rival's loss."""
    return {
        "challenger": found.challenger,
        "constants": found.constants,
        "margin_percent": 100 * found.margin,
        "tuning_excess_percent": 100 * found.tuning_excess,
        "hindsight_percent": 100 * found.hindsight,
        "differences": [
            {
                "rival": difference.rival,
                "percent": 100 * difference.mean,
                "low": 100 * difference.low,
                "high": 100 * difference.high,
                "verdict": difference.verdict,
                "seeds": difference.seeds,
                "cells": [cell | {"percent": 100 * mean} for cell, mean in difference.cells],
                "edges": list(difference.edges),
            }
            for difference in found.differences
        ],
    }


def text(found: "Comparison") -> str:
    """A comparison in lines."""
    from analysis.inferiority import LEVEL

    constants = ", ".join(f"{name}={value:.4g}" for name, value in found.constants.items())
    lines = [
        f"{found.challenger} with {constants}, chosen on the cells that are not judged; there it is "
        f"{100 * found.tuning_excess:.2f} % above the best constants of each cell, in the judged cells "
        f"{100 * found.hindsight:.2f} %"
    ]
    for difference in found.differences:
        lines.append(
            f"against {difference.rival} tuned in every cell: {100 * difference.mean:+.2f} % of its loss "
            f"({LEVEL:.0%} bounds {100 * difference.low:+.2f} .. {100 * difference.high:+.2f}, "
            f"{difference.seeds} seeds): {difference.verdict} at a margin of {100 * found.margin:g} %"
        )
        lines += [
            f"  {', '.join(f'{name} {value}' for name, value in cell.items())}: {100 * mean:+.2f} %"
            for cell, mean in difference.cells
        ]
        lines += [
            f"  {difference.rival} has no interior optimum at {cell}: its best measured rate stands for it"
            for cell in difference.edges
        ]
    return "\n".join(lines)
