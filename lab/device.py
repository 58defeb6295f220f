"""Choices that follow from the device: lanes, strategy, attention, unrolling.  They never change a run's identity."""

import os
from dataclasses import dataclass
from typing import Literal

from lab.config import ExecConfig, ModelConfig
from lab.model import Forward


@dataclass(frozen=True)
class DeviceClass:
    """What is best on a kind of device.

    `lanes` is the fixed bucket that a large group of runs is cut into (never taken from momentary free memory),
    `unroll_depth` the deepest model whose layers are unrolled.
    """

    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int
    attention: Literal["einsum", "xla", "cudnn"]
    unroll_depth: int


# CPU: lanes save compiles and not arithmetic, and `map` skips padding and dead lanes; unrolled layers run 1.3-1.5 times
# faster when shallow, plain einsum attention 2.6 times faster than the library's (docs/performance.md).  Accelerators:
# small models leave them idle, so lanes are vmapped; fused attention kernels do not take a lane axis.
CLASSES: dict[str, DeviceClass] = {
    "cpu": DeviceClass(lanes=4, strategy="map", group=1, attention="einsum", unroll_depth=16),
    "gpu": DeviceClass(lanes=16, strategy="vmap", group=16, attention="xla", unroll_depth=4),
    "tpu": DeviceClass(lanes=16, strategy="vmap", group=16, attention="xla", unroll_depth=4),
}


@dataclass(frozen=True)
class Execution:
    """An `ExecConfig` with every choice made."""

    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int
    segment: int
    forward: Forward
    accumulate: int = 1


def execution(config: ExecConfig, model: ModelConfig, *, platform: str, runs: int) -> Execution:
    """Choices for a group of `runs` runs of one model on a platform (`cpu`, `gpu` or `tpu`).

    The lane bucket is the device's, or the smallest power of two that holds all the runs.
    """
    device = CLASSES[platform]
    bucket = config.lanes or min(device.lanes, 1 << max(0, runs - 1).bit_length())
    return Execution(
        lanes=bucket,
        strategy=device.strategy if config.strategy == "auto" else config.strategy,
        group=min(device.group, bucket),
        segment=config.segment,
        forward=Forward(
            attention=device.attention if config.attention == "auto" else config.attention,
            unroll=model.depth <= device.unroll_depth if config.unroll is None else config.unroll,
            remat=config.remat,
        ),
        accumulate=config.accumulate or 1,
    )


def host_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def platform() -> Literal["cpu", "gpu", "tpu"]:
    """The kind of the default JAX device."""
    import jax

    found = jax.default_backend()
    return found if found in ("cpu", "tpu") else "gpu"  # type: ignore[return-value]
