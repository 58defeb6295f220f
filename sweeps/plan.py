"""Planning: runs grouped by program, merged into stages, packed into units, with their cost before it is paid."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lab import corpus, count, sharding
from lab.check import require
from lab.config import ExecConfig, MeshConfig, ModelConfig, RunConfig, SharpnessConfig
from lab.device import Execution, execution
from lab.identity import digest, dump
from lab.memory import memory_bytes
from lab.optimizer import structure
from sweeps import probe_cost
from sweeps.machine import Machine
from sweeps.stage import Stage, stages
from sweeps.sweep import Run

COMPILE_SECONDS = 4.0


@dataclass(frozen=True)
class Source:
    """Where a lane's state comes from: a lane of the fork that another unit left behind."""

    unit_id: str
    lane: int


@dataclass(frozen=True)
class Unit:
    """What a worker executes at once: stages of one program over the same updates, as lanes.

    `sources` names, lane by lane, where the state at `begin` is; it is empty for units that start from nothing.
    """

    unit_id: str
    stages: tuple[Stage, ...]
    execution: Execution
    settings: ExecConfig
    sources: tuple[Source, ...] = ()

    @property
    def begin(self) -> int:
        return self.stages[0].begin

    @property
    def end(self) -> int:
        return self.stages[0].end

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that end here."""
        return tuple(run for stage in self.stages for run in stage.ending)

    @property
    def forks(self) -> bool:
        """Whether other units start from this one's end."""
        return any(len(stage.ending) < len(stage.runs) for stage in self.stages)


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
        kind = f"mlp of {self.model.block_layers} layers per block, " if self.model.kind == "mlp" else ""
        shape = f"{kind}width {self.model.width} depth {self.model.depth} batch {self.sequences}x{self.length}"
        return f"{shape} {self.optimizer} {self.dtype}"


def plan(
    runs: Sequence[Run], settings: ExecConfig, *, machine: Machine, probe: SharpnessConfig | None = None
) -> list[Group]:
    """Programs in order of first appearance, their runs merged into stages and packed into units of at most K lanes.

    Packing depends on the runs, the settings and the machine alone, so the same sweep always gives the same units.
    Units come after those that they start from.  A probe takes memory too: batches are cut until both fit.
    """
    by_program: dict[Any, list[Run]] = {}
    for run in runs:
        by_program.setdefault(program_key(run), []).append(run)
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
                units=tuple(_units(members, settings, machine, probe)),
            )
        )
    return groups


def pending(
    groups: Sequence[Group], done: Collection[str], forked: Callable[[str], bool] = lambda _: False
) -> list[Unit]:
    """The units, narrowed to the stages, that runs whose id is not in `done` still need; sources filled in.

    `forked` says whether a unit's fork is in the store: its stages need no training then, unless a run that ends with
    them has no record.
    """
    units = [unit for group in groups for unit in group.units]
    places = {stage.stage_id: Source(unit.unit_id, lane) for unit in units for lane, stage in enumerate(unit.stages)}
    saved = {stage.stage_id for unit in units if unit.forks and forked(unit.unit_id) for stage in unit.stages}
    trained: set[str] = set()
    awaited: set[str] = set()
    for stage in (stage for unit in reversed(units) for stage in unit.stages):  # children before parents
        waited_for = stage.stage_id in awaited and stage.stage_id not in saved
        if waited_for or any(run.run_id not in done for run in stage.ending):
            trained.add(stage.stage_id)
            awaited |= {stage.parent} if stage.parent is not None else set()
    found = []
    for unit in units:
        kept = tuple(stage for stage in unit.stages if stage.stage_id in trained)
        if not kept:
            continue
        if len(kept) < len(unit.stages):
            unit = _unit(kept, unit.execution, unit.settings)
        places |= {stage.stage_id: Source(unit.unit_id, lane) for lane, stage in enumerate(kept)}
        sources = tuple(places[stage.parent] for stage in kept if stage.parent is not None)
        found.append(dataclasses.replace(unit, sources=sources))
    return found


def steps(groups: Sequence[Group]) -> tuple[int, int]:
    """Updates of all runs, each trained alone, and of all stages."""
    alone = sum(run.config.schedule.steps or 0 for group in groups for run in group.runs)
    return alone, sum(stage.steps for group in groups for unit in group.units for stage in unit.stages)


def flops(units: Sequence[Unit]) -> float:
    """FLOPs of the units' stages and evaluations."""
    return sum(
        stage.steps * count.step_flops(stage.runs[0].config)
        + sum(count.evaluation_flops(run.config) for run in stage.ending)
        for unit in units
        for stage in unit.stages
    )


