"""How often either bound of `lrlab compare` holds, in simulated sweeps: a table of docs/schedules.md.

    python -m benchmarks.inferiority --sweeps 2000       # docs/inferiority_coverage.csv, half a minute of a core

A rival has some settings in each of six cells, or in one; seeds have levels of their own, and the challenger gives up
exactly nothing to the rival's best setting.  A run's noise is 0.004 nat of 2, or grows tenfold per per cent of loss, or
is Student's with three degrees of freedom, or tilts a seed's whole curve.  `upper` and `lower` are the shares of bounds
that hold (nominal 95 %), `half` the median of high - mean, in per cent; `passed` is how often a challenger that is
worse by .4 % is called non-inferior at a margin of .4 %, refused margins counted as not called.
"""

import argparse
import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from analysis.inferiority import LEVEL
from benchmarks.record import write

NOISE, LEVELS, MARGIN = 0.004, 0.1, 0.004
SEEDS = (2, 3, 4, 8)
STEPS = np.arange(7) - 2.7


def truths() -> dict[str, np.ndarray]:
    """A rival's mean losses by setting, [J]."""
    sided = np.where(STEPS > 0, STEPS**2 * (1 + 0.8 * STEPS), STEPS**2 / (1 + 0.25 * np.abs(STEPS)))
    return {
        "one setting": np.array([2.0]),
        "seven rates, all alike": np.full(7, 2.0),
        "seven rates, 0.01 % times the steps squared": 2 * (1 + 0.0001 * STEPS**2),
        "seven rates, 0.1 %": 2 * (1 + 0.001 * STEPS**2),
        "seven rates, 0.3 %": 2 * (1 + 0.003 * STEPS**2),
        "seven rates, 0.6 %": 2 * (1 + 0.006 * STEPS**2),
        "seven rates, two sides": 2 * (1 + 0.002 * sided),
        "two settings 0.1 % apart, two far off": np.array([2.0, 2.002, 2.02, 2.03]),
        "28 settings": 2 * (1 + 0.001 * np.add.outer(STEPS**2, 2 * np.arange(4.0)).ravel()),
    }


KINDS = ("normal", "grows with the loss", "heavy tails", "tilted seeds")


def noise(kind: str, truth_J: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Of runs `[draws, cells, J, seeds]`."""
    if kind == "heavy tails":
        return NOISE / math.sqrt(3) * rng.standard_t(3, shape)
    sd_J = NOISE * (1 + 1000 * (truth_J / truth_J.min() - 1)) if kind == "grows with the loss" else NOISE + 0 * truth_J
    found = rng.normal(size=shape) * sd_J[:, None]
    if kind == "tilted seeds":
        tilt_J1 = np.linspace(-1, 1, len(truth_J))[:, None] if len(truth_J) > 1 else np.zeros((1, 1))
        found += 0.75 * NOISE * tilt_J1 * rng.normal(size=(shape[0], shape[1], 1, shape[3]))
    return found


def differences(
    truth_J: np.ndarray, kind: str, cells: int, seeds: int, sweeps: int, rng: np.random.Generator, given_up: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """`analysis.inferiority`'s d_s and o_s of simulated sweeps, [sweeps, seeds] each, written again as arrays."""
    level_R11S = rng.normal(0, LEVELS, (sweeps, 1, 1, seeds))
    loss = truth_J[:, None] + level_R11S + noise(kind, truth_J, (sweeps, cells, len(truth_J), seeds), rng)
    own = truth_J[:1] * 0 + truth_J.min()
    mine_RCS = own * (1 + given_up) + level_R11S[:, :, 0] + noise(kind, own, (sweeps, cells, 1, seeds), rng)[:, :, 0]
    first = np.arange(seeds) % 2 == 0

    def at(place_RC: np.ndarray) -> np.ndarray:
        return np.take_along_axis(loss, place_RC[:, :, None, None], 2)[:, :, 0]

    by_other, by_first = (loss[..., half].mean(axis=-1).argmin(axis=-1) for half in (~first, first))
    other = mine_RCS / np.where(first, at(by_other), at(by_first)) - 1
    return other.mean(axis=1), (mine_RCS / at(loss.mean(axis=-1).argmin(axis=-1)) - 1).mean(axis=1)


def limits(other_RS: np.ndarray, own_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, low, high) per sweep: `analysis.inferiority.bounds` along an axis."""
    seeds = other_RS.shape[1]
    quantile = float(stats.t.ppf(LEVEL, seeds - 1)) / math.sqrt(seeds)
    mean_R, half_R = other_RS.mean(axis=1), quantile * other_RS.std(axis=1, ddof=1)
    own_R = own_RS.mean(axis=1) + quantile * own_RS.std(axis=1, ddof=1)
    return mean_R, mean_R - half_R, np.maximum(mean_R + half_R, own_R)


def rows(sweeps: int, seed: int) -> Iterator[dict[str, object]]:
    for number, (name, truth_J) in enumerate(truths().items()):
        for which, kind in enumerate(KINDS):
            for cells in (6, 1):
                for seeds in SEEDS:
                    rng = np.random.default_rng([seed, number, which, cells, seeds])
                    mean, low, high = limits(*differences(truth_J, kind, cells, seeds, sweeps, rng))
                    middle, _, above = limits(*differences(truth_J, kind, cells, seeds, sweeps, rng, MARGIN))
                    passed = (above < MARGIN) & (above - middle <= MARGIN)
                    yield {
                        "settings": name,
                        "noise": kind,
                        "cells": cells,
                        "seeds": seeds,
                        "upper": f"{np.mean(high >= 0):.3f}",
                        "lower": f"{np.mean(low <= 0):.3f}",
                        "half": f"{100 * np.median(high - mean):.3f}",
                        "passed": f"{np.mean(passed):.3f}",
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000, help="simulated sweeps a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(list(rows(options.sweeps, options.seed)), "inferiority_coverage.csv")


if __name__ == "__main__":
    main()
