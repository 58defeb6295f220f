"""The words of `lrlab compare`: what a schedule with fixed constants gives up, for a person and as JSON."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import disk
from lab.check import require
from sweeps import settings

if TYPE_CHECKING:
    from analysis.inferiority import Comparison


def add(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `compare`; `command` makes its parser."""
    does = "what a schedule with fixed constants gives up against rivals tuned in every cell"
    example = "results/power_vs_wsd --challenger power --judge data.sequences=8,32"
    parser = command(commands, "compare", _compare, does, example)
    parser.add_argument("dir", metavar="DIR", type=Path, help="a store, or a file of lrlab export")
    parser.add_argument("--challenger", metavar="KIND", required=True, help="its schedule.kind")
    judged = "the judged cells; the challenger's constants are chosen on the others"
    settings.add(parser, "--judge", metavar="NAME=V1,V2", help=judged, required=True)
    parser.add_argument("--margin", type=float, help="per cent of loss that do not matter; without it: no verdicts")
    rivals = "schedules to judge against (default: all others)"
    parser.add_argument("--rival", metavar="KIND1,KIND2", default="", help=rivals)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the picture there")


def _compare(options: argparse.Namespace) -> int:
    from analysis.inferiority import compare
    from analysis.results import load

    out: Path | None = options.out
    if out is not None:
        disk.require_folder(out, "--out")
    margin: float | None = options.margin
    require(margin is None or margin > 0, f"--margin {margin} is not positive: give per cent of loss, as in 0.2")
    found = compare(
        load(options.dir),
        challenger=options.challenger,
        judge=settings.parse(options.settings, "--judge"),
        margin=None if margin is None else margin / 100,
        rivals=[kind for kind in options.rival.split(",") if kind],
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
        "margin_percent": None if found.margin is None else 100 * found.margin,
        "tuning_excess_percent": 100 * found.tuning_excess,
        "hindsight_percent": 100 * found.hindsight,
        "differences": [
            {
                "rival": difference.rival,
                "percent": 100 * difference.mean,
                "low": 100 * difference.low,
                "high": 100 * difference.high,
                "half_width": 100 * difference.half_width,
                "verdict": difference.verdict,
                "seeds": difference.seeds,
                "cells": [
                    cell | {"percent": 100 * mean, "chosen": list(chosen)}
                    for (cell, mean), chosen in zip(difference.cells, difference.chosen, strict=True)
                ],
                "edges": list(difference.edges),
                "between_percent": 100 * difference.between,
            }
            for difference in found.differences
        ],
    }


def text(found: "Comparison") -> str:
    """A comparison in lines."""
    from analysis.inferiority import LEVEL
    from analysis.results import describe

    lines = [
        f"{found.challenger} with {_words(found.constants)}, chosen on the cells that are not judged; there it is "
        f"{100 * found.tuning_excess:.2f} % above the best constants of each cell, in the judged cells "
        f"{100 * found.hindsight:.2f} %"
    ]
    for one in found.differences:
        verdict = f": {one.verdict} at a margin of {100 * (found.margin or 0):g} %" if one.verdict else ""
        lines.append(
            f"against {one.rival} tuned in every cell: {100 * one.mean:+.2f} % of its loss "
            f"({LEVEL:.0%} bounds {100 * one.low:+.2f} .. {100 * one.high:+.2f}, {one.seeds} seeds){verdict}"
        )
        lines.append(
            f"  {one.seeds} seeds can attain +{100 * one.half_width:.2f} %: a smaller margin is refused; rates between "
            f"those measured might gain {one.rival} another {100 * one.between:.2f} %"
        )
        lines += [
            f"  {describe(cell)}: {100 * mean:+.2f} %, {one.rival} at {' and '.join(map(_words, chosen))}"
            for (cell, mean), chosen in zip(one.cells, one.chosen, strict=True)
        ]
        lines += [
            f"  {one.rival} has its best measured rate at the edge of its grid at {describe(cell)}: a wider one may win"
            for cell in one.edges
        ]
    return "\n".join(lines)


def _words(setting: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in setting.items()
    )
