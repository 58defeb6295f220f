"""Do the exponents of `lr_vs_batch` depend on how the warm-up is counted, or on weight decay?

Question: between batches of 256 and 2048 tokens at one million tokens, does the optimum move alike with a warm-up of 32
updates instead of 32 thousand tokens, and with weight decay 0.1?
Command: `lrlab sweep batch_controls --out results/batch_controls && lrlab report results/batch_controls`.
Cost: 112 runs, 117 million training tokens, about 10 minutes on 2 CPU cores.
Expected picture: at 4 sequences per update the warm-up does not matter; at 32 the best run moves up by half an octave
from 16 to 32 updates of warm-up, and neither is enough.  With weight decay the optimum moves by 1.7 octaves from batch
4 to 32, at those warm-ups.  That "a warm-up in updates changes nothing" is retracted (docs/horizons.md); it is
measured again.
"""

import dataclasses

from sweeps.bundled import lr_vs_batch
from sweeps.bundled.lr_vs_tokens import SEEDS, dithered
from sweeps.sweep import Point, Sweep, axis, chain, product

BATCHES = (4, 32)
TOKENS = 2**20


def sweep() -> Sweep:
    """2 controls x 2 batches x 7 learning rates x 4 seeds."""
    return dataclasses.replace(
        lr_vs_batch.sweep(),
        name="batch_controls",
        question="Does the optimum follow the batch alike with a warm-up in updates, and with weight decay?",
        cost="112 runs, 117 million tokens, about 10 minutes on 2 CPU cores",
        expected="the warm-up matters at 32 sequences, where 16 and 32 updates are too few; decay lowers the rate",
        points=chain(*(_cells(batch) for batch in BATCHES)),
    )


def _cells(batch: int) -> list[Point]:
    controls = chain(
        product(axis("optimizer.weight_decay", 0.0), axis("schedule.warmup_steps", 32)),
        product(axis("optimizer.weight_decay", 0.1), axis("schedule.warmup_steps", 2**15 // (64 * batch))),
    )
    return product(
        axis("data.sequences", batch),
        axis("schedule.tokens", TOKENS),
        controls,
        dithered(lr_vs_batch.LOWEST[batch], lr_vs_batch.RATES, SEEDS),
    )
