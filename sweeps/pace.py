"""How long the rest of a launch takes: what its last minute of training took, with compiles and evaluations apart.

Work is counted in FLOPs, with `OVERHEAD` for each update of a lane. The seconds of a launch are

    sum over units   rate(program) * work(unit) + opening + closing

`rate` is the seconds per work of the last `WINDOW` seconds of training: the program's own where it has trained for half
of them, else the launch's, since a few seconds of a busy machine say little. Whatever else runs is in it. `opening` is
what passes before a unit's first update (its program's compile, for the first of a program), `closing` what its end
takes beyond the work of its evaluation: the means of what units have taken so far.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import fmean

from lab import count
from sweeps.plan import Unit, program_key

WINDOW = 60.0
# What a step costs besides its arithmetic, as FLOPs of the same duration: with it the pace of small models on a CPU
# foretells that of larger ones (widths 32, 64 and 128 then differ by 20 % in FLOP/s, and not by a factor 2).
OVERHEAD = 2.5e8


class Stretches:
    """(work, seconds) of the last `WINDOW` seconds of something."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, float]] = deque()
        self._seconds = 0.0

    def add(self, work: float, seconds: float) -> None:
        self._kept.append((work, seconds))
        self._seconds += seconds
        while self._seconds - self._kept[0][1] > WINDOW:
            self._seconds -= self._kept.popleft()[1]

    @property
    def settled(self) -> bool:
        """Whether they are enough to stand alone."""
        return self._seconds >= WINDOW / 2

    @property
    def rate(self) -> float | None:
        """Seconds per work; None before the first stretch."""
        work = sum(work for work, _ in self._kept)
        return self._seconds / work if work else None


class Pace:
    """Follows the units of a launch, in their order, on a clock; `left` says what remains."""

    def __init__(self, units: Sequence[Unit], clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._waiting = clock, {unit.unit_id: unit for unit in units}
        self._unit: Unit | None = None
        self._of: dict[Hashable, Stretches] = {}
        self._all = Stretches()
        # Of the first units of programs, and of others.
        self._openings: tuple[list[float], list[float]] = ([], [])
        self._closings: tuple[list[float], list[float]] = ([], [])
        self._first, self._done = True, 0
        self._ended = clock()
        self._mark: float | None = None

    def started(self, unit: Unit, step: int) -> None:
        """A unit is about to train, after `step` updates; its program is compiled unless it goes on from a file."""
        self._waiting.pop(unit.unit_id, None)
        self._first = _key(unit) not in self._of
        self._of.setdefault(_key(unit), Stretches())
        self._unit, self._done, self._mark = unit, step, None

    def advanced(self, unit: Unit, done: int) -> None:
        """`done` updates have been trained; a segment more is on its way."""
        now = self._clock()
        if self._mark is None:  # the segment is compiled now
            self._openings[not self._first].append(now - self._ended)
        elif done > self._done:
            work = (done - self._done) * step_work(unit)
            for stretches in (self._of[_key(unit)], self._all):
                stretches.add(work, now - self._mark)
        self._mark, self._done = now, done

    def finished(self, unit: Unit) -> None:
        """The unit's records are written, or it failed."""
        now, rate = self._clock(), self._rate(unit)
        if self._mark is not None and rate is not None:
            work = (unit.end - self._done) * step_work(unit) + evaluation_work(unit)
            self._closings[not self._first].append(max(0.0, now - self._mark - rate * work))
        self._waiting.pop(unit.unit_id, None)
        self._unit, self._ended, self._mark = None, now, None

    @property
    def left(self) -> float | None:
        """Seconds until the last unit is finished; None while nothing has been trained."""
        if self._all.rate is None:
            return None
        seconds, known = 0.0, set(self._of)
        if self._unit is not None:
            seconds += self._training(self._unit, self._done) + self._usual(self._closings, self._first)
        for unit in self._waiting.values():
            first = _key(unit) not in known
            known.add(_key(unit))
            seconds += self._training(unit, unit.begin)
            seconds += self._usual(self._openings, first) + self._usual(self._closings, first)
        return seconds

    def _training(self, unit: Unit, done: int) -> float:
        rate = self._rate(unit)
        assert rate is not None
        return rate * ((unit.end - done) * step_work(unit) + evaluation_work(unit))

    def _rate(self, unit: Unit) -> float | None:
        own = self._of.get(_key(unit))
        return own.rate if own is not None and own.settled else self._all.rate

    @staticmethod
    def _usual(seen: tuple[list[float], list[float]], first: bool) -> float:
        firsts, others = seen
        kept = firsts if first else others
        return fmean(kept) if kept else 0.0


def work(units: Iterable[Unit]) -> float:
    """The work of some units, evaluations included."""
    return sum((unit.end - unit.begin) * step_work(unit) + evaluation_work(unit) for unit in units)


def step_work(unit: Unit) -> float:
    """The work of one update of all lanes."""
    return sum(count.step_flops(stage.runs[0].config) + OVERHEAD for stage in unit.stages)


def evaluation_work(unit: Unit) -> float:
    return sum(count.evaluation_flops(run.config) for run in unit.runs)


def _key(unit: Unit) -> Hashable:
    return program_key(unit.stages[0].runs[0])
