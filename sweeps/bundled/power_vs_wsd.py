"""What does one Power schedule give up against WSD and cosine that are tuned anew for every budget and batch?

Question: with Power's constants a and b chosen at 16 sequences per update, how much loss does it give up at 8 and at 32
sequences and 0.5 to 2.1 million tokens, against the best rate of WSD and of cosine in each of these cells?
Command: `lrlab sweep power_vs_wsd --out results/power_vs_wsd && lrlab compare results/power_vs_wsd --challenger power
--judge data.sequences=8,32`; on a GPU add `--set data.length=512 --set model.width=256 --set data.corpus=bin:PATH`.
Cost: 720 runs that share their trunks, 600 million training tokens, about an hour on 2 CPU cores.
Expected picture: Power gives up 4.1 % (3.2 .. 5.2) to WSD.  That is the price of the cap, which is fixed at 2^-5 and
not tuned: a WSD at the constant 2^-5 gives up 8.0 %, one at 2^-6 nothing.  So this sweep cannot judge Power's exponent
or its claim, and what version 0.1.0 concluded is retracted (docs/horizons.md); it is measured again.
"""

import dataclasses

from sweeps.bundled import lr_vs_batch
from sweeps.bundled.lr_vs_tokens import SEEDS
from sweeps.sweep import Point, Sweep, axis, chain, product

TOKENS = (2**19, 2**20, 2**21)
JUDGED = (8, 32)
# Constants are chosen at another batch size than the judged ones, on the smaller budgets.
TUNING = 16
# Exponents with the middle of their coefficients: the published -0.51 and a flatter one.  Both give a rate near 2^-6
# after 2^18 tokens at 16 sequences of 64 tokens, a quarter of the law's unit of 4096 tokens.
LAWS = {-0.51: 36.0, -0.25: 1.4}
COEFFICIENTS = tuple(2.0 ** (step / 2) for step in (-3, -2, -1, 0, 1, 2))
CAP = 2.0**-5


def sweep() -> Sweep:
    """WSD and cosine: 6 cells x 7 rates; Power: 8 cells x 2 exponents x 6 coefficients; 4 seeds at the same rates."""
    tuned = chain(*(_tuned(kind, batch) for kind in ("wsd", "cosine") for batch in JUDGED))
    cells = chain(
        product(axis("data.sequences", TUNING), axis("schedule.tokens", *TOKENS[:2])),
        product(axis("data.sequences", *JUDGED), axis("schedule.tokens", *TOKENS)),
    )
    return dataclasses.replace(
        lr_vs_batch.sweep(),
        name="power_vs_wsd",
        question="What does one Power schedule give up against WSD and cosine tuned for every budget and batch?",
        cost="720 runs, 600 million tokens after sharing trunks, about an hour on 2 CPU cores",
        expected="4.1 % above tuned WSD, the price of a cap that is not tuned: it says nothing about Power's exponent",
        points=chain(tuned, product(cells, _laws())),
    )


def _tuned(kind: str, batch: int) -> list[Point]:
    """A rival at one batch size, with rates a factor sqrt(2) apart; cosine has no decay of its own."""
    lowest = lr_vs_batch.LOWEST[batch]
    return product(
        axis("schedule.kind", kind),
        axis("schedule.decay_fraction", 0.2 if kind == "wsd" else None),
        axis("data.sequences", batch),
        axis("schedule.tokens", *TOKENS),
        axis("seed", *range(SEEDS)),
        axis("optimizer.lr", *(2.0 ** (lowest + rate / 2) for rate in range(lr_vs_batch.RATES))),
    )


def _laws() -> list[Point]:
    """Power with every choice of its constants."""
    laws = [
        {"schedule.power_exponent": exponent, "schedule.power_coefficient": middle * coefficient}
        for exponent, middle in LAWS.items()
        for coefficient in COEFFICIENTS
    ]
    return product(
        axis("schedule.kind", "power"),
        axis("schedule.decay_fraction", 0.2),
        laws,
        axis("seed", *range(SEEDS)),
        axis("optimizer.lr", CAP),
    )
