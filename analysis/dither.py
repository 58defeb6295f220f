"""Dithered grids: every seed has learning rates of its own, and one curve is fitted through all of them.

Seeds differ by a level that moves a whole curve up or down.  Near the minimum, loss = level of the seed + b x + k/2 x^2
in x = ln lr, by least squares over all seeds; the levels are then taken out, and the residuals are the noise that is
left.  A grid that is shifted from seed to seed samples the curve finely at no cost.
"""

import numpy as np
import pandas as pd

SEEDS = ["seed_init", "seed_data"]
NEAR = 0.03  # relative to a seed's best loss: what is fitted


def dithered(rows: pd.DataFrame, axis: str) -> bool:
    """Whether a cell has several seeds and no rate that all of them ran at."""
    if not set(SEEDS) <= set(rows):
        return False
    done = rows[rows["status"] == "done"]
    seeds = done.groupby(SEEDS).ngroups
    return seeds > 1 and bool(done.groupby(axis)["loss"].count().max() < seeds)


def levelled(rows: pd.DataFrame, axis: str) -> tuple[pd.DataFrame, float, int]:
    """(rows without their seeds' levels, sum of squared residuals, degrees of freedom) of a dithered cell.

    The mean level stays, so losses keep their meaning.  Too few points near the minimum leave the rows as they are,
    with no degrees of freedom.
    """
    done = rows[rows["status"] == "done"]
    near = done[done["loss"] <= (1 + NEAR) * done.groupby(SEEDS)["loss"].transform("min")]
    seeds = near.groupby(SEEDS).ngroup().to_numpy()
    x, y = np.log(near[axis].to_numpy(float)), near["loss"].to_numpy(float)
    x = x - x.mean()
    design = np.column_stack([np.eye(seeds.max() + 1)[seeds], x, 0.5 * x**2])
    freedom = len(y) - design.shape[1]
    if freedom < 1:
        return rows, 0.0, 0
    found, *_ = np.linalg.lstsq(design, y, rcond=None)
    residuals = y - design @ found
    levels = pd.Series(found[:-2] - found[:-2].mean(), index=near.groupby(SEEDS).size().index)
    keys = pd.MultiIndex.from_frame(rows[SEEDS])
    return (
        rows.assign(loss=rows["loss"] - levels.reindex(keys).fillna(0.0).to_numpy()),
        float(residuals @ residuals),
        freedom,
    )
