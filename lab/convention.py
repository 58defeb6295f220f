"""How libraries count updates: what update i = 0, 1, ... of a run means to a schedule.

All libraries draw the same curves; they disagree about where on the curve an update stands, which moves every value by
one update.  `lab` wastes no update at rate 0: the first one already learns, and so does the last.
"""

from dataclasses import dataclass
from typing import Literal

Index = Literal["lab", "hf", "torchtitan", "megatron", "dolomite", "olmo_core", "maxtext", "levanter"]


@dataclass(frozen=True)
class Tail:
    """The inverse-square-root law of a library: `sqrt(tau / max(i + shift, 1))`, at most 1.

    tau is `timescale`, or the warm-up W where that is None; where `from_warmup` is set, the law is moved so that it is
    1 at the end of the warm-up, whatever tau.  `floor` says what the final ratio m does: nothing, a lower bound, or
    a level that the law comes down to, `m + (1 - m) * law`.
    """

    timescale: int | None = None
    from_warmup: bool = False
    floor: Literal["none", "bound", "level"] = "none"


@dataclass(frozen=True)
class Convention:
    """One library's way to count, for update i of T with warm-up W and decay D.

    - warm-up progress is `(i + warmup_offset) / W`;
    - decay progress is `(i + decay_offset - (T - D)) / D`, with D - 1 in the denominator if `shortened`;
    - with `lifted`, the warm-up of a trapezoid starts at the floor and not at 0;
    - `inverse_sqrt` is the library's law of that name, if it has one; `power` says whether it has the Power schedule.
    """

    warmup_offset: int
    decay_offset: int
    shortened: bool = False
    lifted: bool = False
    inverse_sqrt: Tail | None = None
    power: bool = False


CONVENTIONS: dict[Index, Convention] = {
    "lab": Convention(1, 0, inverse_sqrt=Tail(), power=True),
    "hf": Convention(0, 0, lifted=True, inverse_sqrt=Tail(from_warmup=True)),
    "torchtitan": Convention(1, 0),
    "megatron": Convention(0, 0, inverse_sqrt=Tail(floor="bound")),
    "dolomite": Convention(0, 0, power=True),
    "olmo_core": Convention(1, 1, inverse_sqrt=Tail(floor="level"), power=True),
    "maxtext": Convention(0, 0, shortened=True),
    "levanter": Convention(0, 0, inverse_sqrt=Tail(timescale=10_000, floor="bound")),
}


def lacking(kind: str) -> tuple[str, ...]:
    """The libraries that have no schedule of this kind, or another one under its name."""
    if kind == "inverse_sqrt":
        return tuple(name for name, found in CONVENTIONS.items() if found.inverse_sqrt is None)
    if kind == "power":
        return tuple(name for name, found in CONVENTIONS.items() if not found.power)
    return ()
