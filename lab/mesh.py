"""Meshes: devices along the axes lane, data, fsdp and tensor, and arrays on them.

A mesh has Auto axes: shardings are given for what enters and leaves a compiled function, and the compiler finds the
rest (`lab.sharding`).  The devices may belong to several processes; every process then holds its part of each array.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from lab.check import require
from lab.config.mesh import AXES, MeshConfig


def make(sizes: MeshConfig, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh | None:
    """The mesh over the first devices (all there are, by default); None for one device of this process.

    Raises:
        InputError: there are fewer devices.
    """
    if sizes.devices == 1 and devices is None and jax.process_count() == 1:
        return None
    found = jax.devices() if devices is None else list(devices)
    require(
        sizes.devices <= len(found),
        f"the mesh {sizes.label} needs {sizes.devices} devices, and there are {len(found)}: lower exec.mesh",
    )
    require(
        jax.process_count() == 1 or devices is not None or sizes.devices == len(found),
        f"the mesh {sizes.label} has {sizes.devices} of the group's {len(found)} devices: set exec.mesh so that its "
        "axes multiply to all of them",
    )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes.sizes, AXES, axis_types=auto, devices=found[: sizes.devices])


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays on the devices: on the default one where `shardings` is None.

    Every process gives the same values and keeps its part of them.  A single sharding stands for all.
    """

    def one(value: Any, sharding: jax.sharding.Sharding | None) -> jax.Array:
        if sharding is None:
            return jnp.array(value)
        array = np.asarray(value)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree, broadcast(shardings, tree))


def broadcast(shardings: Any, tree: Any) -> Any:
    """One sharding, or None, for every leaf of a tree; a tree of them stays what it is."""
    if shardings is None or isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda _: shardings, tree)
    return shardings


def on_host(tree: Any) -> Any:
    """Arrays as whole numpy arrays in every process, which all have to ask for them."""

    def one(value: Any) -> np.ndarray:
        if not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated:
            return np.asarray(value)
        return np.asarray(multihost_utils.process_allgather(value, tiled=True))

    return jax.tree.map(one, tree)
