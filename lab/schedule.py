"""Learning-rate schedules as pure float64 functions on the host.

A schedule is a row of pieces (`lab.piece`): warm-up, main phase, decay.  Update i = 0..T-1 of a run with warm-up W and
decay D stands on them as the schedule's index convention says (`lab.convention`).  That of the laboratory uses
`(i + 1) / W` while i < W, so no update is wasted at rate 0 and the peak is reached by update W - 1; decay progress is
`x = (i - (T - D)) / D`, so the first decay update is still at the peak and the last one still learns.

Everything here counts updates.  A schedule resolved with one token per update is the same thing as a function of
tokens.
Sources: WSD and Power are Eqs. 2, 7 and 8 of Power Scheduler (arXiv 2408.13359); cycles are WSD-S (2410.05192).
"""

import math
from dataclasses import dataclass

import numpy as np

from lab.check import entry, require
from lab.config import RunConfig, ScheduleConfig
from lab.convention import CONVENTIONS, Tail
from lab.piece import Hold, Law, Piece, Ramp

# Whether a kind of weight decay follows the learning rate, or the schedule alone.
OF_RATE = {"coupled": True, "constant-eta-lambda": True, "independent": False}
# The Power scheduler's batch size counts sequences of this many tokens.
POWER_SEQUENCE = 4096


def factors(
    schedule: ScheduleConfig, start: int = 0, stop: int | None = None, *, law: float | None = None
) -> np.ndarray:
    """Learning-rate factor in [0, 1] of updates start..stop-1, float64 of shape [stop - start].

    Factors are ratios to the peak, for `power` to the cap; `law` is what `relative_law` gives, and only `power` needs
    it.  Updates from T on stay at the value that the schedule ends with.
    """
    parts = pieces(schedule, law)
    stop = parts[-1].end if stop is None else stop
    return values(parts, np.arange(start, stop, dtype=np.float64))


def values(parts: tuple[Piece, ...], i: np.ndarray) -> np.ndarray:
    """Values of a row of pieces at updates i, which need not be whole: between updates the curves are continuous."""
    found = parts[0].at(i)
    for part in parts[1:]:
        found = np.where(i < part.begin, found, part.at(i))
    return found


def pieces(schedule: ScheduleConfig, law: float | None = None) -> tuple[Piece, ...]:
    """The pieces of a resolved schedule, in order; phases without an update have none.

    - warm-up, i < W: from `warmup_start` to what the main phase begins with, in the shape `warmup_shape`
    - constant: 1; linear and cosine: the shape from 1 to the floor m over the T - W updates after the warm-up
    - one_cycle: the same with cosines, up and down
    - wsd: 1 while i < T - D, then `m + (1 - m) f(x)`
    - wsd_s: the same for every cycle; the update after a cycle's end is back at the peak
    - power: `min(1, law * k^b)` after k updates.  The warm-up ends on the law; the decay is `m + (1 - m) f(x)` times
      the law at its start, so m is a ratio to that value
    - inverse_sqrt: the library's law (`lab.convention`), and the same decay
    """
    total, warmup, decay = schedule.steps, schedule.warmup_steps, schedule.decay_steps
    if total is None or warmup is None or decay is None:
        raise ValueError("the schedule's durations are not in steps yet: call ScheduleConfig.resolve first")
    convention = CONVENTIONS[schedule.index]

    def fall(begin: int, end: int, shape: str, *, scale: float = 1.0) -> list[Piece]:
        length = end - begin - convention.shortened
        if length < 1:
            # MaxText's decay of one update: its cosine is at the end at once, its linear one never begins.
            return [Hold(begin, end, scale * (schedule.floor if shape == "cosine" else 1.0))]
        return [Ramp(begin, end, shape, convention.decay_offset, length, low=schedule.floor, scale=scale)]

    peak = 1.0
    after: list[Piece] = []
    if schedule.kind == "constant":
        after += [Hold(warmup, total, 1.0)]
    elif schedule.kind in ("linear", "cosine", "one_cycle"):
        after += fall(warmup, total, "linear" if schedule.kind == "linear" else "cosine")
    elif schedule.kind in ("wsd", "wsd_s"):
        begins = (warmup, *(schedule.cycle_steps or ()))
        ends = (*(schedule.cycle_steps or ()), total)
        lengths = (*(schedule.cycle_decays or ()), decay)
        for begin, end, length in zip(begins, ends, lengths, strict=True):
            after += [Hold(begin, end - length, 1.0), *fall(end - length, end, schedule.decay_shape)]
    else:
        require(schedule.kind in ("power", "inverse_sqrt"), f"schedule.kind={schedule.kind} has no pieces here")
        main = _power(schedule, law) if schedule.kind == "power" else _inverse_sqrt(schedule)
        # What the warm-up ends on and the decay starts from: the law after so many updates, however they are counted.
        at_warmup, at_decay = main.after(np.array([warmup, total - decay], np.float64)).tolist()
        peak = at_warmup if schedule.kind == "power" else 1.0
        after += [main, *fall(total - decay, total, schedule.decay_shape, scale=at_decay)]
    shape, start = schedule.warmup_shape, schedule.warmup_start or 0.0
    first = Ramp(0, warmup, shape, convention.warmup_offset, warmup, low=start, scale=peak, rising=True)
    return tuple(part for part in (first, *after) if part.begin < part.end)


