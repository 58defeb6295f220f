"""Closed forms beside what a program holds: N, FLOPs and memory of records and plans are true, or nothing is trained.

`lab.count` and `lab.memory` know a model by its configuration alone, which plans need; a block that someone changes has
other leaves, and their numbers would be recorded wrongly.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lab import count, memory
from lab.config import ModelConfig
from lab.role import Leaf


def check(
    model: ModelConfig, length: int, optimizer: str, leaves: Mapping[str, Leaf], state: Any, *, lanes: int
) -> None:
    """Require that the closed forms agree with a program's leaves and with the shapes of its state [K].

    Raises:
        InputError: naming the form, and both numbers.
    """
    count.check(model, length, leaves)
    kept = jax.tree.leaves((state.params, state.opt))
    numbers = sum(math.prod(leaf.shape) for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating))
    memory.check(model, length, optimizer, leaves, numbers // lanes)
