"""Does muP's transfer over the width depend on weight decay or on a zero readout?

Question: does muP's optimum move from width 32 to 128 with weight decay 0.1 (eta * lambda constant), and with a readout
that does not start at zero?
Command: `lrlab sweep width_controls --out results/width_controls && lrlab report results/width_controls`.
Cost: 96 runs, 25 million training tokens, about 4 minutes on 2 CPU cores.
Expected picture: no (measured drifts -0.04 octave, 95 % -0.43 .. +0.30, with decay; -0.29, -0.84 .. +0.07, with the
readout); the plain case is in `lr_vs_width` and, at this length, in `quickstart`.
"""

import dataclasses

from lab.override import apply
from sweeps.bundled import lr_vs_width
from sweeps.sweep import Sweep, axis, chain, product

# As long as the quickstart's runs, half of those of `lr_vs_width`.
SHORT = {"schedule.steps": 256, "schedule.warmup_steps": 64, "schedule.decay_steps": 64}


def sweep() -> Sweep:
    """2 controls x 2 widths x 8 learning rates a factor sqrt(2) apart x 3 seeds, all under muP."""
    controls = chain(
        product(axis("optimizer.weight_decay", 0.1), axis("parametrization.zero_readout", True)),
        product(axis("optimizer.weight_decay", 0.0), axis("parametrization.zero_readout", False)),
    )
    width = lr_vs_width.sweep()
    return dataclasses.replace(
        width,
        name="width_controls",
        question="Does muP's optimum stay from width 32 to 128 with weight decay, and with a non-zero readout?",
        cost="96 runs, 25 million tokens, about 4 minutes on 2 CPU cores",
        expected="the optimum stays in both cases",
        base=apply(width.base, SHORT),
        points=product(
            controls,
            axis("model.width", 32, 128),
            axis("parametrization.name", "mup"),
            axis("seed", 0, 1, 2),
            axis("optimizer.lr", *(2.0 ** (lr_vs_width.LOWEST + step / 2) for step in range(lr_vs_width.RATES))),
        ),
    )
