"""The ratio to the edge of stability late in a run: the median over a window, by seed."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

WINDOW = (0.5, 1.0)  # of the last step
LEAST_POINTS = 3


@dataclass(frozen=True)
class Late:
    """Mean over seeds of each run's median in the window, with Student's 95 % interval (nan with one seed).

    `first` and `last` are the window's steps, `lowest` and `highest` the seeds' extreme medians.
    """

    median: float
    low: float
    high: float
    lowest: float
    highest: float
    first: int
    last: int
    seeds: int


def late(steps_T: np.ndarray, ratio_ST: np.ndarray, window: tuple[float, float] = WINDOW) -> Late | None:
    """The late ratio of a cell: [seeds, steps] at steps that all its runs have; None with fewer than three in it.

    At the edge the ratio swings about 1 from one update to the next; the median over steps does not follow the swings
    as a mean of a few points would.  In a window where the rate decays the ratio falls with it: choose one before.
    """
    if not len(steps_T) or not len(ratio_ST):
        return None
    inside_T = inside(steps_T, window)
    if inside_T.sum() < LEAST_POINTS:
        return None
    median_S = np.median(ratio_ST[:, inside_T], axis=1)
    seeds, value, half = len(median_S), float(median_S.mean()), math.nan
    if seeds > 1:
        half = float(stats.t.ppf(0.975, seeds - 1) * median_S.std(ddof=1)) / math.sqrt(seeds)
    ends = (float(median_S.min()), float(median_S.max()))
    first, last = steps_T[inside_T][[0, -1]].tolist()
    return Late(value, value - half, value + half, *ends, first, last, seeds)


def inside(steps_T: np.ndarray, window: tuple[float, float] = WINDOW) -> np.ndarray:
    """Which steps lie in a window of the last one."""
    last = steps_T[-1] if len(steps_T) else 0
    return (steps_T >= window[0] * last) & (steps_T <= window[1] * last)
