"""Checkpoints of a pytree through Orbax: the only caller of that library.

A folder of checkpoints may hold what others put there (`.DS_Store`, `._final`, notes): that is never read or deleted.
"""

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from lab import disk, group
from lab.quiet import quiet_late_callbacks, quiet_threads

T = TypeVar("T")

_OURS = re.compile(r"[0-9]{9,}|final")
# What Orbax writes around the numbers, at most.
_OVERHEAD = 1 << 17
_UNFINISHED = "orbax-checkpoint-tmp"


def save(folder: Path, name: str, tree: Any) -> None:
    """Write `tree` to `folder/name`, durable when this returns, and delete every other checkpoint in `folder`.

    Orbax writes to a temporary folder and renames it, so a process killed on the way leaves the old one intact.  An old
    one that cannot be deleted stays: the new one is complete.

    Raises:
        DiskFull: there is no room; what was written of the new one is deleted, and older ones are left.
    """
    path = folder.absolute() / name
    if not group.joined():  # parts of a group write to disks of their own
        disk.require_room(folder, sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _OVERHEAD)
    try:
        with quiet_threads(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, tree, force=True)
    except Exception as error:
        full = disk.full(error, folder)
        if full is None:
            raise
        quiet_late_callbacks()
        if group.leader():
            _delete(other for other in _ours(folder) if _UNFINISHED in other.name)
        raise full from None
    if group.leader():  # all processes of a group have written by now
        _delete(other for other in _ours(folder) if other.name != name)


def names(folder: Path) -> list[str]:
    """Names of the complete checkpoints in a folder, as process 0 of a group sees it."""
    return group.agreed(lambda: _names(folder))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in _ours(folder) if _UNFINISHED not in path.name)


def _ours(folder: Path) -> list[Path]:
    """The checkpoints of a folder, those that were never finished included."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if (_OURS.fullmatch(path.name) or _UNFINISHED in path.name) and path.is_dir() and not path.is_symlink()
    ]


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


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
    """Delete every checkpoint in a folder, and the folder if nothing is left in it; of a group, process 0 does."""
    if group.leader():
        _delete(_ours(folder))
        with contextlib.suppress(OSError):
            folder.rmdir()
