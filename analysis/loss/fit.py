"""Fitting a loss law L(N, D) to final losses, so that what is not determined or not converged is said.

The starts come from a grid of 32 x 32 exponents with the constants that fit best (`analysis.loss.start`).  They are
searched to their ends by Newton's method with exact derivatives (`analysis.loss.newton`), or, for delta = 0, by linear
programs (`analysis.loss.deviation`).  A fit has converged where at least three starts end within 1e-6 of the lowest
objective, no further fall is promised there, and no number rests on a bound; `analysis.loss.check` asks the same of
numbers from elsewhere.

The default delta of 1e-3, log residuals and the sum of losses are those of Hoffmann et al. (arXiv 2203.15556, Eq. 3).

Suffixes of arrays: M starts, S starts of resamples, C rows, P fitted numbers, Z the PARAMETERS (E, A, B, alpha, beta).
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.loss.adequacy import lack_of_fit, misfit
from analysis.loss.bootstrap import CONVERGED, Refits, bootstrap
from analysis.loss.form import TERMS, Surface, parameters
from analysis.loss.law import PARAMETERS, Alternative, LackOfFit, LossLaw, Range, Status
from analysis.loss.newton import minimise
from analysis.loss.objective import Objective, residuals
from analysis.loss.profile import Profile, condition, profiles
from analysis.loss.rows import Rows, undetermined
from analysis.loss.search import DELTA, prepared, same, search

SENSITIVITY = (1e-4, 1e-2, math.inf)
LEAST_AGREEING = 3
ILL_CONDITIONED = 1e5  # of `condition`: one direction is 300 times less determined than another
RARE = 0.025  # share of resamples on a bound, or without an end, beyond which it is said


@dataclass(frozen=True)
class _Optimum:
    """The best end: theta [P], the objective, what a step still promises, bounds [P], starts and those that agree."""

    theta_P: np.ndarray
    value: float
    decrement: float
    bound_P: np.ndarray
    starts: int
    agreeing: int


def fit_loss_law(
    frame: pd.DataFrame,
    *,
    delta: float = DELTA,
    form: str = "chinchilla",
    cluster: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    fixed_E: float | None = None,
    over: float = 1.0,
    seed_sd: float | None = None,
    raw: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> LossLaw:
    """The loss law of the rows of `frame` (columns `params`, `tokens` and `loss` in nats per token).

    Args:
        delta: Huber's threshold in log loss; 0 for least absolute deviations, inf for least squares.
        form: one of `analysis.loss.form`: chinchilla, tied, kaplan, tokens, params.
        cluster: column whose values are resampled as a whole: the run where rows are checkpoints, or the size.
        draws: resamples behind the intervals; 0 for none.
        seed: of the resamples.
        fixed_E: an asymptote that is known, nats per token; 0 for none.
        over: how much more an over-predicted row counts than an under-predicted one; 10 gives a lower envelope.
        seed_sd: seed noise in nats per token to redraw instead of rows.
        raw: residuals in nats per token instead of log loss, `delta` too: the larger losses then count for more.
        progress: called with the name of each stage as it begins.

    Raises:
        InputError: for columns, rows or options that cannot be.
    """
    rows, goal = prepared(frame, delta, form, cluster, fixed_E, over, raw)
    progress(f"search over {goal.shape.rows} rows")
    best = _optimum(goal)
    others = _other_deltas(goal, best.theta_P)
    number = condition(goal, best.theta_P)
    unknown = _undetermined(rows, goal, number)
    progress(f"{0 if unknown else draws} resamples")
    refits = bootstrap(
        goal,
        np.stack([best.theta_P, *(theta_P for _, theta_P, _ in others)]),
        rows.cluster_C,
        cluster=cluster,
        draws=0 if unknown else draws,
        seed=seed,
        seed_sd=seed_sd,
    )
    progress("profiles")
    found = [] if unknown else profiles(goal, best.theta_P)
    unconverged = _unconverged(best)
    unknown += _unbounded(goal.shape, best, found, refits)
    lacking = lack_of_fit(rows, goal, best.theta_P)
    law = LossLaw(
        form=form,
        **_named(goal.shape, best.theta_P),
        delta=goal.delta,
        objective=best.value,
        converged=not unconverged and not best.bound_P.any(),
        status=_status(unknown, unconverged, lacking),
        flags=(),
        condition=number,
        starts=best.starts,
        agreeing=best.agreeing,
        rows=goal.shape.rows,
        spread=_spread(goal, best.theta_P),
        ranges=_ranges(rows),
        sensitivity=_alternatives(goal, others),
        profile={one.name: (one.low, one.high) for one in found},
        resampling=refits.resampling,
        draws=_draws(goal.shape, refits),
        over=goal.over,
        fixed_E=goal.shape.fixed_E,
        raw=goal.raw,
        failed=refits.failed,
        misfit=misfit(rows, goal, best.theta_P),
        lack_of_fit=lacking,
    )
    lack = [f"lack of fit: {lacking.words}"] if lacking is not None and lacking.found else []
    flags = (*unconverged, *unknown, *lack, *_moved(law), *_failed(refits), *rows.notes)
    return dataclasses.replace(law, flags=flags)


def _alternatives(goal: Objective, others: list[tuple[float, np.ndarray, float]]) -> tuple[Alternative, ...]:
    return tuple(Alternative(delta=delta, objective=value, **_named(goal.shape, x_P)) for delta, x_P, value in others)


def _status(unknown: list[str], unconverged: list[str], lacking: LackOfFit | None) -> Status:
    if unknown:
        return "unidentifiable"
    if unconverged:
        return "not converged"
    return "ill-fitting" if lacking is not None and lacking.found else "ok"


def _optimum(goal: Objective) -> _Optimum:
    ends = search(goal)
    at = int(np.argmin(ends.value_M))
    agreeing = int(same(goal, ends.value_M, float(ends.value_M[at])).sum())
    return _Optimum(
        theta_P=ends.theta_MP[at],
        value=float(ends.value_M[at]),
        decrement=float(ends.decrement_M[at]),
        bound_P=ends.bound_MP[at],
        starts=len(ends.value_M),
        agreeing=agreeing,
    )


def _other_deltas(goal: Objective, theta_P: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
    """(delta, optimum, objective) for the other deltas that every fit reports."""
    found, ones_1C = [], np.ones((1, goal.shape.rows))
    for delta in SENSITIVITY:
        if delta != goal.delta:
            end = minimise(dataclasses.replace(goal, delta=delta), theta_P[None], ones_1C)
            found.append((delta, end.theta_MP[0], float(end.value_M[0])))
    return found


def _named(shape: Surface, theta_P: np.ndarray) -> dict[str, float | None]:
    """PARAMETERS by name, None for those that the form lacks."""
    values_Z = parameters(shape, theta_P[None])[0]
    return {name: _number(value) for name, value in zip(PARAMETERS, values_Z.tolist(), strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _draws(shape: Surface, refits: Refits) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(map(_number, one)) for one in parameters(shape, refits.theta_RP).tolist())


def _ranges(rows: Rows) -> dict[str, Range]:
    columns = {"params": rows.params_C, "tokens": rows.tokens_C, "loss": rows.loss_C}
    return {name: Range(float(values_C.min()), float(values_C.max())) for name, values_C in columns.items()}


def _spread(goal: Objective, theta_P: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the log residuals, widened for the numbers that were fitted to them."""
    r_C = residuals(goal, theta_P[None])[0]
    free = len(r_C) - len(theta_P)
    low, high = np.percentile(r_C, [2.5, 97.5]) * math.sqrt(len(r_C) / max(free, 1))
    return float(low), float(high)


