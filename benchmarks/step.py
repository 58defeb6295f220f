"""Time of one training update: ours beside PyTorch, eager and compiled, on the same model and the same CPU threads.

    python benchmarks/step.py [--widths 32,64,128] [--steps 30] [--repeats 5] [--json]

PyTorch is optional (`pip install torch`).  Every row starts from the same parameters and reads the same batches, and
before anything is timed the losses and gradient norms of its first updates must agree with the others'.
"""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn, Protocol

import jax
import numpy as np
from figures import Measured, Timing, table

from lab import batch, corpus, train
from lab.check import InputError
from lab.config import (
    DataConfig,
    ExecConfig,
    ModelConfig,
    OptimizerConfig,
    ParametrizationConfig,
    RunConfig,
    ScheduleConfig,
)
from lab.device import execution
from lab.program import State

CHECKED = 4  # updates whose losses are compared: the last of them is the loss after 3 updates
TOLERANCE = 1e-4  # on losses in nats, and on gradient norms relative to their size
TOLERANCE_AFTER = 1e-2  # the same after all the timed updates, which amplify rounding
NO_TORCH = "PyTorch is not installed, so only our rows are shown: pip install torch"

OURS: dict[str, ExecConfig] = {
    "ours, K=1": ExecConfig(lanes=1),
    "ours, K=4": ExecConfig(lanes=4),
    "ours, K=4, lanes vmapped": ExecConfig(lanes=4, strategy="vmap"),
    "ours, K=1, layers scanned": ExecConfig(lanes=1, unroll=False),
    "ours, K=1, library attention": ExecConfig(lanes=1, attention="xla"),
    "ours, K=1, one dispatch per step": ExecConfig(lanes=1, segment=1),
}
EAGER, COMPILED = "torch eager", "torch.compile"


class Trainer(Protocol):
    """One way of training the model; it keeps its state from call to call."""

    lanes: int

    @property
    def parameters(self) -> int:
        """Trained numbers of one lane."""
        ...

    def train(self, updates: int) -> np.ndarray:
        """Loss and gradient norm before each update, [2, updates], of the first lane; waits for the results."""
        ...


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    widths: tuple[int, ...]
    steps: int
    repeats: int
    json: bool


@dataclass(frozen=True)
class Row:
    """A trainer, the curve of the first updates it made, and the seconds they took, compilation included."""

    name: str
    trainer: Trainer
    curve: np.ndarray
    first_seconds: float


class Ours:
    """The program that `lrlab` trains with, segment after segment; lanes differ in their initial values."""

    def __init__(self, config: RunConfig, settings: ExecConfig, source: corpus.Corpus, updates: int) -> None:
        assert settings.lanes is not None
        self.lanes = settings.lanes
        runs = [dataclasses.replace(config, seed_init=lane) for lane in range(self.lanes)]
        how = execution(settings, config.model, platform="cpu", runs=len(runs))
        self._job = train.prepare(runs, how, source)
        self._length = how.segment
        # Training makes the next segment's batches while one runs: here they are ready too.
        self._batches = [self._job.feed.batches(begin) for begin in range(0, updates, self._length)]
        self._state: State | None = None

    @property
    def parameters(self) -> int:
        assert self._state is not None
        return sum(value.size for value in self._state.params.values()) // self.lanes

    def initial_params(self) -> dict[str, np.ndarray]:
        """Copies of the first lane's initial parameters by path."""
        return {path: np.array(value)[0] for path, value in train.start(self._job).state.params.items()}

    def train(self, updates: int) -> np.ndarray:
        state = train.start(self._job).state if self._state is None else self._state
        metrics = []
        for batches, begin in zip(self._batches, range(0, updates, self._length), strict=False):
            steps = min(self._length, updates - begin)
            rates, decays = (values[begin : begin + steps] for values in (self._job.rates, self._job.decays))
            state, now = self._job.program.segment(
                self._job.lane, state, batches, rates, decays, begin=begin, steps=steps
            )
            metrics.append((now, steps))
        self._state = jax.block_until_ready(state)
        return np.concatenate([[np.asarray(values)[0, :steps] for values in now] for now, steps in metrics], axis=1)


def run_config(width: int, updates: int, source: corpus.Corpus) -> RunConfig:
    """The quickstart's shape at a constant rate, with a readout that does not start at zero.

    Parametrization, rates and initial scales are arguments of the compiled program: `sp` is timed with the very
    executable that `mup` runs, and its losses depend on every parameter from the first update on.
    """
    return RunConfig(
        model=ModelConfig(width=width, depth=2, head_dim=16),
        parametrization=ParametrizationConfig(name="sp", zero_readout=False),
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig(kind="constant", steps=updates),
        data=DataConfig(sequences=16, length=64),
    ).resolve(vocab=source.vocab, fingerprint=source.fingerprint)


