"""Why cells have no optimum, and which rates would give one, in words."""

from collections.abc import Sequence

import numpy as np

from analysis.optimum import divergence_limit
from analysis.runs.node import Cell
from analysis.runs.optima import CellOptimum


def reasons(cells: Sequence[Cell], optima: Sequence[CellOptimum], most: int = 3) -> str:
    """A clause for each cell without an optimum, of `most` cells at most; both sequences are of the same cells."""
    told = [_reason(cell, found) for cell, found in zip(cells, optima, strict=True) if not found.interior]
    more = f"; and {len(told) - most} cells more" if len(told) > most else ""
    return "; ".join(told[:most]) + more


def place(found: CellOptimum) -> str:
    """Where a cell is: N, D and the batch."""
    names = {"params": "N", "tokens": "D", "batch": "batch"}
    return ", ".join(f"{names[name]} {value:.4g}" for name, value in found.at.items() if name in names)


def _reason(cell: Cell, found: CellOptimum) -> str:
    rates = len(np.unique(cell.lr_P))
    best, _, least = found.argmin
    why = f"{found.quality}, best of {rates} {'rate' if rates == 1 else 'rates'} {best:.4g}"
    far = cell.diverged_P & np.isfinite(cell.loss_P)
    if found.quality == "too-few" and far.any():
        high = int(np.flatnonzero(far)[0])
        rise = float(divergence_limit(least)) - least
        why += f", and {cell.lr_P[high]:.4g} counts as too high ({cell.loss_P[high]:.4g} > {least:.4g} + {rise:.2g})"
    elif found.quality == "too-few" and cell.diverged_P.any():
        why += f", {int(cell.diverged_P.sum())} diverged"
    tries = ", ".join(f"{rate:.3g}" for rate in found.next_lrs)
    return f"{place(found)}: {why}" + (f": run {tries}" if tries else "")
