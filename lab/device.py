"""Choices that follow from the device: lanes, strategy, attention, unrolling.  They never change a run's identity."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Literal

from lab.check import InputError, require
from lab.config import ExecConfig, MeshConfig, ModelConfig
from lab.config.mesh import ONE
from lab.model import Forward


@dataclass(frozen=True)
class DeviceClass:
    """What is best on a kind of device.

    `lanes` is the fixed bucket that a large group of runs is cut into (never taken from momentary free memory),
    `unroll_depth` the deepest model whose layers are unrolled, `lookup` how the gradient of an embedding of up to
    `ONEHOT_ROWS` rows is summed, and of a larger one.
    """

    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int
    attention: Literal["einsum", "xla", "cudnn"]
    unroll_depth: int
    lookup: tuple[Literal["scatter", "onehot", "sorted"], Literal["scatter", "onehot", "sorted"]]


# A product with one-hot rows does a third of the readout's work; beyond this it is more than sorting.
ONEHOT_ROWS = 4096
# CPU: lanes save compiles and not arithmetic, and `map` skips padding and dead lanes; unrolled layers run 1.3-1.5 times
# faster when shallow, plain einsum attention 2.6 times faster than the library's (docs/performance.md).  Accelerators:
# small models leave them idle, so lanes are vmapped; fused attention kernels do not take a lane axis.  A scattered sum
# is in order and cheapest on CPU, atomic on GPUs, and in order on TPUs.
CLASSES: dict[str, DeviceClass] = {
    "cpu": DeviceClass(
        lanes=4, strategy="map", group=1, attention="einsum", unroll_depth=16, lookup=("scatter", "scatter")
    ),
    "gpu": DeviceClass(
        lanes=16, strategy="vmap", group=16, attention="xla", unroll_depth=4, lookup=("onehot", "sorted")
    ),
    "tpu": DeviceClass(
        lanes=16, strategy="vmap", group=16, attention="xla", unroll_depth=4, lookup=("onehot", "scatter")
    ),
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
    mesh: MeshConfig = ONE


def execution(config: ExecConfig, model: ModelConfig, *, platform: str, runs: int, devices: int = 1) -> Execution:
    """Choices for a group of `runs` runs of one model on `devices` of a platform (`cpu`, `gpu` or `tpu`).

    The lane bucket is the device's for each device along the mesh's lane axis, or the smallest power of two that holds
    all the runs.

    Raises:
        InputError: the mesh does not fit the devices or the lanes.
    """
    device = CLASSES[platform]
    mesh = _mesh(config, devices)
    assert mesh.lane is not None
    bucket = config.lanes or max(mesh.lane, min(device.lanes * mesh.lane, _bucket(runs)))
    require(
        bucket % mesh.lane == 0,
        f"exec.mesh.lane={mesh.lane} does not divide the {bucket} lanes of a unit: use a power of two up to {bucket}",
    )
    return Execution(
        lanes=bucket,
        strategy=device.strategy if config.strategy == "auto" else config.strategy,
        group=min(device.group, bucket // mesh.lane),
        segment=config.segment,
        forward=Forward(
            attention=device.attention if config.attention == "auto" else config.attention,
            unroll=model.depth <= device.unroll_depth if config.unroll is None else config.unroll,
            remat=config.remat,
            lookup=device.lookup[_rows(model) > ONEHOT_ROWS] if config.lookup == "auto" else config.lookup,
        ),
        accumulate=config.accumulate or 1,
        mesh=mesh,
    )


def _mesh(config: ExecConfig, devices: int) -> MeshConfig:
    """The mesh with its lane axis filled in: a power of two, since lanes come in such buckets.

    A few runs on many devices are padded with inactive lanes: in a group every process must have a part of the mesh.
    """
    asked = config.mesh
    left = devices // asked.within
    require(
        left >= (asked.lane or 1),
        f"exec.mesh asks for {asked.within * (asked.lane or 1)} devices, and there are {devices}: use fewer along its "
        "axes",
    )
    lane = asked.lane or min(1 << (left.bit_length() - 1), config.lanes or left)
    return dataclasses.replace(asked, lane=lane)


def _rows(model: ModelConfig) -> int:
    """Rows of the table that a model looks its tokens up in; 0 where its vocabulary is not known."""
    return (model.vocab or 0) * (model.context if model.kind == "mlp" else 1)


def _bucket(runs: int) -> int:
    """The smallest power of two that holds so many runs."""
    return 1 << max(0, runs - 1).bit_length()


def host_memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def devices() -> list[Any]:
    """JAX's devices, of all processes.

    Raises:
        InputError: there are none of the kind that `JAX_PLATFORMS` asks for.
    """
    import jax

    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        asked = os.environ.get("JAX_PLATFORMS") or jax.config.read("jax_platforms")
        if not asked:
            raise
        line = (str(error).strip().splitlines() or ["it finds none"])[0]
        raise InputError(
            f"JAX_PLATFORMS={asked}, and JAX has no such device here ({line}): unset it, or install what drives the "
            "device (lrlab doctor, once it is unset, names the extras that are missing)"
        ) from None


def platform() -> Literal["cpu", "gpu", "tpu"]:
    """The kind of the default JAX device.

    Raises:
        InputError: as `devices`.
    """
    found = devices()[0].platform
    return found if found in ("cpu", "tpu") else "gpu"


def device_count() -> int:
    """JAX devices of all processes.

    Raises:
        InputError: as `devices`.
    """
    return len(devices())
