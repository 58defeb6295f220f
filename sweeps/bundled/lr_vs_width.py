"""Does a rate tuned at width 32 hold at width 256?  The slope of the log optimum against the log width.

Question: how does the best learning rate move over three doublings of the width, under the standard parametrization
(sp) and under muP?
Command: `lrlab sweep lr_vs_width --out results/lr_vs_width && lrlab report results/lr_vs_width`; on a GPU add
`--set model.width=32,64,128,256,512,1024` (sp's window then follows the width no more: give optimizer.lr too).
Cost: 384 runs, 201 million training tokens, about an hour on 2 CPU cores.
Expected picture: sp's slope is near -1 (measured -1.10, 90 % -1.18 .. -1.03: the optimum halves with every doubling),
muP's near 0 (-0.07, -0.16 .. +0.02; other windows and orders of the fit give -0.07 to -0.01); docs/transfer.md.
"""

import math

from lab.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from sweeps.sweep import Point, Sweep, axis, chain, product

WIDTHS = (32, 64, 128, 256)
BASE_WIDTH = 32
# Eight rates a factor sqrt(2) apart around the optimum at the base width, near 2^-5.75, and between them closer ones:
# the bias of a parabola falls with the spacing of the rates, and decides how wide the interval of a slope is.
LOWEST, RATES = -8.0, 8
CLOSER = (-6.25, -5.75, -5.25)
# With three seeds muP's interval ended at -0.1015: five decide what three leave open.
SEEDS = {"sp": (0, 1, 2), "mup": (0, 1, 2, 3, 4)}


def sweep() -> Sweep:
    """2 parametrizations x 4 widths x about 12 learning rates x 3 seeds (muP 5)."""
    return Sweep(
        name="lr_vs_width",
        question="How does the best learning rate move from width 32 to 256, under sp and under muP?",
        cost="384 runs, 201 million tokens, about an hour on 2 CPU cores",
        expected="muP's slope of log optimum against log width is near 0 (its interval ends beyond -0.1), sp's near -1",
        base=RunConfig(
            model=ModelConfig(depth=2, head_dim=16),
            parametrization=ParametrizationConfig(base_width=BASE_WIDTH, zero_readout=True),
            optimizer=OptimizerConfig(kind="adamw"),
            schedule=ScheduleConfig(kind="wsd", steps=512, warmup_steps=128, decay_steps=128),
            data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
            evaluation=EvaluationConfig(sequences=512),
        ),
        points=chain(*(_cells(name, width) for name in ("sp", "mup") for width in WIDTHS)),
    )


def _cells(name: str, width: int) -> list[Point]:
    """One cell: sp's window moves down one octave per doubling, so that it stays around the optimum.

    Rates about the optimum at the base width stay in, for the regret of a rate that was tuned there.
    """
    shift = -math.log2(width / BASE_WIDTH) if name == "sp" else 0.0
    exponents = {LOWEST + shift + step / 2 for step in range(RATES)} | {exponent + shift for exponent in CLOSER}
    exponents |= {-6.75} if name == "mup" else {-6.0, -5.5}
    rates = (2.0**exponent for exponent in sorted(exponents))
    return product(
        axis("model.width", width),
        axis("parametrization.name", name),
        axis("seed", *SEEDS[name]),
        axis("optimizer.lr", *rates),
    )
