"""A law: what a fit found, with what a prediction needs and what says which runs it is about; kept as a JSON file.

Regret of a setting d = (ln lr - ln lr*, ln B - ln B*) away from the optimum, relative to the loss there, is
`1/2 d' K d` with K the median over cells of the fitted curvature over the fitted minimum (`Penalty`).

A run diverges above an edge.  The edges of the curves (`analysis.runs.boundary`) have a law of their own over the same
regressors, so that the gap between the predicted rate and the edge may move with N, D and B, and has an error.  A rate
e^y lies above the edge with probability `Phi((y - x . b) / sd)`, sd^2 the variance of an edge about its law
(`PowerLaw.scatter`).  The error of x . b is not added to it: it moves the probabilities of different laws up and down,
and added it would be counted twice in their mean, which then is twice to four times the share that diverges.

numpy only, so that a prediction starts at once.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from analysis.loss.law import LossLaw
from analysis.power.law import SCHEMA as POWER_SCHEMA
from analysis.power.law import PowerLaw
from analysis.soundness import check_power, check_summary, check_types
from lab.check import InputError, require

Kind = Literal["lr", "batch", "lr+batch", "loss"]
KINDS: tuple[Kind, ...] = ("lr", "batch", "lr+batch", "loss")
FORMAT, VERSION = "lr-scaling-lab law", 2
UNITS = {
    "lr": "peak learning rate",
    "batch": "tokens per update",
    "params": "N, parameters as the source counts them",
    "tokens": "D, tokens seen",
    "loss": "nats per token",
}


@dataclass(frozen=True)
class Penalty:
    """K in relative loss per squared natural log: of the rate, of the batch, and mixed; from so many cells.

    Laws of the rate at a given batch have no batch part.
    """

    lr: float
    batch: float | None
    mixed: float | None
    cells: int

    @property
    def valley_slope(self) -> float | None:
        """d ln lr* / d ln B along the valley, `-K_mixed / K_lr`; None without a batch part."""
        return None if self.mixed is None else -self.mixed / self.lr

    @property
    def valley_batch(self) -> float | None:
        """Curvature of the loss along the valley, `K_batch - K_mixed^2 / K_lr`: what another batch costs at its best
        rate."""
        return None if self.batch is None or self.mixed is None else self.batch - self.mixed**2 / self.lr


@dataclass(frozen=True)
class Rival:
    """What another estimator says of the same runs, or the other way of taking optima at an edge (`edges drop`)."""

    estimator: str
    response: str
    coefficient: float
    exponents: Mapping[str, float]
    outside: tuple[str, ...]

    @property
    def words(self) -> str:
        """Its name in a sentence."""
        if self.estimator == "edges keep":
            return "keeping the runs of cells at an edge"
        return f"--{self.estimator}" if self.estimator.startswith("edges ") else f"the estimator {self.estimator}"


@dataclass(frozen=True)
class Law:
    """A fitted law of the best learning rate, the best batch, or the loss.

    The parts `lr` and `batch` say how many optima and bounds they are about, and what became of the bounds; `edge` is
    the law of the rate above which runs diverge.
    `conditions` are what all runs hold fixed, and `fixed` sizes, tokens or batch of which they have one value only;
    `source` says where they come from: name, fingerprint, runs, cells and what was left out. `rivals` are other
    estimators' laws; their `outside` names the exponents that lie beyond this law's interval, so where the choice
    of the estimator matters more than the interval tells.
    """

    name: str
    kind: Kind
    estimator: str
    lr: PowerLaw | None
    batch: PowerLaw | None
    loss: LossLaw | None
    penalty: Penalty | None
    edge: PowerLaw | None
    conditions: Mapping[str, Any]
    fixed: Mapping[str, float]
    source: Mapping[str, Any]
    rivals: tuple[Rival, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The law in a line; every number is in `to_dict`."""
        parts = [repr(part) for part in (self.lr, self.batch, self.loss) if part is not None]
        return f"Law({self.name!r}, {self.kind}, {self.estimator}: {'; '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """The law as JSON has it; `coefficient` and `exponents` are for reading, `fit` is what is read back."""
        found: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "law": self.kind,
            "estimator": self.estimator,
            "units": UNITS,
            "conditions": dict(self.conditions),
            "fixed": dict(self.fixed),
            "source": dict(self.source),
        }
        for name, law in (("lr", self.lr), ("batch", self.batch)):
            if law is not None:
                found[name] = power_summary(law) | {"fit": law.to_dict()}
        if self.loss is not None:
            found["loss"] = loss_summary(self.loss) | {"fit": self.loss.to_dict()}
        found |= {
            "penalty": None if self.penalty is None else dataclasses.asdict(self.penalty),
            "divergence": None if self.edge is None else power_summary(self.edge) | {"fit": self.edge.to_dict()},
            "other_estimators": [dataclasses.asdict(rival) for rival in self.rivals],
            "notes": list(self.notes),
        }
        return found


def power_summary(law: PowerLaw) -> dict[str, Any]:
    """A power law in plain words: `coefficient prod x^exponent`, with the 95 % limits of the exponents."""
    limits = {name: law.interval(name) for name in law.regressors}
    return {
        "coefficient": law.coefficient,
        "exponents": law.exponents,
        "ci": {name: [one.low, one.high] for name, one in limits.items()},
        "optimistic_ci": {name: one.optimistic and list(one.optimistic) for name, one in limits.items()},
        "optima": law.cells,
        "bounds": law.bounds,
        "edges": law.edges,
        "counts": law.counts,
        "cells": law.cells,
        "sizes": law.sizes,
        "ranges": {name: [low, high] for name, low, high in law.ranges},
    }


def loss_summary(law: LossLaw) -> dict[str, Any]:
    """A loss law in plain words; limits are None where there are no draws."""
    limits = {name: law.interval(name) for name, value in law.values().items() if value is not None}
    return {
        "form": law.form,
        **law.values(),
        "ci": {name: [_finite(low), _finite(high)] for name, (low, high) in limits.items()},
        "status": law.status,
        "flags": list(law.flags),
        "ranges": {name: [ends.low, ends.high] for name, ends in law.ranges.items()},
    }


def from_dict(data: Mapping[str, Any], where: str) -> Law:
    """The law that `Law.to_dict` gave, or one of version 1 into which no optimum at an edge of its grid went.

    Raises:
        InputError: the data are no law, of another version, or damaged.
    """
    ours = isinstance(data, Mapping) and data.get("format") == FORMAT
    require(ours, f"{where} is no law: make one with lrlab fit SOURCE --law lr --out {where}")
    version = data.get("version")
    require(version in (1, VERSION), f"{where} has version {version}, not {VERSION}: fit it again")
    try:
        data = _renewed(data, where) if version == 1 else data
        found = Law(
            name=data["name"],
            kind=data["law"],
            estimator=data["estimator"],
            lr=PowerLaw.from_dict(data["lr"]["fit"]) if "lr" in data else None,
            batch=PowerLaw.from_dict(data["batch"]["fit"]) if "batch" in data else None,
            loss=LossLaw.from_dict(data["loss"]["fit"]) if "loss" in data else None,
            penalty=Penalty(**data["penalty"]) if data["penalty"] else None,
            edge=_edge(data["divergence"], int(version or 1)),
            conditions=data["conditions"],
            fixed=data["fixed"],
            source=data["source"],
            rivals=tuple(Rival(**(one | {"outside": tuple(one["outside"])})) for one in data["other_estimators"]),
            notes=_listed(data["notes"]),
        )
        _check(found, data, where)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        told = " ".join(str(error).split())[:120]
        raise InputError(f"{where} is damaged ({type(error).__name__}: {told}): fit it again") from error
    return found


def _check(law: Law, data: Mapping[str, Any], where: str) -> None:
    """Refuse what cannot be a law, and a readable half that says something else than `fit`.

    Raises:
        InputError: naming the number.
    """
    check_types(law, where)
    require(law.kind != "loss" or law.loss is not None, f"{where} is a law of the loss without one: fit it again")
    lacking = [name for name in law.kind.split("+") if getattr(law, name) is None]
    require(not lacking, f"{where} is a law of the {law.kind} without one of the {', '.join(lacking)}: fit it again")
    for name, part in (("lr", law.lr), ("batch", law.batch), ("divergence", law.edge)):
        if part is None:
            continue
        check_power(part, name, where)
        # A number of 0.1.0 is read with other rules, so of its files the law alone is compared.
        names = ("coefficient", "exponents") if data["version"] == 1 else None
        known = power_summary(part)
        check_summary(data[name], {key: known[key] for key in names or known}, name, where)
    if law.loss is not None:
        known = loss_summary(law.loss)
        names = ("form", *law.loss.values()) if data["version"] == 1 else None
        check_summary(data["loss"], {key: known[key] for key in names or known}, "loss", where)
    if "units" in data and data["version"] != 1:
        check_summary(data["units"], UNITS, "units", where)
    if law.penalty is not None:
        sound = (
            law.penalty.lr > 0 and law.penalty.cells > 0 and (law.penalty.batch is None) == (law.penalty.mixed is None)
        )
        require(sound, f"{where}: penalty has a curvature that is none: fit it again")
    bad = [f"{name}={value:g}" for name, value in law.fixed.items() if value <= 0]
    require(not bad, f"{where}: fixed {', '.join(bad)} is not above 0: fit it again")


def _edge(data: Mapping[str, Any] | None, version: int) -> PowerLaw | None:
    """The law of the edge; None also of a file from before there was one, whose edge was half a step too low."""
    if data is None or (version == 1 and (not isinstance(data, Mapping) or "fit" not in data)):
        return None
    return PowerLaw.from_dict(data["fit"])


def _renewed(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A law of version 1, which lrlab 0.1.0 wrote, in this version.

    It took optima at an edge of their grid for exact, so it stands only where it had none.

    Raises:
        InputError: more cells went into it than have their optimum inside.
    """
    found = dict(data)
    for name in ("lr", "batch"):
        if name not in data:
            continue
        part = dict(data[name]["fit"])
        kept = data["estimator"].startswith("near-optimal")
        interior = data["source"]["qualities"].get("interior", 0)
        exact = kept or (data["estimator"] == "surface" and part["cells"] <= interior)
        require(
            exact,
            f"{where} was written by lrlab 0.1.0, which took optima at an edge of their grid for exact "
            f"({part['cells']} cells, {interior} optima inside): fit it again",
        )
        part |= {"schema": POWER_SCHEMA, "bounds": 0, "edges": "keep" if kept else "drop"}
        found[name] = dict(data[name]) | {"fit": part}
    return found


def read(path: Path) -> Law:
    """The law of a file.

    Raises:
        InputError: no such file, not JSON, or no law.
    """
    require(path.is_file(), f"there is no law file {path}: make one with lrlab fit SOURCE --law lr --out {path}")
    try:
        # Numbers of thousands of digits and lists in lists in lists are ValueError and RecursionError.
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unrepeated)
    except _Twice as error:
        raise InputError(f"{path} has {error.args[0]!r} twice in one object: take one out, or fit it again") from error
    except (ValueError, RecursionError) as error:
        told = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is not JSON ({told}): give a file of lrlab fit --out") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file of lrlab fit --out") from error
    require(isinstance(data, dict), f"{path} is no law: give a file of lrlab fit --out")
    return from_dict(data, str(path))


def _listed(value: Any) -> tuple[Any, ...]:
    """A list of a file; a text is none, though its letters could be one."""
    if not isinstance(value, list):
        raise TypeError(f"notes={value!r} is no list")
    return tuple(value)


class _Twice(Exception):
    """A name that stands twice in an object of a file."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dictionary; of two values of one name nobody knows which is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Twice(twice)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
