"""What a machine has room for: how many lanes of a program at once, and in how many parts a batch is cut."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lab import corpus
from lab.config import ExecConfig, SharpnessConfig
from lab.device import Execution, execution
from lab.program import shape_of
from lab.train import DEVICE_BYTES
from sweeps import ahead, probe_cost
from sweeps import plan as planning
from sweeps.machine import Machine
from sweeps.plan import Group
from sweeps.sweep import Run

# Cuts of a batch that are compiled before a program counts as too large; the first that the estimate lets pass is
# within its error of the truth.
_CUTS = 3


@dataclass(frozen=True)
class Room:
    """How a program is executed on a machine, and whether it fits.

    `needed_bytes` is per device, with what a probe takes, None where the compiler refuses without a number.
    `failure` is what became of the compiler where it gave no verdict and the estimate stands in.
    """

    execution: Execution
    fits: bool
    needed_bytes: int | None
    estimated_bytes: int
    verdict: ahead.Verdict | None = None
    compiles: int = 0
    failure: str | None = None


@dataclass
class _Program:
    """A program on a machine; `asked` holds what the compiler has said of it."""

    group: Group
    settings: ExecConfig
    probe: SharpnessConfig | None
    machine: Machine
    asked: dict[Execution, ahead.Verdict] = field(default_factory=dict)

    @property
    def first(self) -> Run:
        return self.group.runs[0]

    def how(self, lanes: int, parts: int = 1) -> Execution:
        parts = self.settings.accumulate or parts
        chosen = dataclasses.replace(self.settings, lanes=lanes, accumulate=parts)
        machine = self.machine
        return execution(chosen, self.group.model, platform=machine.platform, runs=lanes, devices=machine.devices)

    def sizes(self) -> list[int]:
        """Buckets of lanes to choose from."""
        runs, machine = _widest(self.group), self.machine
        least = execution(
            self.settings, self.group.model, platform=machine.platform, runs=runs, devices=machine.devices
        )
        if self.settings.lanes is not None:
            return [self.settings.lanes]
        if machine.platform == "cpu":  # lanes save it compiles alone: the usual bucket will do
            return [self.group.units[0].execution.lanes]
        assert least.mesh.lane is not None
        most = max(least.mesh.lane, 1 << max(0, runs - 1).bit_length())
        return [least.mesh.lane << power for power in range((most // least.mesh.lane).bit_length())]

    def cuts(self, lanes: int) -> Iterator[Execution]:
        """Executions that cut the batch and that fit by the estimate, the fewest parts first."""
        if self.settings.accumulate is None:
            for parts in planning.cuts(self.first.config, self.how(lanes).mesh)[1:]:
                how = self.how(lanes, parts)
                if self.estimated(how):
                    yield how

    def estimate(self, how: Execution) -> int:
        return planning.memory_of(self.first, how, self.probe) + (_tokens(self.first) or 0)

    def estimated(self, how: Execution) -> bool:
        return self.estimate(how) <= self.machine.device_memory_bytes

    def needs(self, how: Execution) -> int | None:
        """What the compiler says, and the estimate of a probe, which is another program beside it."""
        found = self.verdict(how).memory_bytes
        extra = 0 if self.probe is None else probe_cost.memory(self.probe, self.first.config, how)
        return None if found is None else found + extra

    def compiled(self, how: Execution) -> bool:
        needs = self.needs(how)
        return self.verdict(how).fits and (needs is None or needs <= self.machine.device_memory_bytes)

    def verdict(self, how: Execution) -> ahead.Verdict:
        if how not in self.asked:
            shape = shape_of(
                self.first.config,
                lanes=how.lanes,
                strategy=how.strategy,
                group=how.group,
                segment=how.segment,
                forward=how.forward,
                accumulate=how.accumulate,
                mesh=how.mesh,
            )
            seeds = len({run.config.seed_data for run in self.group.runs})
            self.asked[how] = ahead.verdict(shape, self.machine, tokens=_tokens(self.first), seeds=seeds)
        return self.asked[how]


def room(
    group: Group, settings: ExecConfig, machine: Machine, *, probe: SharpnessConfig | None = None, compiles: bool
) -> Room:
    """The most lanes of a program that fit, with a batch cut only where the fewest lanes do not fit with a whole one.

    With `compiles` the TPU compiler says what fits; where it fails the estimate does, as without it.
    """
    program = _Program(group, settings, probe, machine)
    failure = None
    if compiles:
        try:
            how = _chosen(program, program.compiled)
            found = program.verdict(how)
            fits, needs = program.compiled(how), program.needs(how)
            return Room(how, fits, needs, program.estimate(how), found, len(program.asked))
        except ahead.CompilerError as error:
            failure = str(error)
    how = _chosen(program, None)
    estimate = program.estimate(how)
    return Room(how, program.estimated(how), estimate, estimate, compiles=len(program.asked), failure=failure)


def _chosen(program: _Program, fits: Callable[[Execution], bool] | None) -> Execution:
    sizes = program.sizes()
    tried = None if fits is None else lambda lanes: fits(program.how(lanes))
    lanes = widest(sizes, lambda lanes: program.estimated(program.how(lanes)), tried)
    whole = program.how(lanes)
    if (fits or program.estimated)(whole):
        return whole
    cuts = program.cuts(lanes)
    if fits is None:
        return next(cuts, whole)
    return next((how for _, how in zip(range(_CUTS), cuts, strict=False) if fits(how)), whole)


def widest(sizes: list[int], estimated: Callable[[int], bool], fits: Callable[[int], bool] | None) -> int:
    """The largest of some sizes, in ascending order, that fits; the first where nothing does.

    The estimate says where to begin; with `fits` (a compile, slow) the first neighbour that contradicts ends the
    search.
    """
    begin = max((i for i, size in enumerate(sizes) if estimated(size)), default=0)
    if fits is None:
        return sizes[begin]
    if fits(sizes[begin]):
        while begin + 1 < len(sizes) and fits(sizes[begin + 1]):
            begin += 1
        return sizes[begin]
    while begin > 0:
        begin -= 1
        if fits(sizes[begin]):
            break
    return sizes[begin]


def _widest(group: Group) -> int:
    """The most stages of a group that may be lanes of one unit."""
    sizes: dict[tuple[int, int], int] = {}
    for unit in group.units:
        sizes[unit.begin, unit.end] = sizes.get((unit.begin, unit.end), 0) + len(unit.stages)
    return max(sizes.values())


def _tokens(run: Run) -> int | None:
    """Bytes of a corpus that lies on the devices, None for a larger one."""
    size = corpus.load(run.config.data).train.nbytes
    return size if size <= DEVICE_BYTES else None
