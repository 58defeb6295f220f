"""Counts in closed form against the sizes of the real parameters, and FLOPs against a hand count."""

from typing import Any

import pytest
from conftest import resolve
from test_parametrization import VARIANTS

from lab import count, memory, model, transformer
from lab.check import InputError
from lab.config import ModelConfig, RunConfig
from lab.layer import Forward, Linear
from lab.memory import memory_bytes
from lab.model import leaves
from lab.program import Program, Shape, shape_of
from lab.role import Place, Role, RoleRow

pytestmark = pytest.mark.host

MLP: dict[str, object] = {"model__kind": "mlp", "model__head_dim": None, "model__block_layers": 2}
OPTIMIZERS = ("adamw", "adafactor", "lion", "muon", "sgd")


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_parameters_equal_the_sum_over_leaves(base: RunConfig, changes: dict[str, object]) -> None:
    run = resolve(base, model__width=32, **{k: v for k, v in changes.items() if "kv" not in k})
    sizes = {path: leaf.size for path, leaf in leaves(run).items()}
    found = count.parameters(run.model, run.data.length)
    assert found.total == sum(sizes.values())
    assert found.embedding == sum(n for path, n in sizes.items() if path.startswith(("embedding/", "readout/")))


def test_grouped_heads_are_counted(base: RunConfig) -> None:
    run = resolve(base, model__width=32, model__kv_heads=2)
    assert count.parameters(run.model, 16).total == sum(leaf.size for leaf in leaves(run).values())


def test_flops_by_hand(base: RunConfig) -> None:
    """d = 16, L = 2, f = 64, V = 256, T = 16: matrices 2 (4 d^2 + 2 d f) = 6144."""
    run = resolve(base)
    assert count.matrix_parameters(run.model) == 6144
    per_token = 6 * (6144 + 16 * 256) + 12 * 2 * 16 * 16
    assert count.training_flops_per_token(run.model, 16) == per_token
    assert count.training_tokens(run) == 12 * 64
    assert count.training_flops(run) == per_token * (12 * 64 + 16 * 16 / 3)


def test_memory_grows_with_what_runs_at_once(base: RunConfig) -> None:
    run = resolve(base)
    one = memory_bytes(run, lanes=1, strategy="map", group=1)
    mapped = memory_bytes(run, lanes=8, strategy="map", group=1)
    together = memory_bytes(run, lanes=8, strategy="vmap", group=1)
    assert one < mapped < together == 8 * one


def shape(run: RunConfig) -> Shape:
    return shape_of(run, lanes=2, strategy="map", group=1, segment=4, forward=Forward(attention="einsum", unroll=False))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"model__mlp": "swiglu", "model__bias": True, "model__norm": "layernorm"}, {"model__tied": True}, MLP],
    ids=str,
)
def test_a_program_agrees_with_its_leaves(base: RunConfig, changes: dict[str, object], optimizer: str) -> None:
    Program(shape(resolve(base, optimizer__kind=optimizer, model__width=16, **changes)))


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("parameters", lambda _, __: count.Parameters(32928, 8192), r"32,928 parameters of blocks and norms \(N\)"),
        (
            "product_parameters",
            lambda _: 10240 + 1,
            r"10,241 entries of matrices .* \(FLOPs\), and its leaves have 10,240",
        ),
    ],
)
def test_closed_forms_that_forget_something_are_refused(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch, name: str, wrong: Any, words: str
) -> None:
    monkeypatch.setattr(count, name, wrong)
    with pytest.raises(InputError, match=words):
        Program(shape(resolve(base)))


def test_a_block_that_has_more_than_is_counted_builds_no_program(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1.0 recorded N = 32,928 for a block whose leaves were 57,760."""

    class Wider(transformer.Mlp):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__(config)
            self.more = Linear(config.width, config.width, bias=False)

    row = RoleRow("blocks/mlp/more/kernel", Role.HIDDEN, "width", "width", Place.BLOCK)
    monkeypatch.setattr(transformer, "Mlp", Wider)
    monkeypatch.setitem(model.ROLES, "transformer", (*transformer.ROLES, row))
    model.abstract.cache_clear()
    model._leaves.cache_clear()
    try:
        with pytest.raises(InputError, match=r"6,224 parameters of blocks and norms \(N\), and its leaves have 6,736"):
            Program(shape(resolve(base)))
    finally:
        model.abstract.cache_clear()
        model._leaves.cache_clear()


def test_an_optimizer_that_keeps_more_than_is_counted_builds_no_program(
    base: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(memory.MOMENTS, "adam", 1)
    with pytest.raises(InputError, match=r"lab/memory\.py says that adam keeps 28,832 numbers .* keeps 43,248"):
        Program(shape(resolve(base)))