def builders(
    config: RunConfig, source: corpus.Corpus, torch_model: ModuleType | None, updates: int
) -> dict[str, Callable[[], Trainer]]:
    """What builds each row, in the order of measurement: ours and PyTorch take turns while there are both."""
    ours: dict[str, Callable[[], Trainer]] = {
        name: functools.partial(Ours, config, settings, source, updates) for name, settings in OURS.items()
    }
    if torch_model is None:
        return ours
    # A program of its own, so that no row finds its initialization compiled already.
    params = Ours(config, ExecConfig(lanes=1, segment=2), source, updates).initial_params()
    windows = first_windows(config, source, updates)

    def build(*, compiled: bool) -> Trainer:
        model = torch_model.from_params(params, config.model, config.data.length)
        return torch_model.Trainer(
            model, windows, optimizer=config.optimizer, compiled=compiled, threads=thread_count()
        )

    theirs = {EAGER: functools.partial(build, compiled=False), COMPILED: functools.partial(build, compiled=True)}
    pairs = itertools.zip_longest(ours.items(), theirs.items())
    return dict(row for pair in pairs for row in pair if row is not None)


def first_windows(config: RunConfig, source: corpus.Corpus, updates: int) -> np.ndarray:
    """The token windows [updates, B, T+1] that our runs read in their first updates."""
    data = config.data
    starts_UB = batch.starts(
        config.seed_data,
        begin=0,
        steps=updates,
        sequences=data.sequences,
        length=data.length,
        tokens=source.train.size,
    )
    return source.train.windows(starts_UB, data.length + 1)


def first_updates(name: str, build: Callable[[], Trainer]) -> Row:
    """Build a row and make its first updates, which compile it."""
    trainer = build()
    begun = time.perf_counter()
    curve = trainer.train(CHECKED)
    return Row(name, trainer, curve, time.perf_counter() - begun)


def largest_difference(curves: Mapping[str, np.ndarray], reference: str, allowed: float) -> float:
    """Largest difference of losses (nats) and gradient norms (relative) from those of the reference row.

    Raises:
        SystemExit: a row is not the same computation; it is named, with its numbers.
    """
    expected = curves[reference]
    scale = np.stack([np.ones_like(expected[1]), expected[1]])
    differences = {name: float(np.max(np.abs(curve - expected) / scale)) for name, curve in curves.items()}
    for name, found in differences.items():
        if not found <= allowed:  # written so that a NaN fails
            _fail(
                f"'{name}' does not compute what '{reference}' does: they differ by {found:.1e}, losses "
                f"{curves[name][0].tolist()} and {expected[0].tolist()}"
            )
    return max(differences.values())


def require_equal_size(rows: Sequence[Row], reference: Row) -> None:
    """End the program if a row trains another number of parameters."""
    for row in rows:
        found, expected = row.trainer.parameters, reference.trainer.parameters
        if found != expected:
            _fail(f"'{row.name}' has {found} parameters, '{reference.name}' has {expected}")