def _unconverged(best: _Optimum) -> list[str]:
    """What the search failed to show, in words."""
    found = []
    if best.decrement > CONVERGED:
        found.append(f"not converged: one more step promises to lower the objective by {best.decrement:.1e} of it")
    if best.agreeing < LEAST_AGREEING:
        found.append(
            f"not converged: {best.agreeing} of {best.starts} starts reach the lowest objective, {LEAST_AGREEING} must"
        )
    return found


def _undetermined(rows: Rows, goal: Objective, number: float) -> list[str]:
    """What no losses at these sizes and tokens could determine, in words."""
    flags = undetermined(rows, goal.shape.form, goal.shape.fixed_E is not None, len(goal.shape.names))
    if number > ILL_CONDITIONED:
        flags.append(
            f"condition number {number:.1e} is above {ILL_CONDITIONED:.0e}: numbers trade off against each other, so "
            "there are no intervals"
        )
    return flags


def _unbounded(shape: Surface, best: _Optimum, found: list[Profile], refits: Refits) -> list[str]:
    """Numbers that these losses leave open, in words."""
    flags = [f"{TERMS[name]} rests on a bound" for name, on in zip(shape.names, best.bound_P, strict=True) if on]
    for one in found:
        sides = [side for side, end in (("below", one.low), ("above", one.high)) if end is None]
        if sides:
            flags.append(f"{one.name} has no 95 % limit {' or '.join(sides)}: its profile stays flat")
    if len(refits.bound_RP):
        shares = refits.bound_RP.mean(axis=0).tolist()
        flags += [
            f"{TERMS[name]} rests on a bound in {share:.0%} of the resamples"
            for name, share in zip(shape.names, shares, strict=True)
            if share > RARE
        ]
    return flags


def _moved(law: LossLaw) -> list[str]:
    """Exponents that depend on delta by more than their interval is wide."""
    found = []
    for name in ("alpha", "beta"):
        low, high = law.interval(name)
        given = [value for one in (law, *law.sensitivity) if (value := getattr(one, name)) is not None]
        if given and max(given) - min(given) > high - low:
            found.append(
                f"{name} goes from {min(given):.3f} to {max(given):.3f} with delta, more than its interval is wide: "
                "the choice of delta decides"
            )
    return found


def _failed(refits: Refits) -> list[str]:
    draws = refits.failed + len(refits.theta_RP)
    if refits.failed <= RARE * draws:
        return []
    return [f"{refits.failed} of {draws} resamples did not converge and count as beyond either end of the intervals"]
