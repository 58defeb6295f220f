"""The noise of a sweep: the standard deviation of the final loss between seeds, and where it comes from.

It is pooled over cells in proportion to their loss, so a cell's own noise scales with the cell: `sd(cell) = r y_best`.
Where some cells have no repeats, the pool also holds `PRIOR` degrees of freedom of the assumed standard deviation, so
that a few repeats which happen to agree do not silence the cells that have none.  A few repeats in few cells that
happen to differ do not raise it either: they are told, and the assumed one stands.  Either way such noise is not
measured, so that the residuals of each cell still count where they show more (`analysis.optimum`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.dither import SEEDS, dithered, levelled
from lab.check import require

# Seed standard deviation of a small model's final loss where a sweep has no replicates, nats per token.
FALLBACK_SEED_SD = 0.004
PRIOR = 4
_FEW = 8  # degrees of freedom below which repeats in fewer than a quarter of the cells do not raise the noise of all
Z95 = float(stats.norm.ppf(0.975))  # two-sided 95 %
NEAR = 1.1  # times a cell's best loss: repeats beyond it differ for other reasons


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the loss between seeds, and where it comes from; not `measured`: assumed.

    `sd` is that of a cell whose best loss is `reference`, in nats per token; without one it is every cell's.
    """

    sd: float
    source: str
    measured: bool = True
    reference: float | None = None

    def at(self, loss: float) -> float:
        """The standard deviation of a cell with this best loss."""
        return self.sd if self.reference is None else self.sd * loss / self.reference


def given(sd: float) -> Noise:
    """The noise that a person states.

    Raises:
        InputError: it is not above 0.
    """
    require(0 < sd < math.inf, f"--seed-sd {sd:g} is not above 0: give the seeds' standard deviation in nats per token")
    return Noise(sd, f"given seed SD {sd:g} nat")


@dataclass(frozen=True)
class _Share:
    """What one cell says: squares relative to its best loss, degrees of freedom, whether seeds are paired."""

    squares: float
    freedom: int
    best: float
    paired: bool = True


def pooled_noise(cells: Sequence[tuple[pd.DataFrame, str]]) -> Noise:
    """Seed standard deviation pooled over the replicated points near each cell's minimum.

    Where the same seeds run at every rate, each seed's mean over the cell is taken out first: it moves a whole curve
    up or down and leaves its minimum where it is.  Dithered cells give the residuals of their joint fit.  Points
    within 10 % of their cell's best loss count; far from it, seeds differ for other reasons.
    """
    return _pooled([_share(rows, axis) for rows, axis in cells if (rows["status"] == "done").any()])


def replicate_noise(rows: pd.DataFrame, keys: Sequence[str], axis: str) -> Noise:
    """`pooled_noise` of a table that does not name its seeds: runs of one curve (`keys`) and rate are replicates."""
    done = rows[rows["status"] == "done"]
    groups = [part for _, part in done.groupby([*keys], dropna=False)] if keys else [done]
    found = []
    for part in groups:
        means = part.groupby(axis)["loss"].transform("mean")
        near = (means <= NEAR * means.min()).to_numpy()
        squares, best = float(((part["loss"] - means)[near] ** 2).sum()), float(means.min())
        found.append(_Share(squares / best**2, int(near.sum()) - part.loc[near, axis].nunique(), best, paired=False))
    return _pooled(found)


def _share(rows: pd.DataFrame, axis: str) -> _Share:
    done = rows[rows["status"] == "done"]
    means = done.groupby(axis)["loss"].transform("mean")
    best = float(means.min())
    if dithered(rows, axis):
        _, residual, left = levelled(rows, axis)
        return _Share(residual / best**2, left, best)
    near = done[means <= NEAR * means.min()]
    table = near.pivot_table(index=axis, columns=SEEDS, values="loss").to_numpy(float)
    residuals = table - np.nanmean(table, axis=1, keepdims=True)
    rates, seeds = table.shape
    if np.isfinite(table).all():
        residuals = residuals - residuals.mean(axis=0, keepdims=True)
        return _Share(float((residuals**2).sum()) / best**2, (rates - 1) * (seeds - 1), best)
    freedom = int(np.isfinite(table).sum()) - rates
    return _Share(float(np.nansum(residuals**2)) / best**2, freedom, best, paired=False)


def _pooled(shares: Sequence[_Share]) -> Noise:
    freedom = sum(share.freedom for share in shares)
    if freedom == 0:
        return Noise(FALLBACK_SEED_SD, f"assumed seed SD {FALLBACK_SEED_SD:g} nat: no replicates", measured=False)
    repeated = [share for share in shares if share.freedom]
    reference = float(np.average([share.best for share in repeated], weights=[share.freedom for share in repeated]))
    few = len(repeated) * 4 < len(shares) and freedom < _FEW
    if few and (weak := _weak(repeated, len(shares), freedom)) is not None:
        return weak
    squares, told = sum(share.squares for share in repeated) * reference**2, ""
    if len(repeated) < len(shares):
        squares, freedom = squares + PRIOR * FALLBACK_SEED_SD**2, freedom + PRIOR
        some = f"{len(repeated)} of {len(shares)} cells have repeats"
        told = f", {PRIOR} of them of an assumed {FALLBACK_SEED_SD:g}: {some}"
    sd = max(math.sqrt(squares / freedom), 1e-6)
    what = "seed SD (beyond each seed's mean)" if all(share.paired for share in repeated) else "seed SD"
    at = f" at a loss of {reference:.3g}" if len(shares) > 1 else ""
    return Noise(sd, f"{what} {sd:.4f} nat{at}, pooled over {freedom} degrees of freedom{told}", not few, reference)


def _weak(repeated: Sequence[_Share], cells: int, freedom: int) -> Noise | None:
    """The assumed noise, where a few repeats in few cells say more: they may differ for reasons of that cell alone."""
    sd = math.sqrt(sum(share.squares * share.best**2 for share in repeated) / freedom)
    if sd <= FALLBACK_SEED_SD:
        return None
    told = (
        f"assumed seed SD {FALLBACK_SEED_SD:g} nat: repeats in {len(repeated)} of {cells} cells have one of {sd:.4f} "
        f"with {freedom} degrees of freedom, too few to stand for all (--seed-sd {sd:.2g} takes it)"
    )
    return Noise(FALLBACK_SEED_SD, told, measured=False)


def alike(rows: pd.DataFrame, axis: str) -> str:
    """What to say of runs of one cell that have exactly one loss at different rates; empty where there are none.

    Two trainings do not agree to the last digit, so a column may be wrong: a loss that was carried down, a rate that
    was not applied.
    """
    done = rows[rows["status"] == "done"]
    rates = done.groupby("loss")[axis].nunique()
    repeated = rates[rates > 1]
    if repeated.empty:
        return ""
    loss = float(repeated.index[0])
    at = sorted(set(done.loc[done["loss"] == loss, axis].tolist()))
    return (
        f"{int(repeated.sum())} rates share a loss to the last digit with another one, as {at[0]:g} and {at[1]:g} with "
        f"{loss:g}: was the rate applied?"
    )
