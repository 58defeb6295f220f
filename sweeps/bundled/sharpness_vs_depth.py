"""Is the sharpness of the loss the same at every depth?  One layer per residual block, two, and the transformer.

Question: under muP with branches times (L/L0)^-1/2, does the sharpness along training depend on the depth, in a
residual network with one layer per block, with two, and in a transformer?
Command: `lrlab sweep sharpness_vs_depth --out results/sharpness_vs_depth && lrlab report results/sharpness_vs_depth`.
Cost: 120 runs, 31 million training tokens, about 45 minutes on 2 CPU cores, most of it for the probe.
Expected picture: with one layer per block sharpness grows from depth 2 to 16 in shrinking steps; with two, and in the
transformer, it hardly follows the depth.  The paper (arXiv 2402.17457, Fig. 4) has the first consistent and the others
not, over larger depths than these, which are too few to judge it; docs/sharpness_measured.md.
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

DEPTHS = (2, 4, 8, 16)
SEEDS = (0, 1, 2)
# SGD for the residual networks: near the optimum, an eighth of it, and a rate that stays off the edge.
RATES = (2.0**0, 2.0**-3, 2.0**-5)
# AdamW for the transformer: near the optimum, and an eighth of it.
ADAM_RATES = (2.0**-6, 2.0**-9)
# The residual networks at the lowest rate with branches times L^-1/2 instead of (L/2)^-1/2.
CONTROL: Point = {"optimizer.lr": RATES[-1], "parametrization.base_depth": 1}
TRANSFORMER: Point = {
    "model.kind": "transformer",
    "model.width": 32,
    "model.head_dim": 16,
    "optimizer.kind": "adamw",
    "schedule.warmup_steps": 32,
}


def sweep() -> Sweep:
    """4 depths x 3 seeds x (2 residual networks at 3 rates and a control, a transformer at 2 rates)."""
    blocks = axis("model.block_layers", 1, 2)
    depths, seeds = axis("model.depth", *DEPTHS), axis("seed", *SEEDS)
    return Sweep(
        name="sharpness_vs_depth",
        question="Does the sharpness along training depend on the depth, with one and two layers per block?",
        cost="120 runs, 31 million tokens, about 45 minutes on 2 CPU cores",
        expected="with one layer it grows from depth 2 to 16 in shrinking steps; with two it hardly follows the depth",
        base=RunConfig(
            model=ModelConfig(kind="mlp", width=64, block_layers=1, context=8),
            parametrization=ParametrizationConfig(
                base_width=32, zero_readout=False, depth="sqrt", base_depth=DEPTHS[0]
            ),
            optimizer=OptimizerConfig(kind="sgd", momentum=0.0, clip=None),
            schedule=ScheduleConfig(kind="constant", steps=256, warmup_steps=0),
            data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
            evaluation=EvaluationConfig(sequences=256),
        ),
        points=chain(
            product(blocks, depths, seeds, axis("optimizer.lr", *RATES)),
            product(blocks, depths, seeds, [CONTROL]),
            product([TRANSFORMER], depths, seeds, axis("optimizer.lr", *ADAM_RATES)),
        ),
        probe=SharpnessConfig(
            quantities="preconditioned+tangent_kernel", sequences=64, steps=10, warm_steps=10, every=32
        ),
    )
