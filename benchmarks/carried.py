"""How often the bounds of a carried rate's regret hold: docs/regret_coverage.csv.

    python -m benchmarks.carried --draws 12         # a minute of a core

Truths are the planted and the fresh ones of `benchmarks.optimum`.  A cell is a grid from -3 to 3 octaves with a random
phase, spacings of 1, 1/2 and 1/4 octave with 1, 2 and 4 seeds; the carried rate lies 0, .6 or 1.2 octaves to either
side of the minimum, .15 more or less.  `upper` and `lower` are the shares of bounds that hold (nominal 95 %), `short`
the median of what the failing upper bounds lack, in per cent of the loss; `kept` the share of the rates whose true
regret is above 1 % that are told as keeping, `keeping` of those below .5 %.
"""

import argparse
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.drift import Cell
from analysis.noise import Noise
from analysis.optimum import Optimum
from analysis.regret import KEEPS, regret_bounds
from benchmarks.optimum import Fresh, fresh, planted
from benchmarks.record import write

SPACINGS, SEEDS, SHIFTS = (1.0, 0.5, 0.25), (1, 2, 4), (0.0, 0.6, -0.6, 1.2, -1.2)
NONE = Optimum(None, None, None, None, "flat", None, None, None, None, 0, 0, 0, ())


def drawn(one: Fresh, draws: int, rng: np.random.Generator) -> Iterator[tuple[float, float, float]]:
    """(low, high, true regret) in per cent."""
    for spacing, seeds, shift in itertools.product(SPACINGS, SEEDS, SHIFTS):
        for _ in range(draws):
            x = np.arange(-3 + rng.uniform(0, spacing), 3, spacing)
            y = one.truth(x)
            y = y + rng.normal(size=len(x)) * one.sd / math.sqrt(seeds) * (1 + one.growth * (y - 2))
            at = float(np.clip(shift + rng.normal(0, 0.15), x[0], x[-1]))
            cell = Cell({}, "", 0, pd.DataFrame({"lr": 2.0**x, "loss": y, "seeds": seeds}), NONE, 0)
            low, high = regret_bounds(cell, 2.0**at, Noise(one.sd, "known"))
            true = 100 * (float(one.truth(np.array(at))) / 2 - 1)
            yield -math.inf if low is None else low, math.inf if high is None else high, true


def row(name: str, one: Fresh, draws: int, seed: int) -> dict[str, object]:
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    low, high, true = np.array(list(drawn(one, draws, rng))).T
    held, bad, good = high >= true - 1e-9, true > KEEPS, true < KEEPS / 2
    return {
        "truth": name,
        "upper": f"{held.mean():.3f}",
        "lower": f"{(low <= true + 1e-9).mean():.3f}",
        "short": f"{np.median((true - high)[~held]):.3f}" if (~held).any() else "",
        "kept": f"{(high <= KEEPS)[bad].mean():.3f}" if bad.any() else "",
        "keeping": f"{(high <= KEEPS)[good].mean():.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=12, help="cells per spacing, seeds and shift")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = {name: Fresh(truth) for name, truth in planted().items()} | fresh()
    ended = {name: one for name, one in cases.items() if math.isinf(one.end)}
    write([row(name, one, options.draws, options.seed) for name, one in ended.items()], "regret_coverage.csv")


if __name__ == "__main__":
    main()
