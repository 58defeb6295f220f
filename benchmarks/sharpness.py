"""Cost of the largest Hessian eigenvalue along a training run, in gradients; lanes at once; and beside PyHessian.

    python benchmarks/sharpness.py [--width 48] [--depth 2] [--optimizer adam] [--lr 0.003] [--updates 200] [--every 20]

Runs on one CPU, PyTorch too.  Cost is what it takes to come within 0.1 % of the converged eigenvalue: products are
counted on truncated Lanczos runs, and turned into gradients by the times of a Lanczos step and of a gradient of that
batch, measured in turns.  PyHessian is optional (`pip install pyhessian torch`).

Letters: N parameters, K lanes.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lab import batch, corpus, train
from lab.check import InputError
from lab.config import DataConfig, ExecConfig, ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from lab.config import ParametrizationConfig as Parametrization
from lab.curvature import hessian, loss_and_gradient, scaled
from lab.device import execution
from lab.lanczos import Krylov, lanczos, ritz, ritz_vectors, start
from lab.objective import Objective, Windows, language, windows
from lab.preconditioner import root
from lab.program import State, program

ACCURACY = 1e-3
REFERENCE, COUNTED = 40, 16  # steps of a converged run, and of one whose products are counted
PROBE = 12  # steps of a probe, whose top vector starts the next one
LANES, LANE_STEPS = 16, 4
LIMIT = 100  # products that PyHessian may take
SEQUENCES, LENGTH = 32, 64  # the measurement batch
NO_PYHESSIAN = "PyHessian is not installed, so only our rows are shown: pip install pyhessian torch"


class Point(NamedTuple):
    """One state of the run, and the products to 0.1 % from each start; `warm` is None at the first state."""

    step: int
    loss: float
    top: float
    next: float
    cold: int
    gradient: int
    warm: int | None


@dataclass(frozen=True)
class Subject:
    """A training job of one lane, and the loss on the measurement batch."""

    config: RunConfig
    job: train.Job
    objective: Objective
    parts: Windows
    tokens: np.ndarray

    def states(self, every: int) -> Iterator[tuple[int, State]]:
        """The lane's state at step 0, `every`, 2 `every`, ... to the end."""
        state, trainer = train.start(self.job).state, self.job.program
        for begin in range(0, self.job.steps + 1, every):
            yield begin, jax.tree.map(lambda leaf: leaf[0], state)
            end = min(begin + every, self.job.steps)
            for now in range(begin, end, trainer.shape.segment):
                stop = min(now + trainer.shape.segment, end)
                rates, decays = self.job.rates[now:stop], self.job.decays[now:stop]
                feed = self.job.feed.batches(now)
                state, _ = trainer.segment(self.job.lane, state, feed, rates, decays, begin=now, steps=stop - now)


def subject(options: argparse.Namespace) -> Subject:
    source = corpus.load(DataConfig())
    config = RunConfig(
        model=ModelConfig(width=options.width, depth=options.depth, head_dim=16),
        parametrization=Parametrization(name="sp", zero_readout=False),
        optimizer=OptimizerConfig(kind=options.optimizer, lr=options.lr),
        schedule=ScheduleConfig(kind="constant", steps=options.updates),
        data=DataConfig(sequences=16, length=LENGTH),
    ).resolve(vocab=source.vocab, fingerprint=source.fingerprint)
    job = train.prepare([config], execution(ExecConfig(lanes=1), config.model, platform="cpu", runs=1), source)
    starts = batch.validation_starts(source.validation.size, LENGTH, SEQUENCES)
    tokens = source.validation.windows(starts, LENGTH + 1)
    lane = jax.tree.map(lambda leaf: leaf[0], job.lane)
    return Subject(config, job, language(job.program, lane), windows(jnp.asarray(tokens, jnp.int32)), tokens)


def products(krylov: Krylov, top: float) -> int:
    """Steps after which the largest Ritz value is within 0.1 % of the top; one more than were made where it is not."""
    made = int(krylov.steps)
    for steps in range(1, made + 1):
        if abs(ritz(cut(krylov, steps)).values[0] / top - 1) <= ACCURACY:
            return steps
    return made + 1


def cut(krylov: Krylov, steps: int) -> Krylov:
    """The run as it was after fewer steps."""
    return Krylov(
        krylov.alpha_M[:steps],
        krylov.beta_M[:steps],
        krylov.basis_CMB[:, :steps],
        jnp.minimum(krylov.steps, steps),
    )


