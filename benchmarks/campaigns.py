"""What are suggestions worth?  Simulated stores, and the error that is left at the target: for docs/laws_coverage.md.

    python -m benchmarks.campaigns --campaigns 200

A store has four sizes a factor 4 apart at three token budgets; the run to predict is 16 times larger with 4 times the
tokens.  With the same FLOPs each way runs new cells (one after another from a list of places one or two steps along the
store's rows, a cell's cost being seven rates of 6 N D): what `analysis.suggestion.chosen` proposes; random places; the
largest places that can be paid; or no new cell but more seeds in those that are there.  Then the law is fitted again.
RMS is of the law's ln lr at the target, against the true law's; "told" and "came" are the shares by which the interval
of the prediction was said to narrow, and did.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.power import belief
from analysis.power.fit import Solved, solve
from analysis.suggestion import Place, chosen, together
from analysis.target import Level, Target, Targets

SIZES = tuple(1e7 * 4.0**step for step in range(7))
TOKENS = tuple(1e9 * 4.0**step for step in range(5))
STORE, BUDGETS = 4, 3  # sizes and token budgets that are there
TARGET = {"params": SIZES[5], "tokens": TOKENS[3]}
ERROR = 0.06**2  # variance of ln lr* of a cell by its own noise
RATES = 7
NAMES = ("params", "tokens")


@dataclass(frozen=True)
class Truth:
    """A law with the deviations of its sizes and cells; `measured` adds the noise of runs."""

    own: dict[float, float]
    cells: dict[tuple[float, float], float]

    def mean(self, size: float, tokens: float) -> float:
        """ln lr of the law."""
        return -5 - 0.4 * math.log(size / SIZES[0]) + 0.15 * math.log(tokens / TOKENS[0])

    def optimum(self, size: float, tokens: float) -> float:
        """ln lr* of a cell."""
        return self.mean(size, tokens) + self.own[size] + self.cells[size, tokens]


def truth(rng: np.random.Generator, between: float, within: float) -> Truth:
    """A law drawn at random."""
    cells = {(size, tokens): rng.normal(0, within) for size in SIZES for tokens in TOKENS}
    return Truth({size: rng.normal(0, between) for size in SIZES}, cells)


def measured(
    law: Truth, places: Sequence[tuple[float, float]], noise: dict[tuple[float, float], float], error: float
) -> Targets:
    """The optima of cells as runs find them; `noise` is standard normal, the same whatever else is run."""
    root = math.sqrt(error)
    return Targets(
        tuple(
            Target(dict(zip(NAMES, at, strict=True)), Level(math.exp(law.optimum(*at) + root * noise[at]), error))
            for at in places
        )
    )


def campaign(
    seed: int, between: float = 0.08, within: float = 0.05, cost: float = 1.0
) -> dict[str, tuple[float, float, float]]:
    """(miss of ln lr at the target, told gain, gain that came) of each way; a budget of `cost` times the store."""
    rng = np.random.default_rng(seed)
    law = truth(rng, between, within)
    noise = {(size, tokens): rng.normal() for size in SIZES for tokens in TOKENS}
    there = [(size, tokens) for size in SIZES[:STORE] for tokens in TOKENS[:BUDGETS]]
    budget = cost * sum(map(_flops, there))
    places = [
        (size, tokens) for size in SIZES[: STORE + 1] for tokens in TOKENS[: BUDGETS + 1] if (size, tokens) not in there
    ]
    on_rows = [at for at in places if at[0] in SIZES[:STORE] or at[1] in TOKENS[:BUDGETS]]
    places = [at for at in on_rows if _flops(at) <= budget]
    before = solve(measured(law, there, noise, ERROR), "lr", NAMES)
    offered = [
        Place(dict(zip(NAMES, at, strict=True)), dict(zip(NAMES, at, strict=True)), at[0], _flops(at)) for at in places
    ]
    taken = chosen(before, offered, TARGET, count=9, error=ERROR, grid=(1.0,), budget=budget)
    ways = {
        "suggested": [(one.values["params"], one.values["tokens"]) for one in taken],
        "random places": _afforded([places[number] for number in rng.permutation(len(places))], budget),
        "largest affordable": _afforded(sorted(places, key=_flops, reverse=True), budget),
    }
    told = together([one.gain or 0.0 for one in taken])
    results = {
        name: _result(
            solve(measured(law, there + new, noise, ERROR), "lr", NAMES),
            before,
            law,
            told if name == "suggested" else math.nan,
        )
        for name, new in ways.items()
    }
    again = measured(law, there, noise, ERROR / (1 + cost))
    return results | {
        "more seeds": _result(solve(again, "lr", NAMES), before, law, math.nan),
        "nothing": _result(before, before, law, math.nan),
    }


def _result(after: Solved, before: Solved, law: Truth, told: float) -> tuple[float, float, float]:
    widths = [belief.width(belief.begin(one, 1), one.row(TARGET)) for one in (after, before)]
    mean_P = np.einsum("rk,rkp->p", after.held.weight_RK, after.held.mean_RKP) / len(after.held.weight_RK)
    miss = float(mean_P @ after.row(TARGET)) - law.mean(*TARGET.values())
    return miss, told, 1 - widths[0] / widths[1]


def _flops(at: tuple[float, float]) -> float:
    return 6 * at[0] * at[1] * RATES


def _afforded(places: Sequence[tuple[float, float]], budget: float) -> list[tuple[float, float]]:
    """Places in their order, as long as they can be paid."""
    found: list[tuple[float, float]] = []
    for at in places:
        if sum(map(_flops, found)) + _flops(at) <= budget:
            found.append(at)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=200)
    parser.add_argument("--cost", type=float, nargs="*", default=[1.0])
    options = parser.parse_args()
    print("| FLOPs, of the store's | way | RMS error of ln lr | told | came |\n|---|---|---|---|---|")
    for cost in options.cost:
        found = [campaign(seed, cost=cost) for seed in range(options.campaigns)]
        for name in found[0]:
            miss, told, came = np.array([one[name] for one in found]).T
            words = "" if math.isnan(told[0]) else f"{told.mean():.0%}"
            print(
                f"| {cost:g} | {name} | {math.sqrt((miss**2).mean()):.3f} | {words} | {came.mean():.0%} |", flush=True
            )


if __name__ == "__main__":
    main()
