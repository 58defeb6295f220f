"""Rows of a table by their numbers, and the gradient of the table: a sum, for each row, over the places that took it.

Letters: M places, V rows of the table, D width, N blocks of C places.

Three ways of the same sum, all in the dtype of the table (at least float32) whatever the gradient's:

- `scatter`: the gradient of each place is added to its row.  In order on a CPU, where it is fastest by far; on a GPU
  atomic additions, slow where many places take one row, and in another order each time.
- `onehot`: a product with rows of zeros and a one, in a fixed order; its work grows with V.
- `sorted`: places sorted by row, then sums over runs of equal rows, made of products with blocks of 0s and 1s, in a
  fixed order; its work does not grow with V.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lab.product import at_least_float32, rounded
from lab.sharding import contraction_cut, looked_up, row_parts, spread

_BLOCK = 128


def lookup(table_VD: jax.Array, row_M: jax.Array, dtype: Any, form: str) -> jax.Array:
    """`table[row]` rounded to `dtype`, [M, D]; `form` (a key of `FORMS`) says how its gradient is summed.

    Other forms than `scatter`, and all of them below float32, can be differentiated in reverse only.
    """
    if form == "scatter" and table_VD.dtype == dtype:
        return looked_up(table_VD)[row_M]
    return _lookup(table_VD, row_M, str(jnp.dtype(dtype)), form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _lookup(table_VD: jax.Array, row_M: jax.Array, dtype: str, form: str) -> jax.Array:
    return _forward(table_VD, row_M, dtype, form)[0]


def _forward(
    table_VD: jax.Array, row_M: jax.Array, dtype: str, form: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    del form
    # Where rows are cut over devices, the parts that each of them finds are added up.
    cut = contraction_cut()
    found_VD = table_VD if cut else table_VD.astype(dtype)
    found_MD = looked_up(found_VD)[row_M]
    return rounded(found_MD, jnp.dtype(dtype)) if cut else found_MD, (
        row_M,
        jnp.zeros((table_VD.shape[0], 0), table_VD.dtype),
    )


def _backward(dtype: str, form: str, kept: tuple[jax.Array, jax.Array], g_MD: jax.Array) -> tuple[jax.Array, None]:
    del dtype
    row_M, like_V = kept
    return FORMS[form](row_M, g_MD, like_V.shape[0], like_V.dtype), None


_lookup.defvjp(_forward, _backward)


def _scatter(row_M: jax.Array, g_MD: jax.Array, rows: int, dtype: Any) -> jax.Array:
    return jnp.zeros((rows, g_MD.shape[1]), dtype).at[row_M].add(g_MD.astype(dtype))


def _onehot(row_M: jax.Array, g_MD: jax.Array, rows: int, dtype: Any) -> jax.Array:
    hot_VM = (jnp.arange(rows)[:, None] == row_M).astype(g_MD.dtype)
    return _sums("vm,md->vd", hot_VM, g_MD, dtype)


def _sorted(row_M: jax.Array, g_MD: jax.Array, rows: int, dtype: Any) -> jax.Array:
    """Each part of the rows of a mesh sorts its own places; the sums of the parts are then added up."""
    parts = row_parts()
    if parts == 1:
        return _segments(row_M, g_MD, rows, dtype)
    g_PMD = spread(g_MD).reshape(parts, -1, g_MD.shape[1])
    of_part = functools.partial(_segments, rows=rows, dtype=dtype)
    return jnp.sum(spread(jax.vmap(of_part)(row_M.reshape(parts, -1), g_PMD)), axis=0)


def _segments(row_M: jax.Array, g_MD: jax.Array, rows: int, dtype: Any) -> jax.Array:
    """The sum of the places up to each one that take its row, first within blocks of the sorted places and then over
    the blocks before: the last place of every row has it all.
    """
    count, width = g_MD.shape
    block = max(_BLOCK, 1 << (math.isqrt(count) - 1).bit_length())
    row_M = jnp.pad(row_M, (0, -count % block), constant_values=rows)
    g_MD = jnp.pad(g_MD, ((0, -count % block), (0, 0)))
    order_M = jnp.argsort(row_M)
    row_NC, g_NCD = row_M[order_M].reshape(-1, block), g_MD[order_M].reshape(-1, block, width)
    earlier_NCE = (row_NC[:, :, None] == row_NC[:, None, :]) & jnp.tril(jnp.ones((block, block), bool))
    sum_NCD = _sums("nce,ned->ncd", earlier_NCE.astype(g_MD.dtype), g_NCD, dtype)
    first_N, last_N = row_NC[:, 0], row_NC[:, -1]
    before_NN = (first_N[:, None] == last_N) & jnp.tril(jnp.ones((first_N.size, first_N.size), bool), -1)
    carried_ND = _sums("nm,md->nd", before_NN.astype(dtype), sum_NCD[:, -1], dtype)
    sum_NCD += jnp.where((row_NC == first_N[:, None])[:, :, None], carried_ND[:, None], 0)
    row_M = row_NC.reshape(-1)
    ends_M = (row_M != jnp.append(row_M[1:], rows)) & (row_M < rows)
    # All others go to places of their own beyond the table, where they are dropped.
    into_M = jnp.where(ends_M, row_M, rows + jnp.arange(row_M.size))
    table_VD = jnp.zeros((rows, width), dtype)
    return table_VD.at[into_M].set(sum_NCD.reshape(-1, width), mode="drop", unique_indices=True)


def _sums(letters: str, choice: jax.Array, values: jax.Array, dtype: Any) -> jax.Array:
    """A product with zeros and ones: sums in `dtype` of values that are not rounded on the way."""
    exact = None if values.dtype != at_least_float32(values).dtype else jax.lax.Precision.HIGHEST
    return jnp.einsum(letters, choice, values, precision=exact, preferred_element_type=dtype)


FORMS: dict[str, Callable[[jax.Array, jax.Array, int, Any], jax.Array]] = {
    "scatter": _scatter,
    "onehot": _onehot,
    "sorted": _sorted,
}
