"""Programs: the compiled train step of one static shape, and the K lanes that it trains at once.

Letters: K lanes, S steps of a segment, U distinct data seeds, B sequences, T tokens, E validation sequences.
A program's segment runs a traced number of steps out of S, so that segments of any length come from one executable and
agree bitwise.  Everything that differs between runs of one shape is an argument: rates and decays [S, K], and the
`Lane` with a leading K axis.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lab import agreement, environment, sharding
from lab.config import MeshConfig, ModelConfig, RunConfig
from lab.config.mesh import ONE
from lab.initializer import initial_params
from lab.lane import Lane, stacked
from lab.lane import abstract as abstract_lane
from lab.mesh import broadcast, make, on_host, place
from lab.model import Forward, Model, abstract, layout
from lab.optimizer import Params, optimizer, structure


class State(NamedTuple):
    """A lane's training state; `diverged` is the first non-finite step or -1, after which the lane is frozen."""

    params: Params
    opt: Any
    alive: jax.Array
    diverged: jax.Array


class Metrics(NamedTuple):
    loss: jax.Array
    grad_norm: jax.Array


class Batches(NamedTuple):
    """The batches of a segment: window starts [S, U, B] into device-resident `tokens`, or the windows themselves.

    Exactly one of the pairs is used: (`tokens`, `starts`) for small corpora, gathered inside the compiled step;
    `windows` [S, U, B, T+1] for large ones, fed from the host.
    """

    tokens: jax.Array | None
    starts: jax.Array | None
    windows: jax.Array | None


@dataclass(frozen=True)
class Shape:
    """The static identity of a program: what decides its executable."""

    model: ModelConfig
    optimizer: str
    dtype: Literal["float32", "bfloat16", "float64"]
    sequences: int
    length: int
    lanes: int
    strategy: Literal["vmap", "map", "both"]
    group: int
    segment: int
    forward: Forward
    accumulate: int = 1
    mesh: MeshConfig = ONE

    @property
    def param_dtype(self) -> Any:
        """Master weights, optimizer state and hyperparameters: float64 for float64, else float32."""
        return jnp.float64 if self.dtype == "float64" else jnp.float32


