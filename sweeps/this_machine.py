"""The machine that this is: figures by the kind of its devices, a CPU's measured."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

from lab.config import MeshConfig
from lab.device import devices, host_memory, platform
from sweeps.machine import Machine, named, names
from sweeps.machine_part import Peak

# What stands for a platform whose devices nobody has looked at.
USUAL = {"cpu": "cpu", "gpu": "h200-1", "tpu": "v5e-4"}

# A part of `device_kind` -> generation; the first that is found decides.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "TPU7x": "tpu7x",
    "H100": "h100",
    "H200": "h200",
}


def here(platform: str, devices: Sequence[Any] = ()) -> Machine:
    """This machine: the figures of its devices' kind, for as many devices as there are.

    `devices` are JAX's; without them the platform's usual machine stands (`USUAL`).  A kind without figures is named as
    unknown and borrows those of the usual machine, with the memory that JAX states for the device.  A CPU's peak is
    measured by a short matrix product and its memory is the host's.
    """
    usual = named(USUAL[platform])
    if platform == "cpu":
        return measured(_resized(usual, len(devices)) if devices else usual)
    if not devices:
        return usual
    kind = devices[0].device_kind
    generation = next((word for part, word in _KINDS.items() if part in kind), None)
    if generation is not None:
        usual = next(machine for machine in map(named, names()) if machine.generation == generation)
        same = f"{generation}-{len(devices) // usual.devices_per_chip}"
        return named(same) if same in names() else _resized(usual, len(devices))
    found = dataclasses.replace(_resized(usual, len(devices)), name=f"{kind} (unknown, figures of {usual.name})")
    stated = (devices[0].memory_stats() or {}).get("bytes_limit")
    gib = stated / 2**30 if stated else found.usable_hbm_gib
    return dataclasses.replace(found, hbm_gib=max(gib, found.hbm_gib), usable_hbm_gib=gib)


def this_machine() -> Machine:
    """This machine with all its devices.

    Raises:
        InputError: JAX has none of the kind that is asked for.
    """
    return here(platform(), devices())


def measured(machine: Machine) -> Machine:
    """The machine with its zeros filled in by what is found here: a CPU's peak (float32) and memory."""
    if machine.platform != "cpu":
        return machine
    memory, peak = host_memory() / 2**30, Peak(float32=_measured_flops())
    return dataclasses.replace(machine, hbm_gib=memory, usable_hbm_gib=memory, peak_flops=peak)


def _resized(machine: Machine, devices: int) -> Machine:
    """A machine of the same kind with so many devices, on one host; a CPU host shares itself among them."""
    per_chip = devices if machine.platform == "cpu" else machine.devices_per_chip
    chips = max(1, devices // per_chip)
    name = machine.name if machine.platform == "cpu" else f"{machine.generation}-{chips}"
    return dataclasses.replace(
        machine,
        name=name,
        alias=None,
        chips=chips,
        hosts=1,
        chips_per_host=chips,
        devices_per_chip=per_chip,
        topology=None,  # the slice is here: nobody compiles for it ahead of time
        mesh=MeshConfig(lane=devices, data=1, fsdp=1, tensor=1),
        train_mesh=MeshConfig(lane=1, data=1, fsdp=devices, tensor=1),
    )


@functools.cache
def _measured_flops(size: int = 1024) -> float:
    """float32 FLOP/s of numpy's matrix product here, best of five."""
    import numpy as np

    a = np.ones((size, size), np.float32)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        _ = a @ a
        best = max(best, 2.0 * size**3 / (time.perf_counter() - begun))
    return best
