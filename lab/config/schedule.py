"""The length of a run and the shape of its learning rate."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from lab.check import check_fields, positive, require
from lab.config.field import added
from lab.convention import CONVENTIONS, Index, lacking

Kind = Literal["constant", "linear", "cosine", "wsd", "power", "wsd_s", "inverse_sqrt", "one_cycle"]
DecayShape = Literal["linear", "cosine", "sqrt", "exponential", "exponential_megatron"]

# What the one-cycle schedule starts from, as a ratio to the peak (Smith and Topin, arXiv 1708.07120; optax).
ONE_CYCLE_START = 1 / 25

_UNITS = ("steps", "tokens", "fraction")
_CYCLES = ("cycle_steps", "cycle_tokens", "cycle_fractions")
_DECAYING = ("wsd", "wsd_s", "power", "inverse_sqrt")


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and the shape of its learning rate (`lab.schedule`).

    The length is given as exactly one of `steps` or `tokens`; warm-up and decay as at most one of steps, tokens
    or a fraction of the run.

    - `wsd` and `wsd_s` need a decay (0 for none), `power` and `inverse_sqrt` may have one, the others have none:
      `linear`, `cosine` and `one_cycle` fall from the end of the warm-up to the end of the run.
    - `floor` is the ratio of the final rate to the peak, for `power` and the decay of `inverse_sqrt` to the rate at
      the decay's start.
    - `wsd_s` may have earlier cycles: their ends as exactly one of `cycle_steps`, `cycle_tokens`, `cycle_fractions`.
      Every cycle decays alike, by a `decay_fraction` of its own length; `cycle_decays` says otherwise, in steps.
    - `power` has its cap at `optimizer.lr`, and `power_coefficient` and `power_exponent` are a and b of its law.
    - `index` is the library whose way to count updates is followed (`lab.convention`).
    - The warm-up rises from `warmup_start` times its end.
    """

    kind: Kind = "wsd"
    steps: int | None = None
    tokens: int | None = None
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    warmup_fraction: float | None = None
    decay_steps: int | None = None
    decay_tokens: int | None = None
    decay_fraction: float | None = None
    decay_shape: DecayShape = "linear"
    floor: float = 0.0
    index: Index = added(schema=3, frozen="lab")
    warmup_shape: Literal["linear", "cosine", "sqrt"] = added(schema=3, frozen="linear")
    warmup_start: float | None = added(schema=3, frozen=None)
    power_coefficient: float = added(schema=3, frozen=4.0)
    power_exponent: float = added(schema=3, frozen=-0.51)
    cycle_steps: tuple[int, ...] | None = added(schema=3, frozen=None)
    cycle_tokens: tuple[int, ...] | None = added(schema=3, frozen=None)
    cycle_fractions: tuple[float, ...] | None = added(schema=3, frozen=None)
    cycle_decays: tuple[int, ...] | None = added(schema=3, frozen=None)

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        positive(self, "schedule", "steps", "tokens", "power_coefficient")
        _one_of(self, ("steps", "tokens"), needed=True)
        for phase in ("warmup", "decay"):
            _one_of(self, tuple(f"{phase}_{unit}" for unit in _UNITS), needed=False)
            for unit in _UNITS:
                value = getattr(self, f"{phase}_{unit}")
                require(value is None or value >= 0, f"schedule.{phase}_{unit}={value} is negative")
            fraction = getattr(self, f"{phase}_fraction")
            require(
                fraction is None or fraction <= 1,
                f"schedule.{phase}_fraction={fraction} is above 1: it is a fraction of the run, not a percentage",
            )
        for name in ("floor", "warmup_start"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value <= 1,
                f"schedule.{name}={value} is not in [0, 1]: it is a ratio to the peak",
            )
        require(
            self.power_exponent <= 0,
            f"schedule.power_exponent={self.power_exponent} is above 0: the rate would grow; the paper has -0.51",
        )
        self._check_decay()
        self._check_index()
        self._check_cycles()

    def resolve(self, tokens_per_step: int) -> "ScheduleConfig":
        """The same schedule with every duration in steps, and what the convention or the kind implies written out."""
        steps = self.steps if self.steps is not None else (self.tokens or 0) // tokens_per_step
        require(
            steps >= 1,
            f"schedule.tokens={self.tokens} is less than one update of {tokens_per_step} tokens: give more tokens "
            "or a smaller batch",
        )
        ends = (*self._cycle_ends(steps, tokens_per_step), steps)
        lengths = [end - begin for begin, end in zip((0, *ends), ends, strict=False)]
        *earlier, decay = [self._phase_steps("decay", length, tokens_per_step) for length in lengths]
        earlier = list(self.cycle_decays) if self.cycle_decays else earlier
        warmup = self._phase_steps("warmup", steps, tokens_per_step)
        if len(ends) == 1:
            require(
                warmup + decay <= steps,
                f"schedule.warmup_steps={warmup} + schedule.decay_steps={decay} is longer than the "
                f"run of {steps} steps: shorten them or raise schedule.steps",
            )
        for end, length, phase in zip(ends, lengths, (*earlier, decay), strict=True):
            rising = warmup if end == ends[0] else 0
            require(
                rising + phase <= length,
                f"the cycle of {length} steps that ends at update {end} is shorter than its warm-up of {rising} and "
                f"decay of {phase}: shorten them or move schedule.cycle_steps",
            )
        megatron = self.index == "megatron" and self.decay_shape == "exponential"
        return dataclasses.replace(
            self,
            steps=steps,
            tokens=None,
            warmup_steps=warmup,
            warmup_tokens=None,
            warmup_fraction=None,
            decay_steps=decay,
            decay_tokens=None,
            decay_fraction=None,
            decay_shape="exponential_megatron" if megatron else self.decay_shape,
            warmup_shape="cosine" if self.kind == "one_cycle" else self.warmup_shape,
            warmup_start=self._start(),
            cycle_steps=ends[:-1] or None,
            cycle_tokens=None,
            cycle_fractions=None,
            cycle_decays=tuple(earlier) or None,
        )

    def _start(self) -> float | None:
        """What the warm-up starts from; None where it is 0 as in most schedules."""
        default = 0.0
        if self.kind == "one_cycle":
            default = ONE_CYCLE_START
        elif self.kind in ("wsd", "wsd_s") and CONVENTIONS[self.index].lifted:
            default = self.floor
        start = default if self.warmup_start is None else self.warmup_start
        return None if start == default == 0 else start

    def _phase_steps(self, phase: str, length: int, tokens_per_step: int) -> int:
        """Steps of the warm-up or decay within `length`: fractions are rounded to the nearest, tokens down."""
        exact, tokens, fraction = (getattr(self, f"{phase}_{unit}") for unit in _UNITS)
        if exact is not None:
            return exact
        if tokens is not None:
            return tokens // tokens_per_step
        return math.floor((fraction or 0.0) * length + 0.5)

    def _cycle_ends(self, steps: int, tokens_per_step: int) -> tuple[int, ...]:
        """Ends of the earlier cycles in steps."""
        ends = self.cycle_steps or ()
        if self.cycle_tokens:
            ends = tuple(tokens // tokens_per_step for tokens in self.cycle_tokens)
        elif self.cycle_fractions:
            ends = tuple(math.floor(fraction * steps + 0.5) for fraction in self.cycle_fractions)
        require(
            all(before < end for before, end in zip((0, *ends), (*ends, steps), strict=True)),
            f"cycles of a run of {steps} steps that end at updates {', '.join(map(str, ends))}: the ends must rise, "
            "from 1 on, and stay below the run's",
        )
        require(
            not self.cycle_decays or len(self.cycle_decays) == len(ends),
            f"schedule.cycle_decays has {len(self.cycle_decays or ())} lengths for {len(ends)} earlier cycles: give "
            "one for each, or none",
        )
        return ends

    def _check_decay(self) -> None:
        given = [getattr(self, f"decay_{unit}") for unit in _UNITS]
        decays = [value for value in given if value is not None]
        require(
            bool(decays) or self.kind not in ("wsd", "wsd_s"),
            f"schedule.kind={self.kind} needs one of schedule.decay_steps, decay_tokens or decay_fraction (0 for none)",
        )
        require(
            self.kind in _DECAYING or not any(decays),
            f"schedule.kind={self.kind} takes no decay length: use schedule.kind=wsd or set it to none",
        )
        require(
            self.kind != "one_cycle" or self.warmup_shape != "sqrt",
            "schedule.warmup_shape=sqrt with schedule.kind=one_cycle: its rise is a cosine, leave the shape out",
        )

    def _check_index(self) -> None:
        missing = lacking(self.kind)
        require(
            self.index not in missing,
            f"schedule.index={self.index} has no schedule.kind={self.kind}: use schedule.index="
            + " or ".join(name for name in CONVENTIONS if name not in missing),
        )
        decays = any(getattr(self, f"decay_{unit}") for unit in _UNITS)
        lone = self.kind == "inverse_sqrt" or (self.kind == "power" and self.index == "dolomite")
        require(
            self.index == "lab" or not lone or not decays,
            f"schedule.index={self.index} has no decay after schedule.kind={self.kind}: use schedule.index=lab or set "
            "the decay to none",
        )
        require(
            self.index != "hf" or self.kind != "inverse_sqrt" or self.floor == 0,
            f"schedule.floor={self.floor} with schedule.kind=inverse_sqrt: schedule.index=hf has no floor there, use 0",
        )

    def _check_cycles(self) -> None:
        _one_of(self, _CYCLES, needed=False)
        for name in (*_CYCLES, "cycle_decays"):
            value = getattr(self, name)
            require(
                not value or self.kind == "wsd_s",
                f"schedule.{name}={_written(value)} with schedule.kind={self.kind}: only wsd_s has cycles",
            )
            require(
                not value or min(value) >= 0,
                f"schedule.{name}={_written(value)} has a negative number",
            )
        fractions = self.cycle_fractions
        require(
            not fractions or max(fractions) < 1,
            f"schedule.cycle_fractions={_written(fractions)} is not below 1: the last cycle ends with the run",
        )


def _written(values: tuple[float, ...] | None) -> str:
    """A tuple as it is written on a command line."""
    return ":".join(map(str, values or ()))


def _one_of(config: ScheduleConfig, names: tuple[str, ...], *, needed: bool) -> None:
    given = [f"schedule.{name}={getattr(config, name)}" for name in names if getattr(config, name) is not None]
    require(len(given) <= 1, f"{' and '.join(given)} are given together: keep exactly one of them")
    require(bool(given) or not needed, f"none of {', '.join('schedule.' + n for n in names)} is given: set one")
