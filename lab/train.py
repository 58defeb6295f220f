"""Training: the runs of one unit, as lanes of one program, segment after segment.

`prepare` builds a `Job`, `start` its first `Snapshot`, `train` yields one snapshot per segment, `finish` evaluates.  A
snapshot is all that a resume needs, and a resumed job is bitwise equal to an uninterrupted one; so is a job whose lanes
`branch` off the snapshots of others.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import NamedSharding

from lab import batch, group, schedule, sharding
from lab.check import InputError
from lab.config import RunConfig
from lab.corpus import Corpus, Stream, require_known
from lab.device import Execution
from lab.lane import Lane
from lab.mesh import on_host, place
from lab.program import Batches, Metrics, Program, State, program, shape_of
from lab.record import Result
from lab.sharding import whole

# Token streams up to this size live on the device and are gathered inside the compiled step.
DEVICE_BYTES = 256 << 20
# A segment is as long as fits into about this time, so that a person sees progress and Ctrl-C is answered.
SEGMENT_SECONDS = 2.0


@dataclass(frozen=True)
class Job:
    """The runs of one unit (at most K) up to a common number of updates, and what trains them."""

    configs: tuple[RunConfig, ...]
    program: Program
    lane: Lane
    feed: "Feed"
    validation: np.ndarray
    rates: np.ndarray
    decays: np.ndarray

    @property
    def steps(self) -> int:
        return self.rates.shape[0]


@dataclass(frozen=True)
class Snapshot:
    """A job after `step` updates; `loss` and `grad_norm` [updates, runs] are on the host.

    The metrics of the newest segment stay on the device in `pending` until `settled` waits for them.  `state` is
    donated to the next segment: use it before asking `train` for another snapshot.
    """

    step: int
    state: State
    loss: np.ndarray
    grad_norm: np.ndarray
    pending: Metrics | None = None

    def settled(self) -> "Snapshot":
        """The same snapshot with every update's metrics on the host."""
        if self.pending is None:
            return self
        runs, done = self.loss.shape[1], self.loss.shape[0]
        loss, grad_norm = (on_host(values).astype(np.float64)[:runs, : self.step - done].T for values in self.pending)
        return Snapshot(
            self.step,
            self.state,
            np.concatenate([self.loss, loss]),
            np.concatenate([self.grad_norm, grad_norm]),
        )


def prepare(configs: Sequence[RunConfig], execution: Execution, corpus: Corpus, *, stop: int | None = None) -> Job:
    """Everything that training the first `stop` updates (all, by default) needs, built on the host, not compiled yet.

    Raises:
        InputError: the runs do not belong to one program, differ in length, or the corpus is too short.
    """
    shapes = {
        shape_of(
            config,
            lanes=execution.lanes,
            strategy=execution.strategy,
            group=execution.group,
            segment=execution.segment,
            forward=execution.forward,
            accumulate=execution.accumulate,
            mesh=execution.mesh,
        )
        for config in configs
    }
    lengths = {config.schedule.steps if stop is None else stop for config in configs}
    if len(shapes) != 1 or len(lengths) != 1:
        raise InputError("the runs of a unit must share one program and one number of steps")
    (shape,) = shapes
    compiled = program(shape)
    lane, seeds = compiled.lanes(configs)
    first = configs[0]
    sharding.check(first, execution.mesh, execution.accumulate)
    data = first.data
    starts = batch.validation_starts(corpus.validation.size, data.length, first.evaluation.sequences)
    return Job(
        configs=tuple(configs),
        program=compiled,
        lane=lane,
        feed=Feed(corpus, seeds, compiled),
        validation=corpus.validation.windows(starts, data.length + 1),
        rates=_columns([schedule.rates(config)[:stop] for config in configs], shape.lanes),
        decays=_columns([schedule.decays(config)[:stop] for config in configs], shape.lanes),
    )


def start(job: Job) -> Snapshot:
    """The job before its first update; its segment is compiled beside its initial values."""
    with ThreadPoolExecutor(1) as pool:
        # Compilers of a group may wait for each other, and must then be called in one order everywhere.
        ready = None if group.joined() else pool.submit(job.program.compile_segment, job.lane, job.feed.first())
        state = job.program.init(job.lane)
        if ready is not None:
            ready.result()
    empty = np.zeros((0, len(job.configs)))
    return Snapshot(0, state, empty, empty)


def branch(job: Job, parents: Sequence[tuple[Snapshot, int]]) -> Snapshot:
    """The job where its lanes leave their parents: lane k goes on from a lane of a settled snapshot.

    Padding repeats the last lane.  All snapshots must have made the same number of updates.
    """
    steps = {snapshot.step for snapshot, _ in parents}
    if len(steps) != 1 or len(parents) != len(job.configs):
        raise ValueError(f"{len(parents)} parents after {sorted(steps)} updates for {len(job.configs)} lanes")
    lanes = [*parents, *[parents[-1]] * (job.program.shape.lanes - len(parents))]

    def gathered(*leaves: np.ndarray) -> np.ndarray:
        return np.stack([leaf[lane] for leaf, (_, lane) in zip(leaves, lanes, strict=True)])

    with job.program.context():
        hosts = {id(snapshot): on_host(snapshot.state) for snapshot, _ in parents}
        state = job.program.state(jax.tree.map(gathered, *[hosts[id(snapshot)] for snapshot, _ in lanes]))
    loss, grad_norm = (
        np.stack([getattr(snapshot, name)[:, lane] for snapshot, lane in parents], axis=1)
        for name in ("loss", "grad_norm")
    )
    return Snapshot(steps.pop(), state, loss, grad_norm)