class Program:
    """Compiled functions of one shape.  Build it with `program(shape)`, which caches.

    `devices` are those of its mesh: the machine's, unless it is compiled for others.
    """

    def __init__(self, shape: Shape, devices: Sequence[Any] | None = None) -> None:
        self.shape = shape
        with jax.enable_x64(shape.dtype == "float64"):
            self._graphdef, self._variables = abstract(shape.model, shape.length, shape.dtype)
        self._leaves = layout(shape.model, shape.length)
        self.mesh = make(shape.mesh, devices)
        shapes = self._state_shapes()
        agreement.check(shape.model, shape.length, shape.optimizer, self._leaves, shapes, lanes=shape.lanes)
        self.shardings = sharding.state(shapes, self._leaves, self.mesh)
        per_lane = sharding.lanes(self.mesh)
        self._init = jax.jit(
            self.over_lanes(self._init_lane), out_shardings=self.shardings, compiler_options=self._init_options()
        )
        self._segment = jax.jit(self._segment_lanes, donate_argnums=(1,), out_shardings=(self.shardings, per_lane))
        self._evaluate = jax.jit(self._evaluate_lanes, out_shardings=per_lane)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Its mesh is set; float64 programs see 64-bit numbers, and others do not; nothing else of JAX is set."""
        mesh = jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()
        with environment.pinned(), jax.enable_x64(self.shape.dtype == "float64"), mesh:
            yield

    def lanes(self, configs: Sequence[RunConfig]) -> tuple[Lane, tuple[int, ...]]:
        """(stacked Lane [K], data seeds [U]) of runs of this shape; places beyond them hold inactive ones."""
        with self.context():
            host, seeds = stacked(configs, self.shape.lanes, self.shape.param_dtype)
            return place(host, sharding.lanes(self.mesh)), seeds

    def state(self, host: Any) -> State:
        """A state [K] from whole host arrays."""
        with self.context():
            return place(host, self.shardings)

    def batches(self, values: np.ndarray, tokens: jax.Array | None = None) -> Batches:
        """Batches of a segment: window starts [S, U, B] into `tokens`, or windows [S, U, B, T+1]."""
        placed = place(values, sharding.rows(self.mesh, 2))
        return Batches(None, None, placed) if tokens is None else Batches(tokens, placed, None)

    def init(self, lane: Lane) -> State:
        """Initial states [K]; a lane's values depend on its own seed and stds only.

        A call compiles: for shapes ask `abstract_state`.
        """
        with self.context():
            return self._init(lane)

    def segment(
        self,
        lane: Lane,
        state: State,
        batches: Batches,
        lr: np.ndarray,
        decay: np.ndarray,
        *,
        begin: int,
        steps: int,
    ) -> tuple[State, Metrics]:
        """Train `steps` <= S updates from update `begin`; `state` is donated.  lr and decay are [steps, K] float64.

        Metrics are [K, S], zero beyond `steps`.
        """
        with self.context():
            return self._segment(
                lane, state, batches, self._padded(lr), self._padded(decay), np.int32(begin), np.int32(steps)
            )

    def compile_segment(self, lane: Lane, batches: Batches) -> None:
        """Compile the segment for such lanes and batches; the first call of `segment` then finds it compiled.

        Compilers run outside Python's lock, so a thread may do this while others work.
        """
        with self.context():
            self._lowered(lane, batches, self._padded(np.zeros((0, self.shape.lanes))), np.int32(0)).compile()

    def _lowered(self, lane: Lane, batches: Batches, column: Any, number: Any) -> jax.stages.Lowered:
        """The segment, lowered for such arguments: rates and decays are columns, the first update and steps numbers."""
        return self._segment.lower(lane, self.abstract_state(), batches, column, column, number, number)

    def abstract_state(self) -> State:
        """Shapes, types and shardings of a state [K]."""
        return _sharded(self._state_shapes(), self.shardings)

    def lower(self, *, tokens: int | None, seeds: int = 1) -> jax.stages.Lowered:
        """The segment, lowered for the devices of its mesh, with nothing on them.

        `tokens` is the size of a corpus of bytes on the devices, None where batches are fed; there are `seeds` of data.
        """
        shape, mesh = self.shape, self.mesh
        at = (shape.segment, seeds, shape.sequences)
        windows = _sharded(jax.ShapeDtypeStruct((*at, shape.length + 1), np.uint16), sharding.rows(mesh, 2))
        starts: Any = _sharded(jax.ShapeDtypeStruct(at, np.int32), sharding.rows(mesh, 2))
        with self.context():
            lanes = abstract_lane(self._leaves, shape.lanes, shape.param_dtype)
            column = jax.ShapeDtypeStruct((shape.segment, shape.lanes), shape.param_dtype)
            corpus: Any = None if tokens is None else jax.ShapeDtypeStruct((tokens,), np.uint8)
            batches = Batches(
                tokens=corpus and _sharded(corpus, sharding.whole(mesh)),
                starts=corpus and starts,
                windows=None if corpus else windows,
            )
            column, number = _sharded(column, sharding.columns(mesh)), jax.ShapeDtypeStruct((), np.int32)
            return self._lowered(_sharded(lanes, sharding.lanes(mesh)), batches, column, number)

    def evaluate(self, lane: Lane, state: State, windows: np.ndarray) -> np.ndarray:
        """Mean loss of each validation window [E, T+1], nats per token, as [K, E]."""
        rows, count = self.shape.sequences // self.shape.accumulate, windows.shape[0]
        padded = np.pad(windows, ((0, -count % rows), (0, 0))).reshape(-1, rows, windows.shape[1])
        with self.context():
            found = self._evaluate(lane, state, place(padded, sharding.rows(self.mesh, 1)))
        losses_KCB = on_host(found).astype(np.float64)
        return losses_KCB.reshape(losses_KCB.shape[0], -1)[:, :count]

    def loss(self, params: Params, lane: Lane, tokens: jax.Array) -> jax.Array:
        """Mean cross-entropy of each sequence of one batch [B, T+1], nats per token, as [B]."""
        return jnp.mean(self.token_losses(params, lane, tokens), axis=1)

    def token_losses(self, params: Params, lane: Lane, tokens: jax.Array) -> jax.Array:
        """Cross-entropy of every target of one batch [B, T+1] in nats, as [B, T]."""
        logits_MV = self.logits(params, lane, tokens[:, :-1])
        target_M = tokens[:, 1:].reshape(-1).astype(jnp.int32)
        picked_M = jnp.take_along_axis(logits_MV, target_M[:, None], axis=1)[:, 0]
        nats_M = jax.nn.logsumexp(logits_MV, axis=-1) - picked_M
        return nats_M.reshape(tokens.shape[0], -1)

    def logits(self, params: Params, lane: Lane, tokens: jax.Array) -> jax.Array:
        """Logits [B*T, V] of tokens [B, T]."""
        return self.model(params, lane)(
            tokens.astype(jnp.int32),
            attention_scale=lane.attention,
            logit_scale=lane.logits,
            forward=self.shape.forward,
        )

    def model(self, params: Params, lane: Lane) -> Model:
        """The model that computes with a lane's parameters.

        Multipliers of the parametrization act here: each weight times its own forward factor, in the dtype of the
        master weights.  The model rounds to the compute dtype where it uses them.
        """
        scaled = {path: value * lane.forward[path] for path, value in params.items()}
        return nnx.merge(self._graphdef, self._nest(scaled))

    def train_step(
        self, lane: Lane, state: State, tokens: jax.Array, lr: jax.Array, decay: jax.Array, step: jax.Array
    ) -> tuple[State, Metrics]:
        """One update of one lane on one batch [B, T+1]; a lane that is or becomes non-finite keeps its state."""
        loss, grads = self._gradient(state.params, lane, tokens)
        grad_norm = optax.tree.norm(grads)
        chain = optimizer(self.shape.optimizer, lane.hyper, self._leaves, lr, decay)
        updates, opt = chain.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = state.alive & jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        params, opt = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, opt), (state.params, state.opt)
        )
        diverged = jnp.where(state.alive & ~finite, step, state.diverged)
        return State(params, opt, finite, diverged), Metrics(loss, grad_norm)

    def _gradient(self, params: Params, lane: Lane, tokens: jax.Array) -> tuple[jax.Array, Params]:
        """Mean loss of a batch [B, T+1] and its gradient, added up over the parts of the batch if it is cut."""

        def mean(params: Params, part: jax.Array) -> jax.Array:
            return jnp.mean(self.loss(params, lane, part))

        def gradient(params: Params, part: jax.Array) -> tuple[jax.Array, Params]:
            loss, grads = jax.value_and_grad(mean)(params, part)
            return loss, sharding.as_params(grads, self._leaves, self.mesh)

        if self.shape.accumulate == 1:
            return gradient(params, tokens)
        parts = tokens.reshape(self.shape.accumulate, -1, tokens.shape[1])

        def add(total: Any, part: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, part)), None

        zero = (jnp.zeros((), self.shape.param_dtype), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zero, parts)
        return jax.tree.map(lambda value: value / self.shape.accumulate, total)

    def _init_lane(self, lane: Lane) -> State:
        key = jax.random.key(lane.seed, impl="threefry2x32")
        params = initial_params(key, self._leaves, lane.init_std, self.shape.param_dtype)
        zero = jnp.zeros((), self.shape.param_dtype)
        opt = optimizer(self.shape.optimizer, lane.hyper, self._leaves, zero, zero).init(params)
        return State(params, opt, jnp.asarray(True), jnp.asarray(-1, jnp.int32))

    def _segment_lanes(
        self,
        lane: Lane,
        state: State,
        batches: Batches,
        lr: jax.Array,
        decay: jax.Array,
        begin: jax.Array,
        steps: jax.Array,
    ) -> tuple[State, Metrics]:
        one = functools.partial(self._segment_lane, batches, begin, steps)
        return self.over_lanes(one)(lane, state, lr.T, decay.T)

    def _segment_lane(
        self,
        batches: Batches,
        begin: jax.Array,
        steps: jax.Array,
        lane: Lane,
        state: State,
        lr: jax.Array,
        decay: jax.Array,
    ) -> tuple[State, Metrics]:
        """One lane's part of a segment; the first three arguments are the same for all lanes."""

        def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, metrics = carry
            tokens = _batch(batches, i, lane.data, self.shape.length)
            state, now = self.train_step(lane, state, tokens, lr[i], decay[i], begin + i)
            return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, now)

        blank = jnp.zeros((self.shape.segment,), self.shape.param_dtype)
        # Real control flow: padding and dead lanes cost nothing.  Lanes of several devices keep one pace instead.
        if self.shape.strategy == "map" and self._lane_devices == 1:
            steps = jnp.where(lane.active & state.alive, steps, 0)
        return jax.lax.fori_loop(0, steps, body, (state, Metrics(blank, blank)))

    def _evaluate_lanes(self, lane: Lane, state: State, windows: jax.Array) -> jax.Array:
        def one(lane: Lane, params: Params) -> jax.Array:
            return jax.lax.map(functools.partial(self.loss, params, lane), windows)

        return self.over_lanes(one)(lane, state.params)

    def over_lanes(self, one: Any) -> Any:
        """`one` over the leading K axis of all its arguments, by the shape's strategy.

        Where the axis is dealt out over devices, each of them maps over its own lanes.
        """
        across = jax.vmap if self.mesh is None else functools.partial(jax.vmap, spmd_axis_name="lane")
        if self.shape.strategy == "vmap":
            return across(one)
        group = self.shape.group if self.shape.strategy == "both" else None

        def mapped(*args: Any) -> Any:
            return jax.lax.map(lambda packed: one(*packed), args, batch_size=group)

        devices = self._lane_devices
        if devices == 1:
            return mapped

        def dealt(*args: Any) -> Any:
            found = across(mapped)(*jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), args))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

        return dealt

    def _init_options(self) -> dict[str, Any] | None:
        """What compiles initial values sooner: on CPUs level 1 takes a quarter of the time under `vmap`, and the values
        are bitwise those of the default level.  Other platforms have options of their own and keep their defaults, and
        whoever asked JAX not to optimise gets that.
        """
        if jax.config.read("jax_disable_most_optimizations"):
            return None
        platform = jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform
        return {"xla_backend_optimization_level": 1} if platform == "cpu" else None

    @property
    def _lane_devices(self) -> int:
        return self.shape.mesh.sizes[0]

    def _padded(self, values: np.ndarray) -> jax.Array:
        rows = np.zeros((self.shape.segment, self.shape.lanes), self.shape.param_dtype)
        rows[: values.shape[0]] = values
        return place(rows, sharding.columns(self.mesh))

    def _state_shapes(self) -> State:
        with jax.enable_x64(self.shape.dtype == "float64"):
            return jax.eval_shape(
                jax.vmap(self._init_lane), abstract_lane(self._leaves, self.shape.lanes, self.shape.param_dtype)
            )

    def _nest(self, params: Params) -> Any:
        return nnx.from_flat_state(
            [(tuple(path.split("/")), self._variables[path].replace(value)) for path, value in params.items()]
        )


@functools.lru_cache(maxsize=32)
def program(shape: Shape) -> Program:
    """The program of a shape; equal shapes share one, and therefore one executable."""
    return Program(shape)


def shape_of(
    config: RunConfig,
    *,
    lanes: int,
    strategy: Any,
    group: int,
    segment: int,
    forward: Forward,
    accumulate: int = 1,
    mesh: MeshConfig = ONE,
) -> Shape:
    """The program that a resolved run belongs to."""
    return Shape(
        model=config.model,
        optimizer=structure(config.optimizer),
        dtype=config.dtype,
        sequences=config.data.sequences,
        length=config.data.length,
        lanes=lanes,
        strategy=strategy,
        group=group,
        segment=segment,
        forward=forward,
        accumulate=accumulate,
        mesh=mesh,
    )


def _batch(batches: Batches, step: jax.Array, stream: jax.Array, length: int) -> jax.Array:
    """Tokens [B, T+1] of one step of one data stream."""
    if batches.windows is not None:
        return batches.windows[step, stream]
    assert batches.tokens is not None and batches.starts is not None
    return batches.tokens[batches.starts[step, stream][:, None] + jnp.arange(length + 1)]


def _sharded(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings, of which a single one stands for all."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        broadcast(shardings, shapes),
    )
