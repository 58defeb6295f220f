"""The residual network: what a position sees, its rules, its counts, and that all that trains can train it."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import resolve, trained
from jax.flatten_util import ravel_pytree

from lab import coordinates, corpus, count
from lab.config import RunConfig
from lab.curvature import hessian
from lab.identity import from_dict, run_id
from lab.lane import Lane
from lab.memory import memory_bytes
from lab.model import Forward, leaves
from lab.objective import language, windows
from lab.override import apply
from lab.parametrization import TABLE
from lab.program import Program, program, shape_of
from lab.role import Place, Role
from lab.scale import scales
from sweeps.cli import main

MLP = {"model.kind": "mlp", "model.head_dim": None, "model.context": 3}
VARIANTS = [{}, {"model__block_layers": 2}, {"model__block_layers": 2, "model__bias": True, "model__context": 1}]
SQRT = {"parametrization__depth": "sqrt", "parametrization__base_depth": 1}
VOCAB, LENGTH = 11, 6


@pytest.fixture(scope="module")
def mlp(base: RunConfig) -> RunConfig:
    return apply(base, MLP)


def made(config: RunConfig, **changes: object) -> tuple[Program, Lane, dict[str, jax.Array]]:
    """(program, lane, parameters) of a tiny model: random numbers of about the initial size, biases included."""
    tiny = {"data.length": LENGTH, "parametrization.zero_readout": False, "dtype": "float64"}
    changed = tiny | {name.replace("__", "."): value for name, value in changes.items()}
    run = apply(config, changed).resolve(vocab=VOCAB, fingerprint="made up")
    built = program(shape_of(run, lanes=1, strategy="map", group=1, segment=1, forward=Forward()))
    lanes, _ = built.lanes([run])
    rng = np.random.default_rng(3)
    table = sorted(leaves(run).items())
    with built.context():
        lane = jax.tree.map(lambda leaf: leaf[0], lanes)
        params = {path: jnp.asarray(rng.normal(size=leaf.shape) / leaf.fan_in**0.5) for path, leaf in table}
    return built, lane, params


def tokens(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (rows, LENGTH + 1))


def logits(built: Program, lane: Lane, params: dict[str, jax.Array], inputs: np.ndarray) -> np.ndarray:
    with built.context():
        return np.asarray(jax.jit(built.logits)(params, lane, inputs)).reshape(*inputs.shape, -1)


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def streams(params: dict[str, np.ndarray], inputs: np.ndarray) -> list[np.ndarray]:
    """The stream [B, T, D] before the blocks and after each, entry by entry in numpy; parameters as they act."""
    table_CVD = params["embedding/token"]
    x_BTD = np.zeros((*inputs.shape, table_CVD.shape[2]))
    for b, t, j in np.ndindex(*inputs.shape, table_CVD.shape[0]):
        if j <= t:
            x_BTD[b, t] += table_CVD[j, inputs[b, t - j]] / math.sqrt(table_CVD.shape[0])
    found = [x_BTD]
    for layer in range(params["blocks/last/kernel"].shape[0]):
        y = gelu(found[-1])
        for name in ("first", "last"):
            if f"blocks/{name}/kernel" not in params:
                continue
            y = gelu(y) if name == "last" and "blocks/first/kernel" in params else y
            y = y @ params[f"blocks/{name}/kernel"][layer]
            y = y + params.get(f"blocks/{name}/bias", np.zeros((layer + 1, 1)))[layer]
        found.append(found[-1] + y)
    return found


def acting(lane: Lane, params: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    return {path: np.asarray(value) * np.asarray(lane.forward[path]) for path, value in params.items()}


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_forward_pass_against_numpy(mlp: RunConfig, changes: dict[str, object]) -> None:
    """Under muP at twice the base width and a depth rule, so that factors differ from 1."""
    built, lane, params = made(mlp, model__width=32, **SQRT, **changes)
    inputs, weights = tokens()[:, :-1], acting(lane, params)
    expected = streams(weights, inputs)[-1] @ weights["readout/kernel"]
    np.testing.assert_allclose(logits(built, lane, params, inputs), expected, atol=1e-12)
    assert np.ptp(expected) > 0.1


@pytest.mark.parametrize("context", [1, 3])
def test_a_position_sees_its_context_and_nothing_else(mlp: RunConfig, context: int) -> None:
    built, lane, params = made(mlp, model__context=context)
    inputs = tokens(1)[:, :-1]
    before = logits(built, lane, params, inputs)[0]
    for changed in range(LENGTH):
        other = inputs.copy()
        other[0, changed] = (other[0, changed] + 1) % VOCAB
        moved = np.abs(logits(built, lane, params, other)[0] - before).max(axis=1)
        sees = [changed <= t < changed + context for t in range(LENGTH)]
        assert ((moved > 1e-6) == sees).all()
        assert (moved[~np.array(sees)] == 0).all()


@pytest.mark.parametrize("how", [Forward(unroll=False), Forward(remat="full")], ids=str)
def test_execution_does_not_change_the_loss_or_its_gradient(mlp: RunConfig, how: Forward) -> None:
    built, lane, params = made(mlp, model__block_layers=2)
    shape = dataclasses.replace(built.shape, forward=how)

    def value(built: Program) -> tuple[jax.Array, dict[str, jax.Array]]:
        with built.context():
            return jax.jit(jax.value_and_grad(lambda p: built.loss(p, lane, jnp.asarray(tokens())).mean()))(params)

    (plain, gradient), (other, other_gradient) = value(built), value(program(shape))
    assert abs(float(plain) - float(other)) < 1e-12
    for path, found in gradient.items():
        assert np.isfinite(found).all() and np.abs(found).max() > 0
        np.testing.assert_allclose(other_gradient[path], found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_counts_equal_the_sum_over_leaves(mlp: RunConfig, changes: dict[str, object]) -> None:
    run = resolve(mlp, model__depth=3, **changes)
    sizes = {path: leaf.size for path, leaf in leaves(run).items()}
    blocks = {path: size for path, size in sizes.items() if path.startswith("blocks/")}
    found = count.parameters(run.model, run.data.length)
    assert (found.non_embedding, found.total) == (sum(blocks.values()), sum(sizes.values()))
    kernels = sum(size for path, size in blocks.items() if path.endswith("kernel"))
    assert count.matrix_parameters(run.model) == kernels
    assert count.training_flops_per_token(run.model, run.data.length) == 6 * (kernels + 16 * 256)
    one, two = (memory_bytes(run, lanes=lanes, strategy="vmap", group=1) for lanes in (1, 2))
    assert two == 2 * one


def test_roles_and_the_depth_rule(mlp: RunConfig) -> None:
    """Only the matrix that ends a branch is multiplied by (L/L0)^-1/2; SGD's rates stay, Adam's follow the rule."""
    run = resolve(mlp, model__depth=8, model__block_layers=2, optimizer__kind="sgd", **SQRT)
    table, found = leaves(run), scales(run, leaves(run))
    assert {path: (leaf.role, leaf.place) for path, leaf in table.items()} == {
        "embedding/token": (Role.EMBEDDING, Place.OUTSIDE),
        "blocks/first/kernel": (Role.HIDDEN, Place.BLOCK),
        "blocks/last/kernel": (Role.HIDDEN, Place.BRANCH_END),
        "readout/kernel": (Role.READOUT, Place.OUTSIDE),
    }
    forward = {path: factors.forward for path, factors in found.factors.items()}
    assert forward == dict.fromkeys(table, 1.0) | {"blocks/last/kernel": 8**-0.5}
    assert {factors.lr for factors in found.factors.values()} == {1.0}
    adam = resolve(run, optimizer__kind="adam")
    assert scales(adam, leaves(adam)).factors["blocks/first/kernel"].lr == 8**-0.5
    assert (found.attention, found.logits) == (1.0, 1.0)


def test_the_embedding_begins_as_large_as_one_table(mlp: RunConfig) -> None:
    """And the stream stays within the bounds of the module's docstring, which it leaves without a depth rule."""
    changes = {"model__width": 256, "parametrization__base_width": 256, "model__context": 2}
    growth = {}
    for name, depth, layers, rule in [
        ("one", 32, 1, SQRT),
        ("two", 32, 2, SQRT),
        ("base 4", 32, 1, SQRT | {"parametrization__base_depth": 4}),
        ("no rule", 16, 1, {}),
    ]:
        run = resolve(mlp, model__depth=depth, model__block_layers=layers, **changes, **rule)
        built = program(shape_of(run, lanes=1, strategy="map", group=1, segment=1, forward=Forward()))
        lanes, _ = built.lanes([run])
        lane, params = jax.tree.map(lambda leaf: leaf[0], (lanes, built.init(lanes).params))
        first, *_, last = (float(np.var(x[:, 1:])) for x in streams(acting(lane, params), tokens()[:, :-1]))
        assert first == pytest.approx(1, abs=0.1)
        growth[name] = last / first
    assert math.exp(1 / 4) < growth["one"] < math.exp(1 / 2)
    assert 1 + 1 / 16 < growth["two"] < math.exp(1 / 4)
    assert math.exp(4 / 4) < growth["base 4"] < math.exp(4 / 2)
    assert 1.25**16 < growth["no rule"] < 1.5**16


