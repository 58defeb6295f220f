"""Whether a fitted loss law lacks something: the F test of quadratic terms in ln N and ln D added to it.

The residuals of ln L are regressed on J = d ln L / d theta, and again on J with u^2, u v and v^2, u and v being the
centred ln N and ln D.  With squares R0 and R1 left, k more columns and f degrees of freedom,

    F = (R0 - R1) / k / (R1 / f)

follows F(k, f) where the law is right and the noise normal; (R0 - R1) / R0 is the share of the residual variance that
is no noise.  Thousands of rows find the smallest misfit significant, so a law is called ill-fitting only where that
share is more than half: where what is left about the law is misfit more than noise.

Suffixes of arrays: C rows, P fitted numbers.
"""

import numpy as np
from scipy import stats

from analysis.loss.law import LackOfFit
from analysis.loss.misfit import SINGULAR, Misfit, grouped
from analysis.loss.objective import Objective, jacobian, residuals
from analysis.loss.rows import Rows


def lack_of_fit(rows: Rows, goal: Objective, theta_P: np.ndarray) -> LackOfFit | None:
    """The test at the optimum; None where rows are too few for it, or the law passes through all of them."""
    r_C = residuals(goal, theta_P[None])[0]
    plain = _unit(jacobian(goal.shape, theta_P[None])[0])
    u_C, v_C = (logs - logs.mean() for logs in (np.log(rows.params_C), np.log(rows.tokens_C)))
    more = np.concatenate([plain, _unit(np.stack([u_C**2, u_C * v_C, v_C**2]))])
    (before, rank), (after, whole) = _left(plain, r_C), _left(more, r_C)
    terms, freedom = whole - rank, len(r_C) - whole
    if terms < 1 or freedom < 1 or before <= 2e4 * goal.floor * len(r_C):
        return None
    statistic = max(before - after, 0.0) / terms / max(after / freedom, 1e-300)
    p = float(stats.f.sf(statistic, terms, freedom))
    return LackOfFit(float(statistic), int(terms), int(freedom), p, float(max(before - after, 0.0) / before))


def misfit(rows: Rows, goal: Objective, theta_P: np.ndarray) -> Misfit | None:
    """What intervals of predictions rest on; None where no degrees of freedom are left."""
    r_C = residuals(goal, theta_P[None])[0]
    rank = _left(_unit(jacobian(goal.shape, theta_P[None])[0]), r_C)[1]
    freedom = len(r_C) - rank
    if freedom < 1:
        return None
    n, d, r, count, within = grouped(np.log(rows.params_C), np.log(rows.tokens_C), r_C)
    return Misfit(
        log_params=tuple(n.tolist()),
        log_tokens=tuple(d.tolist()),
        residual=tuple(r.tolist()),
        count=tuple(count.tolist()),
        within=within,
        freedom=freedom,
        quantile=float(stats.t.ppf(0.975, freedom)),
        fixed_E=goal.shape.fixed_E is not None,
    )


def _unit(columns: np.ndarray) -> np.ndarray:
    """Columns of unit length; those that vanish stay 0."""
    length = np.linalg.norm(columns, axis=1, keepdims=True)
    return columns / np.where(length > 0, length, 1.0)


def _left(columns: np.ndarray, r_C: np.ndarray) -> tuple[float, int]:
    """(sum of squares that least squares on the columns leaves, their rank)."""
    found, _, rank, _ = np.linalg.lstsq(columns.T, r_C, rcond=SINGULAR)
    left_C = r_C - columns.T @ found
    return float(left_C @ left_C), int(rank)
