"""The calculator: from a table of runs to a law of the best learning rate, the best batch, or the loss.

How the batch moves while the rate is optimised makes two laws of the rate: `best`, eta*(N, D) along the batch that is
itself optimal, and `fixed`, eta*(N, D, B) at a given batch.  Their exponents of D differ by about 0.2 on the same runs,
so the rule is stated with the law.

Every law says what the other estimators would have found.  Where their exponents leave the law's interval, the choice
of the estimator matters more than what the interval tells.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.law import Edge, Kind, Law, Penalty, Rival
from analysis.loss.fit import fit_loss_law
from analysis.power.fit import Weights, fit_power_law
from analysis.power.law import PowerLaw
from analysis.runs.optima import BOTH, find_optima, swept
from analysis.runs.source import Runs
from analysis.runs.surface import WINDOW
from analysis.runs.target import Estimator, parse_estimator, targets
from lab.check import InputError, require

BatchRule = Literal["best", "fixed"]
ESTIMATORS = ("surface", "near-optimal:0.25%", "argmin")
_TELLING = 3  # cells with a diverged rate that an edge needs


@dataclass(frozen=True)
class Fit:
    """A law with the table of optima (none for a loss law) and the rows that it was fitted to."""

    law: Law
    optima: pd.DataFrame | None
    rows: pd.DataFrame


def fit(
    runs: Runs,
    kind: Kind,
    *,
    estimator: str = "surface",
    batch_rule: BatchRule | None = None,
    batch_regressors: Sequence[str] | None = None,
    window: float | None = WINDOW,
    draws: int = 400,
    seed: int = 0,
    delta: float = 1e-3,
    form: str = "chinchilla",
) -> Fit:
    """Fit a law to runs.

    Args:
        runs: from `analysis.runs.source.load`.
        kind: lr, batch, lr+batch or loss.
        estimator: `analysis.runs.target`; the loss law takes each size's best run.
        batch_rule: see the module; by default `best` where most sizes were run at three batches or more.
        batch_regressors: of the batch; by default params and tokens, and tokens alone for near-optimal, as its authors
            fit it (Step Law, arXiv 2503.04715).
        window: of surfaces, the loss above the lowest up to which runs count, relative; None for all runs.
        draws, seed: of the cluster bootstrap.
        delta, form: of the loss law (`analysis.loss.fit`).

    Raises:
        InputError: the runs lack a column, an optimum, or more than one size or token count.
    """
    require(
        "variant" not in runs.frame or runs.frame["variant"].nunique() == 1,
        "the runs are of several variants, and each has a law of its own: choose with --where NAME=VALUE "
        f"({'; '.join(map(str, list(dict.fromkeys(runs.frame.get('variant', [])))[:4]))})",
    )
    if kind == "loss":
        return _loss(runs, delta, form, draws, seed)
    rule = _rule(runs, kind, batch_rule)
    return _optimum(runs, kind, parse_estimator(estimator), rule, batch_regressors, window, draws, seed)


def _rule(runs: Runs, kind: Kind, given: BatchRule | None) -> BatchRule:
    found: BatchRule = given or ("best" if kind != "lr" or swept(runs) == BOTH else "fixed")
    require(kind == "lr" or found == "best", f"--law {kind} is about the best batch: leave --batch-rule fixed out")
    require(found == "fixed" or "batch" in runs.frame, "the best batch needs a batch column: add --columns batch=NAME")
    return found


def _optimum(
    runs: Runs,
    kind: Kind,
    rule: Estimator,
    batch_rule: BatchRule,
    batch_regressors: Sequence[str] | None,
    window: float | None,
    draws: int,
    seed: int,
) -> Fit:
    over = BOTH if batch_rule == "best" else ("lr",)
    optima = find_optima(runs, over=over, window=window)
    rows = targets(runs, rule, over=over, found=optima if rule.kind == "surface" else None)
    require(
        bool((rows["censored"] == "").any()),
        f"no cell of {runs.name} has its optimum inside the grid of rates: run lower or higher ones",
    )
    known = [name for name in ("params", "tokens", "batch") if name in rows]
    fixed = {name: float(rows[name].iloc[0]) for name in known if rows[name].nunique() == 1}
    own = [name for name in known if name not in fixed]
    batches = list(batch_regressors or (["tokens"] if rule.kind == "near-optimal" else ["params", "tokens"]))
    regressors = {"lr": own, "batch": [name for name in batches if name not in fixed]}
    responses = [name for name in ("lr", "batch") if name in kind.split("+")]
    laws = {name: _law(rows, name, regressors[name], rule, draws, seed) for name in responses}
    others = [other for other in map(parse_estimator, ESTIMATORS) if other.kind != rule.kind]
    rivals = [rival for other in others for rival in _rivals(runs, other, over, laws.values(), optima)]
    law = Law(
        name=runs.name,
        kind=kind,
        estimator=str(rule),
        lr=laws.get("lr"),
        batch=laws.get("batch"),
        loss=None,
        penalty=_penalty(optima, joint=batch_rule == "best"),
        edge=_edge(runs, optima, joint=batch_rule == "best"),
        conditions=runs.conditions | {"tokens": "D, seen by a run", "batch rule": _BATCH_WORDS[batch_rule]},
        fixed=fixed,
        source=_source(runs, rows, optima),
        rivals=tuple(rivals),
        notes=(*runs.notes, *_notes(rows, laws)),
    )
    return Fit(law, optima, rows)


_BATCH_WORDS = {"best": "rate and batch optimised together", "fixed": "rate optimised at a given batch"}


def _law(rows: pd.DataFrame, name: str, regressors: Sequence[str], rule: Estimator, draws: int, seed: int) -> PowerLaw:
    return fit_power_law(rows, name, regressors, weights=weights_of(rule), draws=draws, seed=seed, estimator=str(rule))


def weights_of(rule: Estimator) -> Weights:
    """How cells weigh in a law: the rules beside surface tell no variances, and their authors fit by ordinary least
    squares."""
    return "mixed" if rule.kind == "surface" else "equal"


def _rivals(
    runs: Runs, rule: Estimator, over: Sequence[str], laws: Iterable[PowerLaw], optima: pd.DataFrame
) -> list[Rival]:
    """What another estimator finds for each law, with its regressors; nothing where it finds none."""
    try:
        rows = targets(runs, rule, over=over, found=optima if rule.kind == "surface" else None)
    except InputError:
        return []
    found = []
    for law in laws:
        with contextlib.suppress(InputError):
            other = _law(rows, law.response, law.regressors, rule, 0, 0)
            outside = tuple(name for name, exponent in other.exponents.items() if _excludes(law, name, exponent))
            found.append(Rival(str(rule), law.response, other.coefficient, other.exponents, outside))
    return found


def _excludes(law: PowerLaw, name: str, exponent: float) -> bool:
    """Whether an exponent lies outside a law's interval; an unknown one excludes nothing."""
    limits = law.interval(name)
    return limits.low is not None and limits.high is not None and not limits.low <= exponent <= limits.high


