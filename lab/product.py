"""Matrix products in the compute dtype, and numbers that act on its rows, with every sum in at least float32.

Letters: M rows of activations, I inputs and O outputs.

Weights come in the dtype of the masters and are rounded to that of the activations where they are used.  So the
gradient of a weight is never rounded: it is a sum over all rows, asked for in float32 even before the parts of several
devices are joined.  A result in the compute dtype is one rounding of a sum that devices make in float32; only where the
contraction itself is cut over devices is that sum asked for in float32 too, since its parts are added between them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lab.sharding import contraction_cut


def product(x_MI: jax.Array, w_IO: jax.Array) -> jax.Array:
    """`x w` in the dtype of x; its gradient in w has the dtype of w.

    Below float32 it can be differentiated in reverse only.
    """
    if x_MI.dtype == w_IO.dtype:
        return x_MI @ w_IO
    return _product(x_MI, w_IO, contraction_cut(), False)


def wide_product(x_MI: jax.Array, w_IO: jax.Array) -> jax.Array:
    """`x w` of the same factors, in the dtype of w: the sum without a last rounding."""
    if x_MI.dtype == w_IO.dtype:
        return x_MI @ w_IO
    return _product(x_MI, w_IO, contraction_cut(), True)


def at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rounded(x: jax.Array, dtype: Any, cut: bool) -> jax.Array:
    """`x` in `dtype`; where it is joined from parts of several devices (`cut`), rounded after they are added up.

    Without the barrier the TPU compiler rounds the parts, and adds them up in 16 bits.
    """
    return (jax.lax.optimization_barrier(x) if cut else x).astype(dtype)


def shifted(x: jax.Array, shift: jax.Array) -> jax.Array:
    """`x + shift` in the dtype of x, added in at least float32, so that the gradient of a shift that is broadcast is
    summed in it.
    """
    return (at_least_float32(x) + at_least_float32(shift)).astype(x.dtype)


def repeated(x: jax.Array, count: int, axis: int) -> jax.Array:
    """Every entry along an axis `count` times in turn; its gradient is summed over them in at least float32."""
    return x if count == 1 else jnp.repeat(at_least_float32(x), count, axis=axis).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x_MI: jax.Array, w_IO: jax.Array, cut: bool, wide: bool) -> jax.Array:
    return _forward(x_MI, w_IO, cut, wide)[0]


def _forward(
    x_MI: jax.Array, w_IO: jax.Array, cut: bool, wide: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    low_IO = w_IO.astype(x_MI.dtype)
    y_MO = jnp.matmul(x_MI, low_IO, preferred_element_type=w_IO.dtype if cut or wide else None)
    # The last is there for its dtype alone.
    return y_MO if wide else rounded(y_MO, x_MI.dtype, cut), (x_MI, low_IO, jnp.zeros((), w_IO.dtype))


def _backward(
    cut: bool, wide: bool, kept: tuple[jax.Array, jax.Array, jax.Array], g_MO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del wide
    x_MI, low_IO, like = kept
    g_MO = g_MO.astype(x_MI.dtype)
    dx_MI = jnp.matmul(g_MO, low_IO.T, preferred_element_type=like.dtype if cut else None)
    dw_IO = jnp.matmul(x_MI.T, g_MO, preferred_element_type=like.dtype)
    return rounded(dx_MI, x_MI.dtype, cut), dw_IO


_product.defvjp(_forward, _backward)
