"""The three ways in which the gradient of a lookup is summed are one sum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.config import ExecConfig, ModelConfig
from lab.device import execution
from lab.lookup import FORMS, lookup
from lab.objective import measured
from lab.program import Shape

pytestmark = pytest.mark.stack

# Places, rows of the table: none is a multiple of a block, and the most frequent row goes on over several blocks.
SIZES = {"few rows": (700, 5), "more rows than places": (130, 900), "one block": (3, 4), "one place": (1, 1)}


def case(places: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(places)
    row_M = rng.integers(0, rows, places)
    row_M[rng.random(places) < 0.5] = rows // 2
    return row_M.astype(np.int32), rng.normal(size=(places, 6))


def summed(row_M: np.ndarray, g_MD: np.ndarray, rows: int) -> np.ndarray:
    """The sum by a loop, in float64."""
    table_VD = np.zeros((rows, g_MD.shape[1]))
    for row, value in zip(row_M, g_MD, strict=True):
        table_VD[row] += value
    return table_VD


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_the_forms_are_the_sum(form: str, size: str) -> None:
    places, rows = SIZES[size]
    row_M, g_MD = case(places, rows)
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
        with jax.enable_x64(dtype == "float64"):
            found = jax.jit(FORMS[form], static_argnums=(2, 3))(row_M, jnp.asarray(g_MD, dtype), rows, dtype)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, summed(row_M, g_MD, rows), rtol=0, atol=tolerance * np.sqrt(places))
    low = jnp.asarray(g_MD, jnp.bfloat16)
    found = jax.jit(FORMS[form], static_argnums=(2, 3))(row_M, low, rows, jnp.float32)
    assert found.dtype == jnp.float32
    exact = summed(row_M, np.asarray(low, np.float64), rows)
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5 * np.sqrt(places))


def test_a_place_that_goes_elsewhere_is_seen() -> None:
    """The control: the tolerance tells one place's row from another's."""
    row_M, g_MD = case(*SIZES["few rows"])
    moved_M = row_M.copy()
    moved_M[17] = (moved_M[17] + 1) % 5
    assert np.abs(summed(moved_M, g_MD, 5) - summed(row_M, g_MD, 5)).max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_rows_are_those_of_the_table_and_lanes_have_their_own(form: str, dtype: str) -> None:
    row_M, g_MD = case(40, 9)
    rows_KM = np.stack([row_M, row_M[::-1]])
    table_KVD = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)

    @jax.jit
    def both(table_KVD: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, back = jax.vjp(jax.vmap(lambda table, row: lookup(table, row, dtype, form)), table_KVD, rows_KM)
        return found, back(jnp.broadcast_to(g_MD, found.shape).astype(found.dtype))[0]

    found, gradient = both(table_KVD)
    assert found.dtype == dtype and gradient.dtype == jnp.float32
    for lane in range(2):
        np.testing.assert_array_equal(found[lane], table_KVD[lane][rows_KM[lane]].astype(found.dtype))
        exact = summed(rows_KM[lane], np.asarray(jnp.asarray(g_MD, dtype), np.float64), 9)
        np.testing.assert_allclose(gradient[lane], exact, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "small", "large"),
    [("cpu", "scatter", "scatter"), ("gpu", "onehot", "sorted"), ("tpu", "onehot", "scatter")],
)
def test_the_form_follows_the_device_and_the_table(platform: str, small: str, large: str) -> None:
    def form(model: ModelConfig, **settings: Any) -> str:
        return execution(ExecConfig(**settings), model, platform=platform, runs=1).forward.lookup

    assert form(ModelConfig(vocab=256)) == small
    assert form(ModelConfig(vocab=50_304)) == large
    assert form(ModelConfig(kind="mlp", vocab=256, context=8)) == small
    assert form(ModelConfig(kind="mlp", vocab=1024, context=8)) == large
    assert form(ModelConfig(vocab=256), lookup="sorted") == "sorted"


def test_curvature_is_measured_with_a_lookup_that_can_be_differentiated_forwards() -> None:
    how = execution(ExecConfig(lookup="onehot"), ModelConfig(vocab=8), platform="cpu", runs=1)
    shape = Shape(ModelConfig(vocab=8), "adam", "float32", 1, 4, 1, "map", 1, 1, how.forward)
    assert shape.forward.lookup == "onehot" and measured(shape).forward.lookup == "scatter"
