"""One training run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lab.check import check_fields, require
from lab.config.data import DataConfig, EvaluationConfig
from lab.config.field import added
from lab.config.model import ModelConfig
from lab.config.optimizer import OptimizerConfig
from lab.config.parametrization import ParametrizationConfig, check_horizon
from lab.config.schedule import ScheduleConfig

# Of each group exactly one field says the same thing; setting one through an override clears the others.
ALTERNATIVES: tuple[tuple[str, ...], ...] = (
    ("schedule.steps", "schedule.tokens"),
    ("schedule.warmup_steps", "schedule.warmup_tokens", "schedule.warmup_fraction"),
    ("schedule.decay_steps", "schedule.decay_tokens", "schedule.decay_fraction"),
    ("schedule.cycle_steps", "schedule.cycle_tokens", "schedule.cycle_fractions"),
    ("model.heads", "model.head_dim"),
)

# What a dtype's numbers are made by, where that is no longer what it was in 0.1.0 (1).  bfloat16: 2, every sum is in
# float32; 1 added the gradients of embeddings up in bfloat16.
NUMERICS = {"bfloat16": 2}


def superseded(config: Mapping[str, Any]) -> bool:
    """Whether a stored configuration's numbers would be others today."""
    return config.get("numerics", 1) < NUMERICS.get(config["dtype"], 1)


@dataclass(frozen=True)
class RunConfig:
    """One training run: everything that changes its numbers and nothing else.

    `numerics` follows from `dtype` when a run is resolved (`NUMERICS`, else 1), and is not set by hand: a run whose
    numbers a mend has changed is another run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    parametrization: ParametrizationConfig = field(default_factory=ParametrizationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(steps=300, decay_fraction=0.2))
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    seed_init: int = 0
    seed_data: int = 0
    numerics: int = added(schema=3, frozen=1)

    def __post_init__(self) -> None:
        check_fields(self, "")
        for name in ("seed_init", "seed_data"):
            value = getattr(self, name)
            require(0 <= value < 2**31, f"{name}={value} is not in [0, 2^31)")

    def resolve(self, *, vocab: int | None, fingerprint: str) -> "RunConfig":
        """Fill in everything that is derived; idempotent.

        Raises:
            InputError: the shapes, durations or the corpus fingerprint contradict each other, or a horizon rule the
                optimizer.
        """
        require(
            self.data.fingerprint in (None, fingerprint),
            f"data.fingerprint={self.data.fingerprint} but data.corpus={self.data.corpus} now has {fingerprint}: the "
            "text has changed; use a new output folder or the old text",
        )
        check_horizon(self.parametrization, self.optimizer.kind)
        model = self.model.resolve(vocab=vocab)
        schedule = self.schedule.resolve(self.data.tokens_per_step)
        assert schedule.steps is not None
        require(
            schedule.steps * self.data.sequences < 2**62,
            f"schedule.steps={schedule.steps} x data.sequences={self.data.sequences} is beyond 2^62 sequences",
        )
        return dataclasses.replace(
            self,
            model=model,
            parametrization=self.parametrization.resolve(model),
            optimizer=self.optimizer.resolve(),
            schedule=schedule,
            data=dataclasses.replace(self.data, fingerprint=fingerprint),
            numerics=NUMERICS.get(self.dtype, 1),
        )
