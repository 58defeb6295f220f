"""What two campaigns of learning-rate runs would cost on named machines: Step Law's, and 1,000 runs for a 70B model.

A campaign is a list of parts: runs of one program over the same updates.  Its time on a machine is the sum of its
parts' updates by the roofline (`sweeps.roofline`): runs one after another on the whole machine, as jobs of their own on
hosts, or as lanes.  FLOPs are analytic; everything about time is a model, and no accelerator was timed for it.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.config import DataConfig, ModelConfig, OptimizerConfig, ParametrizationConfig, RunConfig, ScheduleConfig
from lab.identity import run_id
from sweeps import roofline
from sweeps.machine import Machine
from sweeps.roofline import Work, work
from sweeps.stage import stages
from sweeps.sweep import Run

DECAY, WARMUP = 0.1, 20  # a fraction, and updates


@dataclass(frozen=True)
class Part:
    """Runs of one shape that train the same updates: `runs` of them at once, `updates` each."""

    work: Work
    runs: float
    updates: float

    @property
    def flops(self) -> float:
        return self.runs * self.updates * self.work.flops


@dataclass(frozen=True)
class Published:
    """What the released table of Step Law says about the runs of one model size, summed.

    `curves` counts its (tokens, batch) pairs, each with several rates.  The sums with trunks are those that runs of
    equal rate and batch would need if the schedule were WSD and the longest budget's trunk served the others.
    """

    width: int
    mlp_width: int
    heads: int
    depth: int
    runs: int
    curves: int
    tokens: float
    updates: float
    trunk_tokens: float
    trunk_updates: float


# Sums over the public tables of Step Law (arXiv 2503.04715): 2,819 dense runs, the held-out cell included, with a decay
# of a tenth for the trunks.  The shapes of the two smallest sizes are not published with them: assumed, with exactly
# the published number of parameters.
STEP_LAW = (
    Published(576, 3088, 9, 9, 138, 19, 6.12e11, 2.99613e6, 3.852e11, 1.8546e6),
    Published(768, 4184, 12, 10, 119, 19, 5.26e11, 2.57238e6, 3.316e11, 1.5939e6),
    Published(960, 9368, 15, 7, 506, 50, 1.60822e13, 6.84535e7, 1.307e13, 5.5237e7),
    Published(1024, 9552, 16, 8, 629, 66, 2.00184e13, 7.70486e7, 1.261e13, 4.8762e7),
    Published(1280, 9472, 10, 10, 576, 61, 1.74362e13, 6.27881e7, 9.554e12, 3.3198e7),
    Published(1280, 9048, 10, 13, 470, 50, 1.09424e13, 4.03383e7, 6.341e12, 2.2838e7),
    Published(2048, 8192, 16, 16, 381, 45, 1.69823e13, 4.09461e7, 1.378e13, 2.9992e7),
)
# The paper: 3,700 runs, about 1e14 tokens, nearly a million hours of H800.  Its mixtures of experts and other recipes
# are not in the tables: their cost is taken in proportion to tokens.
STEP_LAW_RUNS, STEP_LAW_TOKENS, STEP_LAW_HOURS = 3700, 1e14, 1e6
STEP_LAW_LENGTH, STEP_LAW_VOCAB = 2048, 65_536  # the vocabulary is assumed
TRANSFERRED_RATES = 3  # with muP, above the smallest size, only neighbours of the transferred optimum are run

# The 70B target: the shape of Llama 3 70B (arXiv 2407.21783, table 3) and 20 tokens per parameter.
VOCAB, LENGTH = 128_256, 4096
TARGET = ModelConfig(width=8192, depth=80, heads=64, kv_heads=8, mlp="swiglu", mlp_width=28_672, vocab=VOCAB)
TARGET_TOKENS, TARGET_SEQUENCES = 1.4e12, 2048
SIZES = ((512, 8), (768, 12), (1024, 16), (1536, 24), (2048, 32))
BUDGETS = (2**29, 2**31, 2**33, 2**35, 2**37)
BATCHES = (64, 128, 256, 512, 1024)
RATES = 8
# (size, number of batches, seeds), with all budgets and rates.  Standard parametrization: every size needs curves of
# its own.  muP: the rate is found at the smallest width, with seeds, and checked at two larger ones.
GRIDS = {
    "sp": [(size, 5, 1) for size in SIZES],
    "mup": [(SIZES[0], 5, 4), (SIZES[1], 3, 1), (SIZES[2], 2, 1)],
}


def step_law(*, trunks: bool, mup: bool) -> list[Part]:
    """Parts of Step Law's campaign, one per model size at its mean batch, scaled to the paper's tokens.

    Its runs had cosine schedules, which share nothing: `trunks` asks what WSD would have saved.  `mup` leaves
    `TRANSFERRED_RATES` rates per curve above the smallest size.
    """
    scale = STEP_LAW_TOKENS / sum(size.tokens for size in STEP_LAW)
    parts = []
    for place, size in enumerate(STEP_LAW):
        rates = size.runs / size.curves
        kept = min(1.0, TRANSFERRED_RATES / rates) if mup and place > 0 else 1.0
        tokens, updates = (size.trunk_tokens, size.trunk_updates) if trunks else (size.tokens, size.updates)
        sequences = round(tokens / updates / STEP_LAW_LENGTH)
        model = ModelConfig(
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            mlp="swiglu",
            mlp_width=size.mlp_width,
            vocab=STEP_LAW_VOCAB,
        ).resolve(vocab=None)
        exact = tokens / (sequences * STEP_LAW_LENGTH)
        lanes = max(1, round(rates * kept))
        parts.append(Part(work(model, STEP_LAW_LENGTH, sequences), lanes, exact * scale * kept / lanes))
    return parts


@functools.cache
def grid(parametrization: str) -> tuple[Run, ...]:
    """The 1,000 runs of the campaign for the 70B target, as resolved configurations."""
    runs = []
    for (width, depth), batches, seeds in GRIDS[parametrization]:
        middle = (len(BATCHES) - batches) // 2
        model = ModelConfig(width, depth, head_dim=128, mlp="swiglu", mlp_width=7 * width // 2, vocab=VOCAB)
        for sequences, tokens, rate, seed in itertools.product(
            BATCHES[middle : middle + batches], BUDGETS, range(RATES), range(seeds)
        ):
            config = RunConfig(
                model=model,
                parametrization=_rules(parametrization),
                optimizer=OptimizerConfig(kind="adamw", lr=2.0 ** (-6 - rate / 2)),
                schedule=ScheduleConfig(tokens=tokens, warmup_steps=WARMUP, decay_fraction=DECAY),
                data=DataConfig(sequences=sequences, length=LENGTH),
                dtype="bfloat16",
                seed_init=seed,
                seed_data=seed,
            ).resolve(vocab=None, fingerprint="")
            runs.append(Run(run_id(config), config, {}))
    return tuple(runs)


def _rules(parametrization: str) -> ParametrizationConfig:
    if parametrization == "sp":
        return ParametrizationConfig(name="sp")
    (width, depth) = SIZES[0]
    return ParametrizationConfig(name="mup", base_width=width, depth="complete", base_depth=depth)


@functools.cache
def target(parametrization: str, *, trunks: bool) -> tuple[Part, ...]:
    """Parts of the campaign for the 70B target: what the planner's stages are, or the runs each alone."""
    programs: dict[tuple[ModelConfig, int], list[Run]] = {}
    for run in grid(parametrization):
        programs.setdefault((run.config.model, run.config.data.sequences), []).append(run)
    parts = []
    for (model, sequences), members in programs.items():
        ranges: dict[tuple[int, int], int] = {}
        if trunks:
            spans = [(stage.begin, stage.end) for stage in stages(members)]
        else:
            spans = [(0, run.config.schedule.steps or 0) for run in members]
        for span in spans:
            ranges[span] = ranges.get(span, 0) + 1
        update = work(model, LENGTH, sequences)
        parts += [Part(update, runs, end - begin) for (begin, end), runs in ranges.items()]
    return tuple(parts)


