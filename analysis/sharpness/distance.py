"""Distances to the largest size: `S_N(t) - S_inf(t)`, signed seed means, and whether they stay within a margin.

The largest size that was measured stands for the infinite one ("Why do Learning Rates Transfer?", arXiv 2402.17457,
section 4); its noise is in every distance.  The relative distance is

    r_N(t) = (mean_s S_N - mean_s S_inf) / |mean_s S_inf|

with the standard error of its linearisation, `z = S_N / |m|` against `z_inf = (S_inf + r |S_inf|) / |m|`.  Seeds of two
sizes are independent: another initialisation each (Welch's standard error, the freedom of Satterthwaite 1946).
`paired` takes the difference seed by seed instead, for runs that share what makes seeds differ.

Verdicts are by a 90 % interval of r at each step: within the margin it is a two one-sided test of equivalence at 5 %
(Schuirmann 1987); `differs` where it lies beyond the margin on one side.  A curve as a whole is

    consistent   if it is at every step t > 0: an intersection-union test, at 5 % without a correction (Berger 1982);
    differs      if Simes' test over the steps rejects, at 5 %, that r is at most the margin, or at least minus it: the
                 steps of a curve depend on one another positively, for which Simes holds (Sarkar 1998), and a lasting
                 distance does not pay for the number of steps as it would with Bonferroni;
    undecided    otherwise, among others wherever a size has one seed.

Step 0 is left out of the verdict of a curve: there r is a property of the initialisation alone, and for Adam of a
preconditioner that has seen one gradient.

Suffixes of arrays: S seeds, T steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

MARGIN = 0.1  # of S_inf
LEVEL = 0.05  # one-sided; the interval that it belongs to is at 90 %

Verdict = Literal["consistent", "differs", "undecided"]


@dataclass(frozen=True)
class Distance:
    """Distances of one size to the largest at the steps `steps_T`.

    `signed_T` and its standard error `error_T` are in the units of the quantity, `relative_T` with its 90 % interval is
    in units of S_inf.  `threshold_T` is what |signed_T| has to exceed to be above the noise at 95 %.  `above_T` and
    `below_T` are one-sided p-values of r > margin and r < -margin.  `mean` is r averaged over the steps t > 0, with
    standard error and freedom from the seeds' averages.
    """

    size: Any
    proxy: Any
    steps_T: np.ndarray
    signed_T: np.ndarray
    error_T: np.ndarray
    threshold_T: np.ndarray
    relative_T: np.ndarray
    relative_error_T: np.ndarray
    freedom_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    above_T: np.ndarray
    below_T: np.ndarray
    mean: tuple[float, float, float]
    verdicts: tuple[Verdict, ...]
    verdict: Verdict

    @property
    def largest(self) -> int:
        """The step, as a place, of the largest |r| at t > 0."""
        return int(np.argmax(np.where(self.steps_T > 0, np.abs(self.relative_T), -1.0)))


@dataclass(frozen=True)
class Contrast:
    """`r_a - r_b` of two groups at one size, with 95 % intervals: at each step, and (value, low, high) of the mean."""

    steps_T: np.ndarray
    value_T: np.ndarray
    low_T: np.ndarray
    high_T: np.ndarray
    mean: tuple[float, float, float]


def distance(
    sizes: tuple[Any, Any],
    steps_T: np.ndarray,
    values_ST: np.ndarray,
    proxy_ST: np.ndarray,
    *,
    scale_ST: np.ndarray | None = None,
    margin: float = MARGIN,
    paired: bool = False,
) -> Distance:
    """The distance of `values_ST` to `proxy_ST`; `sizes` are theirs.

    `scale_ST` replaces S_inf as the unit of r: for the change since initialisation it is S_inf itself, since the change
    starts at 0.  Without `paired` the two may have different numbers of seeds.
    """
    scale_ST = proxy_ST if scale_ST is None else scale_ST
    level_T = scale_ST.mean(axis=0)
    unit_T = np.where(level_T == 0, np.nan, np.abs(level_T))
    signed_T = values_ST.mean(axis=0) - proxy_ST.mean(axis=0)
    relative_T = signed_T / unit_T
    left_ST = values_ST / unit_T
    right_ST = (proxy_ST + relative_T * np.sign(level_T) * scale_ST) / unit_T
    error_T, freedom_T = standard_error(values_ST, proxy_ST, paired)
    relative_error_T, relative_freedom_T = standard_error(left_ST, right_ST, paired)
    half_T = stats.t.ppf(1 - LEVEL, relative_freedom_T) * relative_error_T
    above_T = _p_value(relative_T - margin, relative_error_T, relative_freedom_T)
    below_T = _p_value(-margin - relative_T, relative_error_T, relative_freedom_T)
    verdicts: tuple[Verdict, ...] = tuple(
        judge(low, high, margin) for low, high in zip(relative_T - half_T, relative_T + half_T, strict=True)
    )
    later_T = steps_T > 0
    return Distance(
        size=sizes[0],
        proxy=sizes[1],
        steps_T=steps_T,
        signed_T=signed_T,
        error_T=error_T,
        threshold_T=stats.t.ppf(0.975, freedom_T) * error_T,
        relative_T=relative_T,
        relative_error_T=relative_error_T,
        freedom_T=relative_freedom_T,
        low_T=relative_T - half_T,
        high_T=relative_T + half_T,
        above_T=above_T,
        below_T=below_T,
        mean=_mean(relative_T[later_T], left_ST[:, later_T], right_ST[:, later_T], paired),
        verdicts=verdicts,
        verdict=judge_curve([verdicts], [(above_T, below_T)], later_T),
    )


def judge(low: float, high: float, margin: float) -> Verdict:
    """`consistent` where the interval lies within +-margin, `differs` where beyond it on one side."""
    if -margin < low and high < margin:
        return "consistent"
    return "differs" if low > margin or high < -margin else "undecided"


def judge_curve(
    verdicts: Sequence[Sequence[Verdict]], p_values: Sequence[tuple[np.ndarray, np.ndarray]], judged_T: np.ndarray
) -> Verdict:
    """The verdict of whole curves, of one size or of several; see the module.  `judged_T` marks the steps that count.

    Several sizes share the largest one, so their p-values too depend on one another positively and enter one test.
    """
    if not judged_T.any():
        return "undecided"
    if all(one == "consistent" for row in verdicts for one, judged in zip(row, judged_T, strict=True) if judged):
        return "consistent"
    sides = [np.concatenate([pair[side][judged_T] for pair in p_values]) for side in (0, 1)]
    return "differs" if min(simes(side) for side in sides) <= LEVEL else "undecided"


def joint(distances: Sequence[Distance]) -> Verdict:
    """The verdict of a group: of all its sizes together."""
    if not distances:
        return "undecided"
    return judge_curve(
        [one.verdicts for one in distances],
        [(one.above_T, one.below_T) for one in distances],
        distances[0].steps_T > 0,
    )


def contrast(a: Distance, b: Distance) -> Contrast:
    """How much further a size lies from the largest one in group a than in group b, at the steps that both have."""
    steps_T, at_a, at_b = np.intersect1d(a.steps_T, b.steps_T, return_indices=True)
    value_T = a.relative_T[at_a] - b.relative_T[at_b]
    squares_T = [a.relative_error_T[at_a] ** 2, b.relative_error_T[at_b] ** 2]
    half_T = _half(squares_T, [a.freedom_T[at_a], b.freedom_T[at_b]])
    value = a.mean[0] - b.mean[0]
    half = float(_half([np.array(one.mean[1] ** 2) for one in (a, b)], [np.array(one.mean[2]) for one in (a, b)]))
    return Contrast(steps_T, value_T, value_T - half_T, value_T + half_T, (value, value - half, value + half))


def standard_error(left_ST: np.ndarray, right_ST: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """(standard error, degrees of freedom) of a difference of seed means at each step; nan where a side has one seed.

    Raises:
        ValueError: paired sides of different lengths.
    """
    if paired:
        if len(left_ST) != len(right_ST):
            raise ValueError("paired seeds need the same seeds on both sides")
        left_ST, right_ST = left_ST - right_ST, np.zeros((0, left_ST.shape[1]))
    parts = [part for part in (left_ST, right_ST) if len(part)]
    if min(len(part) for part in parts) < 2:
        nothing_T = np.full(left_ST.shape[1], np.nan)
        return nothing_T, nothing_T
    squares = [part.var(axis=0, ddof=1) / len(part) for part in parts]
    freedoms = [np.full(left_ST.shape[1], len(part) - 1.0) for part in parts]
    return np.sqrt(sum(squares)), _freedom(squares, freedoms)


def simes(p_T: np.ndarray) -> float:
    """Simes' p-value that all hypotheses hold (1986): `min_k n p_(k) / k`; 1 where a p-value is missing."""
    if not len(p_T) or not np.isfinite(p_T).all():
        return 1.0
    return float(min(1.0, (np.sort(p_T) * len(p_T) / np.arange(1, len(p_T) + 1)).min()))


