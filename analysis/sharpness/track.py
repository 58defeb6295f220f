"""Tracks: one quantity of one group of runs along the updates, by size and seed.

Suffixes of arrays: N sizes, S seeds, T steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.sharpness.points import SEEDS, Points


@dataclass(frozen=True)
class Track:
    """A quantity at every (size, seed, step), nan where it was not measured; sizes ascend.

    `group` holds the values of the axes that the runs share.  `lost` counts diverged runs by size, which `values_NST`
    leaves out from the first step on; a size that lost them all is in `lost` only.
    """

    group: dict[str, Any]
    quantity: str
    sizes: tuple[Any, ...]
    steps_T: np.ndarray
    values_NST: np.ndarray
    lost: dict[Any, int]

    @property
    def present_NS(self) -> np.ndarray:
        """Which runs there are: those with a value at any step."""
        return np.asarray(np.isfinite(self.values_NST).any(axis=2))

    def seeds(self, place: int) -> np.ndarray:
        """[seeds, steps] of the runs that a size has."""
        return self.values_NST[place, self.present_NS[place]]


def tracks(points: Points, quantity: str, index: int = 0) -> list[Track]:
    """The track of every group, in the order of the sweep, at all steps at which any of its runs was measured.

    A diverged run is left out whole: with its first steps only, the mean of its size would jump where it ends.
    """
    axes = points.group_axes
    names = dict.fromkeys(["run_id", "step", "value", points.size_axis, *SEEDS, *axes])
    wanted = (points.frame["quantity"] == quantity) & (points.frame["index"] == index)
    dead = ~points.frame["alive"]
    lost = set(points.frame.loc[dead, "run_id"])
    found = []
    for group, rows in groups(points.frame.loc[wanted | dead, list(names)], axes):
        mine = rows["run_id"].isin(lost)
        gone = rows[mine].drop_duplicates("run_id")
        rows = rows[~mine & rows["value"].notna()]
        if len(rows):
            found.append(_track(points, group, quantity, rows, gone))
    return found


def common(track: Track) -> Track:
    """The track at the steps at which every run that it has was measured."""
    shared_T = np.isfinite(track.values_NST[track.present_NS]).all(axis=0)
    return Track(
        track.group, track.quantity, track.sizes, track.steps_T[shared_T], track.values_NST[:, :, shared_T], track.lost
    )


def change(track: Track) -> Track:
    """`S(t) - S(t_0)`, each run from its own first point; t_0 is the first step, 0 where runs were measured there."""
    first_NS1 = track.values_NST[:, :, :1]
    return Track(track.group, track.quantity, track.sizes, track.steps_T, track.values_NST - first_NS1, track.lost)


def groups(frame: pd.DataFrame, axes: tuple[str, ...]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """(axis values, rows) of every combination of the axes, in the order of the frame."""
    if not axes:
        return [({}, frame)]
    return [
        (dict(zip(axes, map(plain, values), strict=True)), rows)
        for values, rows in frame.groupby(list(axes), sort=False, dropna=False)
    ]


def plain(value: Any) -> Any:
    """A value of a frame as JSON has it: a Python number, None where there is none."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


def without(group: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A group's values on the other axes."""
    return {name: value for name, value in group.items() if name not in names}


def _track(points: Points, group: dict[str, Any], quantity: str, rows: pd.DataFrame, gone: pd.DataFrame) -> Track:
    sizes = sorted(plain(size) for size in rows[points.size_axis].unique())
    steps_T = np.unique(rows["step"].to_numpy(int))
    seeds = sorted(set(rows[SEEDS].itertuples(index=False, name=None)))
    place = {seed: number for number, seed in enumerate(seeds)}
    values_NST = np.full((len(sizes), len(seeds), len(steps_T)), np.nan)
    at_N = np.searchsorted(np.array(sizes), rows[points.size_axis].to_numpy())
    at_S = [place[seed] for seed in rows[SEEDS].itertuples(index=False, name=None)]
    values_NST[at_N, at_S, np.searchsorted(steps_T, rows["step"].to_numpy(int))] = rows["value"].to_numpy(float)
    lost = {plain(size): int(runs) for size, runs in gone[points.size_axis].value_counts().sort_index().items()}
    return Track(group, quantity, tuple(sizes), steps_T, values_NST, lost)