def train(job: Job, snapshot: Snapshot, stops: Sequence[int] = ()) -> Iterator[Snapshot]:
    """Train from a snapshot to the end, yielding one snapshot per segment; segments end at each of `stops`.

    Metrics are fetched one segment late, and the batches of the next segment are made while one runs.
    """
    limit = job.program.shape.segment
    length = min(4, limit)
    with ThreadPoolExecutor(1) as pool:
        batches = pool.submit(job.feed.batches, snapshot.step)
        while snapshot.step < job.steps:
            begun = time.perf_counter()
            begin = snapshot.step
            end = min([begin + length, job.steps, *(stop for stop in stops if stop > begin)])
            steps = end - begin
            state, metrics = job.program.segment(
                job.lane,
                snapshot.state,
                batches.result(),
                job.rates[begin:end],
                job.decays[begin:end],
                begin=begin,
                steps=steps,
            )
            batches = pool.submit(job.feed.batches, min(end, job.steps))
            before = snapshot.settled()
            snapshot = Snapshot(end, state, before.loss, before.grad_norm, metrics)
            yield snapshot
            per_step = (time.perf_counter() - begun) / steps
            length = group.agreed(functools.partial(_next_length, per_step, min(limit, 4 * length)))


def _next_length(seconds_per_step: float, limit: int) -> int:
    return int(np.clip(SEGMENT_SECONDS / seconds_per_step, 1, limit))


def finish(job: Job, snapshot: Snapshot) -> list[Result]:
    """Validate every run of a trained job and judge whether it is done or diverged."""
    snapshot = snapshot.settled()
    windows = job.validation
    losses_KE = job.program.evaluate(job.lane, snapshot.state, windows)
    diverged_K = on_host(snapshot.state.diverged)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    return [_result(snapshot.loss[:, k], losses_KE[k], int(diverged_K[k]), tokens) for k in range(len(job.configs))]


class Feed:
    """The batches of a job's segments: window starts into a corpus on the device, or the windows themselves."""

    def __init__(self, corpus: Corpus, seeds: Sequence[int], program: Program) -> None:
        self._stream, self._seeds, self._program = corpus.train, tuple(seeds), program
        batch.window_count(self._stream.size, program.shape.length)
        small = self._stream.nbytes <= DEVICE_BYTES
        self._tokens = _on_device(self._stream, whole(program.mesh)) if small else None
        self._first: Batches | None = None

    def first(self) -> Batches:
        """Batches from update 0, kept until they are asked for again."""
        self._first = self._made(0)
        return self._first

    def batches(self, begin: int) -> Batches:
        """Batches of the S updates from `begin`, whatever part of them is used."""
        kept, self._first = self._first, None
        return kept if kept is not None and begin == 0 else self._made(begin)

    def _made(self, begin: int) -> Batches:
        shape = self._program.shape
        starts_SUB = np.stack(
            [
                batch.starts(
                    seed,
                    begin=begin,
                    steps=shape.segment,
                    sequences=shape.sequences,
                    length=shape.length,
                    tokens=self._stream.size,
                )
                for seed in self._seeds
            ],
            axis=1,
        )
        if self._tokens is not None:
            return self._program.batches(starts_SUB.astype(np.int32), self._tokens)
        windows = self._stream.windows(starts_SUB, shape.length + 1)
        assert shape.model.vocab is not None
        require_known(int(windows.max()), shape.model.vocab)  # a large corpus was only sampled when it was loaded
        return self._program.batches(windows)


def smoothed(loss: np.ndarray) -> np.ndarray:
    """Mean of the last twentieth of loss curves [updates, ...]."""
    return np.mean(loss[-max(1, loss.shape[0] // 20) :], axis=0)


@functools.lru_cache(maxsize=1)
def _on_device(stream: Stream, where: NamedSharding | None) -> jax.Array:
    """The stream as one array on every device; units that follow each other share it."""
    return place(stream.array(), where)


def _columns(per_run: Sequence[np.ndarray], width: int) -> np.ndarray:
    """[steps, width]; padding repeats the last run."""
    return np.stack([*per_run, *[per_run[-1]] * (width - len(per_run))], axis=1)


def _result(loss: np.ndarray, validation: np.ndarray, diverged: int, tokens: int) -> Result:
    trained = loss if diverged < 0 else loss[:diverged]
    finite = trained[np.isfinite(trained)]
    last = float(finite[-1]) if finite.size else None
    if diverged >= 0 or not np.isfinite(validation).all():
        step = diverged if diverged >= 0 else loss.size
        return Result("diverged", None, None, tokens, None, last, step)
    error = float(validation.std(ddof=1) / np.sqrt(validation.size))
    return Result("done", float(validation.mean()), error, tokens, float(smoothed(loss)), last, None)
