"""Parametrizations for models that are not ours: NNX, Linen and plain trees."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import job_of, resolve

import lab
from lab import checkpoint, train
from lab.config import RunConfig
from lab.model import base_dims, dims
from lab.recipe import Recipe
from lab.transformer import ROLES

DOCUMENT = Path(__file__).parents[1] / "docs" / "parametrizations.md"
ROWS = (
    lab.RoleRow("embed", lab.Role.EMBEDDING, "vocab", "width"),
    lab.RoleRow(re.compile(r"layers/\d/kernel"), lab.Role.HIDDEN, "width", "width", lab.Place.BRANCH_END),
    lab.RoleRow("gain", lab.Role.GAIN, "one", "width"),
    lab.RoleRow("head", lab.Role.READOUT, "width", "vocab"),
)


def tree(width: int) -> dict[str, Any]:
    shapes = {"embed": (8, width), "gain": (width,), "head": (width, 8)}
    return {name: jnp.zeros(shape) for name, shape in shapes.items()} | {
        "layers": [{"kernel": jnp.zeros((width, width))} for _ in range(2)]
    }


def recipe(width: int = 64, **optimizer: Any) -> Recipe:
    return lab.parametrize(
        tree(width),
        ROWS,
        dims={"width": width, "vocab": 8},
        base_dims={"width": 16},
        parametrization=lab.ParametrizationConfig(name="mup", zero_readout=False),
        optimizer=lab.OptimizerConfig(**({"kind": "adamw", "weight_decay": 0.1} | optimizer)),
    )


def forward(params: Any, tokens: jax.Array) -> jax.Array:
    x = params["embed"][tokens]
    for layer in params["layers"]:
        x = x + jax.nn.relu(x) @ layer["kernel"]
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * params["gain"]
    return x @ params["head"]


def trained(found: Recipe, steps: int = 6, start: Any = None) -> tuple[Any, Any, list[float]]:
    """Parameters, optimizer state and losses of a few updates on one batch."""
    tokens = jnp.arange(40).reshape(4, 10) ** 2 % 8
    optimizer = found.optimizer(2.0**-5)
    fresh = found.init(jax.random.key(0), tree(64))
    params, state = (fresh, optimizer.init(fresh)) if start is None else start

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = forward(found.scaled(params), tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params, state, losses


def test_the_example_of_the_documentation_trains(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "example"})  # a complete program, as a reader would run it
    first, last = map(float, capsys.readouterr().out.split(" -> "))
    assert first == pytest.approx(np.log(64), abs=0.01)  # zero readout
    assert last < 1.5


def test_factors_are_the_table_s() -> None:
    rows = {row["path"]: row for row in recipe().table()}
    assert rows["layers/0/kernel"] == {
        "path": "layers/0/kernel",
        "role": "hidden",
        "init_std": 0.5,
        "forward": 1.0,
        "lr": 0.25,
        "eps": 0.25,
        "weight_decay": 4.0,
    }
    assert (rows["head"]["forward"], rows["head"]["lr"]) == (0.25, 1.0)
    assert rows["gain"]["weight_decay"] == 0
    assert all(set(row.values()) <= {1.0, 0.0, row["path"], row["role"]} for row in recipe(16).table())


@pytest.mark.parametrize("kind", ["sgd", "adamw", "adafactor", "lion", "muon"])
def test_every_optimizer_trains_a_plain_tree(kind: str) -> None:
    _, _, losses = trained(recipe(kind=kind, clip=1.0))
    assert losses[-1] < losses[0]


def test_a_recipe_trains_like_the_laboratory(base: RunConfig) -> None:
    """The library's path and the sweep's path are one: same weights, same batches, same losses."""
    run = resolve(
        base, model__width=32, optimizer__weight_decay=0.1, schedule__kind="constant", schedule__decay_steps=0
    )
    job = job_of([run], lanes=1)
    snapshot = train.start(job)
    params = jax.tree.map(lambda x: jnp.array(x[0]), snapshot.state.params)
    lane = jax.tree.map(lambda x: x[0], job.lane)
    found = lab.parametrize(
        params,
        ROLES,
        dims=dims(run.model, run.data.length),
        base_dims=base_dims(run.model, run.data.length, run.parametrization),
        parametrization=run.parametrization,
        optimizer=run.optimizer,
    )
    optimizer = found.optimizer(lambda step: run.optimizer.lr * jnp.minimum(1.0, (step + 1) / 2))
    ones = lane._replace(forward={path: jnp.ones(()) for path in params})
    state, losses = jax.jit(optimizer.init)(params), []

    @jax.jit
    def update(params: Any, state: Any, tokens: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.mean(job.program.loss(found.scaled(params), ones, tokens))

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    batches = job.feed.batches(0)
    assert batches.tokens is not None and batches.starts is not None
    for step in range(6):
        tokens = batches.tokens[batches.starts[step, 0][:, None] + jnp.arange(run.data.length + 1)]
        params, state, value = update(params, state, tokens)
        losses.append(float(value))
    *_, last = train.train(job, snapshot)
    np.testing.assert_allclose(losses, last.settled().loss[:6, 0], atol=2e-6)


def test_linen_variables_work_and_a_stacked_scan_counts_for_no_fan() -> None:
    model = nn.Dense(12)
    variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    rows = (
        lab.RoleRow("params/kernel", lab.Role.HIDDEN, "width", "out"),
        lab.RoleRow("params/bias", lab.Role.BIAS, "one", "out"),
    )
    found = lab.parametrize(variables, rows, dims={"width": 4, "out": 12}, base_dims={"width": 2, "out": 6})
    assert found.factors["params/kernel"].lr == 1 / 2
    stacked = jax.tree.map(lambda x: jnp.stack([x] * 3), variables)
    again = lab.parametrize(stacked, rows, dims={"width": 4, "out": 12}, base_dims={"width": 2, "out": 6})
    assert again.factors == found.factors
    assert again.leaves["params/kernel"].stacked == (0,)


@pytest.mark.exact
def test_training_goes_on_bitwise_after_a_checkpoint(tmp_path: Path) -> None:
    """Parameters and optimizer state through Orbax, and a recipe that is built anew."""
    params, state, straight = trained(recipe(), steps=6)
    half, half_state, _ = trained(recipe(), steps=3)
    checkpoint.save(tmp_path, "half", (half, half_state))
    restored = checkpoint.restore(tmp_path, "half", (half, half_state))
    again, _, losses = trained(recipe(), steps=3, start=restored)
    assert losses == straight[3:]
    assert all(
        (np.asarray(a) == np.asarray(b)).all() for a, b in zip(*map(jax.tree.leaves, (again, params)), strict=True)
    )


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import sys
import test_recipe as t
found = t.recipe()
mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.NamedSharding(mesh, jax.P(None, "fsdp"))
start = found.init(jax.random.key(0), t.tree(64))
spread = start | {"layers": jax.device_put(start["layers"], rows), "head": jax.device_put(start["head"], rows)}
_, state, sharded = t.trained(found, start=(spread, found.optimizer(2.0**-5).init(spread)))
_, _, single = t.trained(found)
momentum = state.inner[1].mu["layers/0/kernel"]
print(len(momentum.sharding.device_set), max(abs(a - b) for a, b in zip(sharded, single)) < 1e-5)
"""


