"""What this machine offers: backend, devices, memory, versions, and the extras that are missing."""

import importlib.util
import os
from typing import Any

from lab import environment
from lab.device import devices, host_memory, platform
from lab.record import versions

# extra -> (package that it brings, what it would give)
EXTRAS: dict[str, tuple[str, str]] = {
    "cuda": ("jax_cuda12_plugin", "training on NVIDIA GPUs"),
    "tpu": ("libtpu", "training on TPUs"),
    "tpu-aot": ("libtpu", "verdicts of the TPU compiler in lrlab plan --on"),
    "tokenizers": ("tokenizers", "data.tokenizer=PATH/tokenizer.json"),
    "test": ("pytest", "the test suite"),
    "dev": ("ruff", "linting and type checks"),
}


def examine() -> dict[str, Any]:
    """Everything that `lrlab doctor` prints, as plain data.

    Raises:
        InputError: JAX has no device of the kind that is asked for.
    """
    import jax

    found = devices()
    missing = {extra: gives for extra, (package, gives) in EXTRAS.items() if importlib.util.find_spec(package) is None}
    return {
        "backend": jax.default_backend(),
        "devices": [{"kind": device.device_kind, "memory_gib": _device_gib(device)} for device in found],
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(host_memory() / 2**30, 1),
        "versions": versions(),
        "environment": environment.recorded(platform()),
        "missing_extras": missing,
    }


def text(found: dict[str, Any]) -> str:
    """`examine`'s result for a person."""
    lines = [
        f"backend   {found['backend']}",
        *(
            f"device    {device['kind']}" + (f", {device['memory_gib']} GiB" if device["memory_gib"] else "")
            for device in found["devices"]
        ),
        f"host      {found['cpu_cores']} cores, {found['memory_gib']} GiB",
        *(f"shell     {name}={value}" for name, value in found["environment"].items()),
        *(f"version   {name} {version}" for name, version in found["versions"].items()),
        *(
            f"missing   extra {extra}: would give {gives} (pip install 'lr-scaling-lab[{extra}]')"
            for extra, gives in found["missing_extras"].items()
        ),
    ]
    return "\n".join(lines)


def _device_gib(device: Any) -> float | None:
    stats = device.memory_stats() if hasattr(device, "memory_stats") else None
    return round(stats["bytes_limit"] / 2**30, 1) if stats and "bytes_limit" in stats else None
