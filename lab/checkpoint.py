"""Checkpoints of a pytree through Orbax: the only caller of that library."""

import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from lab import group

T = TypeVar("T")


def save(folder: Path, name: str, tree: Any) -> None:
    """Write `tree` to `folder/name`, durable when this returns, and delete every other checkpoint in `folder`.

    Orbax writes to a temporary folder and renames it, so a process killed on the way leaves the old one intact.
    """
    path = folder.absolute() / name
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree, force=True)
    if group.leader():  # all processes of a group have written by now
        for other in folder.iterdir():
            if other.name != name:
                shutil.rmtree(other)


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, as process 0 of a group sees it."""
    return group.agreed(lambda: _names(folder))


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and "orbax-checkpoint-tmp" not in path.name)


def restore(folder: Path, name: str, like: T) -> T:
    """The tree saved as `folder/name`, with the structure and dtypes of `like` (arrays or shapes).

    It is placed as the shardings of `like` say, whatever mesh it was saved from; leaves without one are whole in every
    device.
    """
    whole = _whole()

    def wanted(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or whole)

    abstract = jax.tree.map(wanted, like)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.absolute() / name, abstract)


def _whole() -> jax.sharding.Sharding:
    if jax.process_count() == 1:
        return jax.sharding.SingleDeviceSharding(jax.devices()[0])
    everywhere = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.sharding.NamedSharding(everywhere, jax.sharding.PartitionSpec())


def clear(folder: Path) -> None:
    """Delete every checkpoint in a folder; of a group, process 0 does."""
    if group.leader():
        shutil.rmtree(folder, ignore_errors=True)
