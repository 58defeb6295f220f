"""The least loss of every size and token count, of a table of runs at several learning rates: what a loss law is about.

The lowest of many runs is a minimum over their noise, too low by more the more rates and seeds there are (two standard
deviations of a seed with 64 runs).  So losses are averaged over the seeds of each rate first, and the least loss is the
vertex of a parabola through the mean losses near the lowest (`analysis.optimum.find_optimum`), or of a surface over
rates and batches where both were swept (`analysis.runs.surface`).  A cell without a vertex, at an edge of its grid for
instance, gives its lowest mean loss, and is counted.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.runs.node import frame_of
from analysis.runs.optima import BOTH, CellOptimum, locate, swept
from analysis.runs.source import Runs
from lab.check import require

_PLACE = ["params", "tokens"]


@dataclass(frozen=True)
class Least:
    """Rows with `params`, `tokens`, `loss` (nats per token) and what else is the same in all runs behind each row;
    `estimator` names what the losses are, `notes` say how they were found and where not."""

    frame: pd.DataFrame
    estimator: str
    notes: tuple[str, ...]


def least_losses(runs: Runs | pd.DataFrame) -> Least:
    """The least loss over learning rates (and batches) of every (params, tokens); runs without rates as they are.

    Raises:
        InputError: no run is left, or a column is missing.
    """
    frame = frame_of(runs)
    frame, notes = _with_a_rate(frame)
    if "lr" not in frame:
        return Least(frame[frame["status"] == "done"], "all runs", tuple(notes))
    curves = _by_place(locate(frame, over=("lr",)).cells)
    surfaces = {}
    if swept(frame) == BOTH:
        surfaces = {_place(cell): cell.loss for cell in locate(frame, over=BOTH).cells if cell.interior}
    rows, lacking = [], Counter[str]()
    for place, cells in curves.items():
        value, quality = (surfaces[place], "") if place in surfaces else _lowest(cells)
        if quality:
            lacking[quality] += 1
        if math.isfinite(value):
            rows.append((*place, value))
    require(bool(rows), "every run diverged: nothing is left for a loss law")
    found = pd.DataFrame(rows, columns=[*_PLACE, "loss"])
    fitted = len(curves) - lacking.total()
    what = "surfaces over rates and batches" if surfaces else "parabolas through mean losses over rates"
    if fitted:
        notes.append(f"loss: vertex of {what} in {fitted} of {len(curves)} sizes and token counts")
    if lacking:
        told = ", ".join(f"{count} {quality}" for quality, count in sorted(lacking.items()))
        notes.append(
            f"no vertex in {lacking.total()} of {len(curves)} sizes and token counts ({told}): their lowest mean loss "
            "over seeds counts, which other rates may undercut and noise may have lowered"
        )
    estimator = "vertices of mean losses" if fitted else "lowest mean losses"
    return Least(found.merge(_shared(frame), on=_PLACE, how="left"), estimator, tuple(notes))


def _with_a_rate(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs that have a learning rate, and a note on the others; where none has one, all runs without the column."""
    if "lr" not in frame:
        return frame, []
    with np.errstate(invalid="ignore"):
        has = frame["lr"].to_numpy(float) > 0
    if not has.any():
        return frame.drop(columns=["lr", "lr_node"], errors="ignore"), []
    if has.all():
        return frame, []
    return frame[has], [f"{int((~has).sum())} of {len(frame)} runs have no learning rate and are left out"]


def _place(cell: CellOptimum) -> tuple[float, float]:
    return cell.at["params"], cell.at["tokens"]


def _by_place(cells: tuple[CellOptimum, ...]) -> dict[tuple[float, float], list[CellOptimum]]:
    """The curves of every size and token count, one for each batch, in order."""
    found: dict[tuple[float, float], list[CellOptimum]] = {}
    for cell in cells:
        found.setdefault(_place(cell), []).append(cell)
    return dict(sorted(found.items()))


def _lowest(cells: list[CellOptimum]) -> tuple[float, str]:
    """(least loss over a size's batches, "" or the quality of a curve without a vertex); nan where all diverged."""
    values = [(cell.loss, "") if cell.interior else (cell.argmin[2], cell.quality) for cell in cells]
    known = [one for one in values if math.isfinite(one[0])]
    return min(known) if known else (math.nan, "diverged")


def _shared(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per size and token count with the columns that are the same in all its runs."""
    groups = frame.groupby(_PLACE)
    others = [
        name for name in map(str, frame.columns) if name not in (*_PLACE, "loss", "status", "lr", "lr_node", "batch")
    ]
    same = [name for name in others if bool((groups[name].nunique(dropna=False) == 1).all())]
    return groups[same].first().reset_index() if same else frame[_PLACE].drop_duplicates()
