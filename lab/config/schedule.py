"""The length of a run and the shape of its learning rate."""

import math
from dataclasses import dataclass
from typing import Literal

from lab.check import check_fields, positive, require


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and the shape of its learning rate (`lab.schedule`).

    The length is given as exactly one of `steps` or `tokens`; warm-up and decay as at most one of steps, tokens
    or a fraction of the run.  `wsd` needs a decay; `linear` and `cosine` decay from the end of the warm-up to the
    end of the run; `floor` is the ratio of the final to the peak rate.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"] = "wsd"
    steps: int | None = None
    tokens: int | None = None
    warmup_steps: int | None = None
    warmup_tokens: int | None = None
    warmup_fraction: float | None = None
    decay_steps: int | None = None
    decay_tokens: int | None = None
    decay_fraction: float | None = None
    decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        positive(self, "schedule", "steps", "tokens")
        _one_of(self, ("steps", "tokens"), needed=True)
        for phase in ("warmup", "decay"):
            _one_of(self, tuple(f"{phase}_{unit}" for unit in ("steps", "tokens", "fraction")), needed=False)
            for unit in ("steps", "tokens", "fraction"):
                value = getattr(self, f"{phase}_{unit}")
                require(value is None or value >= 0, f"schedule.{phase}_{unit}={value} is negative")
            fraction = getattr(self, f"{phase}_fraction")
            require(
                fraction is None or fraction <= 1,
                f"schedule.{phase}_fraction={fraction} is above 1: it is a fraction of the run, not a percentage",
            )
        require(0 <= self.floor <= 1, f"schedule.floor={self.floor} is not in [0, 1]: it is a ratio to the peak")
        decays = [d for d in (self.decay_steps, self.decay_tokens, self.decay_fraction) if d is not None]
        require(
            bool(decays) or self.kind != "wsd",
            "schedule.kind=wsd needs one of schedule.decay_steps, decay_tokens or decay_fraction (0 for none)",
        )
        require(
            self.kind == "wsd" or not any(decays),
            f"schedule.kind={self.kind} takes no decay length: use schedule.kind=wsd or set it to none",
        )

    def resolve(self, tokens_per_step: int) -> "ScheduleConfig":
        """The same schedule with every duration in steps."""
        steps = self.steps if self.steps is not None else (self.tokens or 0) // tokens_per_step
        require(
            steps >= 1,
            f"schedule.tokens={self.tokens} is less than one update of {tokens_per_step} tokens: give more tokens "
            "or a smaller batch",
        )
        phases = {
            phase: _phase_steps(self, phase, steps=steps, tokens_per_step=tokens_per_step)
            for phase in ("warmup", "decay")
        }
        require(
            phases["warmup"] + phases["decay"] <= steps,
            f"schedule.warmup_steps={phases['warmup']} + schedule.decay_steps={phases['decay']} is longer than the "
            f"run of {steps} steps: shorten them or raise schedule.steps",
        )
        return ScheduleConfig(
            kind=self.kind,
            steps=steps,
            warmup_steps=phases["warmup"],
            decay_steps=phases["decay"],
            decay_shape=self.decay_shape,
            floor=self.floor,
        )


def _one_of(config: ScheduleConfig, names: tuple[str, ...], *, needed: bool) -> None:
    given = [f"schedule.{name}={getattr(config, name)}" for name in names if getattr(config, name) is not None]
    require(len(given) <= 1, f"{' and '.join(given)} are given together: keep exactly one of them")
    require(bool(given) or not needed, f"none of {', '.join('schedule.' + n for n in names)} is given: set one")


def _phase_steps(config: ScheduleConfig, phase: str, *, steps: int, tokens_per_step: int) -> int:
    """Length of the warm-up or decay in steps: fractions are rounded to the nearest, tokens down."""
    exact, tokens, fraction = (getattr(config, f"{phase}_{unit}") for unit in ("steps", "tokens", "fraction"))
    if exact is not None:
        return exact
    if tokens is not None:
        return tokens // tokens_per_step
    return math.floor((fraction or 0.0) * steps + 0.5)
