"""Does muP's optimum stay when the head dimension grows with the width?

Question: two heads at widths 32 and 128, so that the head dimension grows from 16 to 64: with the attention scale
sqrt(d0)/d of muP and with 1/sqrt(d), where is the best learning rate?
Command: `lrlab sweep width_heads --out results/width_heads && lrlab report results/width_heads`.
Cost: 96 runs, 25 million training tokens, about 4 minutes on 2 CPU cores.
Expected picture: the optimum stays with sqrt(d0)/d (measured drift +0.08 octave, 95 % -0.24 .. +0.43; with 1/sqrt(d)
-0.21, -0.56 .. +0.10); the case of a fixed head dimension is in `lr_vs_width` and, at this length, in `quickstart`.
"""

import dataclasses

from lab.override import apply
from sweeps.bundled import lr_vs_width, width_controls
from sweeps.sweep import Sweep, axis, product


def sweep() -> Sweep:
    """2 attention scales x 2 widths x 8 learning rates a factor sqrt(2) apart x 3 seeds, all under muP."""
    width = lr_vs_width.sweep()
    return dataclasses.replace(
        width,
        name="width_heads",
        question="Does muP's optimum stay from width 32 to 128 when the head dimension grows from 16 to 64?",
        cost="96 runs, 25 million tokens, about 4 minutes on 2 CPU cores",
        expected="it stays with the attention scale sqrt(d0)/d",
        base=apply(width.base, width_controls.SHORT | {"model.heads": 2, "parametrization.base_head_dim": 16}),
        points=product(
            axis("model.width", 32, 128),
            axis("parametrization.attention", "inverse", "sqrt"),
            axis("seed", 0, 1, 2),
            axis("optimizer.lr", *(2.0 ** (lr_vs_width.LOWEST + step / 2) for step in range(lr_vs_width.RATES))),
        ),
    )
