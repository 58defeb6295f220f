"""From a table of runs to what `predict` tells: regret and divergence told against true, for docs/laws_coverage.md.

    python -m benchmarks.pipeline --laws 40         # docs/pipeline.csv, six minutes of a core

Every law is planted, its runs are written as a CSV, read by `analysis.load`, fitted by `analysis.fit` and asked about a
size four times the largest.  Sizes lie a factor 4 apart, at four budgets, nine rates around each optimum and two seeds;
a run above its curve's edge has diverged.  The true regret is the mean over the target's own deviation, the true
probability that of an edge below the predicted rate.
"""

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from analysis.calculator import fit
from analysis.prediction import Prediction, predict
from analysis.runs.source import load
from benchmarks.record import write
from lab.check import InputError

CURVATURE, FACTOR = 0.03, math.log(2)
LEAST, TOKENS = math.log(2e6), math.log(5e8)


@dataclass(frozen=True)
class Setting:
    """Deviations and the gap of the edge in ln lr, its slope in ln N and its scatter; `skew` of the loss in ln lr."""

    between: float
    within: float
    gap: float
    slope: float = 0.0
    skew: float = 0.0
    scatter: float = 0.1
    spacing: float = FACTOR
    seed_sd: float = 0.004


SETTINGS = {
    "plain, gap .6 +- .3": Setting(0.08, 0.05, 0.6, scatter=0.3),
    "asym .3, gap 1.2 - .25 ln N": Setting(0.08, 0.05, 1.2, slope=-0.25, skew=0.3, scatter=0.25),
    "between .2, sqrt2, gap .4": Setting(0.2, 0.05, 0.4, skew=0.3, scatter=0.15, spacing=FACTOR / 2),
    "seed sd .01, within .1": Setting(0.0, 0.1, 2.5, skew=0.3, seed_sd=0.01),
}


def cost(z: np.ndarray, skew: float) -> np.ndarray:
    """Relative loss above the best at z in ln lr."""
    return CURVATURE / 2 * z**2 * np.where(z > 0, 1 + skew * z, 1 / (1 + 0.5 * skew * np.abs(z)))


def middle(size: float, tokens: float, sizes: int) -> float:
    """ln lr* of the law."""
    centre = LEAST + math.log(4) * (sizes - 1) / 2
    return -6.5 - 0.6 * (size - centre) + 0.25 * (tokens - math.log(2e9))


def runs(one: Setting, sizes: int, rng: np.random.Generator) -> pd.DataFrame:
    """A store as a person would export it."""
    centre, rows = LEAST + math.log(4) * (sizes - 1) / 2, []
    for size in LEAST + math.log(4) * np.arange(sizes):
        own = one.between * rng.normal()
        for budget in range(4):
            tokens = TOKENS + budget * FACTOR
            best = middle(size, tokens, sizes) + own + one.within * rng.normal()
            edge = best + one.gap + one.slope * (size - centre) + one.scatter * rng.normal()
            x = np.round(best / one.spacing + rng.uniform(-0.7, 0.7)) * one.spacing + one.spacing * np.arange(-4, 5)
            least = 1.7 + 400 * math.exp(-0.34 * size) + 400 * math.exp(-0.28 * tokens)
            for seed in range(2):
                loss = least * (1 + cost(x - best, one.skew)) + one.seed_sd * rng.normal(size=len(x))
                told = [math.nan if at > edge else value for at, value in zip(x, loss, strict=True)]
                at = {"params": math.exp(size), "tokens": math.exp(tokens), "seed": seed}
                rows.append(pd.DataFrame({"lr": np.exp(x), "loss": told} | at))
    return pd.concat(rows, ignore_index=True)


def asked(one: Setting, sizes: int, rng: np.random.Generator) -> dict[str, float] | None:
    """What is told and true of one law; None where the table gives none."""
    frame = runs(one, sizes, rng)
    size, tokens = LEAST + math.log(4) * sizes, TOKENS + 1.5 * FACTOR
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        frame.to_csv(path, index=False, float_format="%.10g", na_rep="nan")
        try:
            law = fit(load(path), "lr", batch_rule="fixed", draws=0).law
            found: Prediction = predict(law, params=math.exp(size), tokens=math.exp(tokens))
        except InputError:
            return None
    if found.lr is None or found.regret is None:
        return None
    off = math.log(found.lr) - middle(size, tokens, sizes)
    deviations = math.hypot(one.between, one.within) * np.random.default_rng(0).normal(size=400)
    gap = one.gap + one.slope * math.log(4) * (sizes + 1) / 2
    scatter = math.sqrt(one.between**2 + one.within**2 + one.scatter**2)
    return {
        "told": 100 * found.regret,
        "true": 100 * float(cost(off - deviations, one.skew).mean()),
        "diverge": math.nan if found.diverge is None else found.diverge,
        "diverged": float(special.ndtr((off - gap) / scatter)),
    }


def row(name: str, sizes: int, laws: int, seed: int) -> dict[str, object]:
    found = [asked(SETTINGS[name], sizes, np.random.default_rng([seed, sizes, len(name), i])) for i in range(laws)]
    frame = pd.DataFrame([one for one in found if one is not None])
    means = frame.mean()
    return {
        "setting": name,
        "sizes": sizes,
        "laws": len(frame),
        "told": f"{means['told']:.4f}",
        "true": f"{means['true']:.4f}",
        "ratio": f"{means['told'] / means['true']:.2f}",
        "median_ratio": f"{(frame['told'] / frame['true']).median():.2f}",
        "diverge": f"{means['diverge']:.3f}",
        "diverged": f"{means['diverged']:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", type=int, default=40, help="planted laws a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [row(name, sizes, options.laws, options.seed) for sizes in (4, 5) for name in SETTINGS]
    write(found, "pipeline.csv")


if __name__ == "__main__":
    main()
