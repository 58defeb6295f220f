"""Planning: runs grouped by program, packed into units, with their cost before it is paid."""

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from lab import count
from lab.config import ExecConfig, ModelConfig
from lab.device import Execution, execution, host_memory
from lab.identity import digest, dump
from lab.optimizer import structure
from sweeps.sweep import Run

COMPILE_SECONDS = 4.0


@dataclass(frozen=True)
class Unit:
    """What a worker executes at once: runs of one program and one length, as lanes."""

    unit_id: str
    runs: tuple[Run, ...]
    execution: Execution
    settings: ExecConfig


@dataclass(frozen=True)
class Group:
    """The runs of one program."""

    model: ModelConfig
    optimizer: str
    dtype: str
    sequences: int
    length: int
    runs: tuple[Run, ...]
    units: tuple[Unit, ...]

    @property
    def label(self) -> str:
        shape = f"width {self.model.width} depth {self.model.depth} batch {self.sequences}x{self.length}"
        return f"{shape} {self.optimizer} {self.dtype}"


@dataclass(frozen=True)
class Device:
    """Figures of a device kind, from `tpu_configs/NAME.toml`."""

    name: str
    peak_flops: float
    efficiency: float
    memory_bytes: float


def plan(runs: Sequence[Run], settings: ExecConfig, *, platform: str) -> list[Group]:
    """Programs in order of first appearance, their runs packed into units of at most K lanes.

    Packing depends on the runs and the settings alone, so the same sweep always gives the same units.
    """
    by_program: dict[Any, list[Run]] = {}
    for run in runs:
        by_program.setdefault(_program_key(run), []).append(run)
    groups = []
    for members in by_program.values():
        first = members[0].config
        groups.append(
            Group(
                model=first.model,
                optimizer=structure(first.optimizer),
                dtype=first.dtype,
                sequences=first.data.sequences,
                length=first.data.length,
                runs=tuple(members),
                units=tuple(_units(members, settings, platform)),
            )
        )
    return groups


def pending(groups: Sequence[Group], done: Collection[str]) -> list[Unit]:
    """Units that still have runs whose id is not in `done`, narrowed to those runs."""
    found = []
    for unit in (unit for group in groups for unit in group.units):
        missing = tuple(run for run in unit.runs if run.run_id not in done)
        if missing:
            found.append(unit if len(missing) == len(unit.runs) else _unit(missing, unit.execution, unit.settings))
    return found


def flops(runs: Sequence[Run]) -> float:
    return sum(count.training_flops(run.config) for run in runs)


def tokens(runs: Sequence[Run]) -> int:
    return sum(count.training_tokens(run.config) for run in runs)


def memory(group: Group) -> int:
    """Estimated peak bytes of the group's largest unit."""
    how = max((unit.execution for unit in group.units), key=lambda e: e.lanes)
    return count.memory_bytes(group.runs[0].config, lanes=how.lanes, strategy=how.strategy, group=how.group)


def seconds(groups: Sequence[Group], device: Device) -> float:
    """Estimated time: FLOPs over the device's usual rate, and a compile per program."""
    work = sum(flops(group.runs) for group in groups)
    return work / (device.peak_flops * device.efficiency) + COMPILE_SECONDS * len(groups)


def device(platform: str) -> Device:
    """Figures of the platform; a CPU's peak is measured by a short matrix product, its memory is the machine's."""
    name = {"cpu": "cpu", "gpu": "h200-1", "tpu": "v5e-4"}[platform]
    text = resources.files("tpu_configs").joinpath(f"{name}.toml").read_text()
    found = tomllib.loads(text)
    peak = found.get("peak_flops") or _measured_flops()
    memory = found["memory_gib"] * 2.0**30 or host_memory()
    return Device(name, peak, found["efficiency"], memory)


def _measured_flops(size: int = 1024) -> float:
    """float32 FLOP/s of numpy's matrix product here, best of five."""
    import time

    import numpy as np

    a = np.ones((size, size), np.float32)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        _ = a @ a
        best = max(best, 2.0 * size**3 / (time.perf_counter() - begun))
    return best


def _program_key(run: Run) -> Any:
    config = run.config
    return (
        config.model,
        structure(config.optimizer),
        config.dtype,
        config.data.sequences,
        config.data.length,
    )


def _units(members: Sequence[Run], settings: ExecConfig, platform: str) -> list[Unit]:
    """Lanes of one unit share their length, corpus and evaluation."""
    how = execution(settings, members[0].config.model, platform=platform, runs=len(members))
    by_length: dict[Any, list[Run]] = {}
    for run in members:
        config = run.config
        key = (config.schedule.steps, config.data.fingerprint, config.evaluation.sequences)
        by_length.setdefault(key, []).append(run)
    return [
        _unit(tuple(same[i : i + how.lanes]), how, settings)
        for same in by_length.values()
        for i in range(0, len(same), how.lanes)
    ]


def _unit(runs: tuple[Run, ...], how: Execution, settings: ExecConfig) -> Unit:
    identity = dump([[run.run_id for run in runs], how.lanes, how.strategy, how.group])
    return Unit(digest(identity), runs, how, settings)
