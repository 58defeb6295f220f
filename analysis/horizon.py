"""The horizon: how the best learning rate follows tokens, batch and width, and how the best batch follows tokens.

The laws are those of `analysis.horizon_law`, over the cells with an interior optimum, weighted with 1/sd^2: a cell's
sd is that of its optimum, as in `analysis.transfer`.

Intervals are at 95 %, by a cluster bootstrap over seeds.  All runs of a trunk share its seed, and all cells share the
seeds, so cells are not independent and are never resampled.  A draw takes S of the S seeds with replacement, for all
cells at once; every optimum (`analysis.redraw`) and every law is fitted again, with the weights of the estimate.  With
one seed there is no interval.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.drift import Cell, named, read_cells
from analysis.horizon_law import Estimate, Grid, interval, laws
from analysis.noise import Noise
from analysis.redraw import draws, minima, read_curves, seeds_of
from analysis.results import TOKEN_AXES, Results, load
from lab.check import require

REPLICATES = 400
SAME_BUDGET = 1.02  # budgets within 2 % are one: whole updates of different batches do not add up to the same tokens
EXPONENTS = ("tokens", "batch", "width", "best_batch", "tokens_along_best_batch", "interaction")
_OWN_AXES = (*TOKEN_AXES, "data.sequences", "model.width")

# What others found for the exponent of the rate against tokens.
LITERATURE: tuple[dict[str, Any], ...] = (
    {
        "exponent": -0.51,
        "batch": "three best",
        "what": "Power Scheduler's law for WSD, of rate over batch at each budget's three best batches",
        "source": "arXiv 2408.13359",
    },
    {"exponent": -0.32, "batch": "fixed", "what": "Bjorck et al.", "source": "arXiv 2409.19913"},
    {"exponent": 0.307, "batch": "best", "what": "Step Law", "source": "arXiv 2503.04715"},
    {
        "exponent": 0.03,
        "batch": "fixed",
        "what": "a refit of Step Law's published runs",
        "source": "github.com/step-law/steplaw",
    },
    {
        "exponent": -0.28,
        "batch": "fixed",
        "what": "a refit of OpenEuroLLM's published runs",
        "source": "github.com/OpenEuroLLM/dense_english_scaling_laws",
    },
)


@dataclass(frozen=True)
class Member:
    """A cell of a group: where it stands, its optimum, and in how many draws that was lost."""

    tokens: int
    batch: int
    width: int
    cell: Cell
    lost: int = 0


@dataclass(frozen=True)
class BatchSlope:
    """The exponent of tokens at one batch size."""

    batch: int
    exponent: Estimate
    cells: int


@dataclass(frozen=True)
class BestBatch:
    """The best batch at a budget, and the law's rate there; `lowest` is the batch with the lowest fitted loss."""

    tokens: int
    width: int
    quality: str
    lowest: int
    batch: Estimate | None
    lr: Estimate | None


@dataclass(frozen=True)
class Horizon:
    """What one group of cells says; `group` holds the values of the other cell axes.

    `exponents` has the names of the JSON.  `lr` is the law's rate at the geometric means `centre` of its cells' tokens,
    batch and width.  `lossy` counts the draws, of `replicates`, in which a cell lost its optimum.
    """

    group: dict[str, Any]
    seeds: int
    members: tuple[Member, ...]
    exponents: dict[str, Estimate | None]
    centre: tuple[float, float, float] | None
    lr: Estimate | None
    by_batch: tuple[BatchSlope, ...]
    best: tuple[BestBatch, ...]
    replicates: int
    lossy: int

    @property
    def left_out(self) -> list[Member]:
        """The cells without an interior optimum."""
        return [member for member in self.members if member.cell.optimum.quality != "interior"]

    def rate(self, tokens: float, batch: float, width: float) -> float | None:
        """The law's rate."""
        if self.centre is None or self.lr is None:
            return None
        exponents = [self.exponents[name] for name in ("tokens", "batch", "width")]
        steps = [math.log(at / middle) for at, middle in zip((tokens, batch, width), self.centre, strict=True)]
        moved = sum(found.value * step for found, step in zip(exponents, steps, strict=True) if found)
        return self.lr.value * math.exp(moved)


