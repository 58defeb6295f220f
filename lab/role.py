"""Roles: what each parameter is, and which dimensions fan in and out of it.

A model states its roles in a table of rows keyed by path.  Every leaf must match exactly one row.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from lab.check import InputError


class Role(StrEnum):
    EMBEDDING = "embedding"
    HIDDEN = "hidden"
    READOUT = "readout"
    GAIN = "gain"
    BIAS = "bias"


@dataclass(frozen=True)
class RoleRow:
    """Leaves whose path matches `pattern` (shell wildcards) have this role and these fan dimensions.

    `fan_in` and `fan_out` name entries of the model's dimensions (`one` for a dimension that never grows by
    itself); leading stacked axes are not part of either.
    """

    pattern: str
    role: Role
    fan_in: str
    fan_out: str


@dataclass(frozen=True)
class Leaf:
    """A parameter with its role; `fan_in`/`fan_out` of this model, `base_*` of the base model."""

    path: str
    shape: tuple[int, ...]
    role: Role
    fan_in: int
    fan_out: int
    base_fan_in: int
    base_fan_out: int

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


def row_of(table: Sequence[RoleRow], path: str) -> RoleRow:
    """The one row that a leaf matches.

    Raises:
        InputError: it matches none or several; the leaf and the rows are named.
    """
    rows = [row for row in table if fnmatch.fnmatchcase(path, row.pattern)]
    if len(rows) != 1:
        found = ", ".join(row.pattern for row in rows) or "none"
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
        InputError: a leaf with no row or with several, a row without a leaf's shape, or an unknown dimension; the
            leaf is named.
    """
    leaves: dict[str, Leaf] = {}
    for path in sorted(shapes):
        shape = tuple(shapes[path])
        row = row_of(table, path)
        for name in (row.fan_in, row.fan_out):
            if name not in dims or name not in base_dims:
                raise InputError(f"parameter {path}: fan dimension {name} is not one of {', '.join(sorted(dims))}")
        fans = tuple(dims[name] for name in (row.fan_in, row.fan_out) if name != "one")
        if fans and shape[-len(fans) :] != fans:
            raise InputError(f"parameter {path} has shape {shape}, but its role row says fans {fans}")
        leaves[path] = Leaf(
            path=path,
            shape=shape,
            role=row.role,
            fan_in=dims[row.fan_in],
            fan_out=dims[row.fan_out],
            base_fan_in=base_dims[row.fan_in],
            base_fan_out=base_dims[row.fan_out],
        )
    return leaves
