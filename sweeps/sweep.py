"""A sweep: a named, finite set of runs that answers one question, and the combinators that write one down.

Points are plain lists of `{dotted name: value}`; `product`, `zipped` and `chain` combine them like the functions of the
same names in itertools.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab import batch, corpus
from lab.check import require
from lab.config import ALTERNATIVES, ExecConfig, RunConfig, SharpnessConfig
from lab.identity import paths, run_id
from lab.model import leaves
from lab.override import ALIASES, apply, unknown
from lab.scale import betas, scales, setting_of
from sweeps.begun import NOTHING, Begun
from sweeps.begun import load as begun_load

Point = dict[str, Any]
_SEEDS = ("seed", *ALIASES["seed"])


@dataclass(frozen=True)
class Sweep:
    """A question, what it costs, the picture to expect, and its runs.

    `optimum_axes` are the dotted names whose optimum is sought; a cell is what remains after removing them and the
    seeds.  `probe` is what is measured along the runs.  `fixed` are names of points that say what all runs are, and
    tell no cells apart.  Iterating yields the run configurations, unresolved.
    """

    name: str
    question: str
    cost: str
    expected: str
    base: RunConfig
    points: Sequence[Point]
    optimum_axes: tuple[str, ...] = ("optimizer.lr",)
    execution: ExecConfig = field(default_factory=ExecConfig)
    probe: SharpnessConfig | None = None
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))
        require(len(self.points) > 0, f"sweep {self.name} has no runs: give it at least one point")
        known = paths(RunConfig)
        for name in (*self.optimum_axes, *{name for point in self.points for name in point}):
            require(name in known or name in ALIASES, f"sweep {self.name}: {unknown(name, known)}")

    def __iter__(self) -> Iterator[RunConfig]:
        for point in self.points:
            yield apply(self.base, point)


def axis(name: str, *values: Any) -> list[Point]:
    """The points of one axis."""
    return [{name: value} for value in values]


def product(*axes: Sequence[Point]) -> list[Point]:
    """Every combination of the axes' points; the last axis varies fastest.

    Raises:
        InputError: two axes set the same name.
    """
    return [_merged(points) for points in itertools.product(*axes)]


def zipped(*axes: Sequence[Point]) -> list[Point]:
    """The axes' points taken together, one from each.

    Raises:
        InputError: the axes differ in length, or set the same name.
    """
    lengths = [len(points) for points in axes]
    require(len(set(lengths)) <= 1, f"zipped axes have lengths {lengths}: make them equal")
    return [_merged(points) for points in zip(*axes, strict=True)]


def chain(*parts: Sequence[Point]) -> list[Point]:
    """The parts' points one after another; points that occur again are dropped."""
    return unique([point for part in parts for point in part])


def unique(points: Sequence[Point]) -> list[Point]:
    """The points without repetitions, in order."""
    return list({tuple(sorted(point.items(), key=lambda item: item[0])): point for point in points}.values())


def replaced(sweep: Sweep, settings: Mapping[str, Sequence[Any]]) -> Sweep:
    """The sweep with axes or values replaced, as `--set NAME=V1,V2` asks for.

    A name that the points set leaves them (points that then coincide become one) and takes its new values in every
    combination with the rest; so do the names that say the same thing otherwise (`schedule.steps` for
    `schedule.tokens`).  Seeds that have points of their own (rates that are shifted from seed to seed) are chosen
    among and keep them.  One value of a name that no point sets is `fixed`.  `exec.*` settings change how the sweep is
    executed, `probe.*` what is measured along it.

    Raises:
        InputError: an unknown name, an execution or probe setting with several values, one of a probe that the
            sweep does not have, or a seed without points where seeds have their own.
    """
    points, fixed = list(sweep.points), set(sweep.fixed)
    execution, probe = sweep.execution, sweep.probe
    # Other settings may take away what seeds have of their own, such as their rates.
    order = sorted(settings, key=lambda name: name in _SEEDS) if _seeds_own(points) else list(settings)
    for name, values in ((name, settings[name]) for name in order):
        section, _, setting = name.partition(".")
        if section in ("exec", "probe"):
            require(len(values) == 1, f"{name} takes one value, not {len(values)}")
        if section == "exec":
            execution = apply(execution, {setting: values[0]})
            continue
        if section == "probe":
            require(probe is not None, f"{name}: sweep {sweep.name} has no probe: add --probe sharpness")
            probe = apply(probe, {setting: values[0]})
            continue
        gone = {name, *ALIASES.get(name, ())} | {alias for alias, names in ALIASES.items() if name in names}
        gone |= {other for group in ALTERNATIVES if name in group for other in group}
        if name in _SEEDS and _seeds_own(points):
            points = _of_seeds(points, name, values, sweep.name)
            continue
        own = any(gone & point.keys() for point in points) and not gone & fixed
        fixed = fixed - gone | ({name} if len(values) == 1 and not own and name not in sweep.optimum_axes else set())
        points = unique([{key: value for key, value in point.items() if key not in gone} for point in points])
        points = product(points, axis(name, *values))
    return dataclasses.replace(
        sweep, points=tuple(points), execution=execution, probe=probe, fixed=tuple(sorted(fixed))
    )