def _mean(
    relative_T: np.ndarray, left_ST: np.ndarray, right_ST: np.ndarray, paired: bool
) -> tuple[float, float, float]:
    """(average over steps, standard error, freedom) from the seeds' own averages; nan without steps."""
    if not len(relative_T):
        return math.nan, math.nan, math.nan
    error, freedom = standard_error(left_ST.mean(axis=1, keepdims=True), right_ST.mean(axis=1, keepdims=True), paired)
    return float(relative_T.mean()), float(error[0]), float(freedom[0])


def _p_value(beyond_T: np.ndarray, error_T: np.ndarray, freedom_T: np.ndarray) -> np.ndarray:
    """One-sided: of a value that is not above 0 showing up so far beyond it; without any spread 0 or 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p_T = stats.t.sf(beyond_T / error_T, freedom_T)
    return np.where(error_T == 0, np.where(beyond_T > 0, 0.0, 1.0), p_T)


def _half(squares: Sequence[np.ndarray], freedoms: Sequence[np.ndarray]) -> np.ndarray:
    return stats.t.ppf(0.975, _freedom(squares, freedoms)) * np.sqrt(sum(squares))


def _freedom(squares: Sequence[np.ndarray], freedoms: Sequence[np.ndarray]) -> np.ndarray:
    """Satterthwaite's degrees of freedom of a sum of estimated variances; the smallest ones' where there is none."""
    total, spread = sum(squares), sum(square**2 / free for square, free in zip(squares, freedoms, strict=True))
    return np.where(total > 0, total**2 / np.where(spread > 0, spread, 1.0), np.minimum.reduce(list(freedoms)))