def boundaries(schedule: ScheduleConfig) -> tuple[int, ...]:
    """The updates at which a phase begins or ends, in 1..T: W, every decay's begin and end, T.

    Up to such an update a run agrees with every other run whose schedule has the same pieces before it.
    """
    # Where phases lie does not depend on the law.
    parts = pieces(schedule, 1.0)
    return tuple(sorted({update for part in parts for update in (part.begin, part.end)} - {0}))


def power_law(a: float, b: float, beta: float, tokens: float | np.ndarray) -> np.ndarray:
    """`beta * a * tokens^b`, beta the batch size in sequences of 4096 tokens (arXiv 2408.13359).

    a = 4, b = -0.51 is the Power schedule, Eq. 7, before its cap; a = 4.6, b = -0.51 is the paper's best constant rate
    of a WSD run of so many tokens, Eq. 6: 1.104e-3 for 1e13 tokens at batch size 1024.
    """
    return beta * a * np.asarray(tokens, np.float64) ** b


def relative_law(schedule: ScheduleConfig, *, lr: float, tokens_per_step: int) -> float:
    """The Power schedule's law after one update, as a ratio to the cap `lr`; after k updates it is k^b times that."""
    beta = tokens_per_step / POWER_SEQUENCE
    return float(power_law(schedule.power_coefficient, schedule.power_exponent, beta, tokens_per_step)) / lr


@dataclass(frozen=True)
class Course:
    """What a run's rates and decays follow from, and nothing else of it."""

    schedule: ScheduleConfig
    lr: float
    weight_decay: float
    independent: bool
    tokens_per_step: int

    @property
    def parts(self) -> tuple[Piece, ...]:
        """The schedule's pieces."""
        return pieces(self.schedule, self._law)

    def rates(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Base learning rates of updates start..stop-1, float64."""
        return self.lr * factors(self.schedule, start, stop, law=self._law)

    def decays(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """What `decays` says, of updates start..stop-1, float64."""
        per_update = factors(self.schedule, start, stop, law=self._law) if self.independent else self.rates(start, stop)
        return self.weight_decay * per_update

    @property
    def _law(self) -> float:
        return relative_law(self.schedule, lr=self.lr, tokens_per_step=self.tokens_per_step)


def course(config: RunConfig) -> Course:
    """The course of a resolved run."""
    optimizer = config.optimizer
    independent = not entry(OF_RATE, optimizer.decay, "optimizer.decay")
    return Course(config.schedule, optimizer.lr, optimizer.weight_decay, independent, config.data.tokens_per_step)


def rates(config: RunConfig) -> np.ndarray:
    """Base learning rate of every update of a run, float64 of shape [T]."""
    return course(config).rates()


def decays(config: RunConfig) -> np.ndarray:
    """Fraction of a decayed weight that each update removes before per-leaf multipliers, float64 of shape [T].

    independent: `factor(i) * weight_decay`; otherwise `lr(i) * weight_decay`.
    """
    return course(config).decays()


def _power(schedule: ScheduleConfig, law: float | None) -> Law:
    """Power, Eq. 7 in units of its cap: the tokens of k updates are k times those of one."""
    if law is None:
        raise ValueError("the factors of schedule.kind=power need the law: give relative_law(schedule, ...)")
    begin, end = _main_phase(schedule)
    return Law(begin, end, law, schedule.power_exponent, shift=CONVENTIONS[schedule.index].decay_offset)


def _inverse_sqrt(schedule: ScheduleConfig) -> Law:
    """The inverse square root of the library whose convention the schedule follows."""
    convention = CONVENTIONS[schedule.index]
    tail = convention.inverse_sqrt or Tail()
    begin, end = _main_phase(schedule)
    if tail.from_warmup:
        timescale = begin or 10_000
        shift = timescale - begin
    else:
        timescale, shift = tail.timescale or max(begin, 1), 0
    floor = 0.0 if tail.floor == "none" else schedule.floor
    shift += convention.decay_offset
    return Law(begin, end, math.sqrt(timescale), -0.5, shift, floor, level=tail.floor == "level")


def _main_phase(schedule: ScheduleConfig) -> tuple[int, int]:
    assert schedule.steps is not None and schedule.warmup_steps is not None and schedule.decay_steps is not None
    return schedule.warmup_steps, schedule.steps - schedule.decay_steps
