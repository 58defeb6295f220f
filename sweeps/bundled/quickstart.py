"""Does the best learning rate move with the width?

Question: at which learning rate is the validation loss lowest for widths 32, 64 and 128, under the standard
parametrization (sp) and under muP?
Command: `lrlab sweep quickstart --out results/quickstart && lrlab report results/quickstart`, or `make quickstart`.
Cost: 84 runs, 22 million training tokens, about 3.5 minutes on 2 CPU cores.
Expected picture: muP's three curves have their minimum at the same rate, near 2^-6 (measured -6.04, -6.07, -6.04 on
Python 3.11's library); sp's optimum moves left by about one octave per doubling of the width (-6.04, -7.15, -8.03).  At
width 32, the base width, both are the same run.  A warm-up of a quarter of the run keeps large rates calm: with 16
steps muP's fitted optimum moved by +0.5 octave between widths 32 and 128.
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
from sweeps.sweep import Sweep, axis, product


def sweep() -> Sweep:
    """2 parametrizations x 3 widths x 7 learning rates a factor 2 apart x 2 seeds."""
    return Sweep(
        name="quickstart",
        question="Does the best learning rate move with the width, under sp and under muP?",
        cost="84 runs, 22 million tokens, about 3.5 minutes on 2 CPU cores",
        expected="muP's optimum stays at widths 32, 64 and 128; sp's moves left by an octave per doubling",
        base=RunConfig(
            model=ModelConfig(depth=2, head_dim=16),
            parametrization=ParametrizationConfig(base_width=32, zero_readout=True),
            optimizer=OptimizerConfig(kind="adamw"),
            schedule=ScheduleConfig(kind="wsd", steps=256, warmup_steps=64, decay_steps=64),
            data=DataConfig(corpus="python-stdlib", sequences=16, length=64),
            evaluation=EvaluationConfig(sequences=512),
        ),
        points=product(
            axis("model.width", 32, 64, 128),
            axis("parametrization.name", "sp", "mup"),
            axis("seed", 0, 1),
            axis("optimizer.lr", *(2.0**-e for e in range(10, 3, -1))),
        ),
    )
