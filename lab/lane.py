"""Lanes: what one run brings to a program, and K of them stacked."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lab.config import RunConfig
from lab.model import leaves
from lab.optimizer import Hyper, Params, hyper
from lab.scale import scales, setting_of


class Lane(NamedTuple):
    """What one run brings to a program; stacked, every leaf has a leading K axis.

    `active` is false for padding, `data` says which of the U data streams the lane reads.
    """

    seed: jax.Array
    data: jax.Array
    active: jax.Array
    init_std: Params
    forward: Params
    attention: jax.Array
    logits: jax.Array
    hyper: Hyper


def stacked(configs: Sequence[RunConfig], lanes: int, dtype: Any) -> tuple[Any, tuple[int, ...]]:
    """(Lane of host arrays [K], data seeds [U]) of runs of one shape; numbers that are not whole are of `dtype`.

    Places beyond the runs are filled with inactive copies of the last one.
    """
    seeds = tuple(sorted({config.seed_data for config in configs}))
    rows = [_lane(config, data=seeds.index(config.seed_data)) for config in configs]
    rows += [rows[-1]._replace(active=np.asarray(False))] * (lanes - len(rows))

    def stack(*values: np.ndarray) -> np.ndarray:
        array = np.stack(values)
        return array.astype(dtype) if array.dtype == np.float64 else array

    return jax.tree.map(stack, *rows), seeds


def abstract(paths: Iterable[str], lanes: int, dtype: Any) -> Any:
    """The shapes of `stacked`, for a model with parameters at these paths."""

    def row(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((lanes,), dtype)

    number = row(dtype)
    per_leaf: Any = dict.fromkeys(paths, number)
    return Lane(
        seed=row(np.uint32),
        data=row(np.int32),
        active=row(np.bool_),
        init_std=per_leaf,
        forward=per_leaf,
        attention=number,
        logits=number,
        hyper=Hyper(number, number, number, number, eps=per_leaf, lr=per_leaf, decay=per_leaf),
    )


def _lane(config: RunConfig, *, data: int) -> Any:
    """One run's Lane as host float64 scalars."""
    parameters = leaves(config)
    found = scales(config, parameters)

    def scalar(value: Any, dtype: Any = np.float64) -> Any:
        return np.asarray(value, dtype)

    def scalars(values: Any) -> Any:
        return jax.tree.map(scalar, values)

    return Lane(
        seed=scalar(config.seed_init, np.uint32),
        data=scalar(data, np.int32),
        active=scalar(True, np.bool_),
        init_std=scalars(found.init_std),
        forward=scalars({path: factors.forward for path, factors in found.factors.items()}),
        attention=scalars(found.attention),
        logits=scalars(found.logits),
        hyper=scalars(hyper(setting_of(config), parameters, found.factors)),
    )
