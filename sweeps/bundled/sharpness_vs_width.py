"""Is the sharpness of the loss the same at every width?  muP against the neural tangent and the standard form.

Question: along training with SGD at one rate, does the largest eigenvalue of the Hessian in the metric of the update
depend on the width, and do the loss and the tangent kernel?
Command: `lrlab sweep sharpness_vs_width --out results/sharpness_vs_width && lrlab report results/sharpness_vs_width`.
Cost: 140 runs, 37 million training tokens, about an hour on 2 CPU cores, most of it for the probe.
Expected picture: at a low rate sharpness depends on the width several times less under muP than under ntk, where it
falls, and sp, where it rises; sp diverges at the rate that was tuned at width 32.  At an eighth of that rate muP stays
at the edge of stability at every width, and ntk leaves it; docs/sharpness_measured.md.
"""

from lab.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
    SharpnessConfig,
)
from sweeps.sweep import Point, Sweep, axis, chain, product

WIDTHS = (32, 64, 128, 256)
# The largest rate that trains at width 32 (twice that diverges), an eighth of it, and one that stays off the edge.
RATES = (2.0**0, 2.0**-3, 2.0**-5)
SEEDS = (0, 1, 2)
# Where consistency is judged three seeds leave much open.
MORE_SEEDS = (3, 4)
# The neural tangent form with one rate for all leaves and widths is its alignment "classical".
PARAMETRIZATIONS: tuple[Point, ...] = (
    {"parametrization.name": "mup"},
    {"parametrization.name": "ntk", "parametrization.alignment": "classical"},
    {"parametrization.name": "sp"},
)


def sweep() -> Sweep:
    """3 parametrizations x 4 widths x 3 rates x 3 seeds (muP and ntk at the lower rates 5) of a residual network."""
    widths = axis("model.width", *WIDTHS)
    return Sweep(
        name="sharpness_vs_width",
        question="Does the sharpness along training depend on the width, under muP, ntk and sp?",
        cost="140 runs, 37 million tokens, about an hour on 2 CPU cores",
        expected="muP's sharpness depends on the width much less than ntk's, which falls, and sp diverges",
        base=RunConfig(
            model=ModelConfig(kind="mlp", depth=2, block_layers=1, context=8),
            parametrization=ParametrizationConfig(base_width=WIDTHS[0], zero_readout=False),
            optimizer=OptimizerConfig(kind="sgd", momentum=0.0, clip=None),
            schedule=ScheduleConfig(kind="constant", steps=256, warmup_steps=0),
            data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
            evaluation=EvaluationConfig(sequences=256),
        ),
        points=chain(
            product(widths, PARAMETRIZATIONS, axis("seed", *SEEDS), axis("optimizer.lr", *RATES)),
            product(widths, PARAMETRIZATIONS[:2], axis("seed", *MORE_SEEDS), axis("optimizer.lr", *RATES[1:])),
        ),
        probe=SharpnessConfig(
            quantities="preconditioned+tangent_kernel", sequences=64, steps=10, warm_steps=10, every=32
        ),
    )
