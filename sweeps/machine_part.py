"""Parts of a machine's description: tables of its file, each checked by itself (`sweeps.machine`)."""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from lab.check import check_fields, positive, require


@dataclass(frozen=True)
class Topology:
    """What `jax.experimental.topologies.get_topology_desc` needs: the name, and further keyword arguments if given."""

    name: str
    chip_config_name: str | None = None
    chips_per_host_bounds: tuple[int, ...] | None = None
    wrap: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "topology")
        pattern = r"[a-z0-9]+:\d+(x\d+){1,2}"  # an empty name would silently be a v2
        require(
            re.fullmatch(pattern, self.name) is not None,
            f"topology.name={self.name!r} is not FAMILY:AxB or FAMILY:AxBxC",
        )

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.name.partition(":")[2].split("x")))

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments beside the name."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "name" and v is not None}


@dataclass(frozen=True)
class Peak:
    """FLOP/s of one chip, dense; 0 says that it is measured where it is needed."""

    float32: float
    bfloat16: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "peak_flops")


@dataclass(frozen=True)
class Interconnect:
    """Links of one chip, each with so many bytes/s in one direction; the network of a host in one direction."""

    kind: Literal["ici", "nvlink"]
    links: int
    link_bytes_per_second: float
    dcn_bytes_per_second_per_host: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "interconnect")
        positive(self, "interconnect", "links", "link_bytes_per_second", "dcn_bytes_per_second_per_host")

    @property
    def bytes_per_second(self) -> float:
        """Bytes/s that one chip sends over all its links at once; data sheets print twice that, for both directions."""
        return self.links * self.link_bytes_per_second


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak that small models in lanes and one large run reach, and where the shares come from."""

    lanes: float
    large: float
    source: str

    def __post_init__(self) -> None:
        check_fields(self, "efficiency")
        for name in ("lanes", "large"):
            value = getattr(self, name)
            require(0 < value <= 1, f"efficiency.{name}={value} is not above 0 and up to 1")
