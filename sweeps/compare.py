"""`lrlab compare`: what a schedule with fixed constants gives up, for a person and as JSON."""

from typing import Any

from analysis.inferiority import LEVEL, Comparison


def summary(found: Comparison) -> dict[str, Any]:
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


def text(found: Comparison) -> str:
    """A comparison in lines."""
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