def follow(one: Subject, every: int, *, scaling: bool) -> tuple[list[Point], list[tuple[int, Any, float]]]:
    """Points along the run, of the Hessian or (`scaling`) of the one in the metric of the next update; and states with
    their largest eigenvalue of the Hessian.
    """
    lane, config = jax.tree.map(lambda leaf: leaf[0], one.job.lane), one.config

    @jax.jit
    def measured(state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        loss, g_N = loss_and_gradient(one.objective, state.params, one.parts)
        if not scaling:
            return loss, g_N, jnp.ones_like(g_N)
        unravel = ravel_pytree(state.params)[1]
        kind = one.job.program.shape.optimizer
        lr = jnp.asarray(config.optimizer.lr)
        return loss, g_N, root(kind, lane.hyper, state.opt, state.params, lr, unravel(g_N))

    def made(steps: int) -> Callable[[Any, jax.Array, jax.Array], Krylov]:
        return jax.jit(
            lambda params, scale_N, v_N: lanczos(scaled(hessian(one.objective, params, one.parts), scale_N), v_N, steps)
        )

    converged, run = made(REFERENCE), made(COUNTED)
    points, kept, warm_N = [], [], None
    for step, state in one.states(every):
        loss, g_N, scale_N = measured(state)
        cold = converged(state.params, scale_N, start(jax.random.key(step), g_N))
        top, second = ritz(cold).values[:2]
        gradient = products(run(state.params, scale_N, scale_N * g_N), top)
        probe, warm = cold, None
        if warm_N is not None:
            probe = run(state.params, scale_N, start(jax.random.key(step + 1), g_N, warm_N))
            warm = products(probe, top)
        short = cut(probe, PROBE)
        warm_N = ritz_vectors(short, ritz(short).largest(1), g_N.size)[0]
        points.append(Point(step, float(loss), float(top), float(second), products(cold, top), gradient, warm))
        kept.append((step, state.params, float(top)))
    return points, kept


def in_turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, taking turns, every second round backwards; the first round compiles.

    CPU time, which on one CPU is the wall time of an idle machine, so that other work counts little.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name in list(calls) if repeat % 2 else list(calls)[::-1]:
            begun = time.process_time()
            jax.block_until_ready(calls[name]())
            if repeat:
                found[name].append(time.process_time() - begun)
    return {name: statistics.median(times) for name, times in found.items()}


def costs(one: Subject, params: Any, repeats: int) -> dict[str, float]:
    """Seconds of a gradient, of a product, and of one of a probe's Lanczos steps.

    All in loops of one dispatch, as training and probes make them: alone each takes its memory from the system anew.
    """
    theta_N, unravel = ravel_pytree(params)
    v_N = start(jax.random.key(0), theta_N)

    def gradient(theta_N: jax.Array) -> jax.Array:
        return theta_N - 1e-9 * loss_and_gradient(one.objective, unravel(theta_N), one.parts)[1]

    def product(v_N: jax.Array) -> jax.Array:
        return hessian(one.objective, params, one.parts)(v_N)

    def looped(update: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(lambda x_N: jax.lax.fori_loop(0, PROBE, lambda _, x_N: update(x_N), x_N))

    gradients, several = looped(gradient), looped(product)
    probe = jax.jit(lambda v_N: lanczos(hessian(one.objective, params, one.parts), v_N, PROBE).alpha_M)
    calls: dict[str, Callable[[], Any]] = {
        "gradient": lambda: gradients(theta_N),
        "product": lambda: several(v_N),
        "step": lambda: probe(v_N),
    }
    return {name: seconds / PROBE for name, seconds in in_turns(calls, repeats).items()}


def lanes_ratio(one: Subject, params: Any, repeats: int) -> dict[str, float]:
    """Time of a short Lanczos run of 16 lanes over 16 times that of one, by strategy, the shipped one first."""
    v_N = start(jax.random.key(0), ravel_pytree(params)[0])

    def probe(params: Any, v_N: jax.Array) -> jax.Array:
        return lanczos(hessian(one.objective, params, one.parts), v_N, LANE_STEPS).alpha_M

    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * LANES), (params, v_N))
    shipped = execution(ExecConfig(lanes=LANES), one.config.model, platform="cpu", runs=LANES)
    single = jax.jit(probe)
    calls: dict[str, Callable[[], Any]] = {"one": lambda: single(params, v_N)}
    for strategy in (shipped.strategy, "vmap"):
        shape = dataclasses.replace(one.job.program.shape, lanes=LANES, strategy=strategy, group=shipped.group)
        made = jax.jit(program(shape).over_lanes(probe))
        calls[strategy] = functools.partial(made, *many)
    found = in_turns(calls, repeats)
    return {name: seconds / (LANES * found["one"]) for name, seconds in found.items() if name != "one"}


class Rival(NamedTuple):
    """PyHessian at one state: products to 0.1 % (None: not in `LIMIT`), where its default stops and its error there,
    seconds of a product and of a gradient.
    """

    products: int | None
    default: int
    error: float
    product: float
    gradient: float


@contextlib.contextmanager
def recording(module: Any) -> Iterator[list[float]]:
    """The Rayleigh quotients that PyHessian's power iteration goes through."""
    original, found = module.hessian_vector_product, []

    def recorded(gradients: Any, values: Any, v: Any) -> Any:
        product = original(gradients, values, v)
        found.append(module.group_product(product, v).item())
        return product

    module.hessian_vector_product = recorded
    try:
        yield found
    finally:
        module.hessian_vector_product = original


