"""Roles: what each parameter is, and which dimensions fan in and out of it.

A model states its roles in a table of rows keyed by path.  Every leaf must match exactly one row.
"""

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lab.check import InputError, require


class Role(StrEnum):
    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    READOUT = "readout"
    GAIN = "gain"
    BIAS = "bias"


class Place(StrEnum):
    """Where a leaf stands with respect to the residual stream: outside the blocks, inside one, or ending a branch."""

    OUTSIDE = "outside"
    BLOCK = "block"
    BRANCH_END = "branch_end"


MATRICES = (Role.EMBEDDING, Role.HIDDEN, Role.READOUT)


@dataclass(frozen=True)
class RoleRow:
    """Leaves whose path matches have this role and these fan dimensions.

    `pattern` is a path with shell wildcards, or a compiled regular expression that must match the whole path.
    `fan_in` and `fan_out` name entries of the model's dimensions.  `in_axes` and `out_axes` are the axes of the array
    that they multiply to: the last but one and the last unless given (gains and biases: none and the last).  All other
    axes are stacked copies, as a scan over layers has them, and count for neither fan.
    """

    pattern: str | re.Pattern[str]
    role: Role
    fan_in: str
    fan_out: str
    place: Place = Place.OUTSIDE
    in_axes: tuple[int, ...] | None = None
    out_axes: tuple[int, ...] | None = None

    def matches(self, path: str) -> bool:
        if isinstance(self.pattern, str):
            return fnmatch.fnmatchcase(path, self.pattern)
        return self.pattern.fullmatch(path) is not None

    @property
    def text(self) -> str:
        return self.pattern if isinstance(self.pattern, str) else self.pattern.pattern

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(fan-in axes, fan-out axes), counted from the end as given."""
        default = (-2,) if self.role in MATRICES else ()
        return self.in_axes if self.in_axes is not None else default, self.out_axes or (-1,)


@dataclass(frozen=True)
class Leaf:
    """A parameter with its role; `fan_in`/`fan_out` of this model, `base_*` of the base model.

    `in_axes`, `out_axes` and `stacked` are non-negative axes of the array, together all of them.
    """

    path: str
    shape: tuple[int, ...]
    role: Role
    fan_in: int
    fan_out: int
    base_fan_in: int
    base_fan_out: int
    place: Place
    in_axes: tuple[int, ...]
    out_axes: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """m: fan-in over base fan-in for matrices fed by activations, growing length over its base otherwise."""
        if self.role in (Role.HIDDEN, Role.READOUT):
            return self.fan_in / self.base_fan_in
        return self.fan_out / self.base_fan_out

    @property
    def ratio_out(self) -> float:
        return self.fan_out / self.base_fan_out

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stacked(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.in_axes + self.out_axes)


def row_of(table: Sequence[RoleRow], path: str) -> RoleRow:
    """The one row that a leaf matches.

    Raises:
        InputError: it matches none or several; the leaf and the rows are named.
    """
    rows = [row for row in table if row.matches(path)]
    if len(rows) != 1:
        found = ", ".join(row.text for row in rows) or "none"
        raise InputError(f"parameter {path} needs exactly one role, but matches {len(rows)} rows: {found}")
    return rows[0]


def assign(
    table: Sequence[RoleRow],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dims: Mapping[str, int],
    base_dims: Mapping[str, int],
) -> dict[str, Leaf]:
    """Give every leaf its role, in path order.

    Raises:
        InputError: a leaf with no row or with several, whose shape is not its row's, or an unknown dimension; the leaf
            is named.
    """
    return {
        path: _leaf(path, tuple(shapes[path]), row_of(table, path), dims=dims, base_dims=base_dims)
        for path in sorted(shapes)
    }


def _leaf(
    path: str, shape: tuple[int, ...], row: RoleRow, *, dims: Mapping[str, int], base_dims: Mapping[str, int]
) -> Leaf:
    found, fans = [], []
    for name, axes in zip((row.fan_in, row.fan_out), row.axes(), strict=True):
        require(
            name in dims and name in base_dims,
            f"parameter {path}: fan dimension {name} is not one of {', '.join(sorted(dims))}",
        )
        fits = all(-len(shape) <= axis < len(shape) for axis in axes)
        size = math.prod(shape[axis] for axis in axes) if fits else None
        require(
            not axes or size == dims[name],
            f"parameter {path} has shape {shape}, but its role row says {name}={dims[name]} on axes {axes}",
        )
        found.append(tuple(axis % len(shape) for axis in axes))
        fans.append((dims[name], base_dims[name]))
    (fan_in, base_fan_in), (fan_out, base_fan_out) = fans
    return Leaf(
        path=path,
        shape=shape,
        role=row.role,
        fan_in=fan_in,
        fan_out=fan_out,
        base_fan_in=base_fan_in,
        base_fan_out=base_fan_out,
        place=row.place,
        in_axes=found[0],
        out_axes=found[1],
    )
