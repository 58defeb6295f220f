"""Learning-rate schedules as pure float64 functions on the host.

Index convention (the design's family `lab`): update i = 0..T-1 of a run with warm-up W and decay D uses
`(i + 1) / W` while i < W, so no update is wasted at rate 0 and the peak is reached by update W - 1; decay progress
is `x = (i - (T - D)) / D`, so the first decay update is still at the peak and the last one still learns.
Sources: Power Scheduler (arXiv 2408.13359, Eq. 2) for WSD; Hägele et al. (2405.18392) for the 1 - sqrt decay.
"""

import numpy as np

from lab.config import RunConfig, ScheduleConfig


def factors(schedule: ScheduleConfig, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Learning-rate factor in [0, 1] of updates start..stop-1, float64 of shape [stop - start].

    - warm-up, i < W: `(i + 1) / W`
    - constant: 1; linear: `m + (1 - m)(1 - x)`; cosine: `m + (1 - m)(1 + cos(pi x)) / 2`, x = (i - W) / (T - W)
    - wsd: 1 while i < T - D, then `m + (1 - m) f(x)`, x = (i - (T - D)) / D

    with m the floor.  Updates from T on stay at the value that the shape ends with.
    """
    total, warmup, decay = schedule.steps, schedule.warmup_steps, schedule.decay_steps
    if total is None or warmup is None or decay is None:
        raise ValueError("the schedule's durations are not in steps yet: call ScheduleConfig.resolve first")
    i = np.arange(start, total if stop is None else stop, dtype=np.float64)
    if schedule.kind == "constant":
        after = np.ones_like(i)
    else:
        shape = {"linear": "linear", "cosine": "cosine", "wsd": schedule.decay_shape}[schedule.kind]
        length = decay if schedule.kind == "wsd" else total - warmup
        progress = np.clip((i - (total - length)) / max(length, 1), 0.0, 1.0)
        after = schedule.floor + (1.0 - schedule.floor) * decay_shape(shape, progress)
        if length == 0:
            after = np.ones_like(i)
    return np.where(i < warmup, (i + 1) / max(warmup, 1), after)


def decay_shape(name: str, x: np.ndarray) -> np.ndarray:
    """f(x) with f(0) = 1 and f(1) = 0: linear `1 - x`, cosine `(1 + cos(pi x)) / 2`, sqrt `1 - sqrt(x)`."""
    if name == "linear":
        return 1.0 - x
    if name == "cosine":
        return 0.5 * (1.0 + np.cos(np.pi * x))
    if name == "sqrt":
        return 1.0 - np.sqrt(x)
    raise ValueError(f"decay shape {name} is not one of linear, cosine, sqrt")


def rates(config: RunConfig) -> np.ndarray:
    """Base learning rate of every update of a run, float64 of shape [T]."""
    return config.optimizer.lr * factors(config.schedule)


def decays(config: RunConfig) -> np.ndarray:
    """Fraction of a decayed weight that each update removes before per-leaf multipliers, float64 of shape [T].

    independent: `factor(i) * weight_decay`; otherwise `lr(i) * weight_decay`.
    """
    optimizer = config.optimizer
    per_update = factors(config.schedule) if optimizer.decay == "independent" else rates(config)
    return optimizer.weight_decay * per_update


def boundaries(schedule: ScheduleConfig) -> tuple[int, ...]:
    """Updates at which a phase begins or ends, in 1..T: the end of the warm-up, the start of the decay, the end."""
    total, warmup, decay = schedule.steps, schedule.warmup_steps, schedule.decay_steps
    if total is None or warmup is None or decay is None:
        raise ValueError("the schedule's durations are not in steps yet: call ScheduleConfig.resolve first")
    return tuple(sorted({step for step in (warmup, total - decay, total) if step >= 1}))
