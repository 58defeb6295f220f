"""The transformer against one written from the papers (`reference_transformer`): logits, losses and gradients."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_transformer as reference
from conftest import job_of, resolve

from lab.config import ModelConfig, RunConfig
from lab.lane import Lane
from lab.program import Program

pytestmark = pytest.mark.stack

# Every choice that the configuration offers is in some of them; `default` is what a user gets.
MODELS: dict[str, dict[str, object]] = {
    "default": {},
    "swiglu, grouped, qk-norm": {"mlp": "swiglu", "kv_heads": 2, "qk_norm": True},
    "post-norm, swiglu, biases": {"placement": "post", "mlp": "swiglu", "bias": True, "kv_heads": 1},
    "layernorm, learned, tied": {"norm": "layernorm", "position": "learned", "bias": True, "tied": True},
    "post-norm, layernorm, qk-norm": {"placement": "post", "norm": "layernorm", "qk_norm": True},
}
# What the reference must not agree with: one choice changed, with the weights as they are.
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "theta of rope": ("default", {"rope_theta": 9_000.0}),
    "eps of the norms": ("default", {"norm_eps": 2e-5}),
    "placement": ("swiglu, grouped, qk-norm", {"placement": "post"}),
    "qk-norm": ("swiglu, grouped, qk-norm", {"qk_norm": False}),
    "gelu": ("swiglu, grouped, qk-norm", {"mlp": "gelu"}),
    "layernorm": ("post-norm, layernorm, qk-norm", {"norm": "rmsnorm"}),
    "tied": ("layernorm, learned, tied", {"position": "rope"}),
}
SCALE = 0.37  # of attention, no power of anything
LENGTH = 7


class Case:
    """A model with random weights, gains and biases included, and a batch of tokens [B, T + 1]."""

    def __init__(self, base: RunConfig, **model: object) -> None:
        # Four heads of four; widths of nothing coincide, and the norms' eps is large enough to show.
        sizes = {"width": 16, "head_dim": 4, "mlp_width": 24, "vocab": 256, "depth": 2}
        changes = {f"model__{name}": value for name, value in (sizes | model).items()}
        run = resolve(base, dtype="float64", data__length=LENGTH, data__sequences=3, **changes)
        self.model: ModelConfig = run.model
        job = job_of([run], lanes=1)
        self.program: Program = job.program
        rng = np.random.default_rng(1)
        with self.program.context():
            lane: Lane = jax.tree.map(lambda leaf: leaf[0], job.lane)
            ones = {path: jnp.ones(()) for path in lane.forward}
            self.lane = lane._replace(forward=ones, attention=jnp.asarray(SCALE), logits=jnp.ones(()))
        self.weights = {
            path: rng.normal(1.0 if leaf.role == "gain" else 0.0, 0.4, leaf.shape)
            for path, leaf in self.program._leaves.items()
        }
        self.tokens = rng.integers(0, 256, (3, LENGTH + 1))

    def ours(self, of: Callable[..., jax.Array], *args: Any) -> Any:
        with self.program.context():
            params = {path: jnp.asarray(value) for path, value in self.weights.items()}
            return jax.tree.map(np.asarray, jax.jit(of)(params, self.lane, *args))


@pytest.fixture(scope="module")
def case(base: RunConfig) -> Callable[[str], Case]:
    """Cases by the name of their model, each built once."""
    known: dict[str, Case] = {}

    def build(name: str) -> Case:
        if name not in known:
            known[name] = Case(base, **MODELS[name])
        return known[name]

    return build


def expected(case: Case, model: ModelConfig | None = None) -> np.ndarray:
    """The reference's logits [B * T, V]."""
    return np.concatenate(
        [reference.logits(np, case.weights, row[:-1], model or case.model, SCALE) for row in case.tokens]
    )


