"""The optimizer and its constants."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lab.check import check_fields, positive, require
from lab.config.field import added


@dataclass(frozen=True)
class OptimizerConfig:
    """Base learning rate and the optimizer's constants; `clip` is a global gradient norm, None for no clipping.

    `decay` says what an update removes from a decayed weight w:

    - `constant-eta-lambda` removes `lr(t) * weight_decay * w` with the base rate, whatever the width: what a rule
      that multiplies a coupled decay by the inverse of the rate's multiplier comes to;
    - `coupled` removes `lr(t) * weight_decay * w` with the leaf's own rate (AdamW in most libraries);
    - `independent` removes `factor(t) * weight_decay * w` whatever the learning rate, factor being the schedule
      between 0 and 1.

    Gains and biases are never decayed.  `beta1` and `beta2` are also Lion's; `momentum` is SGD's, and Muon's for hidden
    matrices.  Under Muon all other leaves are trained by Adam, at `adam_ratio` times the rate; `muon_scale` is the
    factor on an orthogonalised update (`lab.optimizer.muon_scale`).
    """

    kind: Literal["sgd", "adam", "adamw", "adafactor", "muon", "lion"] = "adamw"
    lr: float = 2.0**-6
    weight_decay: float = 0.0
    decay: Literal["constant-eta-lambda", "coupled", "independent"] = "constant-eta-lambda"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    clip: float | None = 1.0
    muon_scale: Literal["keller", "moonlight", "spectral"] = added(schema=2, frozen="keller")
    adam_ratio: float = added(schema=2, frozen=1.0)

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        positive(self, "optimizer", "lr", "clip", "eps", "adam_ratio")
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay={self.weight_decay} is negative: use 0 for no decay",
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}={value} is not in [0, 1)")
        require(
            self.kind != "adam" or self.weight_decay == 0,
            f"optimizer.weight_decay={self.weight_decay} with optimizer.kind=adam: plain Adam has no weight decay, "
            "use optimizer.kind=adamw or optimizer.weight_decay=0",
        )

    def resolve(self) -> "OptimizerConfig":
        """Without weight decay its kind means nothing: it is written as `coupled`, so that ids do not depend on it."""
        return self if self.weight_decay else dataclasses.replace(self, decay="coupled")
