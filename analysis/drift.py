"""Drift: how far the optimum moves along an axis, in octaves of the learning rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.noise import Noise, pooled_noise
from analysis.optimum import Optimum, curve, find_optimum, unknown
from analysis.results import Results, axis_label


@dataclass(frozen=True)
class Cell:
    """One loss-versus-learning-rate curve and its optimum.

    `values` are its places on the sweep's axes; `parametrization` and `width` are told whether or not they are axes.
    """

    values: dict[str, Any]
    parametrization: str
    width: int
    points: Any
    optimum: Optimum
    pending: int


@dataclass(frozen=True)
class Drift:
    """log2(lr* at the largest value) - log2(lr* at the smallest), with a 95 % interval; None where an end has none.

    `group` holds the values of the other cell axes.
    """

    group: dict[str, Any]
    parametrization: str
    axis: str
    start: Any
    end: Any
    octaves: float | None
    low: float | None
    high: float | None


def read_cells(results: Results, noise: Noise | None = None) -> tuple[list[Cell], Noise]:
    """Every cell of a sweep with its optimum, and the noise that the intervals rest on: what is given, or pooled."""
    parts = list(results.cells())
    axis = results.optimum_axis
    noise = noise or pooled_noise([(rows, axis) for _, rows in parts])
    cells = []
    for values, rows in parts:
        points = curve(rows, axis)
        pending = int((rows["status"] == "pending").sum())
        first = rows.iloc[0]
        cells.append(
            Cell(
                values=values,
                parametrization=str(first["parametrization.name"]),
                width=int(first["model.width"]),
                points=points,
                optimum=unknown(points) if results.smoke else find_optimum(points, noise),
                pending=pending,
            )
        )
    return cells, noise


def drifts(cells: Sequence[Cell]) -> list[Drift]:
    """The drift along every numeric cell axis, for each combination of the others."""
    return [_drift(members[0], members[-1], axis) for axis, members in lines(cells)]


def lines(cells: Sequence[Cell]) -> list[tuple[str, list[Cell]]]:
    """(axis, cells in its order) for every numeric cell axis and each combination of the others; two cells or more."""
    found = []
    for axis in cells[0].values if cells else ():
        if not all(_numeric(cell.values[axis]) for cell in cells):
            continue
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in cells:
            groups.setdefault(tuple(others(cell, axis).items()), []).append(cell)
        for members in groups.values():
            if len(members) > 1:
                found.append((axis, sorted(members, key=lambda cell: cell.values[axis])))
    return found


def others(cell: Cell, axis: str) -> dict[str, Any]:
    """The cell's places on the axes besides one."""
    return {name: value for name, value in cell.values.items() if name != axis}


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Axis values under their short names, as the JSON has them; axes whose short names are one keep their own."""
    labels = [axis_label(name) for name in values]
    return {
        label if labels.count(label) == 1 else name: value
        for label, (name, value) in zip(labels, values.items(), strict=True)
    }


def summary(cells: Sequence[Cell], moved: Sequence[Drift], noise: Noise, optimum_axis: str) -> dict[str, Any]:
    """The report as plain data: `cells`, `drift` and the noise source."""
    return {
        "optimum_axis": optimum_axis,
        "noise": noise.source,
        "cells": [_cell_json(cell) for cell in cells],
        "drift": [_drift_json(drift) for drift in moved],
    }


def _drift(first: Cell, last: Cell, axis: str) -> Drift:
    """Interval: the ends' half-widths added in quadrature, each side by itself (the ends' errors are independent)."""
    a, b = first.optimum, last.optimum
    ends = (a.lr, a.low, a.high, b.lr, b.low, b.high)
    where = (others(first, axis), first.parametrization, axis, first.values[axis], last.values[axis])
    if any(value is None for value in ends):
        return Drift(*where, None, None, None)
    a_lr, a_low, a_high, b_lr, b_low, b_high = (math.log2(value) for value in ends if value is not None)
    octaves = b_lr - a_lr
    low = octaves - math.hypot(b_lr - b_low, a_high - a_lr)
    high = octaves + math.hypot(b_high - b_lr, a_lr - a_low)
    return Drift(*where, octaves, low, high)


def _cell_json(cell: Cell) -> dict[str, Any]:
    found = cell.optimum
    return {
        "parametrization": cell.parametrization,
        "width": cell.width,
        **named(cell.values),
        "lr_opt": found.lr,
        "lr_low": found.low,
        "lr_high": found.high,
        "quality": found.quality,
        "loss": found.loss,
        "curvature": found.curvature,
        "asymmetry": found.asymmetry,
        "lr_best": found.best_lr,
        "lr_stable": found.stable,
        "seeds": found.seeds,
        "points": found.points,
        "diverged": found.diverged,
        "far": found.far,
        "pending": cell.pending,
        "next": list(found.next_rates),
    }


def _drift_json(drift: Drift) -> dict[str, Any]:
    return {
        "parametrization": drift.parametrization,
        **named(drift.group),
        "axis": axis_label(drift.axis),
        "from": drift.start,
        "to": drift.end,
        "octaves": drift.octaves,
        "low": drift.low,
        "high": drift.high,
    }


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
