"""Does the optimum follow the token budget in the same way at every width?

Question: under muP and WSD with 1024 tokens per update, what are the exponents of the optimum against the tokens (131
thousand to 2.1 million) and against the width (32 to 128) together?
Command: `lrlab sweep lr_vs_tokens_width --out results/lr_vs_tokens_width && lrlab horizon results/lr_vs_tokens_width`;
on a GPU add `--set model.width=64,128,256,512`.
Cost: 315 runs that share their trunks, 157 million training tokens, about an hour on 2 CPU cores.
Expected picture: an exponent of tokens of -0.02 (-0.13 .. +0.09).  The optimum rises by 0.3 octave from width 32 to 64,
which is the short warm-up of 32 updates and not muP: after 128 updates it does not (docs/horizons.md).
"""

from sweeps.bundled.lr_vs_tokens import STEPS, base, dithered
from sweeps.sweep import Sweep, axis, product

WIDTHS = (32, 64, 128)
SEEDS = 3
LOWEST, RATES = -7.75, 7


def sweep() -> Sweep:
    """3 widths x 5 budgets x 7 learning rates x 3 seeds."""
    return Sweep(
        name="lr_vs_tokens_width",
        question="Does the optimum follow the token budget in the same way at every width, under muP?",
        cost="315 runs, 157 million tokens after sharing trunks, about an hour on 2 CPU cores",
        expected="hardly any exponent of tokens; a rise from width 32 to 64 that comes from the short warm-up",
        base=base(),
        points=product(
            axis("model.width", *WIDTHS), axis("schedule.steps", *STEPS[:5]), dithered(LOWEST, RATES, SEEDS)
        ),
    )
