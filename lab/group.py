"""Process groups: one process per host, all of them running the same program over the devices of all.

Every process executes the same lines.  Process 0 leads: it alone writes files, and what depends on a clock, on a folder
or on a signal is decided by it and told to the others (`agreed`), so that no two processes part ways.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lab.check import InputError, require

T = TypeVar("T")

# JAX's own default.
HEARTBEAT_SECONDS = 100.0


@dataclass(frozen=True)
class Group:
    """Where a process stands: `coordinator` is HOST:PORT of process 0, None where the environment says all three.

    `heartbeat` is how long a process may be silent, in seconds, before the others take it for dead and end.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat: float = HEARTBEAT_SECONDS

    def __post_init__(self) -> None:
        given = (self.coordinator, self.processes, self.process)
        require(
            all(value is None for value in given) or all(value is not None for value in given),
            "--group HOST:PORT, --processes N and --process I belong together: give all three, or --group alone where "
            "Slurm, GKE, Open MPI or TPU metadata tell them",
        )
        require(self.heartbeat > 0, f"--heartbeat {self.heartbeat} is not above 0 seconds")
        if self.coordinator is not None and self.processes is not None and self.process is not None:
            host, _, port = self.coordinator.rpartition(":")
            require(bool(host) and port.isdigit(), f"--group {self.coordinator} is not HOST:PORT")
            require(self.processes > 0, f"--processes {self.processes} is not above 0")
            require(
                0 <= self.process < self.processes,
                f"--process {self.process} is not one of 0 .. {self.processes - 1}",
            )


_joined = False
# Process 0 is computing what it will tell: what that asks for in turn is its own business.
_deciding = False


def join(group: Group) -> None:
    """Join the group, before anything else touches JAX's devices; waits for the others.

    Raises:
        InputError: the environment describes no group, or the group cannot be reached.
    """
    global _joined
    import jax

    try:
        jax.distributed.initialize(
            coordinator_address=group.coordinator,
            num_processes=group.processes,
            process_id=group.process,
            heartbeat_timeout_seconds=math.ceil(group.heartbeat),
            shutdown_timeout_seconds=math.ceil(group.heartbeat),
        )
    except ValueError as error:
        raise InputError(
            "--group finds no group in the environment (Slurm, GKE, Open MPI, TPU metadata): give --group HOST:PORT, "
            "--processes N and --process I"
        ) from error
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"the group cannot be joined ({first}): check --group and that all hosts are up") from error
    _joined = jax.process_count() > 1


def joined() -> bool:
    """Whether this process is one of several."""
    return _joined


def leader() -> bool:
    """Whether this process writes and decides: alone, or process 0 of its group."""
    if not _joined:
        return True
    import jax

    return jax.process_index() == 0


def agreed(value: Callable[[], T]) -> T:
    """Process 0's value (plain data) in every process, which all have to ask; only process 0 computes it.

    Raises:
        InputError: in every process, where process 0 raised it.
    """
    if not _joined or _deciding:
        return value()
    text = _told(_said(value) if leader() else "")
    found = json.loads(text)
    if "error" in found:
        raise InputError(found["error"])
    return found["value"]


def anywhere(flag: bool) -> bool:
    """Whether the flag is up in any process; all have to ask."""
    if not _joined:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def _said(value: Callable[[], object]) -> str:
    global _deciding
    _deciding = True
    try:
        return json.dumps({"value": value()})
    except InputError as error:
        return json.dumps({"error": str(error)})
    finally:
        _deciding = False


def _told(text: str) -> str:
    """Process 0's text; its length goes first, since all processes must bring arrays of one shape."""
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(data.size, np.int32)))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, data.size)] = data[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes().decode()
