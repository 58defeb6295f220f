"""Counts in closed form against the sizes of the real parameters, and FLOPs against a hand count."""

import pytest
from conftest import resolve
from test_parametrization import VARIANTS

from lab import count
from lab.config import RunConfig
from lab.memory import memory_bytes
from lab.model import leaves

pytestmark = pytest.mark.host


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
