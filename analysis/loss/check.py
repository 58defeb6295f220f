"""Whether given numbers of a loss law are a converged optimum of an objective, whoever found them.

Optimizers stop early where their tolerance is absolute and the objective is near 1e-3, or its mean over rows near 1e-6:
they report success, some at the very place where they started.  The test is not whether numbers agree with others,
but whether a search that starts from them, and from the whole grid of starts, finds a lower objective.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.loss.form import TERMS, fitted_vector
from analysis.loss.law import LossLaw
from analysis.loss.objective import values
from analysis.loss.search import AGREE, DELTA, prepared, promise, rounding, same, search


@dataclass(frozen=True)
class Verdict:
    """Whether numbers are an optimum: the objective there, the lowest one known, and reasons where they are not."""

    converged: bool
    objective: float
    lowest: float
    reasons: tuple[str, ...]


def check(
    frame: pd.DataFrame,
    law: LossLaw | Mapping[str, float | None],
    delta: float | None = None,
    *,
    form: str | None = None,
    fixed_E: float | None = None,
    over: float | None = None,
    raw: bool | None = None,
) -> Verdict:
    """The verdict on a law, or on E, A, B, alpha and beta by name, for the rows of `frame` (params, tokens, loss).

    Options that are None come from the law, or are the defaults of `analysis.loss.fit.fit_loss_law`.

    Raises:
        InputError: for columns, rows, options or numbers that cannot be.
    """
    known = law if isinstance(law, LossLaw) else None
    if known:
        delta = known.delta if delta is None else delta
        fixed_E = known.fixed_E if fixed_E is None else fixed_E
        over = known.over if over is None else over
        raw = known.raw if raw is None else raw
    delta, over = DELTA if delta is None else delta, 1.0 if over is None else over
    _, goal = prepared(frame, delta, form or (known.form if known else "chinchilla"), None, fixed_E, over, bool(raw))
    given = law.values() if isinstance(law, LossLaw) else law
    given_P = fitted_vector(goal.shape, given)
    value_M = values(goal, given_P[None], np.ones((1, goal.shape.rows)))
    value = float(value_M[0])
    lowest = min(value, float(search(goal, given_P[None]).value_M.min()))
    reasons = []
    if not same(goal, value_M, lowest)[0]:
        excess = f"{100 * (value / lowest - 1):.2g} % above" if lowest > rounding(goal) else "above"
        reasons.append(f"not converged: objective {value:.8g} is {excess} {lowest:.8g}, which other starts reach")
    gain = promise(goal, given_P)
    if gain > AGREE:
        reasons.append(f"not converged: the next step promises to lower the objective by {100 * gain:.2g} %")
    beyond_P = (given_P <= goal.shape.lower_P) | (given_P >= goal.shape.upper_P)
    reasons += [
        f"{TERMS[name]} is on a bound or beyond" for name, out in zip(goal.shape.names, beyond_P, strict=True) if out
    ]
    return Verdict(not reasons, value, lowest, tuple(reasons))