def _penalty(optima: pd.DataFrame, *, joint: bool) -> Penalty | None:
    """Medians over the interior cells of the curvature relative to the fitted minimum."""
    sound = optima[(optima["quality"] == "interior") & (optima["curvature"] > 0)]
    if sound.empty:
        return None
    lr = sound["curvature"] / sound["loss"]
    if not joint:
        return Penalty(float(lr.median()), None, None, len(sound))
    batch = sound["batch_curvature"] / sound["loss"]
    scale = math.sqrt(float(lr.median()) * float(batch.median()))
    return Penalty(float(lr.median()), float(batch.median()), float(sound["cross"].median()) * scale, len(sound))


def _edge(runs: Runs, optima: pd.DataFrame, *, joint: bool) -> Edge | None:
    """Where runs begin to diverge above their optimum, from curves at fixed batches that saw both."""
    curves = find_optima(runs, over=("lr",)) if joint else optima
    telling = curves[(curves["quality"] == "interior") & (curves["diverged"] > 0)]
    if len(telling) < _TELLING:
        return None
    gaps = np.log(telling["stable"].to_numpy(float) / telling["lr"].to_numpy(float))
    return Edge(float(gaps.mean()), float(gaps.std(ddof=1)), len(gaps))


def _source(runs: Runs, rows: pd.DataFrame, optima: pd.DataFrame) -> dict[str, Any]:
    return {
        "name": runs.name,
        "fingerprint": runs.fingerprint,
        "runs": len(runs.frame),
        "cells": len(optima),
        "qualities": {str(name): int(count) for name, count in optima["quality"].value_counts().items()},
        "left_out": rows.attrs.get("left_out", {}),
        "noise": optima.attrs.get("noise", ""),
    }


def _notes(rows: pd.DataFrame, laws: dict[str, PowerLaw]) -> list[str]:
    lines = [f"law of the {name}: {note}" for name, law in laws.items() for note in law.notes]
    left = rows.attrs.get("left_out", {})
    if left:
        lines.append(f"cells without an optimum: {', '.join(f'{count} {name}' for name, count in left.items())}")
    return lines


def _loss(runs: Runs, delta: float, form: str, draws: int, seed: int) -> Fit:
    frame = runs.frame[runs.frame["status"] == "done"] if "status" in runs.frame else runs.frame
    notes = list(runs.notes)
    rows = frame
    if "lr" in frame:
        rows = frame.loc[frame.groupby(["params", "tokens"])["loss"].idxmin()]
        notes.append(f"best of {len(frame)} runs at each of {len(rows)} sizes and token counts")
    law = fit_loss_law(rows, delta=delta, form=form, draws=draws, seed=seed)
    found = Law(
        name=runs.name,
        kind="loss",
        estimator="best runs" if "lr" in frame else "all runs",
        lr=None,
        batch=None,
        loss=law,
        penalty=None,
        edge=None,
        conditions=runs.conditions,
        fixed={},
        source={"name": runs.name, "fingerprint": runs.fingerprint, "runs": len(runs.frame), "rows": len(rows)},
        notes=tuple(notes),
    )
    return Fit(found, None, rows)
