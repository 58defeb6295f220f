"""How runs are executed."""

from dataclasses import dataclass, field
from typing import Literal

from lab.check import check_fields, positive, require
from lab.config.mesh import MeshConfig


@dataclass(frozen=True)
class ExecConfig:
    """How runs are executed: recorded beside the results, never part of a run's identity.

    None and `auto` are chosen from the device and the shape (`lab.device`).  `accumulate` is the number of equal parts
    that a batch is cut into, whose gradients are added up; None cuts only what does not fit the device's memory.
    `remat` is what the backward pass computes anew instead of keeping it: nothing, all but matrix products (`dots`), or
    all of a block but its input (`full`).  `lookup` is how the gradient of an embedding is summed (`lab.lookup`).
    `mesh` arranges the devices.
    """

    lanes: int | None = None
    strategy: Literal["auto", "vmap", "map", "both"] = "auto"
    segment: int = 64
    attention: Literal["auto", "einsum", "xla", "cudnn"] = "auto"
    unroll: bool | None = None
    remat: Literal["none", "dots", "full"] = "none"
    lookup: Literal["auto", "scatter", "onehot", "sorted"] = "auto"
    accumulate: int | None = None
    checkpoint_seconds: float = 60.0
    keep: Literal["final", "none"] = "final"
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        check_fields(self, "exec")
        positive(self, "exec", "segment", "lanes", "accumulate", "checkpoint_seconds")
        require(
            self.lanes is None or self.lanes & (self.lanes - 1) == 0,
            f"exec.lanes={self.lanes} is not a power of two: lanes come in buckets of 1, 2, 4, 8, ...",
        )