@pytest.mark.parametrize("name", MODELS)
def test_logits_losses_and_gradient_are_the_reference_s(case: Callable[[str], Case], name: str) -> None:
    one = case(name)
    program, tokens = one.program, jnp.asarray(one.tokens, jnp.int32)

    def mean(params: Any, lane: Lane) -> jax.Array:
        return jnp.mean(program.loss(params, lane, tokens))

    def all_of(params: Any, lane: Lane) -> Any:
        return (
            program.logits(params, lane, tokens[:, :-1]),
            program.token_losses(params, lane, tokens),
            jax.grad(mean)(params, lane),
        )

    found, losses, gradient = one.ours(all_of)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(one), rtol=0, atol=1e-12)
    by_token = np.stack([reference.token_losses(np, one.weights, row, one.model, SCALE) for row in one.tokens])
    np.testing.assert_allclose(losses, by_token, rtol=0, atol=1e-12)

    def of_reference(weights: Any) -> jax.Array:
        rows = jax.vmap(lambda row: reference.token_losses(jnp, weights, row, one.model, SCALE))
        return rows(tokens).mean()

    with program.context():
        weights = {path: jnp.asarray(value) for path, value in one.weights.items()}
        wanted = jax.tree.map(np.asarray, jax.jit(jax.grad(of_reference))(weights))
    for path, value in gradient.items():
        np.testing.assert_allclose(value, wanted[path], rtol=0, atol=1e-13, err_msg=path)
        assert np.abs(value).max() > 1e-5 or path == "blocks/attention/key/bias"  # which softmax does not see


def test_the_gradient_is_the_slope_of_the_reference_in_numpy(case: Callable[[str], Case]) -> None:
    """Without any differentiation of the reference: a central difference along a random direction."""
    one = case("swiglu, grouped, qk-norm")
    tokens = jnp.asarray(one.tokens, jnp.int32)
    gradient = one.ours(jax.grad(lambda params, lane: jnp.mean(one.program.loss(params, lane, tokens))))
    rng = np.random.default_rng(2)
    direction = {path: rng.normal(size=value.shape) for path, value in one.weights.items()}

    def loss(step: float) -> float:
        moved = {path: value + step * direction[path] for path, value in one.weights.items()}
        rows = [reference.token_losses(np, moved, row, one.model, SCALE) for row in one.tokens]
        return float(np.mean(rows))

    slope = (8 * (loss(1e-4) - loss(-1e-4)) - (loss(2e-4) - loss(-2e-4))) / 12e-4
    along = sum(float(np.sum(gradient[path] * direction[path])) for path in direction)
    assert along == pytest.approx(slope, rel=1e-8)


def test_the_default_model_is_this_one() -> None:
    """What a configuration that says nothing stands for: a change here is a change of every documented number."""
    found = ModelConfig(vocab=256).resolve(vocab=None)
    assert dataclasses.asdict(found) == {
        "kind": "transformer",
        "width": 64,
        "depth": 2,
        "heads": 4,
        "head_dim": 16,
        "kv_heads": 4,
        "mlp": "gelu",
        "mlp_width": 256,
        "norm": "rmsnorm",
        "norm_eps": 1e-5,
        "placement": "pre",
        "position": "rope",
        "rope_theta": 10_000.0,
        "bias": False,
        "qk_norm": False,
        "tied": False,
        "vocab": 256,
        "block_layers": 1,
        "context": 8,
    }


@pytest.mark.parametrize("what", WRONG)
def test_one_wrong_choice_misses(case: Callable[[str], Case], what: str) -> None:
    name, change = WRONG[what]
    one = case(name)
    wrong = dataclasses.replace(one.model, **change)
    assert np.abs(expected(one, wrong) - expected(one)).max() > 1e-4


def test_attention_logits_of_coordinate_checks_are_the_scores(case: Callable[[str], Case]) -> None:
    """What coordinate checks measure is what the model computes: scores, branches, and the same logits."""
    one = case("swiglu, grouped, qk-norm")
    inputs, program = jnp.asarray(one.tokens[:, :-1], jnp.int32), one.program

    def activations(params: Any, lane: Lane) -> Any:
        model: Any = program.model(params, lane)
        return model.activations(
            inputs, attention_scale=lane.attention, logit_scale=lane.logits, forward=program.shape.forward
        )

    found = one.ours(activations)
    np.testing.assert_allclose(found["logits"], expected(one), rtol=0, atol=1e-12)
    of_first = {path.removeprefix("blocks/"): value[0] for path, value in one.weights.items() if "blocks/" in path}
    for row, tokens_T in enumerate(one.tokens[:, :-1]):
        embedded = one.weights["embedding/token"][tokens_T]
        normed = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + one.model.norm_eps)
        normed = normed * of_first["attention_norm/gain"]
        for head, scores in enumerate(reference.scores(np, of_first, normed, one.model, SCALE)):
            np.testing.assert_allclose(found["attention_logits"][0, row, head], np.tril(scores), rtol=0, atol=1e-12)