def large_run() -> Part:
    """The 70B run itself."""
    model = TARGET.resolve(vocab=None)
    return Part(work(model, LENGTH, TARGET_SEQUENCES), 1, TARGET_TOKENS / (TARGET_SEQUENCES * LENGTH))


def flops(parts: Sequence[Part]) -> float:
    """FLOPs of all parts."""
    return sum(part.flops for part in parts)


def one_by_one(part: Part, machine: Machine) -> float:
    """Seconds of a part whose runs follow each other, each on the whole machine."""
    return part.updates * part.runs * roofline.together(part.work, machine, 1)


def as_jobs(part: Part, machine: Machine) -> float:
    """Seconds of a part whose runs are jobs of their own, each on a host or on more hosts, none of them ever idle."""
    return part.updates * part.runs * roofline.shared(part.work, machine, 1)


def as_lanes(part: Part, machine: Machine) -> float:
    """Seconds of a part whose runs are lanes, on a host or on more hosts, none of them ever idle."""
    return part.updates * roofline.shared(part.work, machine, round(part.runs))


WAYS: dict[str, Callable[[Part, Machine], float]] = {
    "one run at a time": one_by_one,
    "a job per run": as_jobs,
    "lanes": as_lanes,
}


def seconds(parts: Sequence[Part], machine: Machine, way: str) -> float:
    """Seconds of all parts, one after another, in one of `WAYS`.

    Raises:
        InputError: the machine does not hold one of the runs.
    """
    return sum(WAYS[way](part, machine) for part in parts)
