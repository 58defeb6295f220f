"""Does a rate tuned at depth 2 hold at depth 16?  The slope of the log optimum against the log depth.

Question: how does the best learning rate of a pre-norm transformer under muP move over three doublings of the depth,
with residual branches left alone (none), scaled by 1/sqrt(L) and by 1/L (CompleteP)?
Command: `lrlab sweep lr_vs_depth --out results/lr_vs_depth && lrlab report results/lr_vs_depth`.
Cost: 432 runs, 113 million training tokens, about 25 minutes on 2 CPU cores.
Expected picture: with 1/L the optimum stays (measured slope +0.05, 90 % -0.03 .. +0.12), with 1/sqrt(L) it moves up
(+0.43, +0.28 .. +0.57), without a rule it tends down and the loss grows with the depth; docs/transfer.md.
"""

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

DEPTHS = (2, 4, 8, 16)


def sweep() -> Sweep:
    """3 depth rules x 4 depths x 8 to 10 learning rates a factor sqrt(2) apart x 3 seeds (1/L 6)."""
    return Sweep(
        name="lr_vs_depth",
        question="How does the best learning rate move from depth 2 to 16, with no depth rule, 1/sqrt(L) and 1/L?",
        cost="432 runs, 113 million tokens, about 25 minutes on 2 CPU cores",
        expected="with 1/L the optimum stays, with 1/sqrt(L) it moves up, without a rule depth hurts",
        base=RunConfig(
            model=ModelConfig(width=32, head_dim=16),
            parametrization=ParametrizationConfig(name="mup", base_width=32, base_depth=2, zero_readout=True),
            optimizer=OptimizerConfig(kind="adamw"),
            schedule=ScheduleConfig(kind="wsd", steps=256, warmup_steps=64, decay_steps=64),
            data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
            evaluation=EvaluationConfig(sequences=512),
        ),
        points=chain(
            _cells("none", octaves=(-9.0, -4.5), seeds=3),
            _cells("sqrt", octaves=(-8.0, -3.5), seeds=3),
            _cells("complete", octaves=(-8.0, -4.5), seeds=6),
        ),
    )


def _cells(rule: str, *, octaves: tuple[float, float], seeds: int) -> list[Point]:
    """The cells of one depth rule, with rates between two powers of 2."""
    lowest, highest = octaves
    exponents = [lowest + step / 2 for step in range(round(2 * (highest - lowest)) + 1)]
    return product(
        axis("model.depth", *DEPTHS),
        axis("parametrization.depth", rule),
        axis("seed", *range(seeds)),
        axis("optimizer.lr", *(2.0**exponent for exponent in exponents)),
    )
