"""How does the best learning rate follow the token budget when the batch is held fixed?

Question: under muP and WSD, with 1024 tokens per update, what is the exponent of the optimum against the tokens from
131 thousand to 4.2 million, without weight decay and with 0.1?
Command: `lrlab sweep lr_vs_tokens --out results/lr_vs_tokens && lrlab report results/lr_vs_tokens`; on a GPU add
`--set model.width=256 --set data.sequences=256 --set data.length=512` (4096 x more tokens need a larger corpus:
`--set data.corpus=bin:PATH`).
Cost: 384 runs that share their trunks (1.65 times less work), 320 million training tokens, about 20 minutes on 2 CPU
cores.
Expected picture: at a fixed batch Bjorck et al. have D^-0.32; at this size the optimum hardly moves (measured exponents
+0.00, 95 % -0.11 .. +0.12, without decay and -0.08, -0.25 .. +0.08, with 0.1; docs/horizons.md).  The optimum's level
belongs to the warm-up of 32 updates: it lies 0.8 octave higher after 128.
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

SEEDS = 4
# Budgets a factor 2 apart, from the shortest run that is worth fitting to 40 % of a pass over the corpus.
STEPS = tuple(128 * 2**i for i in range(6))
# Rates a factor sqrt(2) apart, shifted by an eighth of an octave from seed to seed.
LOWEST, RATES = -8.25, 8


def sweep() -> Sweep:
    """6 budgets x 2 weight decays x 8 learning rates x 4 seeds."""
    return Sweep(
        name="lr_vs_tokens",
        question="How does the best learning rate follow the token budget at a fixed batch, under WSD and muP?",
        cost="384 runs, 320 million tokens after sharing trunks, about 40 minutes on 2 CPU cores",
        expected="the literature has D^-0.32 at a fixed batch (Bjorck); at this size the optimum hardly moves",
        base=base(),
        points=product(
            axis("schedule.steps", *STEPS), axis("optimizer.weight_decay", 0.0, 0.1), dithered(LOWEST, RATES, SEEDS)
        ),
    )


def base() -> RunConfig:
    """A model of width 32 with 1024 tokens per update, WSD with 32 updates of warm-up and a fifth of decay."""
    return RunConfig(
        model=ModelConfig(width=32, depth=2, head_dim=16),
        parametrization=ParametrizationConfig(name="mup", base_width=32, zero_readout=True),
        optimizer=OptimizerConfig(kind="adamw"),
        schedule=ScheduleConfig(kind="wsd", steps=STEPS[0], warmup_steps=32, decay_fraction=0.2),
        data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
        evaluation=EvaluationConfig(sequences=512),
    )


def dithered(lowest: float, rates: int, seeds: int) -> list[Point]:
    """Rates a factor sqrt(2) apart from 2^lowest, for each seed shifted by its share of a step."""
    return chain(
        *(
            product(
                axis("seed", seed),
                axis("optimizer.lr", *(2.0 ** (lowest + (rate + seed / seeds) / 2) for rate in range(rates))),
            )
            for seed in range(seeds)
        )
    )
