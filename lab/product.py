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


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """A sum `x` (at least float32) rounded to nearest in `dtype`, to even; NaN stays NaN.

    To bfloat16 it is done in integers: a compiler may make a sum in 16 bits where all that follows is a conversion to
    them (the TPU's does, and joins the parts of several devices so).
    """
    if dtype != jnp.bfloat16:
        return x.astype(dtype)
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    kept = jnp.where(jnp.isnan(x), 0x7FC0, even)
    return jax.lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16)


def shifted(x: jax.Array, shift: jax.Array) -> jax.Array:
    """`x + shift` in the dtype of x, added in at least float32, so that the gradient of a shift that is broadcast is
    summed in it.
    """
    return (at_least_float32(x) + at_least_float32(shift)).astype(x.dtype)


def repeated(x: jax.Array, count: int, axis: int) -> jax.Array:
    """Every entry along an axis `count` times in turn; its gradient is summed over them in at least float32."""
    if count == 1:
        return x
    return jnp.repeat(x, count, axis=axis) if x.dtype == at_least_float32(x).dtype else _repeated(x, count, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _repeated(x: jax.Array, count: int, axis: int) -> jax.Array:
    return jnp.repeat(x, count, axis=axis)


def _repeated_backward(count: int, axis: int, kept: None, g: jax.Array) -> tuple[jax.Array]:
    del kept
    parts = at_least_float32(g).reshape(*g.shape[:axis], -1, count, *g.shape[axis + 1 :])
    return (rounded(jnp.sum(parts, axis=axis + 1), g.dtype),)


_repeated.defvjp(lambda x, count, axis: (jnp.repeat(x, count, axis=axis), None), _repeated_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x_MI: jax.Array, w_IO: jax.Array, cut: bool, wide: bool) -> jax.Array:
    return _forward(x_MI, w_IO, cut, wide)[0]


def _forward(
    x_MI: jax.Array, w_IO: jax.Array, cut: bool, wide: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    low_IO = w_IO.astype(x_MI.dtype)
    y_MO = jnp.matmul(x_MI, low_IO, preferred_element_type=w_IO.dtype if cut or wide else None)
    # The last is there for its dtype alone.
    return y_MO if wide else _to(y_MO, x_MI.dtype, cut), (x_MI, low_IO, jnp.zeros((), w_IO.dtype))


def _backward(
    cut: bool, wide: bool, kept: tuple[jax.Array, jax.Array, jax.Array], g_MO: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del wide
    x_MI, low_IO, like = kept
    g_MO = g_MO.astype(x_MI.dtype)
    dx_MI = jnp.matmul(g_MO, low_IO.T, preferred_element_type=like.dtype if cut else None)
    dw_IO = jnp.matmul(x_MI.T, g_MO, preferred_element_type=like.dtype)
    return _to(dx_MI, x_MI.dtype, cut), dw_IO


def _to(y: jax.Array, dtype: Any, cut: bool) -> jax.Array:
    return rounded(y, dtype) if cut else y.astype(dtype)


_product.defvjp(_forward, _backward)