def timed(rows: Sequence[Row], *, steps: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of one update of one lane, once per repeat, the rows taking turns.

    Every second repeat goes backwards, so that a slow drift of the machine meets all rows alike.
    """
    found: dict[str, list[float]] = {row.name: [] for row in rows}
    for repeat in range(repeats):
        for row in rows if repeat % 2 == 0 else rows[::-1]:
            row.trainer.train(1)  # not timed: idle threads of the row before spin for a while, and caches are cold
            begun = time.perf_counter()
            row.trainer.train(steps)
            found[row.name].append(1e3 * (time.perf_counter() - begun) / (steps * row.trainer.lanes))
    return found


def measure(config: RunConfig, source: corpus.Corpus, torch_model: ModuleType | None, options: Options) -> Measured:
    """Build, check and time every row of one width."""
    if torch_model is not None:
        torch_model.forget_compiled()
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name, build in builders(config, source, torch_model, max(options.steps, CHECKED)).items():
        try:
            rows.append(first_updates(name, build))
        except Exception as error:
            if name != COMPILED:  # the one row that needs more than Python packages: a C++ compiler
                raise
            failures[name] = few_words(error)
    by_name = {row.name: row for row in rows}
    reference = by_name.get(EAGER, rows[0])
    require_equal_size(rows, reference)
    difference = largest_difference({row.name: row.curve for row in rows}, reference.name, TOLERANCE)
    times = timed(rows, steps=options.steps, repeats=options.repeats)
    # Every row has made the same updates by now.  A lane that had diverged would be frozen, and so look fast.
    last = {row.name: row.trainer.train(CHECKED) for row in rows}
    return Measured(
        width=config.model.width,
        parameters=reference.trainer.parameters,
        timings={name: timing(by_name[name], times[name]) for name in times},
        failures=failures,
        difference=difference,
        updates=CHECKED + options.repeats * (1 + options.steps),
        difference_after=largest_difference(last, reference.name, TOLERANCE_AFTER),
    )


def timing(row: Row, times: Sequence[float]) -> Timing:
    """Compilation is what the first updates took beyond the time of as many warm ones."""
    warm = 1e-3 * min(times) * CHECKED * row.trainer.lanes
    return Timing(min(times), statistics.median(times), max(0.0, row.first_seconds - warm))


def few_words(error: Exception) -> str:
    """The first line that says something about an error, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 70 else f"{text[:67]}..."


def thread_count() -> int:
    """CPUs this process may use: XLA starts as many threads, and PyTorch is told to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(torch_model: ModuleType | None) -> dict[str, str]:
    """What the figures depend on beside the code; the load is that of the last minute."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch_model.torch.__version__ if torch_model else "not installed",
        "threads": str(thread_count()),
        "machine": f"{platform.system()} {platform.machine()}",
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }


def reference_row(found: Sequence[Measured]) -> str:
    """The row that the ratios refer to: `torch.compile` where it ran at every width, else ours."""
    return COMPILED if all(COMPILED in one.timings for one in found) else next(iter(OURS))


def as_json(found: Sequence[Measured], reference: str, stamp: Mapping[str, str], options: Options) -> str:
    """Everything that was measured as one JSON object."""
    widths = [
        {
            "width": one.width,
            "parameters": one.parameters,
            "checked": {
                "first_updates": CHECKED,
                "difference": one.difference,
                "updates_in_all": one.updates,
                "difference_after": one.difference_after,
            },
            "rows": {
                name: dataclasses.asdict(row) | {"ratio": one.ratio(name, reference)}
                for name, row in one.timings.items()
            },
            "failures": dict(one.failures),
        }
        for one in found
    ]
    settings = {"steps": options.steps, "repeats": options.repeats, "reference": reference}
    return json.dumps({"environment": dict(stamp), "settings": settings, "widths": widths}, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # or a second run would report no compilation
    note = functools.partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    source = corpus.load(DataConfig())
    try:
        configs = [run_config(width, max(options.steps, CHECKED), source) for width in options.widths]
    except InputError as error:
        _fail(str(error))
    torch_model = importlib.import_module("torch_model") if importlib.util.find_spec("torch") else None
    stamp = environment(torch_model)
    note(", ".join(f"{name} {value}" for name, value in stamp.items()))
    if torch_model is None:
        note(NO_TORCH)
    found: list[Measured] = []
    for config in configs:
        found.append(measure(config, source, torch_model, options))
        note(_checked(found[-1], config, has_torch=torch_model is not None))
    reference = reference_row(found)
    print(
        as_json(found, reference, stamp, options)
        if options.json
        else f"\n{table(found, list(OURS), (EAGER, COMPILED), reference)}"
    )
    return 0


def _checked(one: Measured, config: RunConfig, *, has_torch: bool) -> str:
    against = "PyTorch's" if has_torch else "one another's"
    return (
        f"width {one.width}: checked: {one.parameters} parameters in every row; losses and gradient norms of the first "
        f"{CHECKED} updates (lr {config.optimizer.lr:g}) agree with {against} within {one.difference:.0e} (allowed "
        f"{TOLERANCE:.0e}), after {one.updates} updates within {one.difference_after:.0e}"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message)


def parse(arguments: Sequence[str] | None) -> Options:
    """Options of the command line; anything wrong ends the program with one line."""
    parser = _Parser(prog="step.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", type=_widths, default="32,64,128", help="model widths (default 32,64,128)")
    parser.add_argument("--steps", type=_count, default=30, help="updates per timing (default 30)")
    parser.add_argument("--repeats", type=_count, default=5, help="timings per row (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and notes on stderr")
    return Options(**vars(parser.parse_args(arguments)))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _widths(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part.strip()) for part in text.split(",")))


def _fail(message: str) -> NoReturn:
    print(f"step.py: error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
