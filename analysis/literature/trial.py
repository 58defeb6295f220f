"""Published laws put to the test on measured runs: the regret of each in every cell, and of two plain baselines.

A cell is the runs of one (N, D).  A law with a batch of its own is asked for both; one that takes the batch as given
gets the best run's; one of the rate alone is read at the best batch of each rate.  Rules that move a measured rate
start at the best run of the same size's next shorter horizon.  The baselines take the best run of the nearest smaller
cell (in ln N and ln D, neither larger), and that of the smallest cell everywhere: a constant rate.

Means are over the cells in whose grid a setting lies.  A law that points outside many grids is worse than its mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.literature.answer import answer
from analysis.literature.publication import Publication, publications, published
from analysis.literature.regret import (
    PROTOCOLS,
    WINDOW,
    Discrimination,
    MeasuredCell,
    Protocol,
    Reading,
    discriminate,
    measured,
    readings,
)
from lab.check import require

NEAREST, CONSTANT = "nearest smaller cell", "smallest cell"
_SHAPE = ("width", "depth", "sequence", "flops_per_token")  # columns that laws may ask for
Place = tuple[float, float]  # (N, D)


@dataclass(frozen=True)
class Trial:
    """A setting in a cell: whose, at which (N, D), its readings; `note` says why there is none, or whose batch."""

    law: str
    place: Place
    lr: float | None
    batch: float | None
    offset: float | None  # octaves from the best run's rate
    readings: tuple[Reading, ...]
    note: str

    @property
    def moves(self) -> bool:
        """Whether it moves a measured rate, and so knows the runs."""
        return self.law in (NEAREST, CONSTANT) or "base_lr" in published(self.law).formulas["lr"].needs

    def regret(self, protocol: Protocol) -> float | None:
        """The regret by one protocol, a ratio."""
        return next((one.regret for one in self.readings if one.protocol == protocol), None)


@dataclass(frozen=True)
class Outcome:
    """Every trial, what each cell can tell apart (by linear interpolation), and why laws are left out."""

    trials: tuple[Trial, ...]
    cells: Mapping[Place, MeasuredCell]
    discriminations: Mapping[Place, Discrimination]
    skipped: tuple[str, ...]

    def means(self) -> pd.DataFrame:
        """A row per law or baseline: `law`, mean and largest regret in per cent and cells by protocol, mean offset."""
        rows = []
        for name in dict.fromkeys(trial.law for trial in self.trials):
            own = [trial for trial in self.trials if trial.law == name]
            row: dict[str, Any] = {"law": name, "cells": sum(trial.lr is not None for trial in own)}
            for protocol in PROTOCOLS:
                values = [100 * regret for trial in own if (regret := trial.regret(protocol)) is not None]
                row[protocol] = float(np.mean(values)) if values else math.nan
                row[f"{protocol}_max"] = max(values, default=math.nan)
                row[f"{protocol}_cells"] = len(values)
            offsets = [trial.offset for trial in own if trial.offset is not None]
            row["offset"] = float(np.mean(offsets)) if offsets else math.nan
            rows.append(row)
        frame = pd.DataFrame(rows)
        return frame.sort_values("nearest", kind="stable", ignore_index=True) if len(frame) else frame

    def frame(self) -> pd.DataFrame:
        """A row per trial; regrets in per cent."""
        rows = []
        for trial in self.trials:
            row: dict[str, Any] = {"law": trial.law, "params": trial.place[0], "tokens": trial.place[1]}
            row |= {"lr": trial.lr, "batch": trial.batch, "offset": trial.offset}
            for one in trial.readings:
                row[one.protocol] = None if one.regret is None else 100 * one.regret
                row[f"{one.protocol}_note"] = one.note
            rows.append(row | {"note": trial.note})
        return pd.DataFrame(rows)


def trial(frame: pd.DataFrame, laws: Sequence[Publication] | None = None, window: float = WINDOW) -> Outcome:
    """Put laws to the test on runs with `params`, `tokens`, `lr`, `loss` and, where known, `batch`, `status`, a shape.

    Raises:
        InputError: a column is missing, the runs are of several variants, or no cell has a finite loss.
    """
    for name in ("params", "tokens", "lr", "loss"):
        known = name in frame and bool(frame[name].notna().any())
        require(known, f"the runs have no {name}: name its column, as in --columns {name}=COLUMN")
    variants = [] if "variant" not in frame else sorted(map(str, frame["variant"].dropna().unique()))
    require(
        len(variants) < 2,
        f"the runs are of {len(variants)} variants ({'; '.join(variants[:3])}): choose one, as in --where NAME=VALUE",
    )
    cells, groups = {}, {}
    for place, rows in frame.groupby(["params", "tokens"]):
        key = (float(np.array(place)[0]), float(np.array(place)[1]))
        if np.isfinite(rows["loss"].to_numpy(float)).any():
            cells[key], groups[key] = measured(rows), rows
    require(len(cells) > 0, "no cell has a run with a finite loss: there is nothing to test laws on")
    found, skipped = [], []
    for law in publications() if laws is None else laws:
        own = [_law(law, place, cells, groups[place], window) for place in cells]
        if any(one.lr is not None for one in own):
            found += own
        else:
            skipped.append(own[0].note)
    for place in cells if len(cells) > 1 else ():
        found += [_baseline(NEAREST, place, cells, window), _baseline(CONSTANT, place, cells, window)]
    return Outcome(tuple(found), cells, _discriminations(found, cells), tuple(skipped))


def _law(
    law: Publication, place: Place, cells: Mapping[Place, MeasuredCell], rows: pd.DataFrame, window: float
) -> Trial:
    cell = cells[place]
    best_batch = cell.best_setting[1]
    inputs: dict[str, float | None] = {"params": place[0], "tokens": place[1], "loss": cell.minimum}
    inputs |= {name: float(rows[name].iloc[0]) for name in _SHAPE if name in rows and rows[name].nunique() == 1}
    base = _base(place, cells)
    if base is not None:
        lr, batch = cells[base].best_setting
        inputs |= {"base_lr": lr, "base_params": base[0], "base_tokens": base[1], "base_batch": batch}
    needs = law.formulas["lr"].needs if "lr" in law.formulas else ()
    if "base_lr" in needs and base is None and "lr" in law.formulas:
        why = f"law {law.name} needs a shorter horizon of the same size"
        return Trial(law.name, place, None, None, None, (), why)
    given = "batch" in needs and "batch" not in law.formulas
    found = answer(law, inputs | ({"batch": best_batch} if given else {}))
    if found.lr is None:
        return Trial(law.name, place, None, None, None, (), found.lr_why)
    if given:
        return _trial(law.name, place, cell, found.lr, best_batch, window, "at the best run's batch")
    if law.name == "bjorck":  # a rule for a fixed batch
        return _trial(law.name, place, cell, found.lr, inputs.get("base_batch"), window, "at the base run's batch")
    note = "" if found.batch is not None else "at the best batch of each rate"
    return _trial(law.name, place, cell, found.lr, found.batch, window, note)


def _baseline(name: str, place: Place, cells: Mapping[Place, MeasuredCell], window: float) -> Trial:
    smaller = [one for one in cells if one != place and one[0] <= place[0] and one[1] <= place[1]]
    source = min(cells, key=lambda one: (one[0] * one[1], one))
    if name == NEAREST:
        if not smaller:
            return Trial(name, place, None, None, None, (), "no smaller cell")
        source = min(
            smaller, key=lambda one: (math.log(place[0] / one[0]) ** 2 + math.log(place[1] / one[1]) ** 2, one)
        )
    lr, batch = cells[source].best_setting
    return _trial(name, place, cells[place], lr, batch, window, f"from N {source[0]:.4g}, D {source[1]:.4g}")


def _trial(
    name: str, place: Place, cell: MeasuredCell, lr: float, batch: float | None, window: float, note: str
) -> Trial:
    if cell.z_P is None:
        note = "one batch: the setting's own is not tested"
    offset = math.log2(lr / cell.best_setting[0])
    return Trial(name, place, lr, batch, offset, readings(cell, lr, batch, window), note)


def _base(place: Place, cells: Mapping[Place, MeasuredCell]) -> Place | None:
    """The next shorter horizon of the same size."""
    shorter = [one for one in cells if one[0] == place[0] and one[1] < place[1]]
    return max(shorter, key=lambda one: one[1], default=None)


def _discriminations(trials: Sequence[Trial], cells: Mapping[Place, MeasuredCell]) -> dict[Place, Discrimination]:
    """By cell, from the laws that lie in its grid; nothing where fewer than two do."""
    found = {}
    for place, cell in cells.items():
        regrets = {
            one.law: regret
            for one in trials
            if one.place == place
            and one.law not in (NEAREST, CONSTANT)
            and (regret := one.regret("linear")) is not None
        }
        if len(regrets) > 1:
            found[place] = discriminate(cell, regrets)
    return found