def read(root: Path) -> list[Horizon]:
    """The horizon of a store, finished or not: one per combination of the other cell axes.

    Raises:
        InputError: the folder is not a store, or its sweep has no axis of tokens.
    """
    return horizons(load(root))


def horizons(results: Results) -> list[Horizon]:
    """See `read`."""
    name = results.sweep.get("name", "")
    require(
        any(axis in results.cell_axes for axis in TOKEN_AXES),
        f"the sweep {name} has no axis of tokens: vary schedule.tokens or schedule.steps",
    )
    require(
        results.optimum_axis == "optimizer.lr",
        f"the sweep {name} has optima of {results.optimum_axis}: a horizon needs optima of optimizer.lr",
    )
    cells, noise = read_cells(results)
    groups: dict[tuple[Any, ...], list[tuple[Cell, pd.DataFrame]]] = {}
    for cell, (_, rows) in zip(cells, results.cells(), strict=True):
        groups.setdefault(tuple(_group(cell).items()), []).append((cell, rows))
    return [_horizon(parts, results.optimum_axis, noise) for parts in groups.values()]


def budgets(tokens: Sequence[int]) -> list[int]:
    """The budget of each cell: the smallest of those that are within 2 %."""
    found: list[int] = []
    for amount in sorted(set(tokens)):
        if not found or amount > SAME_BUDGET * found[-1]:
            found.append(amount)
    return [max(budget for budget in found if budget <= amount) for amount in tokens]


def _horizon(parts: Sequence[tuple[Cell, pd.DataFrame]], axis: str, noise: Noise) -> Horizon:
    members = [_member(cell, rows) for cell, rows in parts]
    places_C3 = np.array([(member.tokens, member.batch, member.width) for member in members], dtype=float)
    weight_C = np.array([_weight(cell) for cell, _ in parts])
    used_C = weight_C > 0
    grid = Grid(places_C3, np.array(budgets([member.tokens for member in members])), weight_C)
    seeds = sorted({seed for (_, rows), used in zip(parts, used_C, strict=True) if used for seed in seeds_of(rows)})
    count = REPLICATES if len(seeds) > 1 else 0
    x_RC, loss_RC = np.full((2, 1 + count, len(members)), np.nan)
    for number in np.flatnonzero(used_C).tolist():
        found = parts[number][0].optimum
        x_RC[0, number], loss_RC[0, number] = math.log(found.lr or math.nan), found.loss
        if count:
            sd = noise.at(found.loss or noise.sd)
            again = minima(read_curves(parts[number][1], axis, seeds), draws(len(seeds), count), sd)
            x_RC[1:, number], loss_RC[1:, number] = again.x_R, again.y_R
    lost_RC = np.isnan(x_RC[1:]) & used_C
    members = [dataclasses.replace(m, lost=int(lost)) for m, lost in zip(members, lost_RC.sum(axis=0), strict=True)]
    fitted = laws(grid, x_RC, loss_RC, noise.sd) if used_C.any() else {}

    def estimate(*key: Any) -> Estimate | None:
        return interval(fitted[key], len(seeds)) if key in fitted else None

    best = [
        BestBatch(
            tokens=int(budget),
            width=int(width),
            quality=str(fitted["quality", budget, width][0]),
            lowest=_lowest(grid, loss_RC[0], budget, width),
            batch=_exp(estimate("batch", budget, width)),
            lr=_exp(estimate("rate", budget, width)),
        )
        for name, budget, width in (key for key in fitted if len(key) == 3)
        if name == "quality"
    ]
    slopes = [(key[1], estimate(*key)) for key in fitted if key[0] == "at batch"]
    centre = np.exp(np.log(places_C3[used_C]).mean(axis=0)).tolist() if used_C.any() else None
    return Horizon(
        group=_group(parts[0][0]),
        seeds=len(seeds),
        members=tuple(members),
        exponents={name: estimate(name) for name in EXPONENTS},
        centre=(centre[0], centre[1], centre[2]) if centre else None,
        lr=_exp(estimate("lr")),
        by_batch=tuple(
            BatchSlope(batch, found, int((used_C & (places_C3[:, 1] == batch)).sum()))
            for batch, found in slopes
            if found
        ),
        best=tuple(best),
        replicates=count,
        lossy=int(lost_RC.any(axis=1).sum()),
    )