def tokens(units: Sequence[Unit]) -> int:
    """Training tokens of the units' stages."""
    return sum(stage.steps * stage.runs[0].config.data.tokens_per_step for unit in units for stage in unit.stages)


def passes(runs: Sequence[Run]) -> float:
    """How often the run that sees its corpus most often sees it; up to 1 no token is trained on twice."""
    return max(count.training_tokens(run.config) / corpus.load(run.config.data).train.size for run in runs)


def memory(group: Group, probe: SharpnessConfig | None = None) -> int:
    """Estimated peak bytes of a unit of the group, with what a probe takes; all have the same K."""
    return memory_of(group.runs[0], group.units[0].execution, probe)


def seconds(groups: Sequence[Group], machine: Machine, *, extra: float = 0.0) -> float:
    """Estimated time: FLOPs (`extra`: of a probe) over the machine's usual rate, and a compile per program."""
    work = extra + sum(flops(group.units) for group in groups)
    return work / (machine.peak() * machine.efficiency.lanes) + COMPILE_SECONDS * len(groups)


def program_key(run: Run) -> Any:
    """What the runs of one program have in common."""
    config = run.config
    return (
        config.model,
        structure(config.optimizer),
        config.dtype,
        config.data.sequences,
        config.data.length,
    )


def _units(members: Sequence[Run], settings: ExecConfig, machine: Machine, probe: SharpnessConfig | None) -> list[Unit]:
    """Lanes of one unit share their updates, corpus and evaluation; all units of a program have the same K."""
    ranges: dict[Any, list[Stage]] = {}
    for stage in stages(members):
        config = stage.runs[0].config
        key = (stage.begin, stage.end, config.data.fingerprint, config.evaluation.sequences)
        ranges.setdefault(key, []).append(stage)
    widest = max(len(same) for same in ranges.values())
    first = members[0].config
    how = execution(settings, first.model, platform=machine.platform, runs=widest, devices=machine.devices)
    if settings.accumulate is None:
        how = _fitting(members[0], how, machine.device_memory_bytes, probe)
    sequences = members[0].config.data.sequences
    require(
        sequences % how.accumulate == 0,
        f"exec.accumulate={how.accumulate} does not divide data.sequences={sequences}: use one of its divisors",
    )
    sharding.check(first, how.mesh, how.accumulate)
    # A stage ends after its parent does; the shortest branches come first, so that forks are given up early.
    return [
        _unit(tuple(ranges[key][i : i + how.lanes]), how, settings)
        for key in sorted(ranges, key=lambda key: key[:2])
        for i in range(0, len(ranges[key]), how.lanes)
    ]


def _fitting(run: Run, how: Execution, capacity: float, probe: SharpnessConfig | None) -> Execution:
    """The execution with the batch cut into as few equal parts as fit the memory; whole if none does."""
    for parts in cuts(run.config, how.mesh):
        cut = dataclasses.replace(how, accumulate=parts)
        if memory_of(run, cut, probe) <= capacity:
            return cut
    return how


def cuts(config: RunConfig, mesh: MeshConfig) -> list[int]:
    """Into how many equal parts a batch can be cut on a mesh, ascending; one where the mesh does not divide it."""
    sequences = config.data.sequences
    return [n for n in range(1, sequences + 1) if n == 1 or sequences % (n * mesh.rows) == 0]


def memory_of(run: Run, how: Execution, probe: SharpnessConfig | None) -> int:
    """Estimated peak bytes of one device that trains lanes of a run's program, without the corpus."""
    assert how.mesh.lane is not None
    training = memory_bytes(
        run.config,
        lanes=how.lanes // how.mesh.lane,
        strategy=how.strategy,
        group=how.group,
        accumulate=how.accumulate,
        remat=how.forward.remat,
        mesh=how.mesh,
        unroll=how.forward.unroll,
    )
    return training + (probe_cost.memory(probe, run.config, how) if probe is not None else 0)


def _unit(lanes: tuple[Stage, ...], how: Execution, settings: ExecConfig) -> Unit:
    # A run that shares nothing is named by itself, as in every sweep before there were trees.
    names = [stage.stage_id if stage.trunk_id else stage.runs[0].run_id for stage in lanes]
    cut = [how.accumulate] if how.accumulate > 1 else []
    identity = dump([names, how.lanes, how.strategy, how.group, *cut])
    return Unit(digest(identity), lanes, how, settings)
