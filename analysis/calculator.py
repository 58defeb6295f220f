"""The calculator: from a table of runs to a law of the best learning rate, the best batch, or the loss.

How the batch moves while the rate is optimised makes two laws of the rate: `best`, eta*(N, D) along the batch that is
itself optimal, and `fixed`, eta*(N, D, B) at a given batch.  Their exponents of D differ by 0.2 to 0.4 on the same
runs, so the rule is stated with the law.

Every law says what the other estimators would have found, and what it would be with the other way of taking optima at
an edge of their grid.  Where their exponents leave the law's interval, the choice matters more than what the interval
tells.

`fit` makes the law that is written, that `predict` and `train --law` read and `suggest` narrows; `Fit.judge` holds out
cells of the same rows under the same rule.
"""

import contextlib
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.edges import Edges
from analysis.law import Kind, Law, Penalty, Rival
from analysis.loss.fit import fit_loss_law
from analysis.loss.holdout import LossHoldout, hold_outs
from analysis.loss.law import LossLaw
from analysis.noise import Noise, given
from analysis.power.fit import fit_power_law
from analysis.power.holdout import Holdout, leave_one_size_out
from analysis.power.law import PowerLaw
from analysis.runs.boundary import CURVE, boundary
from analysis.runs.lacking import place, reasons
from analysis.runs.least import least_losses
from analysis.runs.node import cells_of, frame_of
from analysis.runs.optima import BOTH, CellOptimum, Optima, locate, swept
from analysis.runs.source import Runs
from analysis.runs.surface import WINDOW
from analysis.runs.target import Estimator, edges_of, parse_estimator, targets
from analysis.target import Targets
from lab.check import InputError, require

BatchRule = Literal["best", "fixed"]
ESTIMATORS = ("surface", "near-optimal:0.25%", "argmin")
_TELLING = 3  # cells with a diverged rate that an edge needs


@dataclass(frozen=True)
class LossOptions:
    """What `fit` passes on to `analysis.loss.fit.fit_loss_law`, whose arguments these are."""

    cluster: str | None = None
    fixed_E: float | None = None
    over: float = 1.0
    seed_sd: float | None = None
    raw: bool = False


@dataclass(frozen=True)
class Fit:
    """A law with the optima and the rows that it was fitted to; of a loss law the runs, and the way to fit them."""

    law: Law
    optima: Optima | None
    rows: Targets | None
    runs: pd.DataFrame | None = None
    refit: Callable[[pd.DataFrame], LossLaw] | None = None

    def __repr__(self) -> str:
        """The law in a few words: all its numbers are hundreds of lines."""
        return f"Fit({self.law!r})"

    def judge_loss(self) -> tuple[list[LossHoldout], list[str]]:
        """The loss law, fitted in the same way to smaller runs, on the larger ones; and what cannot be held out."""
        assert self.runs is not None and self.refit is not None
        return hold_outs(self.runs, self.refit)

    def judge(self, part: PowerLaw) -> Holdout:
        """One of the law's parts on sizes that it has not seen: the same rows, edges and weights, less one size.

        Raises:
            InputError: fewer than four sizes.
        """
        assert self.rows is not None
        return leave_one_size_out(self.rows, part.response, part.regressors)