@pytest.mark.parametrize("name", [name for name in TABLE if not TABLE[name].absolute])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_base_shape_is_the_identity(mlp: RunConfig, name: str, kind: str) -> None:
    run = resolve(mlp, model__block_layers=2, parametrization__name=name, optimizer__kind=kind)
    for factors in scales(run, leaves(run)).factors.values():
        assert (factors.init, factors.forward, factors.lr, factors.eps) == (1, 1, 1, 1)


def test_two_forms_of_mup_are_one_model(mlp: RunConfig) -> None:
    """At twice the base width in float64; the standard parametrization is another model."""
    wide = {"model__width": 32, "optimizer__kind": "sgd", "optimizer__lr": 0.25, "dtype": "float64"}
    names = ("mup", "mup_table3", "sp")
    runs = [resolve(mlp, parametrization__name=name, optimizer__clip=None, **wide) for name in names]
    losses = dict(zip(names, trained(runs)[1].loss.T[:3], strict=True))
    np.testing.assert_allclose(losses["mup"], losses["mup_table3"], atol=1e-12)
    assert np.abs(losses["mup"] - losses["sp"]).max() > 1e-3


@pytest.mark.parametrize("kind", ["adam", "adafactor", "muon", "lion"])
def test_every_optimizer_trains_it(mlp: RunConfig, kind: str) -> None:
    """SGD trains it below, in a sweep."""
    rate = {"adafactor": 2.0**-3, "lion": 2.0**-8}.get(kind, 2.0**-5)
    job, snapshot = trained([resolve(mlp, optimizer__kind=kind, optimizer__lr=lr) for lr in (rate, rate / 2)])
    assert job.steps == 12 and np.isfinite(snapshot.loss).all()
    assert snapshot.loss[0] == pytest.approx(np.log(256), abs=1e-6)
    assert (snapshot.loss[-1] < snapshot.loss[0] - 0.1).all()


