"""The pieces that a schedule is made of, each a float64 function of the update on the host."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hold:
    """One value from update `begin` to `end`."""

    begin: int
    end: int
    value: float

    def at(self, i: np.ndarray) -> np.ndarray:
        return np.full_like(i, self.value)


@dataclass(frozen=True)
class Ramp:
    """A rise or a fall: `scale * (low + (1 - low) * s(x))` with `x = (i - begin + offset) / length`, cut to [0, 1].

    s is the rise or the fall of `shape`.
    """

    begin: int
    end: int
    shape: str
    offset: int
    length: int
    low: float = 0.0
    scale: float = 1.0
    rising: bool = False

    def at(self, i: np.ndarray) -> np.ndarray:
        x = np.clip((i - self.begin + self.offset) / self.length, 0.0, 1.0)
        s = rise(self.shape, x) if self.rising else decay_shape(self.shape, x)
        return self.scale * (self.low + (1.0 - self.low) * s)


@dataclass(frozen=True)
class Law:
    """A power `p = min(1, coefficient * max(k, 1)^exponent)` of the updates done, `k = i + shift`; it stops at `end`.

    `floor` bounds it from below, or, with `level`, is what it comes down to: `floor + (1 - floor) * p`.
    """

    begin: int
    end: int
    coefficient: float
    exponent: float
    shift: int = 0
    floor: float = 0.0
    level: bool = False

    def at(self, i: np.ndarray) -> np.ndarray:
        return self.after(np.minimum(i, self.end) + self.shift)

    def after(self, k: np.ndarray) -> np.ndarray:
        """The law after k updates; the first update's tokens are the least, so there is no 0^-0.5."""
        p = np.minimum(1.0, self.coefficient * np.maximum(k, 1.0) ** self.exponent)
        return self.floor + (1.0 - self.floor) * p if self.level else np.maximum(self.floor, p)


Piece = Hold | Ramp | Law


def decay_shape(name: str, x: np.ndarray) -> np.ndarray:
    """f(x) with f(0) = 1 and f(1) = 0.

    - linear `1 - x`
    - cosine `(1 + cos(pi x)) / 2`
    - sqrt `1 - sqrt(x)` (Hägele et al., arXiv 2405.18392)
    - exponential `(e^(1 - x) - 1) / (e - 1)`, of the Power scheduler's authors (dolomite-engine)
    - exponential_megatron `2 * 0.5^x - 1` (Megatron-LM)
    """
    if name == "linear":
        return 1.0 - x
    if name == "cosine":
        return 0.5 * (1.0 + np.cos(np.pi * x))
    if name == "sqrt":
        return 1.0 - np.sqrt(x)
    if name == "exponential":
        return np.expm1(1.0 - x) / np.expm1(1.0)
    if name == "exponential_megatron":
        return 2.0 * 0.5**x - 1.0
    raise ValueError(f"decay shape {name} is not one of linear, cosine, sqrt, exponential, exponential_megatron")


def rise(name: str, x: np.ndarray) -> np.ndarray:
    """The mirrored shape, `f(1 - x)`: 0 at the begin, 1 at the end."""
    return x if name == "linear" else decay_shape(name, 1.0 - x)
