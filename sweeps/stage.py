"""The stage tree: what runs have in common is trained once.

Two runs agree up to an update when everything but the schedule is equal and so are the learning rates and decays of all
updates before it.  The tree forks where phases begin or end (`lab.schedule.boundaries`): for budgets B and a decay of a
fraction f it trains `max(B) (1 - f) + f sum(B)` updates instead of `sum(B)`.  Hippo (arXiv 2006.11972) calls such
trees stage trees.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lab import schedule
from lab.identity import canonical, digest, dump
from sweeps.sweep import Run


@dataclass(frozen=True)
class Stage:
    """The updates begin..end-1 of every run in `runs`, trained as one lane.

    `stage_id` names the state at `end` and where the stage began; it does not depend on what else is in the sweep.
    `parent` is the stage that ends at `begin`.  `trunk_id` is common to the runs that share their first updates, and
    None for a run that shares none.
    """

    stage_id: str
    trunk_id: str | None
    begin: int
    end: int
    runs: tuple[Run, ...]
    parent: str | None

    @property
    def ending(self) -> tuple[Run, ...]:
        """The runs whose last update is this stage's last."""
        return tuple(run for run in self.runs if run.config.schedule.steps == self.end)

    @property
    def steps(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class _Path:
    """A run's rates and decays as bytes, and where it may fork: the last of its boundaries is its end."""

    run: Run
    values: bytes
    boundaries: tuple[int, ...]

    def upto(self, end: int) -> bytes:
        return self.values[: 16 * end]

    def between(self, begin: int, end: int) -> bytes:
        return self.values[16 * begin : 16 * end]


def stages(runs: Sequence[Run]) -> list[Stage]:
    """The tree of some runs, parents before children and otherwise in the order of the runs."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        families.setdefault(_family(run), []).append(run)
    found: list[Stage] = []
    for family, members in families.items():
        paths = [_path(run) for run in members]
        cuts = sorted({cut for path in paths for cut in path.boundaries})
        for group in _agreeing(paths, 0, cuts[0]):
            trunk = digest(family + hashlib.sha256(group[0].upto(1)).hexdigest()) if len(group) > 1 else None
            found += _grown(group, cuts, begin=0, parent=None, family=family, trunk=trunk)
    return found


def _grown(
    paths: Sequence[_Path], cuts: Sequence[int], *, begin: int, parent: str | None, family: str, trunk: str | None
) -> Iterator[Stage]:
    """The stage that starts at `begin`, and all that grow out of it."""
    end = begin
    for cut in (cut for cut in cuts if cut > begin):
        if len(_agreeing(paths, end, cut)) > 1:
            break
        end = cut
        if any(path.boundaries[-1] == end for path in paths):
            break
    stage_id = digest(f"{family}{begin}{hashlib.sha256(paths[0].upto(end)).hexdigest()}")
    yield Stage(stage_id, trunk, begin, end, tuple(path.run for path in paths), parent)
    later = [path for path in paths if path.boundaries[-1] > end]
    if later:
        following = next(cut for cut in cuts if cut > end)
        for group in _agreeing(later, end, following):
            yield from _grown(group, cuts, begin=end, parent=stage_id, family=family, trunk=trunk)


def _agreeing(paths: Sequence[_Path], begin: int, end: int) -> list[list[_Path]]:
    """The paths in groups of equal rates and decays on begin..end-1."""
    groups: dict[bytes, list[_Path]] = {}
    for path in paths:
        groups.setdefault(path.between(begin, end), []).append(path)
    return list(groups.values())


def _family(run: Run) -> str:
    """Everything of a run but its schedule and rate, as text; with horizon rules, its length too."""
    config = run.config
    kept = canonical(config)
    del kept["schedule"], kept["optimizer"]["lr"]
    if config.parametrization.horizon != "none":
        kept["steps"] = config.schedule.steps
    return dump(kept)


def _path(run: Run) -> _Path:
    values = np.stack([schedule.rates(run.config), schedule.decays(run.config)], axis=1)
    return _Path(run, values.tobytes(), schedule.boundaries(run.config.schedule))