def summary(found: Sequence[Horizon]) -> dict[str, Any]:
    """Everything as plain data."""
    return {"groups": [_group_json(one) for one in found], "literature": [dict(line) for line in LITERATURE]}


def _group_json(found: Horizon) -> dict[str, Any]:
    centre = found.centre and dict(zip(("tokens", "batch_tokens", "width"), found.centre, strict=True))
    return {
        "group": named(found.group),
        "seeds": found.seeds,
        "replicates": found.replicates,
        "replicates_lossy": found.lossy,
        "cells": [_member_json(member) for member in found.members],
        "exponents": {name: _estimate_json(value) for name, value in found.exponents.items()},
        "centre": centre and {**centre, "lr": _estimate_json(found.lr)},
        "tokens_by_batch": [
            {"batch_tokens": one.batch, **dataclasses.asdict(one.exponent), "cells": one.cells}
            for one in found.by_batch
        ],
        "best_batch": [
            {
                "tokens": one.tokens,
                "width": one.width,
                **_flat("batch_tokens", one.batch),
                **_flat("lr", one.lr),
                "quality": one.quality,
                "batch_tokens_lowest": one.lowest,
            }
            for one in found.best
        ],
        "left_out": [
            {name: cell[name] for name in ("tokens", "batch_tokens", "width", "quality", "pending")}
            for cell in map(_member_json, found.left_out)
        ],
    }


def _member_json(member: Member) -> dict[str, Any]:
    found = member.cell.optimum
    return {
        "tokens": member.tokens,
        "batch_tokens": member.batch,
        "width": member.width,
        "lr": found.lr,
        "low": found.low,
        "high": found.high,
        "loss": found.loss,
        "quality": found.quality,
        "seeds": found.seeds,
        "pending": member.cell.pending,
        "replicates_lost": member.lost,
    }


def _flat(name: str, found: Estimate | None) -> dict[str, float | None]:
    value, low, high = dataclasses.astuple(found) if found else (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _estimate_json(found: Estimate | None) -> dict[str, float | None] | None:
    return dataclasses.asdict(found) if found else None


def _member(cell: Cell, rows: pd.DataFrame) -> Member:
    """Tokens are those of the whole run, updates times tokens per batch, known before it is trained."""
    first = rows.iloc[0]
    batch = int(first["data.sequences"]) * int(first["data.length"])
    return Member(int(first["schedule.steps"]) * batch, batch, cell.width, cell)


def _group(cell: Cell) -> dict[str, Any]:
    return {name: value for name, value in cell.values.items() if name not in _OWN_AXES}


def _weight(cell: Cell) -> float:
    """1/sd^2 of an interior optimum, in octaves^-2; 0 for other cells."""
    found = cell.optimum
    if found.quality != "interior" or found.vertex_sd is None:
        return 0.0
    return 1 / found.vertex_sd**2


def _lowest(grid: Grid, loss_C: np.ndarray, budget: float, width: float) -> int:
    """The batch of the lowest fitted minimum at a budget."""
    here_C = (grid.weight_C > 0) & (grid.budget_C == budget) & (grid.places_C3[:, 2] == width)
    return int(grid.places_C3[np.where(here_C, loss_C, np.inf).argmin(), 1])


def _exp(found: Estimate | None) -> Estimate | None:
    """An estimate of a logarithm as one of the number itself."""
    if found is None:
        return None
    low, high = (None if end is None else _bounded_exp(end) for end in (found.low, found.high))
    return Estimate(math.exp(found.value), low, high)


def _bounded_exp(logarithm: float) -> float:
    """With few seeds an end may lie beyond what a float holds."""
    return math.exp(min(max(logarithm, -700.0), 700.0))
