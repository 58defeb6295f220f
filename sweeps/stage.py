"""The stage tree: what runs have in common is trained once.

Two runs agree up to an update when everything but the schedule is equal and so are the learning rates and decays of all
updates before it.  The tree forks where phases begin or end (`lab.schedule.boundaries`): for budgets B and a decay of a
fraction f it trains `max(B) (1 - f) + f sum(B)` updates instead of `sum(B)`.  Hippo (arXiv 2006.11972) calls such
trees stage trees.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lab import schedule
from lab.identity import canonical, digest, dump
from lab.piece import Hold
from lab.schedule import Course
from sweeps.sweep import Run

# Up to so many updates runs are compared by their numbers, beyond by the description of these: planning takes seconds
# and the memory of a block, however long the runs are.
EXACT = 1 << 24
_BLOCK = 1 << 18


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
    """A run's course, as marks of what its rates and decays are from cut to cut and up to each cut.

    `cuts` begin with 0 and end with the run; `spans` and `heads` have one mark fewer.  Equal marks mean equal numbers.
    """

    run: Run
    cuts: tuple[int, ...]
    spans: tuple[str, ...]
    heads: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.cuts[-1]

    def upto(self, end: int) -> str:
        return self.heads[self.cuts.index(end) - 1]

    def between(self, begin: int, end: int) -> tuple[str, ...]:
        """The marks of begin..end-1, which may reach beyond the run's end."""
        return tuple(mark for cut, mark in zip(self.cuts, self.spans, strict=False) if begin <= cut < end)


def stages(runs: Sequence[Run]) -> list[Stage]:
    """The tree of some runs, parents before children and otherwise in the order of the runs."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        families.setdefault(_family(run), []).append(run)
    found: list[Stage] = []
    for family, members in families.items():
        ends = {cut for run in members for cut in schedule.boundaries(run.config.schedule)}
        paths = [_path(run, sorted(ends | {1})) for run in members]
        cuts = sorted(ends)
        for group in _agreeing(paths, 0, cuts[0]):
            trunk = digest(family + group[0].upto(1)) if len(group) > 1 else None
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
        if any(path.end == end for path in paths):
            break
    stage_id = digest(f"{family}{begin}{paths[0].upto(end)}")
    yield Stage(stage_id, trunk, begin, end, tuple(path.run for path in paths), parent)
    later = [path for path in paths if path.end > end]
    if later:
        following = next(cut for cut in cuts if cut > end)
        for group in _agreeing(later, end, following):
            yield from _grown(group, cuts, begin=end, parent=stage_id, family=family, trunk=trunk)


def _agreeing(paths: Sequence[_Path], begin: int, end: int) -> list[list[_Path]]:
    """The paths in groups of equal rates and decays on begin..end-1."""
    groups: dict[tuple[str, ...], list[_Path]] = {}
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


def _path(run: Run, cuts: Sequence[int]) -> _Path:
    course = schedule.course(run.config)
    own = (0, *(cut for cut in cuts if cut <= course.parts[-1].end))
    return _Path(run, own, *_marks(course, own))


@functools.lru_cache(maxsize=4096)
def _marks(course: Course, cuts: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(marks from cut to cut, marks up to each cut).

    A mark is the hash of the numbers, [rate, decay] of every update, which are made a block at a time.  Beyond
    `EXACT` updates it is that of their description: there, what is equal in other words is not found to be equal.
    """
    spans, heads = [], []
    head = hashlib.sha256()
    for begin, end in itertools.pairwise(cuts):
        if end > EXACT:
            spans.append(_described(course, begin, end))
            heads.append(_described(course, 0, end))
            continue
        span = hashlib.sha256()
        for block in range(begin - begin % _BLOCK, end, _BLOCK):
            values = _values(course, block)[16 * max(0, begin - block) : 16 * (end - block)]
            span.update(values)
            head.update(values)
        spans.append(span.hexdigest())
        heads.append(head.hexdigest())
    return tuple(spans), tuple(heads)


@functools.lru_cache(maxsize=1)
def _values(course: Course, begin: int) -> bytes:
    """Rates and decays of the block of updates from `begin`, or of what is left of the run."""
    end = min(begin + _BLOCK, course.parts[-1].end)
    return np.stack([course.rates(begin, end), course.decays(begin, end)], axis=1).tobytes()


def _described(course: Course, begin: int, end: int) -> str:
    """The mark of the pieces that begin..end-1 stand on; where a piece ends does not matter before it does."""
    parts = [
        (max(begin, part.begin), min(end, part.end), type(part).__name__, dataclasses.replace(part, end=0))
        for part in course.parts
        if part.begin < end and part.end > begin
    ]
    told = [(*ends, kind, part.value if isinstance(part, Hold) else part) for *ends, kind, part in parts]
    return hashlib.sha256(repr((course.lr, course.weight_decay, course.independent, told)).encode()).hexdigest()
