"""The sharpness probe: curvature of the loss at the parameters of every lane of a job, on one fixed batch.

Letters: K lanes, N parameters, M Lanczos steps, Q quantities with a spectrum, J blocks.

The *update metric* is the one in which the optimizer moves: A becomes `s A s` with `s = sqrt(D / P)`
(`lab.preconditioner`), D the per-leaf multipliers of the rate and P that of the next update, at a rate of 1.  For SGD
it gives `gamma^2 H` of "Why do Learning Rates Transfer?" (arXiv 2402.17457), for Adam `D P^-1 H`.  An update with the
scheduled rate lr is at the edge of stability where `lr * lambda_max = c` (`lab.edge`); the *ratio* is `lr lambda / c`.

    hessian          H itself
    preconditioned   H in the update metric: what the ratio is of
    gauss_newton     G in the update metric
    residual         H - G in the update metric
    tangent_kernel   J'J in the update metric: the eigenvalues of the kernel by which outputs move
    trace            of H in the update metric
    density          its eigenvalues' distribution: nodes and weights of a quadrature per random vector
    directional      `g'Hg / g'g` in the update metric, g the gradient
    blocks           the largest eigenvalue of each layer's diagonal block, in the update metric

Runs of bfloat16 are measured in float32: products with a Hessian in bfloat16 are off by percents.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lab import batch, curvature, schedule, spectrum
from lab.check import require
from lab.config import RunConfig, SharpnessConfig
from lab.config.probe import KIND, SCHEMA, SPECTRA
from lab.corpus import Corpus
from lab.edge import FORM_OF_OPTIMIZER, edge
from lab.identity import digest, dump
from lab.lanczos import Krylov, Operator, lanczos, ritz, start
from lab.lane import Lane
from lab.mesh import on_host
from lab.model import layout
from lab.objective import AGREEMENT, Windows, agreement, language, measured, windows
from lab.preconditioner import root
from lab.program import Program, State, program

# Quantities that need no metric, and can be had for optimizers that have none.
PLAIN = ("hessian",)

# Training seeds are below: the draws of a measurement batch are none of theirs.
_FIRST_SEED = 1 << 32

Warm = dict[str, jax.Array]


@dataclass(frozen=True)
class Batch:
    """A measurement batch and what a record says about it."""

    parts: Windows
    text: Mapping[str, Any]


def probe_id(config: SharpnessConfig) -> str:
    """Identity of what is measured; when it is measured is not part of it."""
    values = dataclasses.asdict(config)
    del values["every"]
    return digest(dump({"kind": KIND, "schema": SCHEMA} | values))


def check(config: SharpnessConfig, run: RunConfig) -> None:
    """Require that a run can be measured.

    Raises:
        InputError: an optimizer without a preconditioner, for quantities that need one.
    """
    needing = [name for name in config.names if name not in PLAIN]
    require(
        not needing or run.optimizer.kind in FORM_OF_OPTIMIZER,
        f"probe.quantities={config.quantities}: {' and '.join(needing)} need a preconditioner, which "
        f"optimizer.kind={run.optimizer.kind} has not: use --set probe.quantities=hessian",
    )


def measurement_batch(config: SharpnessConfig, run: RunConfig, corpus: Corpus, rows: int) -> Batch:
    """The windows of a probe, the same for every run of one corpus and length, in parts of at most `rows` sequences.

    Raises:
        InputError: the corpus is too short.
    """
    length, stream = run.data.length, corpus.train
    available = batch.window_count(stream.size, length)
    require(
        config.sequences <= available,
        f"probe.sequences={config.sequences} windows of {length} tokens do not fit the corpus: use at most {available}",
    )
    (starts_B,) = batch.starts(
        _FIRST_SEED + config.seed, begin=0, steps=1, sequences=config.sequences, length=length, tokens=stream.size
    )
    tokens_BT = stream.windows(starts_B, length + 1)
    text = {
        "sequences": config.sequences,
        "length": length,
        "tokens": config.sequences * length,
        "seed": config.seed,
        "batch": digest(tokens_BT.astype(np.int64).tobytes().hex()),
    }
    return Batch(windows(jnp.asarray(tokens_BT), -(-config.sequences // rows)), text)


class Probe:
    """Compiled measurement of the lanes of one program; it remembers their top vectors, to start from them."""

    def __init__(self, config: SharpnessConfig, trained: Program, lane: Lane, batch: Batch) -> None:
        self.config, self.batch = config, batch
        self._lane, self._kind, self._trained = lane, trained.shape.optimizer, trained
        self._program = program(measured(trained.shape))
        self._names, self._block_N = curvature.blocks(layout(trained.shape.model, trained.shape.length))
        self._measure = jax.jit(self._lanes)
        self._warm: Warm | None = None

    @property
    def execution(self) -> dict[str, Any]:
        """How it is measured, as a record says it."""
        return {
            "steps": self.config.steps,
            "dtype": self._program.shape.dtype,
            "precision": "highest",
            "attention": self._program.shape.forward.attention,
            "preconditioner": "next update",
        }

    def measure(self, state: State) -> list[dict[str, Any]]:
        """Loss, gradient norm and quantities of each of the K lanes, as plain data; none for diverged lanes.

        Waits for the device.

        Raises:
            InputError: the loss in the precision and attention of the measurement is not the one that is trained.
        """
        warm = self._warm is not None
        with self._program.context():
            if self._warm is None:
                cold = jax.tree.map(jnp.zeros_like, jax.vmap(lambda params: ravel_pytree(params)[0])(state.params))
                self._warm = {name: cold for name in self.config.names if name in SPECTRA}
            limit = jnp.asarray(self.config.warm if warm else self.config.steps)
            found, self._warm = self._measure(self._lane, state, self._warm, limit)
        host = on_host(found)
        self._require_agreement(host.get("agreement", np.zeros(1)))
        return _described(host, self.config, self._names, warm=warm)

    def _require_agreement(self, apart_K: np.ndarray) -> None:
        """NaN, of a diverged lane, passes."""
        shape, found = self._trained.shape, float(np.max(np.nan_to_num(apart_K)))
        require(
            found <= AGREEMENT[shape.dtype],
            f"the loss measured in {self._program.shape.dtype} with attention {self._program.shape.forward.attention} "
            f"is {found:.2g} away from the loss trained in {shape.dtype} with attention {shape.forward.attention}: "
            "train with --set exec.attention=xla or dtype=float32",
        )

    def _lanes(self, lane: Lane, state: State, warm: Warm, limit: jax.Array) -> tuple[dict[str, Any], Warm]:
        """All lanes, which make the same number of steps."""
        return self._program.over_lanes(functools.partial(self._lane_or_blank, limit))(lane, state, warm)

    def _lane_or_blank(self, limit: jax.Array, lane: Lane, state: State, warm: Warm) -> tuple[dict[str, Any], Warm]:
        """One lane; padding and diverged lanes are NaN, and cost nothing where lanes have control flow of their own."""
        one = functools.partial(self._one, limit)
        shapes = jax.eval_shape(one, lane, state, warm)
        blank = jax.tree.map(lambda leaf: jnp.full(leaf.shape, _blank(leaf.dtype), leaf.dtype), shapes)
        return jax.lax.cond(lane.active & state.alive, one, lambda *_: blank, lane, state, warm)

    def _one(self, limit: jax.Array, lane: Lane, state: State, warm: Warm) -> tuple[dict[str, Any], Warm]:
        objective, params, parts = language(self._program, lane), state.params, self.batch.parts
        loss, gradient_N = curvature.loss_and_gradient(objective, params, parts)
        key = jax.random.key(self.config.seed, impl="threefry2x32")
        scale_N = self._scale(lane, state, gradient_N)
        operators = {
            "hessian": curvature.hessian(objective, params, parts),
            "preconditioned": curvature.scaled(curvature.hessian(objective, params, parts), scale_N),
            "gauss_newton": curvature.scaled(curvature.gauss_newton(objective, params, parts), scale_N),
            "residual": curvature.scaled(curvature.residual(objective, params, parts), scale_N),
            "tangent_kernel": curvature.scaled(curvature.tangent_kernel(objective, params, parts), scale_N),
        }
        found: dict[str, Any] = {"loss": loss, "gradient_norm": jnp.sqrt(jnp.vdot(gradient_N, gradient_N))}
        if self._trained is not self._program:
            found["agreement"] = agreement(self._trained, self._program, lane, params, parts)
        tops = {}
        for name in warm:
            start_N = start(key, gradient_N, warm[name])
            krylov = lanczos(operators[name], start_N, self.config.steps, limit=limit)
            found[name], tops[name] = krylov.without_basis(), _top(krylov, gradient_N.size)
        return found | self._others(operators["preconditioned"], key, scale_N, gradient_N), tops

    def _scale(self, lane: Lane, state: State, gradient_N: jax.Array) -> jax.Array:
        """`sqrt(D / P)` [N]; ones where no quantity needs it."""
        if set(self.config.names) <= set(PLAIN):
            return jnp.ones_like(gradient_N)
        gradient = ravel_pytree(state.params)[1](gradient_N)
        one = jnp.ones((), gradient_N.dtype)
        return root(self._kind, lane.hyper, state.opt, state.params, one, gradient)

    def _others(self, matvec: Operator, key: jax.Array, scale_N: jax.Array, gradient_N: jax.Array) -> dict[str, Any]:
        """What is not one spectrum, in the update metric."""
        found: dict[str, Any] = {}
        if "trace" in self.config.names:
            found["trace"] = spectrum.trace(matvec, key, gradient_N, self.config.probes)
        if "density" in self.config.names:
            config = self.config
            found["density"] = spectrum.quadrature(matvec, key, gradient_N, config.probes, config.steps)
        if "directional" in self.config.names:
            found["directional"] = curvature.directional(matvec, scale_N * gradient_N)
        if "blocks" in self.config.names:

            def one(number: jax.Array) -> Any:
                mask_N = (self._block_N == number).astype(gradient_N.dtype)
                start_N = mask_N * start(key, gradient_N)
                return lanczos(curvature.scaled(matvec, mask_N), start_N, self.config.steps).without_basis()

            found["blocks"] = jax.lax.map(one, jnp.arange(len(self._names)))
        return found


def point(
    probe: Probe, run: RunConfig, found: Mapping[str, Any], *, step: int, hyper: Mapping[str, float]
) -> dict[str, Any]:
    """The record of one run after `step` updates: what was found, the edge, and how it was measured.

    `lr` is the scheduled rate of the next update (of the last one, at the end of the run); `ratio` is
    `lr * lambda_max / threshold`.
    """
    rates = schedule.rates(run)
    index = min(step, rates.size - 1)
    lr, decay = float(rates[index]), float(schedule.decays(run)[index])
    return {
        "step": step,
        "tokens": step * run.data.tokens_per_step,
        "lr": lr,
        "alive": bool(found["quantities"]),
        "loss": found["loss"],
        "gradient_norm": found["gradient_norm"],
        "quantities": found["quantities"],
        "edge": _edge(run, found["quantities"], lr, decay, hyper),
        "measurement": {**probe.batch.text, **probe.execution},
    }


def _edge(
    run: RunConfig, quantities: Mapping[str, Any], lr: float, decay: float, hyper: Mapping[str, float]
) -> dict[str, float | None] | None:
    if "preconditioned" not in quantities:
        return None
    threshold = edge(run.optimizer.kind, decay=decay, **hyper)
    top = quantities["preconditioned"]["values"][0]
    return {"threshold": threshold, "ratio": None if top is None else lr * top / threshold}


def _top(krylov: Krylov, size: int) -> jax.Array:
    """The Ritz vector [N] of the largest Ritz value, on the device: good enough to start from."""
    off_M = krylov.beta_M[:-1]
    used_M = jnp.arange(krylov.alpha_M.size) < krylov.steps
    # Columns beyond a breakdown are zero; a value below all others keeps them from being the largest.
    floor = -4 * jnp.max(jnp.abs(krylov.alpha_M) + jnp.abs(krylov.beta_M)) - 1
    off_M = jnp.where(used_M[1:], off_M, 0)
    diagonal_M = jnp.where(used_M, krylov.alpha_M, floor)
    s_MM = jnp.linalg.eigh(jnp.diag(diagonal_M) + jnp.diag(off_M, 1) + jnp.diag(off_M, -1))[1]
    with jax.default_matmul_precision("highest"):
        return jnp.einsum("m,cmb->cb", s_MM[:, -1], krylov.basis_CMB).reshape(-1)[:size]


def _blank(dtype: Any) -> float | int:
    return jnp.nan if jnp.issubdtype(dtype, jnp.floating) else 0


def _described(
    found: Mapping[str, Any], config: SharpnessConfig, blocks: tuple[str, ...], *, warm: bool
) -> list[dict[str, Any]]:
    """Host arrays [K, ...] of every quantity as plain data per lane; numbers that are not finite are None."""
    lanes = found["loss"].shape[0]
    spectra = {name: _spectrum(found[name], config, warm=warm) for name in config.names if name in SPECTRA}
    if "blocks" in found:
        spectra["blocks"] = _blocks(found["blocks"], config, blocks)
    if "density" in found:
        spectra["density"] = _density(found["density"])
    described = []
    for lane in range(lanes):
        alive = bool(np.isfinite(found["loss"][lane]))
        quantities = {name: rows[lane] for name, rows in spectra.items()} if alive else {}
        if alive and "trace" in found:
            mean, error = (_number(values[lane]) for values in found["trace"])
            quantities["trace"] = {"value": mean, "error": error, "probes": config.probes}
        if alive and "directional" in found:
            quantities["directional"] = {"value": _number(found["directional"][lane])}
        described.append(
            {
                "loss": _number(found["loss"][lane]),
                "gradient_norm": _number(found["gradient_norm"][lane]),
                "quantities": quantities,
            }
        )
    return described


def _spectrum(krylov: Krylov, config: SharpnessConfig, *, warm: bool) -> list[dict[str, Any]]:
    every = ritz(krylov)
    largest, smallest = every.largest(config.top), every.smallest(1)
    return [
        {
            "values": [_number(value) for value in largest.values[lane]],
            "residuals": [_number(value) for value in largest.residuals[lane]],
            "smallest": _number(smallest.values[lane, 0]),
            "smallest_residual": _number(smallest.residuals[lane, 0]),
            "steps": int(krylov.steps[lane]),
            "warm": warm,
        }
        for lane in range(largest.values.shape[0])
    ]


def _density(runs: Krylov) -> list[dict[str, Any]]:
    """Nodes and weights [P][M] of each lane; `lab.spectrum.Density` makes moments and curves of them."""
    found = spectrum.density(runs)

    def numbers(values_PM: np.ndarray) -> list[list[float | None]]:
        return [[_number(value) for value in values_M] for values_M in values_PM]

    return [
        {"nodes": numbers(nodes), "weights": numbers(weights)}
        for nodes, weights in zip(found.nodes, found.weights, strict=True)
    ]


def _blocks(krylov: Krylov, config: SharpnessConfig, names: tuple[str, ...]) -> list[dict[str, Any]]:
    top = ritz(krylov).largest(1)
    return [
        {
            "names": list(names),
            "values": [_number(value) for value in top.values[lane, :, 0]],
            "residuals": [_number(value) for value in top.residuals[lane, :, 0]],
            "steps": config.steps,
        }
        for lane in range(top.values.shape[0])
    ]


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
