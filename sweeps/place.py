"""Cells that a sweep does not have and could: along its own rows, one step beyond or where another row has one.

Axes that move together in the sweep are one group: steps zipped with decay, width zipped with depth or with the size of
a head.  A row is what one group takes while the others stay; a place lies on such a row, at a value that other rows
have or one step beyond its largest, every axis of the group by its own last ratio.  Groups without a size (the
parametrization, the schedule) keep the values that they have.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lab.config import RunConfig

# Axes along which a cell may be new; the others say which law is meant.
SIZES = ("model.width", "model.depth", "schedule.steps", "schedule.tokens", "data.sequences")

Values = Mapping[str, Any]


def groups(known: Sequence[Values]) -> list[tuple[str, ...]]:
    """The axes of some cells, those together of which each tells the other; an axis of one value is in none."""
    names = [name for name in (known[0] if known else ()) if len({cell[name] for cell in known}) > 1]
    found: list[tuple[str, ...]] = []
    for name in names:
        for place, group in enumerate(found):
            if any(_tied(known, name, other) for other in group):
                found[place] = (*group, name)
                break
        else:
            found.append((name,))
    return found


def beyond(known: Sequence[Values], base: RunConfig) -> Iterator[dict[str, Any]]:
    """The values of cells that are not there; see the module.  Widths are rounded to what the heads divide."""
    seen = [dict(cell) for cell in known]
    for group in groups(known):
        values = list(dict.fromkeys(tuple(cell[name] for name in group) for cell in known))
        if set(group) & set(SIZES) and all(_number(value) for row in values for value in row):
            leader = next(place for place, name in enumerate(group) if name in SIZES)
            values.sort(key=lambda row, at=leader: row[at])
            values.append(_next(group, values, base))
        for cell in known:
            for row in values:
                place = dict(cell) | dict(zip(group, row, strict=True))
                if place not in seen:
                    seen.append(place)
                    yield place


def _tied(known: Sequence[Values], one: str, other: str) -> bool:
    """Whether each axis tells the other, or a size tells what follows it (a depth that two widths share)."""
    pairs = {(cell[one], cell[other]) for cell in known}
    fewest, most = sorted((len({pair[0] for pair in pairs}), len({pair[1] for pair in pairs})))
    return len(pairs) == most and (fewest == most or bool({one, other} & set(SIZES)))


def _next(group: Sequence[str], values: Sequence[tuple[Any, ...]], base: RunConfig) -> tuple[Any, ...]:
    """One step beyond the last row of a group's values."""
    last, before = values[-1], values[-2]
    found = {}
    for name, new, old in zip(group, last, before, strict=True):
        ratio = new / old if old and new / old > 0 else 1.0
        found[name] = round(new * ratio) if isinstance(new, int) else new * ratio
    if "model.width" in found:
        unit = _unit(found, base)
        widest = last[list(group).index("model.width")]
        found["model.width"] = max(_nearest(found["model.width"], unit), unit * (widest // unit + 1))
    return tuple(found[name] for name in group)


def _unit(values: Values, base: RunConfig) -> int:
    """What a width is a multiple of: the number of heads, or else their size."""
    if base.model.kind == "mlp":
        return 1
    heads = values.get("model.heads", base.model.heads)
    return heads or values.get("model.head_dim", base.model.head_dim) or 16


def _nearest(width: int, unit: int) -> int:
    """The multiple of a number that is nearest by ratio."""
    below = max(1, width // unit) * unit
    return min((below, below + unit), key=lambda one: abs(math.log(one / width)))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
