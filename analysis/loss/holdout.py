"""A loss law judged on runs larger than those it is fitted to.

Of the distinct sizes, token counts and budgets N D the largest third is left out in turn, the law is fitted to the
rest, and asked for what was left out.  Its rival is the straight line in logs, ordinary least squares of ln L on ln N
and ln D with the prediction interval of independent runs.  Intervals are scored by `analysis.power.holdout.winkler` in
ln L.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.loss.law import LossLaw
from analysis.power.holdout import winkler
from lab.check import InputError, require

SHARE = 1 / 3  # of the distinct values that are left out
SAME = 0.03  # difference of logs up to which values are one
LEAST_ROWS, LEAST_VALUES = 8, 3  # that are left to fit
PROTOCOLS = ("sizes", "token counts", "budgets")


@dataclass(frozen=True)
class LossHoldout:
    """What was found at the largest `protocol` (sizes, token counts or budgets).

    `rows` has a row per run left out and method (law, logs): `method`, `params`, `tokens`, `actual`, `predicted`,
    `low`, `high` in nats per token (nan: open), `score` of the interval in ln L.  `fitted` counts the runs behind the
    laws.
    """

    protocol: str
    fitted: int
    rows: pd.DataFrame

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """Per method: `rms`, the relative error; `covered`; `width`, the median of ln(high / low); `score`, the mean;
        `ratio` of the score to that of logs."""
        found: dict[str, dict[str, float]] = {}
        for method, part in self.rows.groupby("method", sort=False):
            error = part["predicted"] / part["actual"] - 1
            width = np.log((part["high"] / part["low"]).to_numpy(float))
            found[str(method)] = {
                "rms": math.sqrt(float((error**2).mean())),
                "covered": float(part["covered"].mean()),
                "width": float(np.median(np.where(np.isnan(width), math.inf, width))),
                "score": float(part["score"].mean()),
            }
        for one in found.values():
            one["ratio"] = one["score"] / found["logs"]["score"]
        return found


def larger(frame: pd.DataFrame, protocol: str, share: float = SHARE) -> np.ndarray:
    """Which rows belong to the largest `share` of the distinct sizes, token counts or budgets, [C]."""
    n, d = (np.log(frame[name].to_numpy(float)) for name in ("params", "tokens"))
    values = {"sizes": n, "token counts": d, "budgets": n + d}[protocol]
    order = np.sort(values)
    starts = np.concatenate([order[:1], order[1:][np.diff(order) > SAME]])
    first = starts[-max(1, round(share * len(starts)))]
    return values >= first - 1e-9


def hold_out(
    frame: pd.DataFrame, law: Callable[[pd.DataFrame], LossLaw], protocol: str, share: float = SHARE
) -> LossHoldout:
    """The rows of `frame` (params, tokens, loss) that are larger predicted by `law` of the others.

    Raises:
        InputError: fewer than eight rows, three sizes or three token counts are left to fit.
    """
    require(protocol in PROTOCOLS, f"protocol={protocol} is not one of {', '.join(PROTOCOLS)}")
    new_C = larger(frame, protocol, share)
    seen, new = frame[~new_C], frame[new_C]
    counts = [len(np.unique(np.round(np.log(seen[name].to_numpy(float)) / SAME))) for name in ("params", "tokens")]
    require(
        len(seen) >= LEAST_ROWS and min(counts) >= LEAST_VALUES,
        f"without the largest {protocol}, {len(seen)} rows of {counts[0]} sizes and {counts[1]} token counts are left: "
        f"a law needs {LEAST_ROWS} rows and {LEAST_VALUES} of each",
    )
    place = {"params": new["params"].to_numpy(float), "tokens": new["tokens"].to_numpy(float)}
    actual = new["loss"].to_numpy(float)
    parts = []
    for method, limits in (("law", law(seen).predict(*place.values())), ("logs", logs(seen, new))):
        predicted, low, high = limits
        inside = ~(low > actual) & ~(high < actual)
        known = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore"):
            score = np.where(known, winkler(np.log(actual), np.log(low), np.log(high)), math.inf)
        told = {"actual": actual, "predicted": predicted, "low": low, "high": high, "covered": inside, "score": score}
        parts.append(pd.DataFrame({"method": method, **place, **told}))
    return LossHoldout(protocol, len(seen), pd.concat(parts, ignore_index=True))


def hold_outs(frame: pd.DataFrame, law: Callable[[pd.DataFrame], LossLaw]) -> tuple[list[LossHoldout], list[str]]:
    """Every protocol that the rows allow, and why for the others."""
    found, notes = [], []
    for protocol in PROTOCOLS:
        try:
            found.append(hold_out(frame, law, protocol))
        except InputError as error:
            notes.append(str(error))
    return found, notes


def logs(seen: pd.DataFrame, new: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prediction, low, high) of ordinary least squares of ln L on ln N and ln D, nats per token."""
    n, d, y = (np.log(seen[name].to_numpy(float)) for name in ("params", "tokens", "loss"))
    design = np.column_stack([np.ones_like(n), n - n.mean(), d - d.mean()])
    places = [np.log(new[name].to_numpy(float)) - other.mean() for name, other in (("params", n), ("tokens", d))]
    there = np.column_stack([np.ones(len(new)), *places])
    plain = np.linalg.pinv(design)
    coefficients, freedom = plain @ y, len(y) - int(np.linalg.matrix_rank(design))
    left = y - design @ coefficients
    sd = np.sqrt(float(left @ left) / freedom * (1 + ((there @ plain) ** 2).sum(axis=1)))
    half = float(stats.t.ppf(0.975, freedom)) * sd
    middle = there @ coefficients
    return np.exp(middle), np.exp(middle - half), np.exp(middle + half)