def _seeds_own(points: Sequence[Point]) -> bool:
    """Whether there are two seeds with points that the other lacks, so that each has its own.

    A cell with fewer seeds than another is no such case: there is a seed that has them all.
    """
    own: dict[tuple[Any, ...], set[Any]] = {}
    for point in points:
        seed = tuple(point.get(other) for other in _SEEDS)
        rest = tuple(sorted((key, repr(value)) for key, value in point.items() if key not in _SEEDS))
        own.setdefault(seed, set()).add(rest)
    return any(not (a <= b or b <= a) for a, b in itertools.combinations(own.values(), 2))


def _of_seeds(points: Sequence[Point], name: str, values: Sequence[Any], sweep: str) -> list[Point]:
    """The points of some of the seeds that have their own."""
    names = [other for other in _SEEDS if any(other in point for point in points)]
    known = {point[name] for point in points if name in point}
    for value in values:
        require(
            value in known,
            f"{name}={value}: each seed of sweep {sweep} has points of its own, which another seed would not fit; "
            + (f"there are {name}={','.join(map(str, sorted(known)))}" if known else f"they are told by {names[0]}"),
        )
    return [point for point in points if point.get(name) in values]


@dataclass(frozen=True)
class Run:
    """A resolved run and the point of the sweep that it stands at."""

    run_id: str
    config: RunConfig
    point: Point


def resolved(sweep: Sweep, *, smoke: bool = False, begun: Begun = NOTHING) -> list[Run]:
    """Every run of the sweep, resolved against its corpus; runs that coincide appear once.

    With `smoke` each is cut to two steps and a small evaluation.  `begun` are the texts of the store that it goes to.

    Raises:
        InputError: a run that contradicts itself or does not fit its corpus.
    """
    runs: dict[str, Run] = {}
    for point, config in zip(sweep.points, sweep, strict=True):
        text = begun_load(config.data, begun)
        config = config.resolve(vocab=text.vocab, fingerprint=text.fingerprint)
        check_fits(config, text)
        config = _smoke(config) if smoke else config
        runs.setdefault(run_id(config), Run(run_id(config), config, point))
    return list(runs.values())


def check_fits(config: RunConfig, text: corpus.Corpus) -> None:
    """Require that the rules allow the model, and that the corpus fits it.

    A corpus must hold a training window, the validation sequences, and no token that the model does not know.

    Raises:
        InputError: naming the setting that does not fit.
    """
    assert config.model.vocab is not None
    scales(config, leaves(config))
    betas(setting_of(config))
    corpus.require_known(text.largest, config.model.vocab)
    batch.window_count(text.train.size, config.data.length)
    batch.validation_starts(text.validation.size, config.data.length, config.evaluation.sequences)


def _smoke(config: RunConfig) -> RunConfig:
    schedule = config.schedule
    return dataclasses.replace(
        config,
        schedule=dataclasses.replace(
            schedule,
            steps=2,
            warmup_steps=min(1, schedule.warmup_steps or 0),
            decay_steps=min(1, schedule.decay_steps or 0),
            cycle_steps=None,
            cycle_decays=None,
        ),
        evaluation=dataclasses.replace(config.evaluation, sequences=min(16, config.evaluation.sequences)),
    )


def _merged(points: Sequence[Point]) -> Point:
    merged: Point = {}
    for point in points:
        for name in point:
            require(name not in merged, f"{name} is set by two axes: keep one of them")
        merged |= point
    return merged