def rival(one: Subject, params: Mapping[str, jax.Array], top: float, repeats: int) -> Rival:
    """PyHessian's power iteration on the same weights and batch, from a random start.

    Raises:
        RuntimeError: PyTorch's loss is another one.
    """
    names = ("torch", "torch_model", "pyhessian", "pyhessian.hessian")
    torch, torch_model, library, module = (importlib.import_module(name) for name in names)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using backward.. with create_graph=True")
    values = {path: np.asarray(value) for path, value in params.items()}
    model = torch_model.from_params(values, one.config.model, LENGTH)
    tokens = torch.from_numpy(one.tokens.astype(np.int64))
    theirs, ours = model(tokens).item(), float(loss_and_gradient(one.objective, params, one.parts)[0])
    if abs(theirs - ours) > 1e-4:
        raise RuntimeError(f"PyTorch's loss {theirs} is not ours, {ours}")
    leaves = list(model.parameters())
    # Its attention kernels for CPU have no second derivative; written out they do.  Its gradient may use them.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        made = library.hessian(model, lambda loss, _: loss, data=(tokens, tokens), cuda=False)
        with recording(module) as estimates:
            torch.manual_seed(0)
            value = made.eigenvalues()[0][0]
            default = len(estimates)
        with recording(module) as estimates:
            torch.manual_seed(0)
            made.eigenvalues(maxIter=LIMIT, tol=0.0)
    v = [torch.randn_like(leaf) for leaf in leaves]
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: module.hessian_vector_product(made.gradsH, made.params, v) and None,
        "gradient": lambda: torch.autograd.grad(model(tokens), leaves) and None,
    }
    found = in_turns(calls, repeats)
    within = [place for place, estimate in enumerate(estimates, 1) if abs(estimate / top - 1) <= ACCURACY]
    return Rival(within[0] if within else None, default, value / top - 1, found["product"], found["gradient"])


def show(points: Sequence[Point], cost: Mapping[str, float], name: str) -> None:
    """The table of points, and medians in gradients."""
    ratio = cost["step"] / cost["gradient"]
    print(f"\n{name}: products to 0.1 % of the largest eigenvalue\n  step   loss  largest   next  cold  gradient  warm")
    for point in points:
        warm = "-" if point.warm is None else point.warm
        print(
            f"{point.step:6d} {point.loss:6.3f} {point.top:8.4g} {point.next:6.3g} {point.cold:5d} "
            f"{point.gradient:9d} {warm:>5}"
        )
    for start_, counts in (
        ("cold", [point.cold for point in points]),
        ("from the gradient", [point.gradient for point in points]),
        ("warm", [point.warm for point in points if point.warm is not None]),
    ):
        middle = statistics.median(counts)
        print(f"{start_}: median {middle:g} products, {middle * ratio:.1f} gradients (at most {max(counts)} products)")


def beside(
    one: Subject,
    kept: Sequence[tuple[int, Any, float]],
    points: Sequence[Point],
    cost: Mapping[str, float],
    repeats: int,
) -> None:
    """PyHessian's cost along the run; wall time is that of its products over ours, both from random starts."""
    print("\nPyHessian, from a random start")
    print("  step  to 0.1 %  stops after (error)   product/gradient  gradients  wall over ours")
    for place in sorted({len(kept) * part // 4 for part in range(4)} | {len(kept) - 1}):
        (step, params, top), point = kept[place], points[place]
        found = rival(one, params, top, repeats)
        ratio, stop = found.product / found.gradient, f"{found.default} ({100 * found.error:+.2f} %)"
        needed, gradients, wall = f"> {LIMIT}", "-", "-"
        if found.products is not None:
            needed, gradients = str(found.products), f"{found.products * ratio:.1f}"
            wall = f"{found.products * found.product / (point.cold * cost['step']):.1f}"
        print(f"{step:6d} {needed:>9} {stop:>20} {ratio:18.2f} {gradients:>10} {wall:>15}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if hasattr(os, "sched_setaffinity"):  # before XLA starts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_platforms", "cpu")
    try:
        one = subject(options)
    except InputError as error:
        print(f"sharpness.py: error: {error}", file=sys.stderr)
        return 2
    points, kept = follow(one, options.every, scaling=False)
    last = kept[-1][1]
    cost = costs(one, last, options.repeats)
    size = ravel_pytree(last)[0].size
    print(f"{size} parameters, {SEQUENCES} x {LENGTH} tokens, {options.optimizer} at {options.lr:g}")
    print(
        f"a product takes {cost['product'] / cost['gradient']:.2f} gradients, a step of a probe "
        f"{cost['step'] / cost['gradient']:.2f} (a gradient {1e3 * cost['gradient']:.1f} ms)"
    )
    show(points, cost, "Hessian")
    if options.optimizer != "sgd":
        show(follow(one, options.every, scaling=True)[0], cost, "Hessian in the metric of the next update")
    print()
    for name, ratio in lanes_ratio(one, last, options.repeats).items():
        print(f"{LANES} lanes by {name}: {ratio:.2f} times as long as {LANES} times one lane")
    if importlib.util.find_spec("pyhessian") is None:
        print(NO_PYHESSIAN)
    else:
        beside(one, kept, points, cost, options.repeats)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sharpness.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam")
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="updates between measurements (default 20)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each kind (default 5)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