def fit(
    runs: Runs,
    kind: Kind,
    *,
    estimator: str = "surface",
    edges: Edges | None = None,
    batch_rule: BatchRule | None = None,
    batch_regressors: Sequence[str] | None = None,
    window: float | None = WINDOW,
    draws: int = 400,
    seed: int = 0,
    delta: float = 1e-3,
    form: str = "chinchilla",
    loss: LossOptions = LossOptions(),
    progress: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Fit a law to runs.

    Args:
        runs: from `analysis.runs.source.load`.
        kind: lr, batch, lr+batch or loss.
        estimator: `analysis.runs.target`; the loss law takes each size's least loss (`analysis.runs.least`).
        edges: what becomes of cells whose best rate is at an edge of their grid, `drop` or `censor`; by default
            `analysis.edges.DEFAULT`, and near-optimal keeps them as its authors do (`analysis.runs.target`).
        batch_rule: see the module; by default `best` where most sizes were run at three batches or more.
        batch_regressors: of the batch; by default params and tokens, and tokens alone for near-optimal, as its authors
            fit it (Step Law, arXiv 2503.04715).
        window: of surfaces, the loss above the lowest up to which runs count, relative; None for all runs.
        draws, seed: of the cluster bootstrap.
        delta, form, loss: of the loss law (`analysis.loss.fit`); `loss.seed_sd` is also the noise of optima.
        progress: called with the name of each stage of a loss law as it begins.

    Raises:
        InputError: the runs lack a column, an optimum, or more than one size or token count.
    """
    require(
        "variant" not in runs.frame or runs.frame["variant"].nunique() == 1,
        f"the runs are of several variants, and each has a law of its own: {_choice(runs.frame)}",
    )
    if kind == "loss":
        return _loss(runs, draws, progress, delta=delta, form=form, seed=seed, **vars(loss))
    batch = _rule(runs, kind, batch_rule)
    rule = parse_estimator(estimator)
    noise = None if loss.seed_sd is None else given(loss.seed_sd)
    return _optimum(runs, kind, rule, edges_of(rule, edges), batch, batch_regressors, window, draws, seed, noise)


def _choice(frame: pd.DataFrame) -> str:
    """How to choose one of a frame's variants, as a shell takes it."""
    variants = list(dict.fromkeys(map(str, frame.get("variant", []))))
    if not variants:
        return ""
    # A variant reads `parametrization mup, weight_decay 0.1`.
    conditions = [part.split(" ", 1) for part in variants[0].split(", ")]
    words = " ".join(f"--where {shlex.quote('='.join(one))}" for one in conditions if len(one) == 2)
    return f"choose with {words} ({'; '.join(variants[:4])})"


def _rule(runs: Runs, kind: Kind, given: BatchRule | None) -> BatchRule:
    found: BatchRule = given or ("best" if kind != "lr" or swept(runs) == BOTH else "fixed")
    require(kind == "lr" or found == "best", f"--law {kind} is about the best batch: leave --batch-rule fixed out")
    require(found == "fixed" or "batch" in runs.frame, "the best batch needs a batch column: add --columns batch=NAME")
    return found


def _optimum(
    runs: Runs,
    kind: Kind,
    rule: Estimator,
    edges: Edges,
    batch_rule: BatchRule,
    batch_regressors: Sequence[str] | None,
    window: float | None,
    draws: int,
    seed: int,
    noise: Noise | None,
) -> Fit:
    over = BOTH if batch_rule == "best" else ("lr",)
    optima = locate(runs, over=over, window=window, noise=noise)
    if rule.kind == "surface":
        _require_some(runs, optima)
    rows = targets(runs, rule, over=over, edges=edges, found=optima if rule.kind == "surface" else None)
    require(
        bool(rows.points()),
        f"no cell of {runs.name} has its optimum inside the grid of rates ({len(rows.bounds())} bounds): run lower or "
        "higher ones",
    )
    known = [name for name in ("params", "tokens", "batch") if rows.has(name)]
    values = {name: {row.at[name] for row in rows.rows} for name in known}
    batches = list(batch_regressors or (["tokens"] if rule.kind == "near-optimal" else ["params", "tokens"]))
    regressors = {"lr": known, "batch": batches}
    responses = [name for name in ("lr", "batch") if name in kind.split("+")]
    varied = {name: [one for one in regressors[name] if len(values[one]) > 1] for name in responses}
    laws = {name: fit_power_law(rows, name, varied[name], draws=draws, seed=seed) for name in responses}
    _require_more(laws.values(), optima)
    left = rows.rows if all(law.edges == "censor" for law in laws.values()) else rows.points()
    fixed = {name: left[0].at[name] for name in known if len({row.at[name] for row in left}) == 1}
    rivals = _ways(rows, laws.values())
    others = [other for other in map(parse_estimator, ESTIMATORS) if other.kind != rule.kind]
    for other in others:
        way = None if "near-optimal" in (rule.kind, other.kind) else edges
        rivals += _rivals(runs, other, over, way, laws.values(), optima)
    law = Law(
        name=runs.name,
        kind=kind,
        estimator=str(rule),
        lr=laws.get("lr"),
        batch=laws.get("batch"),
        loss=None,
        penalty=_penalty(optima),
        edge=_edge(runs, optima, laws, seed),
        conditions=runs.conditions | {"tokens": "D, seen by a run", "batch rule": _BATCH_WORDS[batch_rule]},
        fixed=fixed,
        source=_source(runs, rows, optima),
        rivals=tuple(rivals),
        notes=(*runs.notes, *_notes(rows, laws)),
    )
    return Fit(law, optima, rows)


def _require_some(runs: Runs, optima: Optima) -> None:
    """Refuse runs without an optimum or a bound, and say why there is none and which rates to run."""
    if not optima.interior and not any(math.isfinite(cell.edge.bound) for cell in optima.cells):
        counts = ", ".join(f"{count} {name}" for name, count in optima.qualities.items())
        why = reasons(cells_of(frame_of(runs), joint=optima.joint), optima.cells)
        require(False, f"no cell has an optimum to fit a law to ({counts}); noise: {optima.noise}; {why}")


def _require_more(laws: Iterable[PowerLaw], optima: Optima) -> None:
    """Refuse a law that passes through its cells whatever they are: as many coefficients as optima."""
    for law in laws:
        if law.cells > len(law.coefficients):
            continue
        what = " and ".join(["a constant", *(f"the exponent of {name}" for name in law.regressors)])
        known = [f"{_at(cell, law.response):.4g} at {place(cell)}" for cell in optima.interior[:4]]
        more = " ..." if len(optima.interior) > 4 else ""
        told = f"; the optima: {'; '.join(known)}{more}" if known else ""
        require(
            False,
            f"no law of the {law.response}: {law.counts}, as many coefficients as cells ({what}), so nothing is left "
            f"to tell how far they hold: run more sizes or token counts{told}",
        )


def _at(cell: CellOptimum, response: str) -> float:
    """The optimum of an interior cell."""
    found = cell.lr if response == "lr" else cell.batch
    return math.nan if found is None else found.value


_BATCH_WORDS = {"best": "rate and batch optimised together", "fixed": "rate optimised at a given batch"}


def _ways(rows: Targets, laws: Iterable[PowerLaw]) -> list[Rival]:
    """What each law would be if bounds were dropped where they entered, or entered where they were dropped."""
    others: dict[str, Edges] = {"drop": "censor", "censor": "drop", "keep": "drop"}
    if rows.estimator.startswith("near-optimal"):
        others["drop"] = "keep"
    found = []
    for law in laws:
        if law.bounds:
            way = others[law.edges]
            found += _compared(replace(rows, edges=way), law, f"edges {way}")
    return found


def _rivals(
    runs: Runs, rule: Estimator, over: Sequence[str], edges: Edges | None, laws: Iterable[PowerLaw], optima: Optima
) -> list[Rival]:
    """What another estimator finds for each law, with its regressors; nothing where it finds none."""
    try:
        rows = targets(runs, rule, over=over, edges=edges, found=optima if rule.kind == "surface" else None)
    except InputError:
        return []
    return [rival for law in laws for rival in _compared(rows, law, str(rule))]


def _compared(rows: Targets, law: PowerLaw, name: str) -> list[Rival]:
    """A law of other rows beside a law; nothing where the rows give none, or the same."""
    with contextlib.suppress(InputError):
        other = fit_power_law(rows, law.response, law.regressors, draws=0, curved=False)
        if name.startswith("edges") and other.edges == law.edges:
            return []
        outside = tuple(name for name, exponent in other.exponents.items() if _excludes(law, name, exponent))
        return [Rival(name, law.response, other.coefficient, other.exponents, outside)]
    return []


def _excludes(law: PowerLaw, name: str, exponent: float) -> bool:
    """Whether an exponent lies outside a law's interval; an unknown one excludes nothing."""
    limits = law.interval(name)
    return limits.low is not None and limits.high is not None and not limits.low <= exponent <= limits.high


def _penalty(optima: Optima) -> Penalty | None:
    """Medians over the interior cells of the curvature relative to the fitted minimum."""
    sound = [cell for cell in optima.interior if cell.curvature > 0]
    if not sound:
        return None
    lr = float(np.median([cell.curvature / cell.loss for cell in sound]))
    surfaces = [(cell.surface, cell.loss) for cell in sound if cell.surface is not None]
    if not surfaces:
        return Penalty(lr, None, None, len(sound))
    batch = float(np.median([float(surface.hessian[1, 1]) / loss for surface, loss in surfaces]))
    mixed = float(np.median([surface.cross for surface, _ in surfaces])) * math.sqrt(lr * batch)
    return Penalty(lr, batch, mixed, len(sound))


def _edge(runs: Runs, optima: Optima, laws: dict[str, PowerLaw], seed: int) -> PowerLaw | None:
    """The law of the rate above which runs diverge, over the regressors of the law of the rate and the batch."""
    if "lr" not in laws:
        return None
    along = optima.joint and "batch" not in laws
    rows = boundary(frame_of(runs), optima, along=along)
    if len(rows.points()) < _TELLING:
        return None
    names = [name for name in ("params", "tokens", "batch") if rows.has(name)]
    varied = [name for name in names if len({row.at[name] for row in rows.rows}) > 1]
    return fit_power_law(rows, "lr", varied, cluster=CURVE, draws=0, seed=seed, curved=False)


def _source(runs: Runs, rows: Targets, optima: Optima) -> dict[str, Any]:
    return {
        "name": runs.name,
        "fingerprint": runs.fingerprint,
        "runs": len(runs.frame),
        "cells": len(optima.cells),
        "qualities": optima.qualities,
        "left_out": dict(rows.left_out),
        "noise": optima.noise,
    }


def _notes(rows: Targets, laws: dict[str, PowerLaw]) -> list[str]:
    lines = [f"law of the {name}: {note}" for name, law in laws.items() for note in law.notes]
    if rows.left_out:
        told = ", ".join(f"{count} {name}" for name, count in rows.left_out.items())
        lines.append(f"cells with neither an optimum nor a bound: {told}")
    return lines


def _loss(runs: Runs, draws: int, progress: Callable[[str], None], **options: Any) -> Fit:
    least = least_losses(runs)
    cluster = options["cluster"]
    require(
        cluster is None or cluster in least.frame or cluster not in runs.frame,
        f"cluster={cluster} differs between runs of one size and token count, whose least loss is one row: give a "
        "column that does not, as in params",
    )
    refit = partial(fit_loss_law, draws=draws, **options)
    law = refit(least.frame, progress=progress)
    found = Law(
        name=runs.name,
        kind="loss",
        estimator=least.estimator,
        lr=None,
        batch=None,
        loss=law,
        penalty=None,
        edge=None,
        conditions=runs.conditions,
        fixed={},
        source={"name": runs.name, "fingerprint": runs.fingerprint, "runs": len(runs.frame), "rows": law.rows},
        notes=(*runs.notes, *least.notes),
    )
    return Fit(found, None, None, least.frame, refit)
