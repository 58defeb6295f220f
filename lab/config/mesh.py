"""How devices are arranged."""

import math
from dataclasses import astuple, dataclass

from lab.check import check_fields, positive

AXES = ("lane", "data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh, in the order of `AXES`.

    - `lane`: lanes are dealt out; devices never communicate.  None: as many as the other axes leave.
    - `data`: each device has a part of the batch and a copy of the state.
    - `fsdp`: each device has a part of the batch and a part of the state.
    - `tensor`: each device has a part of every matrix product.
    """

    lane: int | None = None
    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        check_fields(self, "exec.mesh")
        positive(self, "exec.mesh", *AXES)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Devices along each of `AXES`; of a mesh whose `lane` is known."""
        assert self.lane is not None
        return astuple(self)

    @property
    def devices(self) -> int:
        return math.prod(self.sizes)

    @property
    def within(self) -> int:
        """Devices that work on one lane."""
        return self.data * self.fsdp * self.tensor

    @property
    def rows(self) -> int:
        """Parts that a batch is cut into."""
        return self.data * self.fsdp

    @property
    def label(self) -> str:
        """The axes that have more than one device, as in `lane 4 x fsdp 2`."""
        return (
            " x ".join(f"{axis} {size}" for axis, size in zip(AXES, self.sizes, strict=True) if size > 1)
            or "one device"
        )


ONE = MeshConfig(lane=1)
