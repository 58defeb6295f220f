"""How does the best learning rate follow the batch size, and the best batch the token budget?

Question: under muP and WSD, with batches of 64 to 2048 tokens and budgets of 262 thousand to 2.1 million tokens, what
are the exponents of the optimum against tokens and batch, where is the best batch, and what is left along it?
Command: `lrlab sweep lr_vs_batch --out results/lr_vs_batch && lrlab horizon results/lr_vs_batch`; on a GPU add
`--set data.length=512 --set model.width=256 --set data.corpus=bin:PATH`.
Cost: 672 runs that share their trunks, 413 million training tokens, about three quarters of an hour on 2 CPU cores.
Expected picture: an exponent of D of 0 on the whole and of -0.14 at 64 tokens per batch.  The exponents against the
batch that the report shows (B^0.32, a best batch of D^0.48) are those of a warm-up that falls from 512 to 16 updates as
the batch grows, and are retracted (docs/horizons.md); they are measured again.
"""

import dataclasses

from lab.config import ScheduleConfig
from sweeps.bundled.lr_vs_tokens import SEEDS, base, dithered
from sweeps.sweep import Point, Sweep, axis, chain, product

BATCHES = (1, 2, 4, 8, 16, 32)
TOKENS = tuple(2**e for e in range(18, 22))
# A warm-up of 32 thousand tokens, as in `lr_vs_tokens`, whatever the batch.
SCHEDULE = ScheduleConfig(kind="wsd", tokens=TOKENS[0], warmup_tokens=2**15, decay_fraction=0.2)
RATES = 7
# log2 of the lowest rate of each batch: the window follows the optimum, which a coarse pilot put at 2^-7 for 4
# sequences, at 2^-6.2 for 16 and at 2^-6 for 32.
LOWEST = {1: -9.5, 2: -9.0, 4: -8.5, 8: -8.0, 16: -7.5, 32: -7.5}


def sweep() -> Sweep:
    """6 batches x 4 budgets x 7 learning rates x 4 seeds."""
    return Sweep(
        name="lr_vs_batch",
        question="How does the best learning rate follow the batch, and the best batch the token budget?",
        cost="672 runs, 413 million tokens after sharing trunks, about 45 minutes on 2 CPU cores",
        expected="an exponent of D near 0; those against the batch come from a warm-up too short for large batches",
        base=dataclasses.replace(base(), schedule=SCHEDULE),
        points=chain(*(cells(batch) for batch in BATCHES)),
    )


def cells(batch: int) -> list[Point]:
    """The budgets of one batch size."""
    return product(
        axis("data.sequences", batch), axis("schedule.tokens", *TOKENS), dithered(LOWEST[batch], RATES, SEEDS)
    )