def test_sharded_parameters_train_the_same() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 True\n"


def test_mistakes_are_one_clear_line() -> None:
    with pytest.raises(lab.InputError, match="parameter head needs exactly one role, but matches 0 rows"):
        lab.parametrize(tree(64), ROWS[:-1], dims={"width": 64, "vocab": 8}, base_dims={"width": 16})
    with pytest.raises(lab.InputError, match="is relative to a base model: give base_dims"):
        lab.parametrize(tree(64), ROWS, dims={"width": 64, "vocab": 8})
    with pytest.raises(lab.InputError, match="base_dims names widht, which is not in dims"):
        lab.parametrize(tree(64), ROWS, dims={"width": 64, "vocab": 8}, base_dims={"widht": 16})
    with pytest.raises(lab.InputError, match="needs the number of blocks: give depth"):
        lab.parametrize(
            tree(64),
            ROWS,
            dims={"width": 64, "vocab": 8},
            base_dims={"width": 16},
            parametrization=lab.ParametrizationConfig(depth="sqrt", base_depth=1),
        )
    with pytest.raises(lab.InputError, match="the tree has no leaf gain: build the recipe"):
        recipe().scaled({name: value for name, value in tree(64).items() if name != "gain"})
    optimizer = recipe().optimizer()
    state = optimizer.init(tree(64))
    with pytest.raises(lab.InputError, match="needs the parameters"):
        optimizer.update(tree(64), state)


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_stacked_axes_may_lie_anywhere(kind: str) -> None:
    """Kernels (width, layers, width), as `nn.scan` over axis 1 makes them, move like kernels (layers, width, width)."""
    rng = np.random.default_rng(0)
    weight, gradient = (rng.normal(size=(3, 8, 8)).astype(np.float32) for _ in range(2))

    def moved(axis: int) -> np.ndarray:
        around = (0, 2) if axis == 1 else (1, 2)
        row = lab.RoleRow("k", lab.Role.HIDDEN, "width", "width", in_axes=around[:1], out_axes=around[1:])
        params, grads = ({"k": jnp.moveaxis(jnp.asarray(x), 0, axis)} for x in (weight, gradient))
        found = lab.parametrize(
            params,
            [row],
            dims={"width": 8},
            base_dims={"width": 8},
            optimizer=lab.OptimizerConfig(kind=kind, clip=None),  # type: ignore[arg-type]
        )
        optimizer = found.optimizer(0.1)
        updates: Any = optimizer.update(grads, optimizer.init(params), params)[0]
        return np.moveaxis(np.asarray(updates["k"]), axis, 0)

    np.testing.assert_allclose(moved(0), moved(1), atol=1e-6)


def test_horizon_rules_need_the_size_of_the_run() -> None:
    rules = lab.ParametrizationConfig(horizon="completed", base_batch=64, base_tokens=640)
    settings: Any = {"dims": {"width": 64, "vocab": 8}, "base_dims": {"width": 16}, "parametrization": rules}
    found = lab.parametrize(tree(64), ROWS, batch=128, tokens=5120, **settings)
    assert found.factors["gain"].lr == 1 / 2
    with pytest.raises(lab.InputError, match="give batch .tokens per update. and tokens"):
        lab.parametrize(tree(64), ROWS, **settings)


def test_depth_rules_act_on_marked_leaves() -> None:
    found = dataclasses.replace(recipe().setting.parametrization, depth="complete", base_depth=1)
    deep = lab.parametrize(
        tree(64), ROWS, dims={"width": 64, "vocab": 8}, base_dims={"width": 16}, parametrization=found, depth=2
    )
    assert deep.factors["layers/1/kernel"].forward == 1 / 2
    assert deep.factors["head"].forward == 1 / 4