def test_lanes_agree_with_a_run_alone(mlp: RunConfig) -> None:
    runs = [resolve(mlp, optimizer__lr=2.0**-exponent) for exponent in (5, 6)]
    together, alone = trained(runs, strategy="vmap", unroll=False)[1], trained(runs[1:])[1]
    np.testing.assert_allclose(alone.loss[:, 0], together.loss[:, 1], atol=1e-5)


def test_hessian_against_autodiff(mlp: RunConfig) -> None:
    built, lane, params = made(mlp, model__width=3, parametrization__base_width=3, model__block_layers=2)
    with built.context():
        objective, parts = language(built, lane), windows(jnp.asarray(tokens()), parts=2)
        theta_N, unravel = ravel_pytree(params)
        found = jax.lax.map(jax.jit(hessian(objective, params, parts)), jnp.eye(theta_N.size))

        def loss(theta_N: jax.Array) -> jax.Array:
            return built.loss(unravel(theta_N), lane, jnp.asarray(tokens())).mean()

        expected = jax.jit(jax.hessian(loss))(theta_N)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ids_depend_on_what_the_kind_has(base: RunConfig, mlp: RunConfig) -> None:
    run, transformer = resolve(mlp), resolve(base)
    meaningless = {
        "model__heads": 3,
        "model__kv_heads": 5,
        "model__mlp_width": 7,
        "model__norm_eps": 1e-3,
        "model__rope_theta": 5.0,
        "parametrization__base_kv_width": 3,
        "parametrization__base_mlp_width": 3,
        "parametrization__base_head_dim": 3,
        "parametrization__attention": "sqrt",
    }
    assert {run_id(resolve(mlp, **{name: value})) for name, value in meaningless.items()} == {run_id(run)}
    assert run_id(resolve(base, model__context=3, model__block_layers=2)) == run_id(transformer)
    changes = [{"model__context": 4}, {"model__block_layers": 2}, {"model__width": 20}, {"model__bias": True}]
    ids = {run_id(resolve(mlp, **change)) for change in changes}
    assert len(ids | {run_id(run), run_id(transformer)}) == len(changes) + 2
    again = from_dict(RunConfig, json.loads(json.dumps(dataclasses.asdict(run))))
    assert again == run == resolve(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.tied": True}, r"model\.tied=True is a part of the transformer.* leave model\.tied at False"),
        ({"model.qk_norm": True}, r"model\.qk_norm=True .*model\.kind=mlp does not have it"),
        ({"model.mlp": "swiglu"}, r"model\.mlp=swiglu .*leave model\.mlp at gelu"),
        ({"model.norm": "layernorm"}, r"model\.norm=layernorm .*leave model\.norm at rmsnorm"),
        ({"model.placement": "post"}, r"model\.placement=post .*at pre"),
        ({"model.position": "learned"}, r"model\.position=learned .*at rope"),
        ({"model.block_layers": 3}, r"model\.block_layers=3 is not one of 1, 2"),
        ({"model.context": 0}, r"model\.context=0 is not above 0"),
        ({"model.kind": "mpl"}, r"model\.kind=mpl is not one of transformer, mlp \(did you mean mlp\?\)"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(mlp: RunConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(mlp, changes)


def test_coordinates_are_the_transformers(mlp: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run = resolve(mlp)
    with pytest.raises(ValueError, match=r"model\.kind=mlp: coordinates are measured on the parts of a transformer"):
        coordinates.trajectories([run], corpus.load(run.data), "change")
    assert main(["coord-check", "mup", "--widths", "16,32,64", "--set", "model.kind=mlp"]) == 2
    assert "model.kind=mlp: coordinates" in capsys.readouterr().err


SWEEP = """
from lab.config import *
from sweeps.sweep import Sweep, axis, product


def sweep():
    return Sweep(
        name="depth",
        question="Does it train?",
        cost="seconds",
        expected="a falling loss",
        base=RunConfig(
            model=ModelConfig(kind="mlp", width=20, depth=2, context=4),
            parametrization=ParametrizationConfig(base_width=20, depth="sqrt", base_depth=1),
            optimizer=OptimizerConfig(kind="sgd", momentum=0.0, clip=None),
            schedule=ScheduleConfig(kind="constant", steps=40),
            data=DataConfig(corpus="text:{text}", sequences=8, length=16),
            evaluation=EvaluationConfig(sequences=16),
        ),
        points=product(axis("model.block_layers", 1, 2), axis("optimizer.lr", 0.25, 0.5, 1.0, 2.0)),
    )
"""


def test_a_sweep_trains_and_is_reported(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "depth.py", str(tmp_path / "results")
    path.write_text(SWEEP.format(text=text))
    assert main(["plan", str(path)]) == 0
    assert main(["sweep", str(path), "--out", out, "--keep", "none"]) == 0
    assert main(["report", out]) == 0
    assert "block_layers" in capsys.readouterr().out
    assert main(["export", out, "--csv", str(tmp_path / "runs.csv")]) == 0
    header, *rows = (line.split(",") for line in (tmp_path / "runs.csv").read_text().splitlines())
    assert len(rows) == 8
    assert {row[header.index("status")] for row in rows} == {"done"}
    assert all(float(row[header.index("loss")]) < 0.8 * math.log(256) for row in rows)
