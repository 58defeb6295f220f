"""Initial parameter values as a pure function of a key, the shapes and the roles."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lab.check import require
from lab.role import MATRICES, Leaf, Role


def initial_params(
    key: jax.Array,
    leaves: Mapping[str, Leaf],
    init_std: Mapping[str, jax.Array],
    dtype: Any,
) -> dict[str, jax.Array]:
    """Parameters by path: gains 1, everything else normal with its own std (0 gives exact zeros).

    Each leaf draws from `fold_in(key, crc32(path))`, so adding a leaf changes no other; `init_std` holds scalars and
    may be traced, which lets lanes with different stds share one program.
    """
    params: dict[str, jax.Array] = {}
    for path, leaf in leaves.items():
        if leaf.role == Role.GAIN:
            params[path] = jnp.ones(leaf.shape, dtype)
        else:
            require(
                leaf.role in (*MATRICES, Role.BIAS), f"parameter {path}: the role {leaf.role} has no initial values"
            )
            leaf_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
            params[path] = init_std[path] * jax.random.normal(leaf_key, leaf.shape, dtype)
    return params
